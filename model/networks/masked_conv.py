"""The masked convolution and PixelCNN's residual block (van den Oord et al. 2016, arXiv 1601.06759, section 3)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MaskType = Literal["A", "B"]


def colour_of(features: int, colours: int) -> Tensor:
    """Return the colour of each feature map: contiguous groups of sizes that differ by at most one.

    128 maps for R, G, B are split into 43 + 43 + 42 (the paper's h = 128 is not divisible by three).

    Returns:
        Colour index of each map, shape (features,), long.

    Raises:
        ValueError: there are fewer maps than colours.
    """
    if features < colours:
        raise ValueError(f"{features} feature maps cannot be split among {colours} colours")
    return torch.arange(features) * colours // features


def causal_mask(
    mask_type: MaskType, out_maps: int, in_maps: int, kernel: int | tuple[int, int], colours: int = 1, *, gates: int = 1
) -> Tensor:
    """Return the mask of a convolution: 1 for each input that an output may see, else 0.

    For one colour and a 3x3 kernel::

        A   1 1 1      B   1 1 1      rows above: all pixels
            1 0 0          1 1 0      current row: pixels to the left; the pixel itself only with B
            0 0 0          0 0 0      rows below: no pixels

    For R, G, B the centre tap depends on the colours: inputs (columns) R G B, outputs (rows)::

        A   R  0 0 0   B   R  1 0 0   A: only earlier colours of this pixel
            G  1 0 0       G  1 1 0   B: also the colour itself
            B  1 1 0       B  1 1 1

    Args:
        mask_type: "A" or "B".
        out_maps: maps of the output: those of all gates, one gate after the other.
        in_maps: maps of the input.
        kernel: odd kernel size, one number or (height, width).
        colours: number of colours that the maps are split among.
        gates: number of gates; the maps of each gate are split among the colours.

    Returns:
        Zeros and ones, shape (out_maps, in_maps, height, width).
    """
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    mask = torch.zeros(out_maps, in_maps, height, width)
    row, column = height // 2, width // 2  # of the centre
    mask[:, :, :row, :] = 1
    mask[:, :, row, :column] = 1
    to, of = colour_of(out_maps // gates, colours).repeat(gates)[:, None], colour_of(in_maps, colours)[None, :]
    mask[:, :, row, column] = (of < to if mask_type == "A" else of <= to).to(mask.dtype)  # (out_maps, in_maps)
    return mask


class MaskedConv2d(nn.Conv2d):
    """A size-preserving convolution with an odd kernel that sees only earlier pixels and colours.

    Each call multiplies the weight by the mask; the weight itself is not modified. Masked taps get no gradient, and
    changes to them by the optimizer or weight decay have no effect. A checkpoint does not contain the mask.

    Args:
        mask_type: "A" hides the colour itself (first layer), "B" shows it (all other layers).
        in_maps: maps of the input.
        out_maps: maps of the output: those of all gates, one gate after the other.
        kernel: odd kernel size, one number or (height, width).
        colours: number of colours that the maps are split among, in the order R, G, B.
        gates: number of gates; the maps of each gate are split among the colours.
        bias: whether a bias is added.

    Raises:
        ValueError: the kernel size is even, or there are fewer maps than colours.
    """

    mask: Tensor

    def __init__(
        self,
        mask_type: MaskType,
        in_maps: int,
        out_maps: int,
        kernel: int | tuple[int, int],
        *,
        colours: int = 1,
        gates: int = 1,
        bias: bool = True,
    ) -> None:
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        for size in (height, width):
            if size % 2 != 1:
                raise ValueError(f"the kernel has no centre: {size} is even")
        super().__init__(in_maps, out_maps, (height, width), padding=(height // 2, width // 2), bias=bias)
        mask = causal_mask(mask_type, out_maps, in_maps, (height, width), colours, gates=gates)
        self.register_buffer("mask", mask, persistent=False)
        self.unmasked = bool(mask.all())  # a 1x1 convolution of one colour with mask B

    def masked_weight(self) -> Tensor:
        """Return the weight with the masked taps set to zero, (out_maps, in_maps, height, width)."""
        return self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: (B, in_maps, H, W) -> (B, out_maps, H, W)."""
        # The kernel rows below the centre are masked and left out; the output then has H + height//2 rows.
        height = self.kernel_size[0] // 2
        weight = self.masked_weight()[:, :, : height + 1]
        return F.conv2d(x, weight, self.bias, padding=self.padding)[:, :, : x.shape[2]]


class ResidualBlock(nn.Module):
    """The block of PixelCNN, figure 5: ReLU-1x1 (2h to h), ReLU-3x3 (h to h), ReLU-1x1 (h to 2h), plus its input.

    Args:
        hidden: h.
        colours: number of colours that the maps are split among.
        residual: whether the input is added.
        condition: maps of the condition, added to the output of the 3x3 convolution by a 1x1 convolution without mask;
            0 for none. The paper conditions only its recurrent networks; the 3x3 convolution replaces the recurrence.
    """

    def __init__(self, hidden: int, *, colours: int = 1, residual: bool = True, condition: int = 0) -> None:
        super().__init__()
        self.residual = residual
        self.down = MaskedConv2d("B", 2 * hidden, hidden, 1, colours=colours)
        self.look = MaskedConv2d("B", hidden, hidden, 3, colours=colours)
        self.up = MaskedConv2d("B", hidden, 2 * hidden, 1, colours=colours)
        self.condition = nn.Conv2d(condition, hidden, 1, bias=False) if condition else None

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return maps of the input's shape (B, 2h, H, W), and the h maps for the layer-to-output connection."""
        y = self.down(F.relu(x))  # (B, h, H, W)
        y = self.look(F.relu(y))  # (B, h, H, W)
        if self.condition is not None:
            y = y + self.condition(condition)
        y = F.relu(y)
        up = self.up(y)  # (B, 2h, H, W)
        return (x + up if self.residual else up), y
