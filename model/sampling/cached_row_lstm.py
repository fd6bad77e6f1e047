"""The cached sampler's Row LSTM layers."""

from __future__ import annotations

from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from model.networks.base import PixelNetwork
from model.networks.pixelrnn import RecurrentBlock
from model.networks.row_lstm import GATES, RowLSTM
from model.sampling.colour_groups import bias_of, gates_by_colour, groups, masked, parts, pointwise, taps
from model.sampling.edge_layers import Head


def lstm_step(sigmoids: Tensor, tanhs: Tensor, *, o: Tensor, f: Tensor, i: Tensor, c: Tensor, h: Tensor) -> None:
    """Apply one LSTM step (the paper's equation 3) in place: compute the new c and h from the gate pre-activations.

    Args:
        sigmoids: pre-activations of the gates o, f, i, concatenated, (..., 3n); overwritten.
        tanhs: pre-activation of the gate g, (..., n); overwritten.
        o: output gate, a view of `sigmoids`.
        f: forget gate, a view of `sigmoids`.
        i: input gate, a view of `sigmoids`.
        c: memory, updated in place.
        h: state, written.
    """
    sigmoids.sigmoid_()
    tanhs.tanh_()
    c.mul_(f).addcmul_(i, tanhs)
    torch.tanh(c, out=h).mul_(o)


class RowLayers:
    """The activations that the layers store: one row of states h and memories c for each layer, O(L W h) in total.

    ::

        above  h h h     once a row, for all layers and pixels: (L, B*W, 3h) x (L, 3h, 4h)
        row    x x       at a pixel: (B, 4h) x (4h, 4h), inputs of the left and the current pixel, adjacent in memory

    Args:
        net: a PixelRNN with Row LSTM layers.
        head: receives the states of each layer.
        batch: batch size, B.
        width: image width in pixels, W.
    """

    def __init__(self, net: PixelNetwork, head: Head, *, batch: int, width: int) -> None:
        blocks = [cast("RecurrentBlock", block) for block in net.blocks]
        lstms = [cast("RowLSTM", block.lstm) for block in blocks]
        h, L = net.hidden, len(blocks)
        self.head, self.colours, self.h, self.layers, self.batch, self.width = head, net.channels, h, L, batch, width
        self.residual = blocks[0].residual
        self.order = order = gates_by_colour(h, net.channels, GATES)
        inputs = [masked(lstm.input_to_state)[:, :, 0, :2] for lstm in lstms]  # (4h, 2h, 2) each: left, own
        self.beside = torch.stack([taps(weight[order]) for weight in inputs])  # (L, 4h, 4h)
        above = [lstm.state_to_state.weight.detach()[order] for lstm in lstms]  # (4h, h, 3) each
        self.weight_above = torch.stack([taps(weight) for weight in above])  # (L, 3h, 4h)
        self.bias_above = torch.stack([bias_of(lstm.input_to_state)[order] for lstm in lstms])[:, None]  # (L, 1, 4h)
        self.up = [pointwise(block.up) for block in blocks]
        self.conditions = [lstm.condition for lstm in lstms if lstm.condition is not None]
        new = self.beside.new_zeros
        self.x = new(L, batch, (width + 1) * 2 * h)
        self.states, self.memory = new(L, batch, (width + 2) * h), new(L, batch, width, h)
        self.above = new(L, batch, width, GATES * h)
        self._windows = self.states.unfold(2, 3 * h, h)  # (L, B, W, 3h)
        self._flat = self.above.view(L, batch * width, GATES * h)
        for layer, lstm in enumerate(lstms):  # the row has zero padding; the state above it is learned
            self.states[layer, :, h:-h] = lstm.h0.detach().repeat(width)
            self.memory[layer] = lstm.c0.detach()

    @cached_property
    def _views(self) -> list[list[list[tuple[Tensor, ...]]]]:
        """Buffers and weights for each column, colour and layer; built once, as a view costs as much as a product."""
        h, C = self.h, self.colours
        up = [parts(product, C) for product in self.up]
        cut = list(zip(groups(2 * h, C), groups(h, C), strict=True))
        beside = [
            [weight[: 2 * h + big.stop, GATES * small.start : GATES * small.stop].contiguous() for big, small in cut]
            for weight in self.beside
        ]
        gates = self.beside.new_zeros(self.batch, GATES * h)

        def of(layer: int, column: int, colour: int, big: slice, small: slice) -> tuple[Tensor, ...]:
            x, y, n = self.x[layer], self.head.states(layer), small.stop - small.start
            left, own, upper = column * 2 * h, (column + 1) * 2 * h, up[layer][colour]
            o, f, i, g = (gates[:, gate * n : (gate + 1) * n] for gate in range(GATES))
            return (
                *(x[:, own + big.start : own + big.stop], x[:, left : own + big.stop], beside[layer][colour]),
                self.above[layer, :, column, GATES * small.start : GATES * small.stop],
                *(gates[:, : GATES * n], gates[:, : 3 * n], g, o, f, i, self.memory[layer, :, column, small]),
                self.states[layer, :, (column + 1) * h + small.start : (column + 1) * h + small.stop],
                *(y[:, small], y[:, : small.stop], upper.bias, upper.weight),
            )

        return [
            [[of(layer, c, g, *slices) for layer in range(self.layers)] for g, slices in enumerate(cut)]
            for c in range(self.width)
        ]

    def begin_row(self, from_condition: Tensor | None) -> None:
        """Advance to the next row: compute the gates from the row just drawn and from the condition (L, B, W, 4h)."""
        windows = self._windows.reshape(self.layers, self.batch * self.width, 3 * self.h)
        torch.baddbmm(self.bias_above, windows, self.weight_above, out=self._flat)
        if from_condition is not None:
            self.above += from_condition[..., self.order]

    def at(self, column: int, colour: int, maps: Tensor) -> Tensor:
        """Apply all layers to the first layer's maps of one colour, (B, maps); return maps of the same shape."""
        for views in self._views[column][colour]:
            x_own, x_seen, w_beside, above, gates, sigmoids, tanhs, o, f, i, c, h, y_own, y_seen, b_up, w_up = views
            x_own.copy_(maps)
            torch.addmm(above, x_seen, w_beside, out=gates)
            lstm_step(sigmoids, tanhs, o=o, f=f, i=i, c=c, h=h)
            y_own.copy_(h)
            up = torch.addmm(b_up, y_seen, w_up)
            maps = maps + up if self.residual else up
        return maps
