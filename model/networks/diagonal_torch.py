"""The layers of `model.networks.diagonal_bilstm_fast` with torch's operations, as few and as large as can be.

One matrix A for each diagonal and direction holds all inputs of its gates, maps x cells. Row r of the map has its place
in each of them, the B columns of its images, whether or not the diagonal has a cell there::

    A  =  x           2h        gates  =  weights @ A
          condition    c        (absent if there is none)
          h above      h
          h left       h
          1            1        (its weight is the bias)

The address of a cell is then linear in its row and its column, so that one strided copy moves a whole map into the
matrices or out of them. The state of row r is written to the next diagonal, where it is the left one of row r and the
upper one of row r+1. The place of a row that has not begun yet holds its initial state.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import torch
from torch import Tensor

from model.networks.buffers import Workspace
from model.networks.diagonal_maps import DiagonalWeights, Gradients, Maps, Sizes
from model.networks.lstm_kernel import gradient_factors, step, step_back

LEFT, RIGHT = 0, 1


def _over_map(buffer: Tensor, sizes: Sizes, side: int, rows: slice, *, at: int = 0) -> Tensor:
    """Return a view of a direction's cells as a map; the right direction's columns are mirrored.

    Args:
        buffer: matrices by diagonal and direction, (diagonals, 2, maps, places).
        sizes: of the network.
        side: the direction.
        rows: which maps.
        at: the matrix of the first diagonal.

    Returns:
        (maps, H, W, B).
    """
    some = buffer[at:, side, rows]
    diagonal, row, _ = some.stride()
    size = (some.shape[1], sizes.H, sizes.W, sizes.B)
    return some.as_strided(size, (row, diagonal + sizes.B, diagonal, 1), some.storage_offset())


def _before_first_column(buffer: Tensor, sizes: Sizes, rows: slice) -> Tensor:
    """Return a view of the place of row r on diagonal r, for all r: (diagonals, 2, maps, places) -> (2, maps, H, B)."""
    some = buffer[:, :, rows]
    diagonal, side, row, _ = some.stride()
    size = (2, some.shape[2], sizes.H, sizes.B)
    return some.as_strided(size, (side, row, diagonal + sizes.B, 1), some.storage_offset())


class Layer:
    """The buffers of a layer and the views of each diagonal, made once: a view costs as much as a small step.

    Args:
        sizes: of the network.
        like: a tensor of the dtype.
    """

    def __init__(self, sizes: Sizes, like: Tensor) -> None:
        self.work = Workspace(("diagonal", *sizes), like)
        self.views = self.work.once("views", lambda: self._views(sizes))

    def _views(self, sizes: Sizes) -> SimpleNamespace:
        H, W, B, _, h, c = sizes
        above, left = slice(2 * h + c, 3 * h + c), slice(3 * h + c, 4 * h + c)
        A = self.work.zeros("A", sizes.diagonals + 1, 2, sizes.seen, (H + 1) * B)
        C = self.work.zeros("C", sizes.diagonals + 1, 2, h, H * B)
        S, V = self.work.zeros("S", 8 * h * H * W * B), self.work.zeros("V", 2 * h * H * W * B)
        A[:, :, -1] = 1
        steps, done = [], 0  # values of a map on the previous diagonals
        for j in range(sizes.diagonals):
            r0, r1 = sizes.rows(j)
            n, on = (r1 - r0) * B, slice(r0 * B, r1 * B)
            s = SimpleNamespace(A=A[j, :, :, on], before=C[j, :, :, on], state=A[j + 1, :, left, on])
            s.gates = S[8 * h * done : 8 * h * (done + n)].view(2, 4 * h, n)
            s.squashed = V[2 * h * done : 2 * h * (done + n)].view(2, h, n)
            s.run = step(
                s.gates, s.before, memory=C[j + 1, :, :, on], squashed=s.squashed, state=s.state,
                above=A[j + 1, :, above, (r0 + 1) * B : (r1 + 1) * B],
            )  # fmt: skip
            steps.append(s)
            done += n
        return SimpleNamespace(
            steps=steps,
            x=[_over_map(A, sizes, side, slice(0, 2 * h)) for side in (LEFT, RIGHT)],
            condition=[_over_map(A, sizes, side, slice(2 * h, 2 * h + c)) for side in (LEFT, RIGHT)],
            states=[_over_map(A, sizes, side, left, at=1) for side in (LEFT, RIGHT)],
            h0=_before_first_column(A, sizes, left),
            c0=_before_first_column(C, sizes, slice(None)),
            back=(None, []),
        )

    def run(self, maps: Maps, number: int, w: DiagonalWeights) -> None:
        """Compute both directions, shift the right direction's map down by one row, and write the sum."""
        v, x, out = self.views, maps.x[number], maps.states[number]
        x = x.view(len(x), *out.shape[1:])
        v.x[LEFT].copy_(x)
        torch.index_select(x, 2, maps.mirrored, out=v.x[RIGHT])
        if maps.condition is not None:
            v.condition[LEFT].copy_(maps.condition)
            torch.index_select(maps.condition, 2, maps.mirrored, out=v.condition[RIGHT])
        v.h0.copy_(w.h0[number, :, :, None, None])
        v.c0.copy_(w.c0[number, :, :, None, None])
        for s in v.steps:
            torch.bmm(w.gates[number], s.A, out=s.gates)
            s.run()
        out.copy_(v.states[LEFT])
        out[:, 1:].index_add_(2, maps.mirrored, v.states[RIGHT][:, :-1])


class Back(Gradients):
    """The gradients of a pass.

    Args:
        sizes: of the network.
        like: a tensor of the dtype.
        of_head: maps of the head's first layer.
    """

    def __init__(self, sizes: Sizes, like: Tensor, *, of_head: int) -> None:
        super().__init__(sizes, like, of_head=of_head)
        self.views = self.work.once("views", self._views)
        self.initial_states, self.initial_memories = self.views.h0, self.views.c0
        self.mirrored = torch.arange(sizes.W - 1, -1, -1, device=like.device)

    def _views(self) -> SimpleNamespace:
        (H, W, B, _, h, c), sizes, zeros = self.sizes, self.sizes, self.work.zeros
        F, wide = 2 * h + c, min(H, W) * B
        dH = zeros("dH", sizes.diagonals + 1, 2, h, (H + 1) * B)
        dX = zeros("dX", sizes.diagonals, 2, F, (H + 1) * B)
        dC, D, dA = zeros("dC", 2, h, H * B), zeros("D", 8 * h * wide), zeros("dA", 2 * (F + 2 * h) * wide)
        steps = []
        for j in range(sizes.diagonals):
            r0, r1 = sizes.rows(j)
            n, on, top = (r1 - r0) * B, slice(r0 * B, r1 * B), max(r0, 1)  # row 0 has none above
            s = SimpleNamespace(d_state=dH[j + 1, :, :, on], d_memory=dC[:, :, on])
            s.D, s.dA = D[: 8 * h * n].view(2, 4 * h, n), dA[: 2 * (F + 2 * h) * n].view(2, F + 2 * h, n)
            s.Dt = s.D.transpose(1, 2)
            s.x, s.above, s.left = s.dA[:, :F], s.dA[:, F : F + h, (top - r0) * B :], s.dA[:, F + h :]
            s.to_x, s.to_left = dX[j, :, :, on], dH[j, :, :, on]
            s.to_above = dH[j, :, :, (top - 1) * B : (r1 - 1) * B]
            steps.append(s)
        every = slice(None)
        return SimpleNamespace(
            steps=steps,
            states=[_over_map(dH, sizes, side, every, at=1) for side in (LEFT, RIGHT)],
            x=[_over_map(dX, sizes, side, slice(0, 2 * h)) for side in (LEFT, RIGHT)],
            condition=[_over_map(dX, sizes, side, slice(2 * h, F)) for side in (LEFT, RIGHT)],
            memories=dC,
            h0=_before_first_column(dH, sizes, every),
            c0=dC.view(2, h, H, B),
        )

    def run(self, layer: Layer, maps: Maps, number: int, w: DiagonalWeights, d_weights: Tensor) -> None:
        """Go back over the diagonals of a layer, from the gradients of its states, and add those of its inputs.

        Args:
            layer: of the pass.
            maps: of the pass.
            number: of the layer.
            w: the weights.
            d_weights: the gradients of the gates' weights, written, (2, 4h, maps of A).
        """
        v, (H, W, B, _, h, _) = self.views, self.sizes
        d_out = self.states.view(h, H, W, B)
        v.h0.zero_()
        v.memories.zero_()
        v.states[LEFT].copy_(d_out)
        torch.index_select(d_out[:, 1:], 2, self.mirrored, out=v.states[RIGHT][:, :-1])
        v.states[RIGHT][:, -1].zero_()  # shifted out of the map
        factors = gradient_factors(h, d_out.dtype, d_out.device)
        back = (factors * w.gates[number, :, :, :-1]).transpose(1, 2)
        # MKL multiplies these faster with the long side of the result across.
        without_factors = d_out.new_zeros(2, self.sizes.seen, 4 * h)
        for s, d, run in zip(reversed(layer.views.steps), reversed(v.steps), self._steps_of(layer), strict=True):
            run()
            without_factors.baddbmm_(s.A, d.Dt)
            torch.bmm(back, d.D, out=d.dA)
            d.to_left.add_(d.left)
            d.to_above.add_(d.above)
            d.to_x.copy_(d.x)
        torch.mul(without_factors.transpose(1, 2), factors, out=d_weights)
        self._add_to_inputs()

    def _steps_of(self, layer: Layer) -> list[Callable[[], None]]:
        """Return the steps back of a layer, the last diagonal first; made anew where other buffers come together."""
        of, steps = layer.views.back
        if of is not self.views:
            steps = [
                step_back(
                    d.d_state, d.d_memory,
                    gates=s.gates, squashed=s.squashed, before=s.before, state=s.state, d_gates=d.D,
                )
                for s, d in zip(reversed(layer.views.steps), reversed(self.views.steps), strict=True)
            ]  # fmt: skip
            layer.views.back = (self.views, steps)
        return cast("list[Callable[[], None]]", steps)

    def _add_to_inputs(self) -> None:
        v, dx = self.views, self.x.view(len(self.x), *self.sizes[:3])
        dx.add_(v.x[LEFT]).index_add_(2, self.mirrored, v.x[RIGHT])
        if self.condition is not None:
            self.condition.add_(v.condition[LEFT]).index_add_(2, self.mirrored, v.condition[RIGHT])
