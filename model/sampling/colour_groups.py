"""The partition of feature maps into colour groups, and the weight matrices of a masked convolution for each colour.

The maps of a colour are contiguous, R first. The maps of its own pixel that a mask allows a colour to see are therefore
a prefix of all maps, and each sub-step (R, then G, then B) multiplies by a slice of the weights. The three sub-steps
together cost as much as one full product at the pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from model.networks.masked_conv import MaskedConv2d, colour_of


def bounds(features: int, colours: int) -> list[int]:
    """Return the index of the first map of each colour and the total number of maps: `colours` + 1 numbers."""
    return [0, *torch.bincount(colour_of(features, colours), minlength=colours).cumsum(0).tolist()]


def groups(features: int, colours: int) -> list[slice]:
    """Return the maps of each colour as slices, in the order R, G, B."""
    return [slice(start, stop) for start, stop in pairwise(bounds(features, colours))]


@dataclass(frozen=True)
class Product:
    """A weight matrix and a bias for row vectors: `x @ weight + bias`."""

    weight: Tensor  # (in, out)
    bias: Tensor  # (out,)


def parts(whole: Product, colours: int) -> list[Product]:
    """Split a 1x1 convolution with mask B by colour: each part maps a prefix of the maps to the colour's own maps."""
    cut = zip(*(groups(size, colours) for size in whole.weight.shape), strict=True)
    return [Product(whole.weight[: of.stop, out].contiguous(), whole.bias[out].contiguous()) for of, out in cut]


def pointwise(module: nn.Module) -> Product:
    """Convert a masked 1x1 convolution to a product."""
    conv = cast("MaskedConv2d", module)
    return Product(masked(conv)[:, :, 0, 0].t(), bias_of(conv))


def masked(conv: MaskedConv2d) -> Tensor:
    """Return the masked weight of a convolution, (out, in, height, width)."""
    return conv.masked_weight().detach()


def bias_of(conv: nn.Module) -> Tensor:
    """Return the bias of a convolution, (out,); zeros if it has none."""
    weight, bias = cast("Tensor", conv.weight), cast("Tensor | None", conv.bias)
    return weight.new_zeros(len(weight)) if bias is None else bias.detach()


def taps(weight: Tensor) -> Tensor:
    """Convert one row of a kernel to a matrix: (out, in, k) -> (k * in, out), for windows of k adjacent pixels."""
    out, in_, k = weight.shape
    return weight.permute(2, 1, 0).reshape(k * in_, out).contiguous()


def gates_by_colour(features: int, colours: int, gates: int) -> Tensor:
    """Return the permutation that groups the maps of an LSTM's gates by colour: R's gates, then G's, then B's.

    Returns:
        For each position in the new order the index of the map in the old one, long (gates * features,).
    """
    maps = torch.arange(gates * features).view(gates, features)
    return torch.cat([maps[:, own].reshape(-1) for own in groups(features, colours)])
