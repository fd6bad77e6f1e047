"""Maps of several images as matrices, and convolutions as matrices of weights; the fast networks share them.

On a CPU a fast network works on a group of k images at a time. Each pixel of a group has k cells, one for each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

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


def neighbours_of_tiles(x: Tensor, compiled: ModuleType | None = None) -> Tensor:
    """Return what `neighbours` returns without the column at the right, the even columns first.

    Args:
        x: (G, C, H, W, k).
        compiled: `model.networks.pixelcnn_native`, which does it faster where no gradient is asked for.

    Returns:
        (G, taps * C, n); the n cells are those of the even columns, then those of the odd ones, each
        in the order row, column, image. An odd W has one more odd column, outside of the image.
    """
    G, C, H, W, k = x.shape
    tiles = -(-W // 2)
    padded = F.pad(x, (0, 0, 3, 2 * tiles + 3 - W, 3, 0))  # (G, C, H + 3, 2 * tiles + 6, k)
    columns = padded.view(G, C, H + 3, tiles + 3, 2, k).unbind(4)
    seen = x.new_empty(G, 24 + (C > 1), C, 2, H, tiles, k)
    if compiled is not None and not x.requires_grad:
        compiled.neighbours(torch.stack(columns).numpy(), seen.flatten(5).numpy())
        return seen.view(G, -1, 2 * H * tiles * k)
    for tap in range(seen.shape[1]):
        r, c = divmod(tap, 7)
        for parity in range(2):
            first, of = divmod(c + parity, 2)
            seen[:, tap, :, parity] = columns[of][:, :, r : r + H, first : first + tiles]
    return seen.view(G, -1, 2 * H * tiles * k)


def tiled(x: Tensor) -> Tensor:
    """Return maps with the even columns first: (G, c, H, W, k) -> (G, c, n), as `neighbours_of_tiles`."""
    G, c, H, W, k = x.shape
    wider = F.pad(x, (0, 0, 0, W % 2))
    return wider.reshape(G, c, H, -1, 2, k).permute(0, 1, 4, 2, 3, 5).flatten(2)


def first_matrix(conv: MaskedConv2d) -> Tensor:
    """Return the 7x7 kernel with mask A as a matrix for `neighbours`, (out, taps * C)."""
    taps = 24 + (conv.in_channels > 1)
    return conv.masked_weight().flatten(2)[:, :, :taps].transpose(1, 2).flatten(1)


def matrix(conv: MaskedConv2d) -> Tensor:
    """Return a 1x1 convolution's masked weight as a matrix (out, in)."""
    return (conv.weight if conv.unmasked else conv.masked_weight()).flatten(1)


def matrices(convs: Sequence[MaskedConv2d]) -> Tensor:
    """Return the masked weights of convolutions with the same mask, (n, out, in, height, width)."""
    weights = torch.stack([conv.weight for conv in convs])
    return weights if convs[0].unmasked else weights * convs[0].mask


def biases(convs: Sequence[MaskedConv2d]) -> Tensor:
    """Return the biases of convolutions, (n, out)."""
    return torch.stack([cast("Tensor", conv.bias) for conv in convs])


def bias(conv: MaskedConv2d) -> Tensor:
    """Return a convolution's bias as a column (out, 1)."""
    return cast("Tensor", conv.bias)[:, None]
