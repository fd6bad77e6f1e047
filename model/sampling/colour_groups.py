"""The division of feature maps among colours, and each colour's submatrices of a masked convolution.

The maps of a colour lie together, R first. So what the masks allow a colour to see of its own pixel is always a prefix
of the maps, and a sub-step (R, then G, then B) multiplies with a slice: the three together do the work of one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from model.networks.masked_conv import MaskedConv2d, colour_of


def bounds(features: int, colours: int) -> list[int]:
    """Return the first map of each colour, and the end of the last colour: `colours` + 1 numbers."""
    return [0, *torch.bincount(colour_of(features, colours), minlength=colours).cumsum(0).tolist()]


def groups(features: int, colours: int) -> list[slice]:
    """Return the maps of each colour, as slices in the order R, G, B."""
    return [slice(start, stop) for start, stop in pairwise(bounds(features, colours))]


@dataclass(frozen=True)
class Product:
    """A matrix that multiplies row vectors, and a bias: `x @ weight + bias`."""

    weight: Tensor  # (in, out)
    bias: Tensor  # (out,)


def parts(whole: Product, colours: int) -> list[Product]:
    """Cut a 1x1 convolution with mask B into the shares of its colours: prefix of the maps in, own maps out."""
    cut = zip(*(groups(size, colours) for size in whole.weight.shape), strict=True)
    return [Product(whole.weight[: of.stop, out].contiguous(), whole.bias[out].contiguous()) for of, out in cut]


def pointwise(module: nn.Module) -> Product:
    """Turn a masked 1x1 convolution into a product."""
    conv = cast("MaskedConv2d", module)
    return Product(masked(conv)[:, :, 0, 0].t(), bias_of(conv))


def masked(conv: MaskedConv2d) -> Tensor:
    """Return the weight that a masked convolution convolves with, (out, in, height, width)."""
    return conv.masked_weight().detach()


def bias_of(conv: nn.Module) -> Tensor:
    """Return the bias of a convolution, zeros if it has none, (out,)."""
    weight, bias = cast("Tensor", conv.weight), cast("Tensor | None", conv.bias)
    return weight.new_zeros(len(weight)) if bias is None else bias.detach()


def taps(weight: Tensor) -> Tensor:
    """Turn one row of a kernel into a matrix: (out, in, k) -> (k * in, out), for windows of k pixels side by side."""
    out, in_, k = weight.shape
    return weight.permute(2, 1, 0).reshape(k * in_, out).contiguous()


def gates_by_colour(features: int, colours: int, gates: int) -> Tensor:
    """Order the maps of an LSTM's gates so that those of a colour lie together: R's gates, then G's, then B's.

    Returns:
        For each place in the new order the map that comes there, long (gates * features,).
    """
    maps = torch.arange(gates * features).view(gates, features)
    return torch.cat([maps[:, own].reshape(-1) for own in groups(features, colours)])
