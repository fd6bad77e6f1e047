"""All Row LSTM layers of a network in one wavefront, on a CPU, with few multiplications.

Each layer runs one row behind the layer before it, as in `model.networks.row_lstm_fast`: at time t, one batched matrix
product computes row t-l of every layer l. The products are those of `model.networks.row_tiles`, for tiles of two
columns, and `model.networks.row_kernel` does what is between them::

    first products  =  weights @ what they take: planes of x, a plane of the states above, condition    onward, step
    others          =  weights @ planes of the states above                                             step
    h               =  LSTM step of their sums                                                          step
    y               =  up @ h, to the next layer                                                        onward

Rows of states are stored where the head's first layer takes them: rows[H-1-r] has the output of the last layer after
the ReLU (2h), and the states of all layers at row r. So a diagonal of them is a view with positive strides.

What the products take lives for one time. The gradient computes it again from inputs and states: that is faster than to
write it to memory and to read it again.

A group of images passes through all times before the next group does, so that caches hold what a step reads. Where the
weights are too large for a cache, a block of a few layers passes through all its times before the next block does. The
times and buffers are the same: row r of layer l is at time r + l.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.config.groups import row_layers_at_once
from model.networks import row_kernel
from model.networks.buffers import Workspace
from model.networks.lstm_kernel import MEMORY, gradient_factors, scaled
from model.networks.row_kernel import Row
from model.networks.row_lstm_fast import RowWeights
from model.networks.row_tiles import EVEN, ODD, TILE, Form, tiles_of, weights_of_tiles

Grads = tuple[Tensor | None, ...]
threshold_backward = torch.ops.aten.threshold_backward.grad_input


class _Weights(NamedTuple):
    """The weights of all products, those of gate g doubled; K inputs of the first layer."""

    first: Tensor  # (2h, K)
    of_one: Tensor  # (L, first, 4h, inputs + h + c): of the first products
    others: Tensor  # (L, others, 4h, h)
    bias: Tensor  # (L, 4h, 1)
    up: Tensor  # (L, 2h, h)
    out_bias: Tensor  # (L + 1, 2h, 1), of the first layer and of `up`
    head: Tensor  # (head, seen)
    head_bias: Tensor  # (head,)
    h0: Tensor  # (L, h)
    c0: Tensor  # (L, h), doubled


def row_layers_in_tiles(
    inputs: Tensor, condition: Tensor | None, weights: RowWeights,
    *, form: Form, width: int, images: int, residual: bool,
) -> Tensor:  # fmt: skip
    """Run the first layer, all LSTM layers and the head's first layer.

    Args:
        inputs: what the first layer's kernel sees, (G, H, K, N); N cells in the order of `row_tiles.to_cells`.
        condition: (G, H, c, N), or None.
        weights: the weights.
        form: of the products.
        width: columns of the images, W.
        images: images of a group, k.
        residual: whether each layer adds its input.

    Returns:
        The head's first layer with the layer-to-output connections, after the ReLU, (G, H, head, N).
    """
    of_one, others = weights_of_tiles(form, *(scaled(some) for some in (weights.left, weights.centre, weights.right)))
    w = _Weights(
        weights.first, of_one, others, scaled(weights.bias), weights.up,
        torch.cat([weights.first_bias[None, :, None], weights.up_bias]), weights.head, weights.head_bias,
        weights.h0, MEMORY * weights.c0,
    )  # fmt: skip
    run = cast("Callable[..., Tensor]", _Wavefront.apply)
    at_once = row_layers_at_once(len(weights.h0), hidden=weights.h0.shape[1], bytes_per_value=inputs.element_size())
    return run(inputs, condition, form, width, images, residual, at_once, torch.is_grad_enabled(), *w)


@dataclass(frozen=True)
class _Sizes:
    """Rows, columns, images, layers, maps of the state, of the condition and of the head, and its inputs."""

    H: int
    W: int
    k: int
    L: int
    h: int
    c: int
    head: int
    seen: int
    residual: bool
    block: int  # layers of a wavefront
    form: Form

    @property
    def times(self) -> int:
        return self.H + self.L - 1

    @property
    def m(self) -> int:
        """Cells of a column of the tiles."""
        return tiles_of(self.W) * self.k

    @property
    def inputs(self) -> int:
        """Maps of the input in each of the first products."""
        return self.form.inputs(self.h)

    @property
    def taken(self) -> int:
        """Maps that each of the first products takes, F."""
        return self.inputs + self.h + self.c

    @property
    def row(self) -> Row:
        return Row(self.k, self.W - TILE * (tiles_of(self.W) - 1), self.form)

    def schedule(self) -> Iterator[tuple[int, slice, slice]]:
        """Yield the times of each block, with its layers and those of them that have a row."""
        for first in range(0, self.L, self.block):
            block = slice(first, min(first + self.block, self.L))
            for t in range(first, block.stop - 1 + self.H):
                yield t, block, slice(max(first, t - self.H + 1), min(block.stop, t + 1))


class _Buffers:
    """The buffers of a group, and what computes each time, made once: a view costs as much as a small step.

    At time t what place t has is read, and what the next time sees is written to place t+1.
    """

    def __init__(self, sizes: _Sizes, like: Tensor) -> None:
        T, H, L, h, k, m = sizes.times, sizes.H, sizes.L, sizes.h, sizes.k, sizes.m
        N, around, (first, others) = TILE * m, TILE * m + 2 * k, (sizes.form.first, sizes.form.others)
        self.work, self.sizes = Workspace(("row in tiles", *sizes.__dict__.values()), like), sizes
        zeros = self.work.zeros
        # What products take, in turn; the products, or their gradients.
        self.P, self.P1 = zeros("P", 2, L, first, sizes.taken, m), zeros("P1", 2, L, others, h, m)
        self.Q, self.Q1 = zeros("Q", L, first, 4 * h, m), zeros("Q1", L, others, 4 * h, m)
        self.S = zeros("S", T, L, 4 * h, N)  # the gates after the sigmoid
        self.C = zeros("C", T + 1, L, h, N)  # the memories before each step
        self.rows = zeros("rows", H, 2 * h + L * h, around)  # what the head sees of a row, with zeros at both ends
        self.Y = zeros("Y", L + 1, 2 * h, N)  # outputs of the first layer and of all layers, without what they add
        self.X = zeros("X", T, L, 2 * h, around)  # the inputs of all layers, with zeros at both ends
        self.bias, self.out_bias = zeros("bias", L, 4 * h, 1), zeros("out_bias", L + 1, 2 * h, 1)
        self.ones, self.ones1 = zeros("ones", first, m), zeros("ones1", others, m)  # the planes of a row of ones
        self.work.once("of ones", self._planes_of_ones)
        self.steps = self.work.once("steps", lambda: [self._step(*when) for when in sizes.schedule()])

    def _planes_of_ones(self) -> bool:
        row, m = self.sizes.row, self.sizes.m
        around = self.ones.new_zeros(1, 1, TILE * m + 2 * row.k)
        around[..., row.k : -row.k] = 1
        row.clear(around[..., row.k : -row.k])
        row_kernel.states_to_planes(row, around, self.ones[None, :, None], self.ones1[None, :, None])()
        return True

    def at(self, rows: Tensor, row: int) -> Tensor:
        """Return a row of `rows`, or of a buffer like it."""
        return rows[self.sizes.H - 1 - row]

    def states(self, t: int, on: slice) -> Tensor:
        """Return a view of the states around of some layers' rows at time t, (n, h, N + 2k)."""
        rows, h = self.rows, self.sizes.h
        row, cells, cell = rows.stride()
        first = self.sizes.H - 1 - t + on.start
        offset = rows.storage_offset() + first * row + (2 + on.start) * h * cells
        return rows.as_strided((on.stop - on.start, h, rows.shape[2]), (row + h * cells, cells, cell), offset)

    def _step(self, t: int, block: slice, on: slice) -> SimpleNamespace:
        """Return the views of a time, and what computes it."""
        sizes = self.sizes
        h, k = sizes.h, sizes.k
        now, then = t % 2, (t + 1) % 2
        s = SimpleNamespace(t=t, on=on, block=block, onward=self._onward(t, block, on))
        s.seen, s.others_seen = self.P[now, on].flatten(0, 1), self.P1[now, on].flatten(0, 1)
        s.sums, s.others = self.Q[on].flatten(0, 1), self.Q1[on].flatten(0, 1)
        s.gates, s.before, s.memory = self.S[t, on], self.C[t, on], self.C[t + 1, on]
        around = self.states(t, on)
        s.state, s.y = around[..., k:-k], self.Y[on.start + 1 : on.stop + 1]
        s.run = row_kernel.step(
            sizes.row, self.Q[on], self.Q1[on], self.bias[on], s.before, gates=s.gates, memory=s.memory,
            around=around, seen=self.P[then, on, :, sizes.inputs : sizes.inputs + h], others_seen=self.P1[then, on],
        )  # fmt: skip
        s.out = None
        if on.stop == block.stop:  # the output of the last layer: to the head, or to the next block
            s.row, s.bias, s.x_last = t - on.stop + 1, self.out_bias[on.stop], self.X[t, on.stop - 1, :, k:-k]
            s.to_head = on.stop == sizes.L
            s.out = (self.at(self.rows, s.row)[: 2 * h] if s.to_head else self.X[t + 1, on.stop])[:, k:-k]
        return s

    def _onward(self, t: int, block: slice, on: slice) -> list[Callable[[], None]]:
        """Return what computes the inputs of the layers at a time, and writes them where the products take them."""
        row, k, runs = self.sizes.row, self.sizes.k, []
        if on.start == block.start > 0:  # its input is there already, from the block before
            runs.append(
                row_kernel.input_to_planes(row, self.X[t, on][:1], self.P[t % 2, on, :, : self.sizes.inputs][:1])
            )
            on = slice(on.start + 1, on.stop)
        if on.start < on.stop:
            x, around = None, self.X[t, on]
            if self.sizes.residual and on.stop > 1:
                x = self.X[t - 1, max(0, on.start - 1) : on.stop - 1, :, k:-k]
            seen = self.P[t % 2, on, :, : self.sizes.inputs]
            runs.append(row_kernel.onward(row, self.Y[on], self.out_bias[on], x, around=around, seen=seen))
        return runs

    def look(self, t: int, on: slice) -> list[Callable[[], None]]:
        """Return what writes again what the products take at a time, except for the condition and the initial state."""
        h, row, P, P1, inputs = self.sizes.h, self.sizes.row, self.P[t % 2], self.P1[t % 2], self.sizes.inputs
        looks = [row_kernel.input_to_planes(row, self.X[t, on], P[on, :, :inputs])]
        above = slice(on.start, min(on.stop, t))  # layers that have a row above
        if above.start < above.stop:
            states = self.states(t - 1, above)
            looks.append(row_kernel.states_to_planes(row, states, P[above, :, inputs : inputs + h], P1[above]))
        return looks

    def begin(self, weights: _Weights) -> None:
        """Write what does not depend on the loop."""
        self.bias.copy_(weights.bias)
        self.out_bias.copy_(weights.out_bias)
        for layer in range(self.sizes.L):
            self.C[layer, layer] = weights.c0[layer, :, None]

    def at_time(self, t: int, on: slice, condition: Tensor | None, weights: _Weights) -> None:
        """Write what layers see at a time: the condition (H, c, N), and the initial state at a first row."""
        P, P1, h, inputs = self.P[t % 2], self.P1[t % 2], self.sizes.h, self.sizes.inputs
        if t < on.stop:
            h0 = weights.h0[t, :, None]
            torch.mul(h0, self.ones[:, None], out=P[t, :, inputs : inputs + h])
            torch.mul(h0, self.ones1[:, None], out=P1[t])
        if condition is not None:
            m = self.sizes.m
            for layer in range(on.start, on.stop):
                P[layer, ODD, inputs + h :] = condition[t - layer, :, :m]
                P[layer, EVEN, inputs + h :] = condition[t - layer, :, m:]

    def of_head(self, row: int) -> Tensor:
        """Return what the head sees of a row: the outputs after the ReLU and the states, (seen, N)."""
        return self.at(self.rows, row)[: self.sizes.seen, self.sizes.k : -self.sizes.k]


class _Wavefront(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes arguments by position
        ctx: Any,
        inputs: Tensor,
        condition: Tensor | None,
        form: Form,
        width: int,
        images: int,
        residual: bool,
        layers_at_once: int,
        keep: bool,
        *tensors: Tensor,
    ) -> Tensor:
        w = _Weights(*tensors)
        (G, H, _, N), (L, h), (head, seen) = inputs.shape, w.h0.shape, w.head.shape
        c = w.of_one.shape[3] - form.inputs(h) - h
        sizes = _Sizes(H, width, images, L, h, c, head, seen, residual, layers_at_once, form)
        result = inputs.new_empty(G, H, head, N)
        kept = []
        for group in range(G):
            buffers = _Buffers(sizes, inputs)
            buffers.begin(w)
            _run(buffers, w, inputs[group], None if condition is None else condition[group], result[group])
            if keep:
                kept.append(buffers)
            del buffers
        result.clamp_min_(0)
        ctx.kept = kept
        ctx.save_for_backward(inputs, condition, result, *tensors)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> Grads:
        inputs, condition, result, *tensors = ctx.saved_tensors
        w = _Weights(*tensors)
        d_w = _Weights(*(torch.zeros_like(some) for some in w))
        factors = gradient_factors(w.h0.shape[1], w.of_one.dtype, w.of_one.device)
        w = w._replace(of_one=factors * w.of_one, others=factors * w.others)
        d_inputs = torch.empty_like(inputs) if ctx.needs_input_grad[0] else None
        d_condition = None if condition is None else torch.zeros_like(condition)
        for group in reversed(range(len(inputs))):  # the last ones are still in a cache
            _Back(ctx.kept[group], w, d_w).run(
                inputs[group],
                None if condition is None else condition[group],
                result[group],
                d_result[group],
                d_inputs=None if d_inputs is None else d_inputs[group],
                d_condition=None if d_condition is None else d_condition[group],
            )
        for d_gates in (d_w.of_one, d_w.others, d_w.bias):
            d_gates.mul_(factors)
        return d_inputs, d_condition, None, None, None, None, None, None, *d_w


def _run(buffers: _Buffers, weights: _Weights, inputs: Tensor, condition: Tensor | None, result: Tensor) -> None:
    """Run all layers and the head over all rows of a group.

    Args:
        buffers: of the group.
        weights: the weights.
        inputs: (H, K, N).
        condition: (H, c, N), or None.
        result: of the head, written, (H, head, N).
    """
    first, head_bias = buffers.Y[0], weights.head_bias[:, None]
    active = _of_active_layers(buffers, weights)
    for s in buffers.steps:
        if s.on.start == 0:
            torch.mm(weights.first, inputs[s.t], out=first)
        for onward in s.onward:
            onward()
        buffers.at_time(s.t, s.on, condition, weights)
        of_one, others, up = active[s.on.start, s.on.stop]
        torch.bmm(of_one, s.seen, out=s.sums)
        torch.bmm(others, s.others_seen, out=s.others)
        s.run()
        torch.bmm(up, s.state, out=s.y)
        if s.out is not None:
            torch.add(s.y[-1], s.bias, out=s.out)
            if buffers.sizes.residual:
                s.out.add_(s.x_last)
            if s.to_head:
                s.out.clamp_min_(0)
                torch.addmm(head_bias, weights.head, buffers.of_head(s.row), out=result[s.row])
            else:
                buffers.sizes.row.clear(s.out)


def _of_active_layers(buffers: _Buffers, weights: _Weights) -> dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]]:
    """Return the matrices `of_one`, `others` and `up` of each range of layers that are active at the same time."""
    of = {}
    for s in buffers.steps:
        of_one, others, up = (some[s.on] for some in (weights.of_one, weights.others, weights.up))
        of[s.on.start, s.on.stop] = of_one.flatten(0, 1), others.flatten(0, 1), up
    return of


class _Back:
    """The gradients of one group, added to those of the weights.

    Args:
        buffers: of the pass.
        w: the weights; those of the gates times the gradients' factors.
        d_w: the gradients of the weights; those of the gates get them without these factors.
    """

    def __init__(self, buffers: _Buffers, w: _Weights, d_w: _Weights) -> None:
        self.buffers, self.w, self.d_w = buffers, w, d_w
        sizes, zeros = buffers.sizes, buffers.work.zeros
        H, L, h, m = sizes.H, sizes.L, sizes.h, sizes.m
        N, (first, others) = TILE * m, (sizes.form.first, sizes.form.others)
        self.D, self.D1 = buffers.Q, buffers.Q1
        self.dP, self.dP1 = zeros("dP", L, first, sizes.taken, m), zeros("dP1", L, others, h, m)
        self.d_result = zeros("d_result", H, sizes.head, N)  # of the head, the last row first
        self.dH, self.d_last = zeros("dH", L, h, N), zeros("d_last", 2 * h, N)  # of states and last outputs of a time
        self.dX = zeros("dX", 2, L + 1, 2 * h, N)  # of inputs and outputs, in turn
        self.d_between = zeros("d_between", H * (sizes.block < L), 2 * h, N)  # of what a block gives to the next
        self.dC = zeros("dC", L, h, N).zero_()
        self.d_bias, self.d_out_bias = zeros("d_bias", L, 4 * h, 1), zeros("d_out_bias", L + 1, 2 * h, 1)
        self.d_bias.zero_(), self.d_out_bias.zero_()
        self.steps = buffers.work.once("steps back", lambda: [self._step(s) for s in buffers.steps])

    def _step(self, s: SimpleNamespace) -> SimpleNamespace:
        sizes, on, t = self.buffers.sizes, s.on, s.t
        h, row = sizes.h, sizes.row
        before, after = self.dX[(t + 1) % 2], self.dX[t % 2]
        v = SimpleNamespace(t=t, on=on)
        v.seen_t, v.others_seen_t, v.state_t = (some.transpose(1, 2) for some in (s.seen, s.others_seen, s.state))
        v.dh, v.dy, v.dx_first = self.dH[on], after[on.start + 1 : on.stop + 1], before[on.start]
        first = sizes.H - 1 - t + on.start  # rows of a diagonal, one for each layer
        v.looks = self.buffers.look(t, on)
        v.of_head = self.d_result[first : first + on.stop - on.start]
        v.D, v.D1, v.dP, v.dP1 = (some[on].flatten(0, 1) for some in (self.D, self.D1, self.dP, self.dP1))
        below = slice(max(on.start, t + 2 - sizes.H), on.stop)  # layers with another row
        of_below = (
            (self.dP[below, :, sizes.inputs : sizes.inputs + h], self.dP1[below]) if below.start < below.stop else None
        )
        v.run = row_kernel.step_back(
            row, v.dh, self.dC[on], of_below, gates=s.gates, memory=s.memory, before=s.before, state=s.state,
            d_sums=self.D[on], d_others=self.D1[on], d_bias=self.d_bias[on],
        )  # fmt: skip
        v.back = row_kernel.back_to_input(
            row, self.dP[on, :, : sizes.inputs], v.dy, dx=before[on], d_bias=self.d_out_bias[on.start : on.stop + 1],
            residual=sizes.residual, is_first=on.start == 0,
        )  # fmt: skip
        v.out = None
        v.is_first = on.start == s.block.start
        if s.out is not None:
            v.row, v.out, v.to_head, v.d_last = s.row, s.out, s.to_head, after[on.stop]
        return v

    def run(
        self, inputs: Tensor, condition: Tensor | None, result: Tensor, d_result: Tensor,
        *, d_inputs: Tensor | None, d_condition: Tensor | None,
    ) -> None:  # fmt: skip
        """Go back through all times.

        Args:
            inputs: (H, K, N).
            condition: (H, c, N), or None.
            result: of the head, (H, head, N).
            d_result: its gradient.
            d_inputs: written.
            d_condition: added to.
        """
        sizes, w, d_w, h = self.buffers.sizes, self.w, self.d_w, self.buffers.sizes.h
        with_states = sizes.seen > 2 * h
        for row, d in enumerate(d_result):
            threshold_backward(d, result[row], 0, grad_input=self.buffers.at(self.d_result, row))
        d_w.head_bias.add_(self.d_result.sum((0, 2)))
        skips = w.head[:, 2 * h :].t().reshape(-1, h, sizes.head)  # (L, h, head)
        transposed = w._replace(
            of_one=w.of_one.transpose(2, 3), others=w.others.transpose(2, 3), up=w.up.transpose(1, 2)
        )
        weights, gradients = _of_active_layers(self.buffers, transposed), _of_active_layers(self.buffers, d_w)
        for s in reversed(self.steps):
            t, on = s.t, s.on
            if s.out is not None and s.to_head:
                self._head(s)
            elif s.out is not None:
                s.d_last.copy_(self.d_between[s.row])
            (of_one, others, up), (d_of_one, d_others, d_up) = weights[on.start, on.stop], gradients[on.start, on.stop]
            torch.bmm(up, s.dy, out=s.dh)
            if with_states:
                s.dh.baddbmm_(skips[on], s.of_head)
            d_up.baddbmm_(s.dy, s.state_t)
            s.run()
            for look in s.looks:
                look()
            self.buffers.at_time(t, on, condition, w)
            d_of_one.baddbmm_(s.D, s.seen_t)
            d_others.baddbmm_(s.D1, s.others_seen_t)
            torch.bmm(of_one, s.D, out=s.dP)
            torch.bmm(others, s.D1, out=s.dP1)
            s.back()
            if s.is_first and on.start > 0:
                self.d_between[t - on.start].copy_(s.dx_first)
            elif on.start == 0:
                d_w.first.addmm_(s.dx_first, inputs[t].t())
                if d_inputs is not None:
                    torch.mm(w.first.t(), s.dx_first, out=d_inputs[t])
            if d_condition is not None:
                for layer in range(on.start, on.stop):
                    d_condition[t - layer, :, : sizes.m] += self.dP[layer, ODD, sizes.inputs + h :]
                    d_condition[t - layer, :, sizes.m :] += self.dP[layer, EVEN, sizes.inputs + h :]
            if t < on.stop:  # layer t is at its first row; the state above is the initial state
                self._initial(t)
        d_w.bias.add_(self.d_bias)
        d_w.out_bias.add_(self.d_out_bias)

    def _head(self, s: SimpleNamespace) -> None:
        """Write the gradient that the last layer's output of a row gets from the head's first layer."""
        d, of_outputs = self.buffers.at(self.d_result, s.row), self.w.head[:, : len(s.out)]
        self.d_w.head.addmm_(d, self.buffers.of_head(s.row).t())
        torch.mm(of_outputs.t(), d, out=self.d_last)
        threshold_backward(self.d_last, s.out, 0, grad_input=s.d_last)

    def _initial(self, layer: int) -> None:
        """Add the gradients of a layer's initial state and memory."""
        h, inputs, buffers = self.buffers.sizes.h, self.buffers.sizes.inputs, self.buffers
        pairs = ((self.dP[layer, :, inputs : inputs + h], buffers.ones), (self.dP1[layer], buffers.ones1))
        self.d_w.h0[layer] += sum(torch.bmm(d, ones[:, :, None]).sum((0, 2)) for d, ones in pairs)
        self.d_w.c0[layer] += self.dC[layer].sum(1)
