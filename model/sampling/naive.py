"""The naive sampler: one forward pass of the whole network for each value. It is the reference for the others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.sampling.noise import choose


def sample(
    net: nn.Module,
    levels: Tensor,
    hidden: Tensor,
    noise: Tensor,
    *,
    condition: Tensor | None = None,
    temperature: float = 1.0,
    before_row: Callable[[], None] = lambda: None,
) -> Tensor:
    """Fill the hidden pixels in raster order, R then G then B.

    Args:
        net: levels (B, C, H, W) -> logits (B, K, C, H, W).
        levels: uint8 (B, C, H, W); the values of hidden pixels are ignored.
        hidden: True for the pixels to fill, bool (H, W).
        noise: uniform numbers in [0, 1), float64, (B, C, H, W).
        condition: second argument of a conditional network.
        temperature: divides the logits.
        before_row: called before each row; an exception that it raises stops the sampling.

    Returns:
        Levels, uint8 (B, C, H, W).
    """
    levels = levels.masked_fill(hidden, 0)
    C, H, W = levels.shape[1:]
    with torch.no_grad():
        for row in range(H):
            before_row()
            for column in range(W):
                for colour in range(C):
                    if hidden[row, column]:
                        out = net(levels) if condition is None else net(levels, condition)
                        logits = out[:, :, colour, row, column]  # (B, K)
                        drawn = choose(logits, noise[:, colour, row, column], temperature)
                        levels[:, colour, row, column] = drawn.to(torch.uint8)
    return levels
