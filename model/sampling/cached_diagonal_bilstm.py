"""The cached sampler's Diagonal BiLSTM layers."""

from __future__ import annotations

from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from model.networks.base import PixelNetwork
from model.networks.diagonal_bilstm import DiagonalBiLSTM, DiagonalLSTM
from model.networks.pixelrnn import RecurrentBlock
from model.networks.row_lstm import GATES
from model.sampling.cached_row_lstm import lstm_step
from model.sampling.colour_groups import bias_of, gates_by_colour, groups, masked, parts, pointwise
from model.sampling.edge_layers import Head


class DiagonalLayers:
    """The activations that the layers store: one row of inputs, states and memories for both directions.

    The left direction runs pixel by pixel: at (r, c) it needs its states at (r, c-1) and (r-1, c). The right direction
    is needed only in the next row. It runs when a row is complete, from right to left, with one batched product for all
    layers at each column. Its map of row r-1 is added to the map of the left direction in row r.

    The appended zero column of the image is the last of the `width` columns::

        layout of a row   h(-1) | x(0) h(0) | x(1) h(1) | ...      h(c-1) x(c) are adjacent: one product at a pixel

    Args:
        net: a PixelRNN with Diagonal BiLSTM layers.
        head: receives the states of each layer.
        batch: batch size, B.
        width: image width in pixels plus one, W + 1.
    """

    def __init__(self, net: PixelNetwork, head: Head, *, batch: int, width: int) -> None:
        blocks = [cast("RecurrentBlock", block) for block in net.blocks]
        lstms = [cast("DiagonalBiLSTM", block.lstm) for block in blocks]
        h, L = net.hidden, len(blocks)
        self.head, self.colours, self.h, self.layers, self.batch, self.width = head, net.channels, h, L, batch, width
        self.residual = blocks[0].residual
        self.order = order = gates_by_colour(h, net.channels, GATES)
        self.up = [pointwise(block.up) for block in blocks]
        self.conditions = [lstm.left.condition for lstm in lstms if lstm.left.condition is not None]
        self.conditions_right = [lstm.right.condition for lstm in lstms if lstm.right.condition is not None]
        left, right = [_Weights(lstm.left) for lstm in lstms], [_Weights(lstm.right) for lstm in lstms]
        self.left_above = torch.stack([some.above[:, order] for some in left])  # (L, h, 4h)
        self.left_bias = torch.stack([some.bias[order] for some in left])[:, None]  # (L, 1, 4h)
        self.beside = torch.stack([torch.cat([some.beside, some.own])[:, order] for some in left])  # (L, 3h, 4h)
        self.right_known = torch.stack([torch.cat([some.own, some.above]) for some in right])  # (L, 3h, 4h)
        self.right_bias = torch.stack([some.bias for some in right])[:, None]  # (L, 1, 4h)
        self.right_beside = torch.stack([some.beside for some in right])  # (L, h, 4h)
        self.right_h0 = torch.stack([some.h0 for some in right])[:, None].expand(L, batch, h)
        self.right_c0 = torch.stack([some.c0 for some in right])[:, None].expand(L, batch, h)
        new = self.beside.new_zeros
        self.row = new(L, batch, h + width * 3 * h)
        self.memory = new(L, batch, width + 1, h)
        for layer, some in enumerate(left):
            self.row[layer, :, :h], self.memory[layer, :, 0] = some.h0, some.c0
        self.places = self.row[:, :, h:].view(L, batch, width, 3 * h)  # x(c) h(c)
        self.above = new(L, batch, width, GATES * h)
        self.right = new(L, batch, width, h)  # states of the right direction in the row above; zero at first
        self.rows = 0
        self.condition_right: Tensor | None = None  # contribution to the right direction, (L, B, W+1, 4h)

    @cached_property
    def _views(self) -> list[list[list[tuple[Tensor, ...]]]]:
        """Buffers and weights for each column, colour and layer; built once, as a view costs as much as a product."""
        h, C = self.h, self.colours
        up = [parts(product, C) for product in self.up]
        cut = list(zip(groups(2 * h, C), groups(h, C), strict=True))
        beside = [
            [weight[: h + big.stop, GATES * small.start : GATES * small.stop].contiguous() for big, small in cut]
            for weight in self.beside
        ]
        gates = self.beside.new_zeros(self.batch, GATES * h)

        def of(layer: int, column: int, colour: int, big: slice, small: slice) -> tuple[Tensor, ...]:
            row, y, n, upper = self.row[layer], self.head.states(layer), small.stop - small.start, up[layer][colour]
            left = column * 3 * h  # offset of h(c-1); x(c) and h(c) follow
            o, f, i, g = (gates[:, gate * n : (gate + 1) * n] for gate in range(GATES))
            return (
                *(row[:, left + h + big.start : left + h + big.stop], row[:, left : left + h + big.stop]),
                *(beside[layer][colour], self.above[layer, :, column, GATES * small.start : GATES * small.stop]),
                *(gates[:, : GATES * n], gates[:, : 3 * n], g, o, f, i),
                *(self.memory[layer, :, column, small], self.memory[layer, :, column + 1, small]),
                row[:, left + 3 * h + small.start : left + 3 * h + small.stop],
                self.right[layer, :, column, small],
                *(y[:, small], y[:, : small.stop], upper.bias, upper.weight),
            )

        return [
            [[of(layer, c, g, *slices) for layer in range(self.layers)] for g, slices in enumerate(cut)]
            for c in range(self.width)
        ]

    def begin_row(self, from_condition: Tensor | None) -> None:
        """Advance to the next row: compute the gates from the row just drawn and from the condition (L, B, W+1, 4h)."""
        L, rows, h = self.layers, self.batch * self.width, self.h
        if self.rows:
            states = self.places[..., 2 * h :].reshape(L, rows, h)
            torch.baddbmm(self.left_bias, states, self.left_above, out=self.above.view(L, rows, GATES * h))
        else:  # above the first row the state is zero
            self.above.copy_(self.left_bias[:, None])
        if from_condition is not None:
            self.above += from_condition[..., self.order]
        self.rows += 1

    def known_to_right(self) -> Tensor:
        """Return the right direction's gates for the row just drawn, without the contribution of the adjacent states.

        Returns:
            (L, B, W+1, 4h), computed from its input and its states in the row above, which `right` still holds.
        """
        L, B, W, h = self.layers, self.batch, self.width, self.h
        known = torch.cat([self.places[..., : 2 * h], self.right], dim=3).view(L, B * W, 3 * h)
        gates = torch.baddbmm(self.right_bias, known, self.right_known).view(L, B, W, GATES * h)
        return gates if self.condition_right is None else gates + self.condition_right

    def scan_right(self) -> None:
        """Run the right direction over the row just drawn, from its last column to its first."""
        h = self.h
        by_column = self.known_to_right().permute(2, 0, 1, 3).contiguous()  # (W+1, L, B, 4h)
        state, memory = self.right_h0, self.right_c0.clone()
        for column in reversed(range(self.width)):
            now = torch.baddbmm(by_column[column], state, self.right_beside)  # (L, B, 4h)
            state = torch.empty_like(memory)
            o, f, i = now[..., :h], now[..., h : 2 * h], now[..., 2 * h : 3 * h]
            lstm_step(now[..., : 3 * h], now[..., 3 * h :], o=o, f=f, i=i, c=memory, h=state)
            self.right[:, :, column] = state

    def at(self, column: int, colour: int, maps: Tensor) -> Tensor:
        """Apply all layers to the first layer's maps of one colour, (B, maps); return maps of the same shape."""
        for views in self._views[column][colour]:
            x_own, seen, w_beside, above, gates, sigmoids, tanhs, o, f, i, c_left, c, h, right, *rest = views
            y_own, y_seen, b_up, w_up = rest
            x_own.copy_(maps)
            torch.addmm(above, seen, w_beside, out=gates)
            c.copy_(c_left)
            lstm_step(sigmoids, tanhs, o=o, f=f, i=i, c=c, h=h)
            torch.add(h, right, out=y_own)
            up = torch.addmm(b_up, y_seen, w_up)
            maps = maps + up if self.residual else up
        return maps


class _Weights:
    """The weights of one direction as matrices that row vectors are multiplied by."""

    def __init__(self, lstm: DiagonalLSTM) -> None:
        self.own = masked(lstm.input_to_state)[:, :, 0, 0].t()  # (2h, 4h)
        above, beside = lstm.state_to_state.weight.detach().unbind(2)  # (4h, h) each
        self.above, self.beside = above.t(), beside.t()  # (h, 4h)
        self.bias = bias_of(lstm.input_to_state)  # (4h,)
        self.h0, self.c0 = lstm.h0.detach(), lstm.c0.detach()  # (h,)
