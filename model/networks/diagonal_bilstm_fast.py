"""A Diagonal BiLSTM layer without skewing: both directions in one pass, one diagonal at a time, valid cells only.

On the skewed map about half of the cells are padding. Here the cells of diagonal j, rows r0..r1, have a constant stride
in the map, (r, j-r) for the left direction and (r, W-1-(j-r)) for the right direction. They are copied to contiguous
memory::

    W = 4, H = 3      left  0 1 2 3     right  3 2 1 0      the number is j: H+W-1 steps, of 1, 2, 3, 3, 2, 1 cells
                            1 2 3 4            4 3 2 1
                            2 3 4 5            5 4 3 2

One matrix A for each direction holds all inputs of the gates of a diagonal, maps x cells. The cells are in the order
(row, image), so that a shift by one row is a shift by B columns of A::

    A  =  x           2h        gates  =  weights @ A
          condition    c        (absent if there is none)
          h above      h
          h left       h
          1            1        (its weight is the bias)
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.networks import lstm_kernel
from model.networks.buffers import Workspace
from model.networks.diagonal_bilstm_gpu import Scan
from model.networks.lstm_kernel import scaled

Grads = tuple[Tensor | None, ...]


def diagonal_layer(x: Tensor, weights: Tensor, h0: Tensor, c0: Tensor) -> Tensor:
    """Run both directions; shift the right direction's map down by one row and add it to the left direction's map.

    Args:
        x: input and condition (2h + c, H, W, B).
        weights: weights for the matrix A of each direction (2, 4h, 2h + c + 2h + 1), gates o, f, i, g.
        h0: initial states (2, h).
        c0: initial memories (2, h).

    Returns:
        States (h, H, W, B).
    """
    if x.device.type != "cpu":
        on_gpu = cast("Callable[..., Tensor]", Scan.apply)
        return on_gpu(x.to(weights.dtype), weights, h0, c0)
    run = cast("Callable[..., Tensor]", _Scan.apply)
    return run(x.to(weights.dtype), scaled(weights), h0, c0 / 2)  # not rounded; under autocast x is


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, h0: Tensor, c0: Tensor) -> Tensor:
        F, H, W, B = x.shape
        h = h0.shape[1]
        work = Workspace(("diagonal", F, H, W, B, h), x)
        steps = work.once("steps", lambda: _steps(work, (F, H, W, B), h))
        work.zeros("X").copy_(x)
        for step in steps[:H]:
            step.first_h.copy_(h0[:, :, None])
            step.first_c.copy_(c0[:, :, None])
        for step in steps:
            step.A_x[0].copy_(step.X[0])
            step.A_x[1].copy_(step.X[1])
            torch.bmm(weights, step.A, out=step.S).sigmoid_()
            lstm_kernel.step(step.gates, step.C, memory=step.memory, squashed=step.V, state=step.state)
            step.Y[0].copy_(step.states[0])
            step.Y[1].copy_(step.states[1])
            for to, of in step.hand_on:
                to.copy_(of)
        ctx.work = work
        ctx.save_for_backward(weights)
        left, right = work.zeros("Y")
        y: Tensor = left.clone()
        y[:, 1:] += right[:, :-1]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> Grads:
        (weights,), work = ctx.saved_tensors, ctx.work
        steps = work.once("steps", list)
        dY, dX = work.zeros("dY"), work.zeros("dX").zero_()
        dY[0].copy_(d_y)
        dY[1, :, :-1].copy_(d_y[:, 1:])  # the last row stays zero
        d_weights, back = torch.zeros_like(weights), weights.transpose(1, 2)
        for step in reversed(steps):
            step.d_states[0].copy_(step.dY[0])
            step.d_states[1].copy_(step.dY[1])
            for to, of in step.hand_back:
                to.add_(of)
            step.dc.zero_()
            for to, of in step.hand_back_c:
                to.copy_(of)
            lstm_kernel.step_back(
                step.d_state, step.dc,
                gates=step.gates, squashed=step.V, before=step.C, d_gates=step.d_gates, spare=step.memory,
            )  # fmt: skip
            torch.ops.aten.sigmoid_backward.grad_input(step.D, step.S, grad_input=step.D)
            d_weights.baddbmm_(step.D, step.At)
            torch.bmm(back, step.D, out=step.dA)
            step.dX[0].add_(step.dA_x[0])
            step.dX[1].add_(step.dA_x[1])
            for to, of in step.first:
                to.copy_(of)
        dh0, dc0 = work.zeros("first").sum(dim=(3, 4)).unbind(0)
        return dX.clone(), d_weights, dh0, dc0


def _steps(work: Workspace, size: tuple[int, int, int, int], h: int) -> list[SimpleNamespace]:
    """Allocate the buffers and create the views of each diagonal once, because a view costs as much as a small step."""
    F, H, W, B = size
    K, N = F + 2 * h + 1, H * W * B
    wide = min(H, W) * B  # columns of the longest diagonal
    A, S = work.zeros("A", 2 * K * N), work.zeros("S", 8 * h * N)
    C, V = work.zeros("C", 2 * h * N), work.zeros("V", 2 * h * N)
    maps = {name: work.zeros(name, F, H, W, B) for name in ("X", "dX")}
    maps.update({name: work.zeros(name, 2, h, H, W, B) for name in ("Y", "dY")})
    rows_of = {"memory": h, "state": h, "d_state": h, "dc0": h, "dc1": h, "D": 4 * h, "dA": K}
    small = {name: work.zeros(name, 2 * rows * wide) for name, rows in rows_of.items()}
    first = work.zeros("first", 2, 2, h, H, B)
    steps: list[SimpleNamespace] = []
    done = 0  # cells on the previous diagonals
    for j in range(H + W - 1):
        r0, r1 = max(0, j - W + 1), min(j, H - 1)
        cells = r1 - r0 + 1

        def block(flat: Tensor, rows: int, *, at: int = done, n: int = cells) -> Tensor:
            return flat.narrow(0, 2 * rows * at * B, 2 * rows * n * B).view(2, rows, n * B)

        def temporary(name: str, rows: int, *, n: int = cells) -> Tensor:
            return small[name][: 2 * rows * n * B].view(2, rows, n * B)

        def diagonals(
            left: Tensor, right: Tensor, *, j: int = j, r0: int = r0, n: int = cells
        ) -> tuple[Tensor, Tensor]:
            size, outer = (left.shape[0], n, B), H * W * B
            return (
                left.as_strided(size, (outer, (W - 1) * B, 1), left.storage_offset() + (r0 * W + j - r0) * B),
                right.as_strided(size, (outer, (W + 1) * B, 1), right.storage_offset() + (r0 * W + W - 1 - j + r0) * B),
            )

        s = SimpleNamespace(r0=r0, r1=r1, A=block(A, K), S=block(S, 4 * h), C=block(C, h), V=block(V, h))
        s.A[:, -1] = 1
        s.At = s.A.transpose(1, 2)
        s.memory, s.state, s.d_state = (temporary(name, h) for name in ("memory", "state", "d_state"))
        s.dc, s.D, s.dA = temporary(f"dc{j % 2}", h), temporary("D", 4 * h), temporary("dA", K)
        s.gates, s.d_gates = s.S.chunk(4, dim=1), s.D.chunk(4, dim=1)
        s.X, s.dX = (diagonals(maps[name], maps[name]) for name in ("X", "dX"))
        s.Y, s.dY = (diagonals(*maps[name]) for name in ("Y", "dY"))
        s.A_x, s.dA_x = (tuple(part[:, :F].unflatten(2, (cells, B))) for part in (s.A, s.dA))
        s.states, s.d_states = (tuple(part.unflatten(2, (cells, B))) for part in (s.state, s.d_state))
        s.first, s.hand_on, s.hand_back, s.hand_back_c = (), (), (), ()
        if j < H:  # the last cell is in the first column
            s.first_h, s.first_c = s.A[:, F + h : F + 2 * h, -B:], s.C[:, :, -B:]
            s.first = ((first[0, :, :, j], s.dA[:, F + h : F + 2 * h, -B:]), (first[1, :, :, j], s.dc[:, :, -B:]))
        if steps:
            _connect(steps[-1], s, F, h, B)
        steps.append(s)
        done += cells
    return steps


def _connect(s: SimpleNamespace, later: SimpleNamespace, F: int, h: int, B: int) -> None:
    """Pair the cells of a diagonal with their right and lower neighbours on the next diagonal."""
    count = min(s.r1, later.r1) - later.r0 + 1  # rows r with a right neighbour (r, c+1)
    of = slice((later.r0 - s.r0) * B, (later.r0 - s.r0 + count) * B)
    top = max(later.r0, 1)  # rows top..later.r1 have an upper neighbour on this diagonal
    above_of = slice((top - 1 - s.r0) * B, (later.r1 - s.r0) * B)
    above_to = slice((top - later.r0) * B, (later.r1 - later.r0 + 1) * B)
    above, left = (slice(F, F + h), slice(F + h, F + 2 * h))
    s.hand_on = (
        (later.A[:, left, : count * B], s.state[:, :, of]),
        (later.A[:, above, above_to], s.state[:, :, above_of]),
        (later.C[:, :, : count * B], s.memory[:, :, of]),
    )
    s.hand_back = (
        (s.d_state[:, :, of], later.dA[:, left, : count * B]),
        (s.d_state[:, :, above_of], later.dA[:, above, above_to]),
    )
    s.hand_back_c = ((s.dc[:, :, of], later.dc[:, :, : count * B]),)
