"""The recurrent PixelRNNs (van den Oord et al. 2016, arXiv 1601.06759, section 3 and table 1)."""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.networks.base import PixelNetwork
from model.networks.diagonal_bilstm import DiagonalBiLSTM, DiagonalLSTM
from model.networks.diagonal_bilstm_fast import diagonal_layer
from model.networks.masked_conv import MaskedConv2d
from model.networks.row_lstm import RowLSTM
from model.networks.row_lstm_fast import row_layers

Recurrence = Literal["row-lstm", "diagonal-bilstm"]
Implementation = Literal["fast", "reference"]


class RecurrentBlock(nn.Module):
    """The block of PixelRNN, figure 5: the LSTM (2h to h), a 1x1 convolution (h to 2h), plus its input."""

    def __init__(self, lstm: nn.Module, hidden: int, *, colours: int = 1, residual: bool = True) -> None:
        super().__init__()
        self.residual = residual
        self.lstm = lstm
        self.up = MaskedConv2d("B", hidden, 2 * hidden, 1, colours=colours)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return maps of the input's shape (B, 2h, H, W), and the h maps for the layer-to-output connection."""
        h = self.lstm(x, condition)  # (B, h, H, W)
        up = self.up(h)  # (B, 2h, H, W)
        return (x + up if self.residual else up), h


class PixelRNN(PixelNetwork):
    """A PixelRNN: a 7x7 convolution with mask A, `layers` Row LSTM or Diagonal BiLSTM blocks, and the head.

    For Diagonal BiLSTM layers the network appends one zero column at the right of the image and removes it from the
    output. With it each pixel sees all earlier pixels; `DiagonalBiLSTM` gives the reason.

    Args:
        recurrence: the type of the recurrent layers.
        channels: colours of a pixel, C.
        levels: number of levels of a colour, K, from 2 to 256.
        hidden: h, feature maps inside a layer.
        layers: number of recurrent layers.
        head: feature maps of the layer before the softmax.
        residual: whether each layer adds its input.
        skip: whether there are layer-to-output connections.
        condition: maps of the condition, 0 for none.
        implementation: "reference" follows the paper's formulation; "fast" computes the same function faster. Both
            have the same parameters.
    """

    def __init__(
        self,
        recurrence: Recurrence,
        *,
        channels: int,
        levels: int,
        hidden: int,
        layers: int,
        head: int,
        residual: bool = True,
        skip: bool = True,
        condition: int = 0,
        implementation: Implementation = "fast",
    ) -> None:
        kind = {"row-lstm": RowLSTM, "diagonal-bilstm": DiagonalBiLSTM}[recurrence]
        super().__init__(
            lambda: RecurrentBlock(
                kind(hidden, colours=channels, condition=condition), hidden, colours=channels, residual=residual
            ),
            channels=channels,
            levels=levels,
            hidden=hidden,
            layers=layers,
            head=head,
            skip=skip,
            condition=condition,
        )
        self.recurrence, self.implementation, self.residual = recurrence, implementation, residual

    def predict(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict from inputs scaled to [-1, 1]: (B, C, H, W) -> (B, K, C, H, W)."""
        if self.recurrence == "row-lstm":
            return super().predict(x, condition)
        self.check_condition(x, condition)
        wider = F.pad(x, (0, 1))  # (B, C, H, W+1)
        wider_condition = F.pad(condition, (0, 1)) if condition is not None else None
        return super().predict(wider, wider_condition)[..., :-1]

    def through(self, y: Tensor, condition: Tensor | None) -> Tensor:
        """Apply all layers after the first, and the head: (B, 2h, H, W) -> logits (B, K, C, H, W)."""
        if self.implementation == "reference":
            return super().through(y, condition)
        if self.recurrence == "row-lstm":
            return self._row_layers(y, condition)
        return self._diagonal_layers(y, condition)

    def _row_layers(self, y: Tensor, condition: Tensor | None) -> Tensor:
        """Compute `through` with all Row LSTM layers in one wavefront; the layout is maps x cells within each row."""
        blocks = cast("list[RecurrentBlock]", list(self.blocks))
        lstms = [cast("RowLSTM", block.lstm) for block in blocks]
        y = y.to(self.first.weight.dtype)  # the recurrences are not rounded; under autocast y is
        x, states = row_layers(
            y.permute(2, 1, 3, 0),  # (H, 2h, W, B)
            None if condition is None else condition.permute(2, 1, 3, 0),  # (H, c, W, B)
            torch.stack([row_weights(lstm) for lstm in lstms]),  # (L, 4h, K)
            torch.stack([torch.cat([matrix(block.up), bias(block.up)], dim=1) for block in blocks]),  # (L, 2h, h+1)
            h0=torch.stack([lstm.h0 for lstm in lstms]),  # (L, h)
            c0=torch.stack([lstm.c0 for lstm in lstms]),
            residual=self.residual,
        )
        out = self._maps_to_logits(x.flatten(2), states.flatten(2))  # (H, C*K, W*B)
        B, _, H, W = y.shape
        return self.as_logits(out.view(H, -1, W, B).permute(3, 1, 0, 2))

    def _diagonal_layers(self, y: Tensor, condition: Tensor | None) -> Tensor:
        """Compute `through` in the layout maps x cells, in which each 1x1 convolution is a matrix product."""
        B, m, H, W = y.shape
        x = y.permute(1, 2, 3, 0)  # (2h, H, W, B)
        where = None if condition is None else condition.permute(1, 2, 3, 0)  # (c, H, W, B)
        states = []
        for block in cast("list[RecurrentBlock]", list(self.blocks)):
            lstm = cast("DiagonalBiLSTM", block.lstm)
            sides = (lstm.left, lstm.right)
            h = diagonal_layer(
                x if where is None else torch.cat([x, where]),
                torch.stack([diagonal_weights(side) for side in sides]),  # (2, 4h, K)
                torch.stack([side.h0 for side in sides]),  # (2, h)
                torch.stack([side.c0 for side in sides]),
            ).flatten(1)  # (h, H*W*B)
            before = x.reshape(m, -1) if self.residual else x.new_zeros(())
            x = torch.addmm(before + bias(block.up).expand(m, h.shape[1]), matrix(block.up), h).view(m, H, W, B)
            states.append(h)
        out = self._maps_to_logits(x.flatten(1), torch.cat(states))  # (C*K, H*W*B)
        return self.as_logits(out.view(-1, H, W, B).permute(3, 0, 1, 2))

    def _maps_to_logits(self, x: Tensor, states: Tensor) -> Tensor:
        """Apply head and layer-to-output connections to maps x cells: (..., 2h, N), (..., L*h, N) -> (..., C*K, N)."""
        out = matrix(self.head) @ F.relu(x) + bias(self.head)  # (..., head, N)
        if len(self.skips):
            out = out + torch.cat([matrix(cast("MaskedConv2d", skip)) for skip in self.skips], dim=1) @ states
        return matrix(self.last) @ F.relu(out) + bias(self.last)


def row_weights(lstm: RowLSTM) -> Tensor:
    """Return a Row LSTM's weights in the layout of `row_layers`, (4h, 4h + c + 3h + 1)."""
    taps = lstm.input_to_state.masked_weight()  # (4h, 2h, 1, 3)
    parts = [taps[:, :, 0, 0], taps[:, :, 0, 1]]  # left, centre
    if lstm.condition is not None:
        parts.append(lstm.condition.weight[:, :, 0, 0])
    return torch.cat([*parts, *lstm.state_to_state.weight.unbind(2), bias(lstm.input_to_state)], dim=1)


def diagonal_weights(lstm: DiagonalLSTM) -> Tensor:
    """Return the weights of one direction in the layout of `diagonal_layer`, (4h, 2h + c + 2h + 1)."""
    parts = [matrix(lstm.input_to_state)]
    if lstm.condition is not None:
        parts.append(lstm.condition.weight[:, :, 0, 0])
    return torch.cat([*parts, *lstm.state_to_state.weight.unbind(2), bias(lstm.input_to_state)], dim=1)


def matrix(conv: MaskedConv2d) -> Tensor:
    """Return a 1x1 convolution's masked weight as a matrix (out, in)."""
    return conv.masked_weight()[:, :, 0, 0]


def bias(conv: MaskedConv2d) -> Tensor:
    """Return a convolution's bias as a column (out, 1)."""
    return cast("Tensor", conv.bias)[:, None]
