"""All Diagonal BiLSTM layers of a network on a CPU: both directions at once, one diagonal at a time, valid cells only.

On the skewed map about half of the cells are padding. Here diagonal j of a direction has the rows r0..r1 of the map:
the cells (r, j-r) of the left direction and (r, W-1-(j-r)) of the right one::

    W = 4, H = 3      left  0 1 2 3     right  3 2 1 0      the number is j: H+W-1 steps, of 1, 2, 3, 3, 2, 1 cells
                            1 2 3 4            4 3 2 1
                            2 3 4 5            5 4 3 2

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
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.networks.buffers import Workspace
from model.networks.lstm_kernel import MEMORY, gradient_factors, pass_back, scaled, step, step_back

Grads = tuple[Tensor | None, ...]
threshold_backward = torch.ops.aten.threshold_backward.grad_input
LEFT, RIGHT = 0, 1
CONTIGUOUS = torch.contiguous_format


class DiagonalWeights(NamedTuple):
    """The weights of all layers and of the head's first layer, masked; L layers, gates o, f, i, g."""

    first: Tensor  # (2h, K): the first layer, for the matrix of its inputs
    first_bias: Tensor  # (2h,)
    gates: Tensor  # (L, 2, 4h, 2h + c + 2h + 1): of both directions, for the matrix A
    out: Tensor  # (L, 2h + head, h + 1): from states and one to the next layer and the head; no skips: (L, 2h, h + 1)
    head: Tensor  # (head, 2h)
    head_bias: Tensor  # (head,)
    h0: Tensor  # (L, 2, h)
    c0: Tensor  # (L, 2, h)


def diagonal_layers(inputs: Tensor, condition: Tensor | None, weights: DiagonalWeights, *, residual: bool) -> Tensor:
    """Run the first layer, all Diagonal BiLSTM layers and the head's first layer.

    Args:
        inputs: what the first layer's kernel sees, (K, H, W, B).
        condition: (c, H, W, B), or None.
        weights: the weights.
        residual: whether each layer adds its input.

    Returns:
        The head's first layer with the layer-to-output connections, after the ReLU, (head, H, W, B).
    """
    run = cast("Callable[..., Tensor]", _Network.apply)
    gates = scaled(weights.gates.flatten(0, 1)).view_as(weights.gates)
    weights = weights._replace(gates=gates, c0=MEMORY * weights.c0)
    return run(inputs, condition, residual, torch.is_grad_enabled(), *weights)


class _Sizes(NamedTuple):
    """Rows, columns, images, layers, maps of the state and of the condition."""

    H: int
    W: int
    B: int
    L: int
    h: int
    c: int

    @property
    def diagonals(self) -> int:
        return self.H + self.W - 1

    @property
    def seen(self) -> int:  # maps of A
        return 4 * self.h + self.c + 1

    def rows(self, j: int) -> tuple[int, int]:
        """Return the first row of a diagonal and the one after its last."""
        return max(0, j - self.W + 1), min(j, self.H - 1) + 1


class _Network(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, condition: Tensor | None, residual: bool, keep: bool, *tensors: Tensor
    ) -> Tensor:
        w = DiagonalWeights(*tensors)
        (_, H, W, B), (L, _, h) = inputs.shape, w.h0.shape
        sizes = _Sizes(H, W, B, L, h, 0 if condition is None else len(condition))
        maps = _Maps(sizes, inputs, of_head=len(w.head))
        torch.addmm(w.first_bias[:, None], w.first, inputs.flatten(1), out=maps.x)
        maps.head.copy_(w.head_bias[:, None])
        layers = []
        for number in range(L):
            layer = _Layer(sizes, inputs)
            layer.run(maps, condition, w.gates[number], h0=w.h0[number], c0=w.c0[number], out=maps.states[number])
            if not residual:
                maps.x.zero_()
            maps.both[: w.out.shape[1]].addmm_(w.out[number], maps.states_and_one[number])
            if keep:
                layers.append(layer)
            del layer
        torch.clamp_min(maps.x, 0, out=maps.x)
        result = torch.addmm(maps.head, w.head, maps.x).clamp_min_(0)
        if keep:
            ctx.maps, ctx.layers, ctx.sizes, ctx.residual = maps, layers, sizes, residual
            ctx.save_for_backward(inputs, result, *tensors)
        return result.view(-1, H, W, B)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> Grads:
        inputs, result, *tensors = ctx.saved_tensors
        w, maps, (H, W, B, L, h, c) = DiagonalWeights(*tensors), ctx.maps, ctx.sizes
        d_w = DiagonalWeights(*(torch.zeros_like(some) for some in w))
        # MKL multiplies these faster with the long side of the result across.
        d_gates, d_out = (
            torch.empty_like(some.transpose(-2, -1), memory_format=CONTIGUOUS) for some in (w.gates, w.out)
        )
        d_condition = inputs.new_zeros(c, H, W, B) if c else None
        back, factors = _Back(ctx.sizes, inputs, of_head=len(w.head)), gradient_factors(h, inputs.dtype, inputs.device)
        dx, d_both = back.x, back.both[: w.out.shape[1]]
        threshold_backward(d_result.reshape(result.shape), result, 0, grad_input=back.head)
        torch.sum(back.head, 1, out=d_w.head_bias)
        torch.mm(back.head, maps.x.t(), out=d_w.head)
        torch.mm(w.head.t(), back.head, out=dx)
        threshold_backward(dx, maps.x, 0, grad_input=dx)
        for number in reversed(range(L)):
            torch.mm(maps.states_and_one[number], d_both.t(), out=d_out[number])
            torch.mm(w.out[number, :, :h].t(), d_both, out=back.states)
            back.run(ctx.layers[number], factors * w.gates[number], d_gates[number].zero_())
            back.add_to(dx, d_condition, residual=ctx.residual)
            torch.sum(back.initial_states, (2, 3), out=d_w.h0[number])
            torch.sum(back.initial_memories, (2, 3), out=d_w.c0[number])
        torch.mul(d_gates.transpose(2, 3), factors, out=d_w.gates)
        torch.mm(dx, inputs.flatten(1).t(), out=d_w.first)
        torch.sum(dx, 1, out=d_w.first_bias)
        d_inputs = torch.mm(w.first.t(), dx).view_as(inputs) if ctx.needs_input_grad[0] else None
        return d_inputs, d_condition, None, None, *d_w._replace(out=d_out.transpose(1, 2))


class _Maps:
    """What the layers pass on, maps x pixels in the order row, column, image.

    Args:
        sizes: of the network.
        like: a tensor of the dtype.
        of_head: maps of the head's first layer.
    """

    def __init__(self, sizes: _Sizes, like: Tensor, *, of_head: int) -> None:
        H, W, B, L, h, _ = sizes
        self.work = Workspace(("diagonal maps", *sizes, of_head), like)
        self.both = self.work.zeros("both", 2 * h + of_head, H * W * B)
        self.x, self.head = self.both[: 2 * h], self.both[2 * h :]
        self.states_and_one = self.work.zeros("states", L, h + 1, H * W * B)
        self.states_and_one[:, h] = 1
        self.states = self.states_and_one[:, :h].view(L, h, H, W, B)
        self.mirrored = torch.arange(W - 1, -1, -1, device=like.device)


def _over_map(buffer: Tensor, sizes: _Sizes, side: int, rows: slice, *, at: int = 0) -> Tensor:
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


def _before_first_column(buffer: Tensor, sizes: _Sizes, rows: slice) -> Tensor:
    """Return a view of the place of row r on diagonal r, for all r: (diagonals, 2, maps, places) -> (2, maps, H, B)."""
    some = buffer[:, :, rows]
    diagonal, side, row, _ = some.stride()
    size = (2, some.shape[2], sizes.H, sizes.B)
    return some.as_strided(size, (side, row, diagonal + sizes.B, 1), some.storage_offset())


class _Layer:
    """The buffers of a layer and the views of each diagonal, made once: a view costs as much as a small step.

    Args:
        sizes: of the network.
        like: a tensor of the dtype.
    """

    def __init__(self, sizes: _Sizes, like: Tensor) -> None:
        self.work = Workspace(("diagonal", *sizes), like)
        self.views = self.work.once("views", lambda: self._views(sizes))

    def _views(self, sizes: _Sizes) -> SimpleNamespace:
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

    def run(
        self, maps: _Maps, condition: Tensor | None, weights: Tensor, *, h0: Tensor, c0: Tensor, out: Tensor
    ) -> None:
        """Compute both directions, shift the right direction's map down by one row, and write the sum: (h, H, W, B)."""
        v, mirrored = self.views, maps.mirrored
        x = maps.x.view(len(maps.x), *out.shape[1:])
        v.x[LEFT].copy_(x)
        torch.index_select(x, 2, mirrored, out=v.x[RIGHT])
        if condition is not None:
            v.condition[LEFT].copy_(condition)
            torch.index_select(condition, 2, mirrored, out=v.condition[RIGHT])
        v.h0.copy_(h0[:, :, None, None])
        v.c0.copy_(c0[:, :, None, None])
        for s in v.steps:
            torch.bmm(weights, s.A, out=s.gates)
            s.run()
        out.copy_(v.states[LEFT])
        out[:, 1:].index_add_(2, mirrored, v.states[RIGHT][:, :-1])


class _Back:
    """The gradients of a pass; the layers use the same buffers in turn.

    Args:
        sizes: of the network.
        like: a tensor of the dtype.
        of_head: maps of the head's first layer.
    """

    def __init__(self, sizes: _Sizes, like: Tensor, *, of_head: int) -> None:
        H, W, B, _, h, _ = sizes
        self.sizes = sizes
        self.work = Workspace(("diagonal, back", *sizes, of_head), like)
        self.both = self.work.zeros("both", 2 * h + of_head, H * W * B)
        self.x, self.head = self.both[: 2 * h], self.both[2 * h :]
        self.states = self.work.zeros("states", h, H * W * B)  # of the sum of both directions
        self.views = self.work.once("views", self._views)
        self.initial_states, self.initial_memories = self.views.h0, self.views.c0
        self.mirrored = torch.arange(W - 1, -1, -1, device=like.device)

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
            s.pass_back = pass_back(
                s.dA[:, :F], s.dA[:, F : F + h, (top - r0) * B :], s.dA[:, F + h :],
                to_x=dX[j, :, :, on], to_above=dH[j, :, :, (top - 1) * B : (r1 - 1) * B], to_left=dH[j, :, :, on],
            )  # fmt: skip
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

    def run(self, layer: _Layer, weights: Tensor, d_weights: Tensor) -> None:
        """Go back over the diagonals of a layer, from the gradients of its states.

        Args:
            layer: of the pass.
            weights: (2, 4h, maps of A), times the gradients' factors.
            d_weights: zeros, (2, maps of A, 4h), to which the gradients without their factors are added.
        """
        v, (H, W, B, _, h, _) = self.views, self.sizes
        d_out = self.states.view(h, H, W, B)
        v.h0.zero_()
        v.memories.zero_()
        v.states[LEFT].copy_(d_out)
        torch.index_select(d_out[:, 1:], 2, self.mirrored, out=v.states[RIGHT][:, :-1])
        v.states[RIGHT][:, -1].zero_()  # shifted out of the map
        back = weights[:, :, :-1].transpose(1, 2)
        for s, d, run in zip(reversed(layer.views.steps), reversed(v.steps), self._steps_of(layer), strict=True):
            run()
            d_weights.baddbmm_(s.A, d.Dt)
            torch.bmm(back, d.D, out=d.dA)
            d.pass_back()

    def _steps_of(self, layer: _Layer) -> list[Callable[[], None]]:
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

    def add_to(self, dx: Tensor, d_condition: Tensor | None, *, residual: bool) -> None:
        """Add the gradients of a layer's input and of the condition; without a residual sum the input has no other."""
        v, dx = self.views, dx.view(len(dx), *self.sizes[:3])
        if residual:
            dx.add_(v.x[LEFT])
        else:
            dx.copy_(v.x[LEFT])
        dx.index_add_(2, self.mirrored, v.x[RIGHT])
        if d_condition is not None:
            d_condition.add_(v.condition[LEFT]).index_add_(2, self.mirrored, v.condition[RIGHT])
