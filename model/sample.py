"""Drawing images from a network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.config import DatasetFacts
from model.sampling import Engine, fill, uniforms


def draw(
    net: nn.Module,
    facts: DatasetFacts,
    *,
    count: int,
    seed: int,
    temperature: float = 1.0,
    condition: Tensor | None = None,
    engine: Engine = "auto",
    before_row: Callable[[], None] = lambda: None,
) -> Tensor:
    """Draw images by ancestral sampling: each value from its softmax given the earlier ones.

    The noise comes from a generator of its own, so drawing leaves the training as it was, and the same seed gives the
    same images.

    Args:
        net: levels (B, C, H, W) -> logits (B, K, C, H, W); the images are drawn where it is.
        facts: the size of the images.
        count: images to draw, B.
        seed: of the noise.
        temperature: divides the logits; below 1 the likely values become likelier.
        condition: maps that may be seen everywhere, (B, condition, H, W), for a network that has them.
        engine: which sampler; they agree.
        before_row: called before each row; what it raises ends the drawing.

    Returns:
        Levels (B, C, H, W), uint8, on the CPU.
    """
    empty = torch.zeros(count, facts.channels, facts.height, facts.width, dtype=torch.uint8)
    everything = torch.ones(facts.height, facts.width, dtype=torch.bool)
    noise = uniforms(facts, count=count, seed=seed)
    return fill(
        net,
        empty,
        everything,
        noise,
        temperature=temperature,
        condition=condition,
        engine=engine,
        before_row=before_row,
    )
