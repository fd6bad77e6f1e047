"""The first layer and the last two of every network, pixel by pixel."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from model.networks.base import PixelNetwork
from model.networks.masked_conv import MaskedConv2d
from model.sampling.colour_groups import Product, bias_of, groups, masked, parts, pointwise, taps


class FirstLayer:
    """The first layer, a convolution with mask A, over a partly sampled image.

    The contribution of the rows above is computed once for a whole row. Each pixel then needs one small product.

    Args:
        conv: kernel k x k, from the C colours.
        batch: images at a time, B.
        width: pixels of a row, W.
    """

    def __init__(self, conv: MaskedConv2d, *, batch: int, width: int) -> None:
        weight, C = masked(conv), conv.in_channels
        k = weight.shape[-1]
        self.batch, self.width, self.channels, self.reach = batch, width, C, k // 2
        above = weight[:, :, : self.reach]  # (2h, C, reach, k)
        self.weight_above = above.permute(2, 3, 1, 0).reshape(-1, len(weight)).contiguous()  # (reach*k*C, 2h)
        self.weight_beside = taps(weight[:, :, self.reach, : self.reach + 1])  # ((reach + 1) * C, 2h)
        self.bias = bias_of(conv)
        # The rows that the kernel reaches and this one, as scaled values, between the zeros that the convolution pads.
        self.rows = weight.new_zeros(self.reach + 1, batch, (width + 2 * self.reach) * C)
        self.now = self.rows[-1]  # (B, (W + 2 reach) * C)
        self.above = weight.new_zeros(batch, width, len(weight))
        # Views of both, cut once. A window holds what a pixel sees of the rows above; the lowest is the row just drawn.
        self._windows = self.rows[1:].unfold(2, k * C, C).permute(1, 2, 0, 3)  # (B, W, reach, k*C)
        self._flat, self._upper, self._lower = self.above.view(batch * width, -1), self.rows[:-1], self.rows[1:]

    @cached_property
    def _views(self) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
        """For each column and colour: what comes from above, what is beside, and the weight for that."""
        C, left = self.channels, self.reach * self.channels
        outs = groups(self.above.shape[2], C)
        weights = [self.weight_beside[: left + g, out].contiguous() for g, out in enumerate(outs)]
        return [
            [(self.above[:, c, out], self.now[:, c * C : c * C + left + g], weights[g]) for g, out in enumerate(outs)]
            for c in range(self.width)
        ]

    def begin_row(self) -> None:
        """Go to the next row."""
        windows = self._windows.reshape(len(self._flat), -1)  # (B*W, reach*k*C)
        torch.addmm(self.bias, windows, self.weight_above, out=self._flat)
        self._upper.copy_(self._lower.clone())
        self.now.zero_()

    def at(self, column: int, colour: int) -> Tensor:
        """Return this colour's maps at this column, (B, maps)."""
        above, beside, weight = self._views[column][colour]
        return torch.addmm(above, beside, weight)

    def put(self, column: int, colour: int, value: Tensor) -> None:
        """Record the sampled value, scaled to the network's input range, (B,)."""
        self.now[:, (column + self.reach) * self.channels + colour] = value


class Head:
    """The head: from the 2h maps after the last layer, and the h maps of each layer, to the logits of a pixel.

    Both go through 1x1 convolutions and are summed; so they lie side by side here, and one product does it::

        into   2h maps after ReLU | h maps of layer 1 | ... | h maps of layer L

    Args:
        net: the network.
        batch: images at a time, B.
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
        """Return the place for the h maps of a layer, (B, h): the layer writes them itself."""
        h = self.wide // 2
        return self.into[:, self.wide + layer * h : self.wide + (layer + 1) * h]

    @cached_property
    def _views(self) -> list[tuple[Tensor, Product, Tensor, Tensor, Product]]:
        """For each colour: where its maps go, the product to its maps of the head, these, those it sees, the last."""
        seen, made = groups(self.wide, self.colours), groups(self.middle.shape[1], self.colours)
        last = parts(self.last, self.colours)
        # The maps of later colours in `into` are those of the pixel before: the mask's zeros are what hides them.
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
        """Take a colour's maps after the last layer (B, maps); return its logits (B, K)."""
        own, first, made, seen, last = self._views[colour]
        torch.clamp(maps, min=0, out=own)
        torch.addmm(first.bias, self.into, first.weight, out=made).relu_()
        return torch.addmm(last.bias, seen, last.weight)


def _both_levels(last: Product) -> Product:
    """Give the first of two levels its logit, zero: from C maps to C*2."""
    weight = torch.stack([torch.zeros_like(last.weight), last.weight], dim=2).flatten(1)  # (head, C*2)
    return Product(weight, torch.stack([torch.zeros_like(last.bias), last.bias], dim=1).flatten())
