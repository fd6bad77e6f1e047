"""The masked convolution and the residual block (van den Oord et al. 2016, arXiv 1601.06759, section 3)."""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MaskType = Literal["A", "B"]


def colour_of(features: int, colours: int) -> Tensor:
    """Say which colour each feature map belongs to: maps in order, the groups as even as they can be.

    128 maps for R, G, B are 43 + 43 + 42 (the paper's h = 128 does not divide by three).

    Returns:
        Colour index of each map, shape (features,), long.

    Raises:
        ValueError: fewer maps than colours; a colour would have none.
    """
    if features < colours:
        raise ValueError(f"{features} feature maps cannot be shared out to {colours} colours")
    return torch.arange(features) * colours // features


def causal_mask(mask_type: MaskType, out_maps: int, in_maps: int, kernel: int, colours: int = 1) -> Tensor:
    """Draw the mask of a convolution: 1 where an output may look.

    For one colour and a 3x3 kernel::

        A   1 1 1      B   1 1 1      rows above: all of them
            1 0 0          1 1 0      this row: what is left of the pixel; the pixel itself only with B
            0 0 0          0 0 0      rows below: never

    With R, G, B the centre depends on the colours: from (columns) R G B, to (rows)::

        A   R  0 0 0   B   R  1 0 0   A: only earlier colours of this pixel
            G  1 0 0       G  1 1 0   B: and the colour itself
            B  1 1 0       B  1 1 1

    Returns:
        Zeros and ones, shape (out_maps, in_maps, kernel, kernel).
    """
    mask = torch.zeros(out_maps, in_maps, kernel, kernel)
    centre = kernel // 2
    mask[:, :, :centre, :] = 1
    mask[:, :, centre, :centre] = 1
    to, of = colour_of(out_maps, colours)[:, None], colour_of(in_maps, colours)[None, :]
    mask[:, :, centre, centre] = (of < to if mask_type == "A" else of <= to).to(mask.dtype)  # (out_maps, in_maps)
    return mask


class MaskedConv2d(nn.Conv2d):
    """A convolution of odd kernel and same size that sees only the pixels, and colours, that come earlier.

    The weight is multiplied with the mask on each call and never written to: masked taps get no gradient, and what the
    optimizer or weight decay does to them has no effect. The mask is no part of a checkpoint.

    Args:
        mask_type: "A" hides the colour itself (first layer), "B" shows it (all others).
        colours: number of colours that the maps are shared out to, in the order R, G, B.
    """

    mask: Tensor

    def __init__(self, mask_type: MaskType, in_maps: int, out_maps: int, kernel: int, *, colours: int = 1) -> None:
        if kernel % 2 != 1:
            raise ValueError(f"the kernel has no centre: {kernel} is even")
        super().__init__(in_maps, out_maps, kernel, padding=kernel // 2)
        self.register_buffer("mask", causal_mask(mask_type, out_maps, in_maps, kernel, colours), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: (B, in_maps, H, W) -> (B, out_maps, H, W)."""
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class ResidualBlock(nn.Module):
    """The block of PixelCNN, figure 5: ReLU-1x1 (2h to h), ReLU-3x3 (h to h), ReLU-1x1 (h to 2h), plus its input."""

    def __init__(self, hidden: int, *, colours: int = 1) -> None:
        super().__init__()
        self.down = MaskedConv2d("B", 2 * hidden, hidden, 1, colours=colours)
        self.look = MaskedConv2d("B", hidden, hidden, 3, colours=colours)
        self.up = MaskedConv2d("B", hidden, 2 * hidden, 1, colours=colours)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, 2h, H, W)."""
        y = self.down(F.relu(x))  # (B, h, H, W)
        y = self.look(F.relu(y))  # (B, h, H, W)
        y = self.up(F.relu(y))  # (B, 2h, H, W)
        return cast("Tensor", x + y)
