"""The Row LSTM layer as the paper writes it (arXiv 1601.06759, section 3.1): a loop over rows, for autograd.

`model.networks.row_lstm_fast` computes the same for all layers of a network at once, and much faster.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.networks.masked_conv import MaskedConv2d

GATES = 4  # o, f, i, g, in this order (equation 3)


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Apply one LSTM step (equation 3): gate pre-activations (B, 4h, ...), old c (B, h, ...) -> new h and c."""
    o, f, i, g = gates.chunk(GATES, dim=1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


class RowLSTM(nn.Module):
    """An LSTM that runs from the top row to the bottom row and computes a whole row at a time.

    A cell sees its own and the left pixel of the input (3x1 convolution with mask B), and the three nearest states of
    the row above (3x1 convolution without mask)::

        state above    h h h
        input          x x .

    Args:
        hidden: h, maps of the state; the input has 2h.
        colours: number of colours that the maps of each gate are split among.
        condition: maps of the condition, added to the input-to-state map by a 1x1 convolution without mask; 0 for none.

    The initial state is learned, one value for each map, the same in all columns.
    """

    def __init__(self, hidden: int, *, colours: int = 1, condition: int = 0) -> None:
        super().__init__()
        self.hidden = hidden
        self.input_to_state = MaskedConv2d("B", 2 * hidden, GATES * hidden, (1, 3), colours=colours, gates=GATES)
        self.state_to_state = nn.Conv1d(hidden, GATES * hidden, 3, padding=1, bias=False)
        self.condition = nn.Conv2d(condition, GATES * hidden, 1, bias=False) if condition else None
        self.h0 = nn.Parameter(torch.zeros(hidden))
        self.c0 = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Run over the map: (B, 2h, H, W), and the condition (B, condition, H, W) -> states (B, h, H, W)."""
        from_input = self.input_to_state(x)  # (B, 4h, H, W)
        if self.condition is not None:
            from_input = from_input + self.condition(condition)
        B, _, H, W = x.shape
        h = self.h0[:, None].expand(B, self.hidden, W)
        c = self.c0[:, None].expand(B, self.hidden, W)
        rows = []
        for row in range(H):
            h, c = lstm_cell(from_input[:, :, row] + self.state_to_state(h), c)  # (B, h, W)
            rows.append(h)
        return torch.stack(rows, dim=2)
