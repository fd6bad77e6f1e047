"""A Diagonal BiLSTM layer for a GPU: few operations a diagonal, and none that copies.

A GPU is done with a diagonal before Python has launched the next one, so that the number of operations is what counts.
The input-to-state map of all cells is one product before the loop, and so are the gradients of weights and input after
it. The order of the cells is that of `model.networks.diagonal_bilstm_fast`, by diagonal and then by row::

    X, S, D     (2, maps, cells * B)            input, gates, gradients of the gates
    Hs, dHs     (2, h, (H+W) * (H+1) * B)       states: by diagonal and row; row 0 is the zero padding above the map
    C, V        (2, h, (H+W) * H * B)           memories and their tanh: by diagonal and row

The left neighbour of a cell is on the previous diagonal in the same row, the upper one in the row before. With the rows
at fixed places both are slices of that diagonal, and nothing is handed on. Diagonal j of the map is at place j + 1. The
initial state of row r is at place r, to the left of the first column.

NOTE: this has not run on a GPU yet. Its tests run it on a CPU, and count its operations on torch's `meta` device.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.networks.buffers import Workspace

Grads = tuple[Tensor | None, ...]


def diagonal_layer(x: Tensor, weights: Tensor, h0: Tensor, c0: Tensor) -> Tensor:
    """Run both directions; shift the right direction's map down by one row and add it to the left direction's map.

    Args:
        x: input and condition (2h + c, H, W, B); under autocast it may be rounded, the recurrence is not.
        weights: weights of what each gate sees in both directions: input and condition, the states above and to the
            left, and one (2, 4h, 2h + c + 2h + 1), gates o, f, i, g.
        h0: initial states (2, h).
        c0: initial memories (2, h).

    Returns:
        States (h, H, W, B).
    """
    run = cast("Callable[..., Tensor]", Scan.apply)
    return run(x.to(weights.dtype), weights, h0, c0)


class Scan(torch.autograd.Function):
    """Both directions: x (F, H, W, B), weights (2, 4h, F + 2h + 1), h0 and c0 (2, h) -> states (h, H, W, B)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, h0: Tensor, c0: Tensor) -> Tensor:
        """Compute the states of both directions, shift those of the right one down by one row, and add them."""
        F, H, W, B = x.shape
        h = h0.shape[1]
        work = Workspace(("diagonal on a gpu", F, H, W, B, h), x)
        plan: _Plan = work.once("plan", lambda: _Plan(work, (F, H, W, B), h))
        plan.initial_h.copy_(h0[:, :, None, None])
        plan.initial_c.copy_(c0[:, :, None, None])
        of_input, above, left, bias = weights.split([F, h, h, 1], dim=2)  # type: ignore[no-untyped-call]
        flat = x.reshape(F, H * W, B)
        for side in range(2):
            torch.index_select(flat, 1, plan.position[side], out=plan.X_by_cell[side])
        torch.baddbmm(bias, of_input, plan.X, out=plan.S)
        for step in plan.steps:
            step.S.baddbmm_(above, step.h_above).baddbmm_(left, step.h_left)
            step.squares.sigmoid_()
            step.g.tanh_()
            torch.mul(step.f, step.c_left, out=step.c).addcmul_(step.i, step.g)
            torch.tanh(step.c, out=step.v)
            torch.mul(step.o, step.v, out=step.h)
        ctx.work, ctx.parts = work, (F, h)
        ctx.save_for_backward(weights)
        maps = [plan.states[side].index_select(1, plan.place[side]).view(h, H, W, B) for side in range(2)]
        maps[0][:, 1:] += maps[1][:, :-1]
        return maps[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> Grads:
        """Go back over the diagonals, then compute the gradients of weights and input, each in one product."""
        (weights,), (F, h) = ctx.saved_tensors, ctx.parts
        plan: _Plan = ctx.work.once("plan", lambda: None)
        H, W, B = d_y.shape[1:]
        shared = Workspace(("diagonal on a gpu, back", F, H, W, B, h), d_y)  # of one layer after the other
        back: _Back = shared.once("plan", lambda: _Back(shared, (F, H, W, B), h))
        of_input, above, left, _ = weights.split([F, h, h, 1], dim=2)
        back_above, back_left = above.transpose(1, 2), left.transpose(1, 2)
        back.dHs.zero_()
        back.dC.zero_()
        of_right = torch.nn.functional.pad(d_y[:, 1:], (0, 0, 0, 0, 0, 1))  # its map was shifted down by one row
        for side, gradient in enumerate((d_y, of_right)):
            back.d_states[side].index_copy_(1, plan.place[side], gradient.reshape(h, H * W, B))
        for step, d in zip(reversed(plan.steps), reversed(back.steps), strict=True):
            torch.mul(d.dh, step.v, out=d.do)
            d.dc.addcmul_(d.dh, step.o).addcmul_(d.do, step.h, value=-1)  # dh * o * (1 - tanh(c)^2)
            torch.mul(d.dc, step.c_left, out=d.df)
            torch.mul(d.dc, step.g, out=d.di)
            torch.mul(d.dc, step.i, out=d.dg)
            d.dc.mul_(step.f)
            torch.ops.aten.sigmoid_backward.grad_input(d.d_squares, step.squares, grad_input=d.d_squares)
            torch.ops.aten.tanh_backward.grad_input(d.dg, step.g, grad_input=d.dg)
            d.dh_left.baddbmm_(back_left, d.D)
            d.dh_above.baddbmm_(back_above, d.D)
        neighbours = [plan.states.index_select(2, where).view(2, h, -1) for where in (plan.above, plan.left)]
        parts = [torch.bmm(back.D, some.transpose(1, 2)) for some in (plan.X, *neighbours)]
        d_weights = torch.cat([*parts, back.D.sum(dim=2, keepdim=True)], dim=2)
        d_cells = torch.bmm(of_input.transpose(1, 2), back.D).view(2, F, H * W, B)
        d_x = sum(d_cells[side].index_select(1, plan.cell[side]) for side in range(2))
        return d_x.view(F, H, W, B), d_weights, back.d_initial_h.sum(dim=(2, 3)), back.dC.sum(dim=2)  # type: ignore[union-attr]


class _Places:
    """Where a diagonal is in the buffers.

    Args:
        size: F, H, W, B.
    """

    def __init__(self, size: tuple[int, int, int, int]) -> None:
        _, self.H, self.W, self.B = size

    def rows(self, j: int) -> tuple[int, int]:
        """Return the first row of a diagonal and the one after its last."""
        return max(0, j - self.W + 1), min(j, self.H - 1) + 1

    def cells(self, buffer: Tensor, j: int) -> Tensor:
        """Return the cells of a diagonal, of a buffer by cell."""
        done = sum(last - first for first, last in map(self.rows, range(j)))
        first, last = self.rows(j)
        return buffer[:, :, done * self.B : (done + last - first) * self.B]

    def states(self, buffer: Tensor, j: int, *, at: int, up: int = 0) -> Tensor:
        """Return the states of the rows of diagonal j, or of those above, from the diagonal at a place."""
        first, last = (at * (self.H + 1) + 1 - up + row for row in self.rows(j))
        return buffer[:, :, first * self.B : last * self.B]

    def memories(self, buffer: Tensor, j: int, *, at: int) -> Tensor:
        """Return the memories of the rows of diagonal j from the diagonal at a place."""
        first, last = (at * self.H + row for row in self.rows(j))
        return buffer[:, :, first * self.B : last * self.B]


class _Plan:
    """The buffers of a pass, the views of each diagonal, and the places of the cells; made once for a size.

    Args:
        work: has the buffers.
        size: F, H, W, B.
        h: maps of a state.
    """

    def __init__(self, work: Workspace, size: tuple[int, int, int, int], h: int) -> None:
        F, H, W, B = size
        N, at = H * W * B, _Places(size)
        X, S = work.zeros("X", 2, F, N), work.zeros("S", 2, 4 * h, N)
        Hs = work.zeros("Hs", 2, h, (H + W) * (H + 1) * B)
        C, V = (work.zeros(name, 2, h, (H + W) * H * B) for name in ("C", "V"))
        self.X, self.S, self.X_by_cell = X, S, [side.view(F, H * W, B) for side in X]
        self.states = Hs.view(2, h, -1, B)
        self.initial_h = self.states[:, :, 1 :: H + 2][:, :, :H]
        self.initial_c = C.view(2, h, -1, B)[:, :, :: H + 1][:, :, :H]
        cells = [(j, r) for j in range(H + W - 1) for r in range(*at.rows(j))]
        kept = [(j + 1) * (H + 1) + r + 1 for j, r in cells]  # places in the states
        sides = [[r * W + j - r for j, r in cells], [r * W + W - 1 - j + r for j, r in cells]]

        def moved(numbers: list[int]) -> Tensor:
            return torch.tensor(numbers).to(X.device)

        self.position = [moved(side) for side in sides]  # in the map, of each cell
        self.cell = [moved(_inverse(side)) for side in sides]  # of each position in the map
        self.place = [moved([kept[cell] for cell in _inverse(side)]) for side in sides]  # of its state
        self.left, self.above = (moved([place - H - 1 - up for place in kept]) for up in (0, 1))
        self.steps = []
        for j in range(H + W - 1):
            s = at.cells(S, j)
            o, f, i, g = s.chunk(4, dim=1)
            self.steps.append(SimpleNamespace(
                S=s, o=o, f=f, i=i, g=g, squares=s[:, : 3 * h], h=at.states(Hs, j, at=j + 1),
                h_left=at.states(Hs, j, at=j), h_above=at.states(Hs, j, at=j, up=1),
                c=at.memories(C, j, at=j + 1), c_left=at.memories(C, j, at=j), v=at.memories(V, j, at=j + 1),
            ))  # fmt: skip


class _Back:
    """The buffers of the way back, and their views of each diagonal. The layers use the same ones in turn.

    Args:
        work: has the buffers.
        size: F, H, W, B.
        h: maps of a state.
    """

    def __init__(self, work: Workspace, size: tuple[int, int, int, int], h: int) -> None:
        _, H, W, B = size
        at = _Places(size)
        self.D = D = work.zeros("D", 2, 4 * h, H * W * B)
        self.dHs = dHs = work.zeros("dHs", 2, h, (H + W) * (H + 1) * B)
        self.dC = dC = work.zeros("dC", 2, h, H * B)
        self.d_states = dHs.view(2, h, -1, B)
        self.d_initial_h = self.d_states[:, :, 1 :: H + 2][:, :, :H]
        self.steps = []
        for j in range(H + W - 1):
            d = at.cells(D, j)
            do, df, di, dg = d.chunk(4, dim=1)
            self.steps.append(SimpleNamespace(
                D=d, do=do, df=df, di=di, dg=dg, d_squares=d[:, : 3 * h], dh=at.states(dHs, j, at=j + 1),
                dh_left=at.states(dHs, j, at=j), dh_above=at.states(dHs, j, at=j, up=1),
                dc=at.memories(dC, j, at=0),
            ))  # fmt: skip


def _inverse(numbers: list[int]) -> list[int]:
    found = [0] * len(numbers)
    for index, number in enumerate(numbers):
        found[number] = index
    return found
