"""The Diagonal BiLSTM layer as the paper writes it (arXiv 1601.06759, section 3.2): skew, a loop over columns, unskew.

`model.networks.diagonal_bilstm_fast` computes the same without skewing, and much faster.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.networks.masked_conv import MaskedConv2d
from model.networks.row_lstm import GATES, lstm_cell


def skew(x: Tensor) -> Tensor:
    """Shift row r right by r pixels, so that diagonals become columns: (B, F, H, W) -> (B, F, H, H+W-1).

    ::

        a b c        a b c .
        d e f   ->   . d e f
    """
    H = x.shape[2]
    return torch.stack([F.pad(x[:, :, row], (row, H - 1 - row)) for row in range(H)], dim=2)


def unskew(x: Tensor, width: int) -> Tensor:
    """Undo `skew` for a map of width W: (B, F, H, H+W-1) -> (B, F, H, W)."""
    return torch.stack([x[:, :, row, row : row + width] for row in range(x.shape[2])], dim=2)


def shift_down(x: Tensor) -> Tensor:
    """Shift a map down by one row. The first row becomes zero, and the last row is dropped."""
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1]


class DiagonalLSTM(nn.Module):
    """One direction: an LSTM that runs from the top left to the bottom right corner, one diagonal at a time.

    A cell sees its own pixel of the input (1x1 convolution with mask B) and the states above and to the left. Those
    states are on the previous diagonal (on the skewed map: a 2x1 convolution along the column, without mask)::

          h
        h x

    The memory c comes from the left. The initial state is learned, one value for each map; it is the left state of the
    cells of the first column, in every row. The state above the first row is zero, the padding of the convolution.

    Args:
        hidden: h, maps of the state; the input has 2h.
        colours: number of colours that the maps of each gate are split among.
        condition: maps of the condition, added to the input-to-state map by a 1x1 convolution without mask; 0 for none.
    """

    def __init__(self, hidden: int, *, colours: int = 1, condition: int = 0) -> None:
        super().__init__()
        self.hidden = hidden
        self.input_to_state = MaskedConv2d("B", 2 * hidden, GATES * hidden, 1, colours=colours, gates=GATES)
        self.state_to_state = nn.Conv1d(hidden, GATES * hidden, 2, bias=False)  # taps: above, left
        self.condition = nn.Conv2d(condition, GATES * hidden, 1, bias=False) if condition else None
        self.h0 = nn.Parameter(torch.zeros(hidden))
        self.c0 = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Run over the map: (B, 2h, H, W), and the condition (B, condition, H, W) -> states (B, h, H, W)."""
        from_input = self.input_to_state(x)  # (B, 4h, H, W)
        if self.condition is not None:
            from_input = from_input + self.condition(condition)
        B, _, H, W = x.shape
        skewed = skew(from_input)  # (B, 4h, H, H+W-1)
        h0 = self.h0[:, None].expand(B, self.hidden, H)
        c0 = self.c0[:, None].expand(B, self.hidden, H)
        h, c = h0, c0
        columns = []
        for column in range(H + W - 1):
            from_state = self.state_to_state(F.pad(h, (1, 0)))  # (B, 4h, H): row r sees r-1 and r of the last column
            h, c = lstm_cell(skewed[..., column] + from_state, c)  # (B, h, H)
            columns.append(h)
            outside = torch.arange(H, device=x.device) > column  # rows that have not begun keep the initial state
            h, c = torch.where(outside, h0, h), torch.where(outside, c0, c)
        return unskew(torch.stack(columns, dim=3), W)


class DiagonalBiLSTM(nn.Module):
    """Both directions: from the top left, and from the top right, whose map is shifted down by one row and added.

    The shift prevents the right direction from seeing the predicted pixel and the later pixels of its row.

    NOTE: the paper states that the network sees the whole context, but its literal form does not. Row r receives the
    right direction's map of row r-1. At the last column, W-1, that map depends on row r-1 only up to W-2, because the
    first layer's mask A hides each pixel from its own features. Pixel (r, c) therefore sees pixel (r-1, W-1) only
    through the left direction, and for c <= W-5 not at all. `PixelRNN` therefore appends one zero column at the right
    of the image, whose features depend on all of row r-1, and removes it from the output. The cost is 1/W.
    """

    def __init__(self, hidden: int, *, colours: int = 1, condition: int = 0) -> None:
        super().__init__()
        self.hidden = hidden
        self.left = DiagonalLSTM(hidden, colours=colours, condition=condition)
        self.right = DiagonalLSTM(hidden, colours=colours, condition=condition)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Run over the map: (B, 2h, H, W), and the condition (B, condition, H, W) -> states (B, h, H, W)."""
        mirrored = condition.flip(3) if condition is not None else None
        right = self.right(x.flip(3), mirrored).flip(3)  # (B, h, H, W)
        left: Tensor = self.left(x, condition)
        return left + shift_down(right)
