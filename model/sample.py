"""Drawing images from a network, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.config import DatasetFacts


def draw(
    net: nn.Module,
    facts: DatasetFacts,
    *,
    count: int,
    seed: int,
    temperature: float = 1.0,
    device: torch.device | None = None,
    before_value: Callable[[], None] = lambda: None,
) -> Tensor:
    """Draw images by ancestral sampling: each value from its softmax given the earlier ones.

    Costs a full forward pass for each of the C*H*W values. The noise comes from a generator of its own, so drawing
    leaves the training as it was, and the same seed gives the same images.

    Args:
        net: levels (B, C, H, W) -> logits (B, K, C, H, W).
        facts: the size of the images.
        count: images to draw, B.
        seed: of the noise.
        temperature: divides the logits; below 1 the likely values become likelier.
        device: where the network is; the CPU if not given.
        before_value: called before each value; what it raises ends the drawing.

    Returns:
        Levels (B, C, H, W), uint8, on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    levels = torch.zeros(count, facts.channels, facts.height, facts.width, dtype=torch.uint8, device=device)
    with torch.no_grad():
        for row in range(facts.height):
            for column in range(facts.width):
                for colour in range(facts.channels):
                    before_value()
                    logits = net(levels)[:, :, colour, row, column]  # (B, K)
                    chances = torch.softmax(logits.double().cpu() / temperature, dim=1)
                    drawn = torch.multinomial(chances, 1, generator=generator)[:, 0]  # (B,)
                    levels[:, colour, row, column] = drawn.to(levels)
    return levels.cpu()
