"""Maps of several images as matrices, and convolutions as matrices of weights; the fast networks share them.

On a CPU a fast network works on a group of k images at a time. Each pixel of a group has k cells, one for each image.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from model.networks.base import PixelNetwork
from model.networks.masked_conv import MaskedConv2d


def split(x: Tensor, images: int) -> Tensor:
    """Split maps into groups of k images and fill the last one up with zeros: (B, c, H, W) -> (G, c, H, W, k)."""
    empty = -len(x) % images
    if empty:
        x = torch.cat([x, x.new_zeros(empty, *x.shape[1:])])
    return x.reshape(-1, images, *x.shape[1:]).permute(0, 2, 3, 4, 1)


def neighbours(x: Tensor) -> Tensor:
    """Return what the 7x7 kernel with mask A sees at each pixel and at one more column at the right.

    A kernel sees nothing of its own pixel if there is a single colour.

    Returns:
        (G, C, H, W, k) -> (G, taps * C, H, W+1, k).
    """
    _, C, H, W, _ = x.shape
    padded = F.pad(x, (0, 0, 3, 4, 3, 0))
    taps = [divmod(tap, 7) for tap in range(24 + (C > 1))]
    return torch.stack([padded[:, :, r : r + H, c : c + W + 1] for r, c in taps], dim=1).flatten(1, 2)


def first_matrix(conv: MaskedConv2d) -> Tensor:
    """Return the 7x7 kernel with mask A as a matrix for `neighbours`, (out, taps * C)."""
    taps = 24 + (conv.in_channels > 1)
    return conv.masked_weight().flatten(2)[:, :, :taps].transpose(1, 2).flatten(1)


def matrix(conv: MaskedConv2d) -> Tensor:
    """Return a 1x1 convolution's masked weight as a matrix (out, in)."""
    return (conv.weight if conv.unmasked else conv.masked_weight())[:, :, 0, 0]


def bias(conv: MaskedConv2d) -> Tensor:
    """Return a convolution's bias as a column (out, 1)."""
    return cast("Tensor", conv.bias)[:, None]


def last_layer(net: PixelNetwork, maps: Tensor, batch: int) -> Tensor:
    """Apply a network's last layer to the maps before it, after the ReLU: (G, k, H, W, head) -> logits (B, K, C, H, W).

    The logits of a value are together in memory, as the softmax needs them.
    """
    y = F.linear(maps.flatten(0, 1)[:batch], matrix(net.last), net.last.bias)  # (B, H, W, values)
    if net.levels == 2:
        return net.as_logits(y.permute(0, 3, 1, 2))
    return y.view(*y.shape[:3], net.channels, net.levels).permute(0, 4, 3, 1, 2)
