"""The noise that sampling consumes, and the choice of levels from it: samplers with the same noise agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.config import DatasetFacts


def uniforms(facts: DatasetFacts, *, count: int, seed: int) -> Tensor:
    """Draw the noise of `count` images from a generator of its own.

    The noise of all images is drawn at once, on the CPU: neither the device nor how many images are made at a time
    changes what is drawn.

    Returns:
        Numbers in [0, 1), float64, shape (count, C, H, W).
    """
    return uniforms_of_scales([facts], count=count, seed=seed)[0]


def uniforms_of_scales(scales: Sequence[DatasetFacts], *, count: int, seed: int) -> list[Tensor]:
    """Draw the noise of images with several scales, such as a small image and its large one.

    Returns:
        For each scale (count, C, H, W), float64. The noise of an image depends on the seed and its number alone.
    """
    generator = torch.Generator().manual_seed(seed)
    whole = torch.rand(count, sum(some.dims for some in scales), generator=generator, dtype=torch.float64)
    parts = torch.split(whole, [some.dims for some in scales], dim=1)
    return [part.reshape(count, s.channels, s.height, s.width) for part, s in zip(parts, scales, strict=True)]


def choose(logits: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
    """Pick levels by the inverse of the cumulative distribution: the first level where it exceeds the noise.

    In float64 whatever the logits are: rounding of the sum over K = 256 levels would otherwise move the borders.

    Args:
        logits: (B, K).
        noise: in [0, 1), float64, (B,).
        temperature: divides the logits; below 1 the likely levels become likelier.

    Returns:
        Levels 0..K-1, long, (B,).
    """
    wide = logits.double()
    cumulative = torch.softmax(wide if temperature == 1.0 else wide / temperature, dim=1).cumsum(dim=1)  # (B, K)
    below = cumulative <= noise[:, None] * cumulative[:, -1:]
    return below.sum(dim=1).clamp_(max=logits.shape[1] - 1)
