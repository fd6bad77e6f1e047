"""The cached sampler's first layer and head, which all networks share."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from model.networks.base import PixelNetwork
from model.networks.masked_conv import MaskedConv2d
from model.sampling.colour_groups import Product, bias_of, groups, masked, parts, pointwise, taps


class FirstLayer:
    """The first layer, a convolution with mask A.

    The contribution of the rows above is computed once a row, for all pixels. The contribution of the pixels to the
    left is one small product at each pixel.

    Args:
        conv: the convolution, with a k x k kernel and C input maps.
        batch: batch size, B.
        width: image width in pixels, W.
    """

    def __init__(self, conv: MaskedConv2d, *, batch: int, width: int) -> None:
        weight, C = masked(conv), conv.in_channels
        k = weight.shape[-1]
        self.batch, self.width, self.channels, self.reach = batch, width, C, k // 2
        above = weight[:, :, : self.reach]  # (2h, C, reach, k)
        self.weight_above = above.permute(2, 3, 1, 0).reshape(-1, len(weight)).contiguous()  # (reach*k*C, 2h)
        self.weight_beside = taps(weight[:, :, self.reach, : self.reach + 1])  # ((reach + 1) * C, 2h)
        self.bias = bias_of(conv)
        # Scaled values of the rows above within the kernel's reach and of the current row, with zero padding.
        self.rows = weight.new_zeros(self.reach + 1, batch, (width + 2 * self.reach) * C)
        self.now = self.rows[-1]  # (B, (W + 2 reach) * C)
        self.above = weight.new_zeros(batch, width, len(weight))
        # Views, made once. A window holds the rows above that a pixel sees; the lowest of them is the row just drawn.
        self._windows = self.rows[1:].unfold(2, k * C, C).permute(1, 2, 0, 3)  # (B, W, reach, k*C)
        self._flat, self._upper, self._lower = self.above.view(batch * width, -1), self.rows[:-1], self.rows[1:]

    @cached_property
    def _views(self) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
        """For each column and colour: the contribution from above, the values to the left, and their weight."""
        C, left = self.channels, self.reach * self.channels
        outs = groups(self.above.shape[2], C)
        weights = [self.weight_beside[: left + g, out].contiguous() for g, out in enumerate(outs)]
        return [
            [(self.above[:, c, out], self.now[:, c * C : c * C + left + g], weights[g]) for g, out in enumerate(outs)]
            for c in range(self.width)
        ]

    def begin_row(self) -> None:
        """Advance to the next row."""
        windows = self._windows.reshape(len(self._flat), -1)  # (B*W, reach*k*C)
        torch.addmm(self.bias, windows, self.weight_above, out=self._flat)
        self._upper.copy_(self._lower.clone())
        self.now.zero_()

    def at(self, column: int, colour: int) -> Tensor:
        """Return this colour's maps at this column, (B, maps)."""
        above, beside, weight = self._views[column][colour]
        return torch.addmm(above, beside, weight)

    def put(self, column: int, colour: int, value: Tensor) -> None:
        """Store a drawn value, scaled to [-1, 1], (B,)."""
        self.now[:, (column + self.reach) * self.channels + colour] = value


class Head:
    """The head: it maps the last layer's 2h maps and the h maps of each layer to the logits of a pixel.

    The network applies 1x1 convolutions to all of them and sums the results. Here the maps are concatenated, and one
    product replaces the convolutions::

        into   2h maps after ReLU | h maps of layer 1 | ... | h maps of layer L

    Args:
        net: the network.
        batch: batch size, B.
    """

    def __init__(self, net: PixelNetwork, *, batch: int) -> None:
        self.colours, self.levels, h, L = net.channels, net.levels, net.hidden, len(net.blocks)
        first = pointwise(net.head)
        skips = [pointwise(skip).weight for skip in net.skips]  # (h, head) each
        unused = first.weight.new_zeros(L * h, first.weight.shape[1])
        weight = torch.cat([first.weight, *skips] if skips else [first.weight, unused])
        self.first = Product(weight, first.bias)  # (2h + L*h, head)
        self.last = _both_levels(pointwise(net.last)) if net.levels == 2 else pointwise(net.last)  # (head, C*K)
        self.wide = 2 * h
        self.into = weight.new_zeros(batch, len(weight))
        self.middle = weight.new_zeros(batch, weight.shape[1])

    def states(self, layer: int) -> Tensor:
        """Return the view that a layer writes its h maps to, (B, h)."""
        h = self.wide // 2
        return self.into[:, self.wide + layer * h : self.wide + (layer + 1) * h]

    @cached_property
    def _views(self) -> list[tuple[Tensor, Product, Tensor, Tensor, Product]]:
        """For each colour: its input maps, first product, own head maps, visible head maps and last product."""
        seen, made = groups(self.wide, self.colours), groups(self.middle.shape[1], self.colours)
        last = parts(self.last, self.colours)
        # In `into`, the maps of later colours still belong to the previous pixel; the masked weights for them are zero.
        return [
            (
                self.into[:, of],
                Product(self.first.weight[:, to].contiguous(), self.first.bias[to].contiguous()),
                self.middle[:, to],
                self.middle[:, : to.stop],
                product,
            )
            for of, to, product in zip(seen, made, last, strict=True)
        ]

    def at(self, colour: int, maps: Tensor) -> Tensor:
        """Return the logits of a colour, (B, K), from its maps after the last layer, (B, maps)."""
        own, first, made, seen, last = self._views[colour]
        torch.clamp(maps, min=0, out=own)
        torch.addmm(first.bias, self.into, first.weight, out=made).relu_()
        return torch.addmm(last.bias, seen, last.weight)


def _both_levels(last: Product) -> Product:
    """Add the constant zero logit of the first of two levels: C maps -> C*2."""
    weight = torch.stack([torch.zeros_like(last.weight), last.weight], dim=2).flatten(1)  # (head, C*2)
    return Product(weight, torch.stack([torch.zeros_like(last.bias), last.bias], dim=1).flatten())
