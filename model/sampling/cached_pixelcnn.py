"""The cached sampler's PixelCNN residual blocks."""

from __future__ import annotations

from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from model.networks.base import PixelNetwork
from model.networks.masked_conv import ResidualBlock
from model.sampling.colour_groups import bias_of, groups, masked, parts, pointwise, taps
from model.sampling.edge_layers import Head


class ConvolutionLayers:
    """The activations that the blocks store, and their weights split by colour.

    Only the 3x3 convolution over the h maps u reads neighbouring pixels. One row of u is stored for each block,
    O(L W h) in total. At the start of a row, one batched product for all blocks and pixels computes the contribution of
    the row above::

        above  u u u     once a row:    (L, B*W, 3h) x (L, 3h, h)
        row    u o       at a pixel:    (B, 2h) x (2h, h), u of the left and the current pixel, adjacent in memory

    Args:
        net: a PixelCNN.
        head: receives the h maps of each block.
        batch: batch size, B.
        width: image width in pixels, W.
    """

    def __init__(self, net: PixelNetwork, head: Head, *, batch: int, width: int) -> None:
        blocks = [cast("ResidualBlock", block) for block in net.blocks]
        looks = [block.look for block in blocks]
        self.head, self.colours, self.h, self.layers = head, net.channels, net.hidden, len(blocks)
        self.batch, self.width = batch, width
        self.residual = blocks[0].residual
        self.down, self.up = [pointwise(block.down) for block in blocks], [pointwise(block.up) for block in blocks]
        self.beside = torch.stack([taps(masked(look)[:, :, 1, :2]) for look in looks])  # (L, 2h, h)
        self.weight_above = torch.stack([taps(masked(look)[:, :, 0]) for look in looks])  # (L, 3h, h)
        self.bias_above = torch.stack([bias_of(look) for look in looks])[:, None]  # (L, 1, h)
        self.conditions = [block.condition for block in blocks if block.condition is not None]
        new = self.beside.new_zeros
        self.x = new(self.layers, batch, 2 * self.h)
        self.u = new(self.layers, batch, (width + 2) * self.h)
        self.above = new(self.layers, batch, width, self.h)
        self._windows = self.u.unfold(2, 3 * self.h, self.h)  # (L, B, W, 3h)
        self._flat = self.above.view(self.layers, batch * width, self.h)

    @cached_property
    def _views(self) -> list[list[list[tuple[Tensor, ...]]]]:
        """Buffers and weights for each column, colour and layer; built once, as a view costs as much as a product."""
        h, C = self.h, self.colours
        down, up = [parts(product, C) for product in self.down], [parts(product, C) for product in self.up]

        def of(layer: int, column: int, colour: int, big: slice, small: slice) -> tuple[Tensor, ...]:
            x, u, y = self.x[layer], self.u[layer], self.head.states(layer)
            own, lower, upper = (column + 1) * h, down[layer][colour], up[layer][colour]
            return (
                *(x[:, big], x[:, : big.stop], lower.bias, lower.weight, u[:, own + small.start : own + small.stop]),
                *(self.above[layer, :, column, small], u[:, own - h : own + small.stop], beside[layer][colour]),
                *(y[:, small], y[:, : small.stop], upper.bias, upper.weight),
            )

        cut = list(zip(groups(2 * h, C), groups(h, C), strict=True))
        beside = [[weight[: h + small.stop, small].contiguous() for _, small in cut] for weight in self.beside]
        return [
            [[of(layer, c, g, *slices) for layer in range(self.layers)] for g, slices in enumerate(cut)]
            for c in range(self.width)
        ]

    def begin_row(self, from_condition: Tensor | None) -> None:
        """Advance to the next row: add the contributions of the row just drawn and of the condition (L, B, W, h)."""
        windows = self._windows.reshape(self.layers, self.batch * self.width, 3 * self.h)
        torch.baddbmm(self.bias_above, windows, self.weight_above, out=self._flat)
        if from_condition is not None:
            self.above += from_condition

    def at(self, column: int, colour: int, maps: Tensor) -> Tensor:
        """Apply all blocks to the first layer's maps of one colour, (B, maps); return maps of the same shape."""
        for views in self._views[column][colour]:
            x_own, x_seen, b_down, w_down, u_own, above, u_seen, w_beside, y_own, y_seen, b_up, w_up = views
            torch.clamp(maps, min=0, out=x_own)
            torch.addmm(b_down, x_seen, w_down, out=u_own).relu_()
            torch.addmm(above, u_seen, w_beside, out=y_own).relu_()
            up = torch.addmm(b_up, y_seen, w_up)
            maps = maps + up if self.residual else up
        return maps
