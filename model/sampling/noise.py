"""The noise that samplers draw levels with; all samplers draw the same image from the same noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.config import DatasetFacts


def uniforms(facts: DatasetFacts, *, count: int, seed: int) -> Tensor:
    """Draw the noise of `count` images from a separate generator.

    The noise of all images is drawn at once, on the CPU. Neither the device nor the batch size changes it.

    Returns:
        Uniform numbers in [0, 1), float64, shape (count, C, H, W).
    """
    return uniforms_of_scales([facts], count=count, seed=seed)[0]


def uniforms_of_scales(scales: Sequence[DatasetFacts], *, count: int, seed: int) -> list[Tensor]:
    """Draw the noise of multi-scale images.

    Returns:
        For each scale (count, C, H, W), float64. The noise of an image depends only on the seed and the image's index.
    """
    generator = torch.Generator().manual_seed(seed)
    whole = torch.rand(count, sum(some.dims for some in scales), generator=generator, dtype=torch.float64)
    parts = torch.split(whole, [some.dims for some in scales], dim=1)
    return [part.reshape(count, s.channels, s.height, s.width) for part, s in zip(parts, scales, strict=True)]


def choose(logits: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
    """Draw levels by inverse transform sampling: the first level whose cumulative probability exceeds the noise.

    The computation uses float64 for logits of any type. In float32, rounding errors of the sum over K = 256 levels
    would shift the boundaries between levels.

    Args:
        logits: (B, K).
        noise: uniform numbers in [0, 1), float64, (B,).
        temperature: divides the logits; below 1 it makes likely levels more likely.

    Returns:
        Levels 0..K-1, long, (B,).
    """
    wide = logits.double()
    if temperature != 1.0:
        wide = (wide - wide.amax(dim=1, keepdim=True)) / temperature  # may overflow, but to -inf only
    chances = torch.softmax(wide, dim=1)
    cumulative = chances.cumsum(dim=1) if chances.device.type == "cpu" else running_sums(chances)  # (B, K)
    below = cumulative <= noise[:, None] * cumulative[:, -1:]
    return below.sum(dim=1).clamp_(max=logits.shape[1] - 1)


def running_sums(values: Tensor) -> Tensor:
    """Return the running sums along dim 1, (B, K) -> (B, K), by additions alone.

    On a GPU torch has no deterministic `cumsum` of floats. Here the sum over the last n values becomes that over 2n in
    each of log2(K) passes, in an order that is always the same.
    """
    sums, reach = values, 1
    while reach < values.shape[1]:
        sums = torch.cat([sums[:, :reach], sums[:, reach:] + sums[:, :-reach]], dim=1)
        reach *= 2
    return sums
