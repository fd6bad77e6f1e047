"""All Row LSTM layers of a network in one wavefront: each layer runs one row behind the layer before it.

Row r of layer l depends on row r of layer l-1 and on row r-1 of layer l. At time t, one batched matrix product
therefore computes row t-l of every layer l. This takes H+L-1 steps instead of H*L. With three layers (the number is the
time)::

              layer 0   layer 1   layer 2
    row 0        0         1         2
    row 1        1         2         3
    row 2        2         3         4

One matrix E for each row of a layer holds what its gates see, maps x cells. The cells of a row are in the order
(column, image), with zeros for one column at each end, so that a neighbour is a shift by k cells (k: images of a group)
and no map is stored twice::

    E  =  x            2h        gates  =    left @ E (x and h), shifted to the right
          h above      h                   + centre @ E
          condition    c                   + right @ E (h), shifted to the left, + bias

On a CPU a group of images passes through all times before the next group does, so that caches hold what a step reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.networks.buffers import Workspace
from model.networks.lstm_kernel import MEMORY, gradient_factors, scaled, step, step_back

BATCHED = 3  # dimensions of a tensor with a matrix for each layer
Grads = tuple[Tensor | None, ...]
threshold_backward = torch.ops.aten.threshold_backward.grad_input


class RowWeights(NamedTuple):
    """The weights of all layers and of the head's first layer, masked; L layers, gates o, f, i, g."""

    first: Tensor  # (2h, K): the first layer, for the matrix of its inputs
    first_bias: Tensor  # (2h,)
    left: Tensor  # (L, 4h, 3h)
    centre: Tensor  # (L, 4h, 3h + c)
    right: Tensor  # (L, 4h, h)
    bias: Tensor  # (L, 4h, 1)
    up: Tensor  # (L, 2h, h)
    up_bias: Tensor  # (L, 2h, 1)
    head: Tensor  # (head, 2h + L*h), or (head, 2h) without layer-to-output connections
    head_bias: Tensor  # (head,)
    h0: Tensor  # (L, h)
    c0: Tensor  # (L, h)


def row_layers(inputs: Tensor, condition: Tensor | None, weights: RowWeights, *, images: int, residual: bool) -> Tensor:
    """Run the first layer, all LSTM layers and the head's first layer.

    Args:
        inputs: what the first layer's kernel sees, (G, H, K, N); the N cells are W columns of k images.
        condition: (G, H, c, N), or None.
        weights: the weights.
        images: images of a group, k.
        residual: whether each layer adds its input.

    Returns:
        The head's first layer with the layer-to-output connections, after the ReLU, (G, H, head, N).
    """
    gates = {name: scaled(getattr(weights, name)) for name in ("left", "centre", "right", "bias")}
    run = cast("Callable[..., Tensor]", _Wavefront.apply)
    weights = weights._replace(**gates, c0=MEMORY * weights.c0)
    return run(inputs, condition, images, residual, torch.is_grad_enabled(), *weights)


@dataclass(frozen=True)
class _Sizes:
    """Rows, cells of a row, images, layers, maps of the state, of the condition and of the head, and its inputs."""

    H: int
    N: int
    k: int
    L: int
    h: int
    c: int
    head: int
    seen: int

    @property
    def times(self) -> int:
        return self.H + self.L - 1


class _Buffers:
    """The buffers of a group, and views of them for each time, made once: a view costs as much as a small step.

    At time t the rows of place t are read, and place t+1 is written.
    """

    def __init__(self, sizes: _Sizes, like: Tensor) -> None:
        T, L, h, N, k = sizes.times, sizes.L, sizes.h, sizes.N, sizes.k
        self.work, self.sizes = Workspace(("row", *sizes.__dict__.values()), like), sizes
        zeros = self.work.zeros
        # Layer L has the outputs of the last layer. The columns at both ends stay zero.
        self.E = zeros("E", T + 1, L + 1, 3 * h + sizes.c, N + 2 * k)
        self.S = zeros("S", T, L, 4 * h, N)  # the gates after the sigmoid
        self.C = zeros("C", T + 1, L, h, N)  # the memories before each step
        self.V = zeros("V", T, L, h, N)  # tanh of the memories after each step
        self.Y, self.M = zeros("Y", L, 2 * h, N), zeros("M", sizes.seen, N)
        self.steps = self.work.once("steps", lambda: [self._step(t) for t in range(T)])
        self.rows = self.work.once("rows", lambda: [self._row(row) for row in range(sizes.H)])

    def _step(self, t: int) -> SimpleNamespace:
        H, L, h, N, k = (getattr(self.sizes, name) for name in "HLhNk")
        on = slice(max(0, t - H + 1), min(L, t + 1))  # the layers that have a row
        E, after = self.E[t, on], self.E[t + 1]
        s = SimpleNamespace(
            t=t, on=on, left=E[:, : 3 * h, :N], centre=E[:, :, k:-k], right=E[:, 2 * h : 3 * h, 2 * k :]
        )
        s.gates, s.before, s.squashed = self.S[t, on], self.C[t, on], self.V[t, on]
        s.x, s.y = E[:, : 2 * h, k:-k], self.Y[: on.stop - on.start]
        s.state, s.to = after[on, 2 * h : 3 * h, k:-k], after[on.start + 1 : on.stop + 1, : 2 * h, k:-k]
        s.run = step(s.gates, s.before, memory=self.C[t + 1, on], squashed=s.squashed, state=s.state)
        return s

    def _row(self, row: int) -> SimpleNamespace:
        L, h, k = (getattr(self.sizes, name) for name in "Lhk")
        r = SimpleNamespace(first=self.E[row, 0, : 2 * h, k:-k], out=self.E[row + L, L, : 2 * h, k:-k])
        r.M_out, r.M_states, r.M_t = self.M[: 2 * h], self.M[2 * h :].view(-1, h, self.sizes.N), self.M.t()
        r.states = _diagonal(self.E[:, :L, 2 * h : 3 * h, k:-k], row + 1)
        return r

    def begin(self, inputs: Tensor, condition: Tensor | None, weights: RowWeights) -> None:
        """Write what does not depend on the loop: inputs (H, K, N), the condition and the initial states."""
        L, h, k = self.sizes.L, self.sizes.h, self.sizes.k
        for row, seen in zip(self.rows, inputs, strict=True):
            torch.addmm(weights.first_bias[:, None], weights.first, seen, out=row.first)
        for layer in range(L):
            self.E[layer, layer, 2 * h : 3 * h, k:-k] = weights.h0[layer, :, None]
            self.C[layer, layer] = weights.c0[layer, :, None]
            if condition is not None:
                self.E[layer : layer + self.sizes.H, layer, 3 * h :, k:-k] = condition

    def of_row(self, row: SimpleNamespace) -> Tensor:
        """Return what the head sees of a row: the outputs after the ReLU and the states, (seen, N)."""
        torch.clamp_min(row.out, 0, out=row.M_out)
        if len(row.M_states):
            row.M_states.copy_(row.states)
        return self.M


def _diagonal(skewed: Tensor, row: int) -> Tensor:
    """Return a view (L, h, N) of a row of all layers in maps by time and layer, (T, L, h, N)."""
    time, layer, *rest = skewed.stride()
    return skewed.as_strided((*skewed.shape[1:],), (time + layer, *rest), skewed.storage_offset() + row * time)


class _Wavefront(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes arguments by position
        ctx: Any,
        inputs: Tensor,
        condition: Tensor | None,
        images: int,
        residual: bool,
        keep: bool,
        *tensors: Tensor,
    ) -> Tensor:
        w = RowWeights(*tensors)
        (G, H, _, N), (L, h), (head, seen) = inputs.shape, w.h0.shape, w.head.shape
        sizes = _Sizes(H, N, images, L, h, w.centre.shape[2] - 3 * h, head, seen)
        result = inputs.new_empty(G, H, head, N)
        kept = []
        for group in range(G):
            buffers = _Buffers(sizes, inputs)
            buffers.begin(inputs[group], None if condition is None else condition[group], w)
            _run(buffers, w, residual=residual)
            for row, out in zip(buffers.rows, result[group], strict=True):
                torch.addmm(w.head_bias[:, None], w.head, buffers.of_row(row), out=out).clamp_min_(0)
            if keep:
                kept.append(buffers)
            del buffers
        ctx.kept, ctx.residual, ctx.with_condition = kept, residual, condition is not None
        ctx.save_for_backward(inputs, result, *tensors)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> Grads:
        inputs, result, *tensors = ctx.saved_tensors
        d_result = torch.ops.aten.threshold_backward(d_result, result, 0)
        w = RowWeights(*tensors)
        d_w = RowWeights(*(torch.zeros_like(some) for some in w))
        factors = gradient_factors(w.h0.shape[1], w.left.dtype, w.left.device)
        w = w._replace(left=factors * w.left, centre=factors * w.centre, right=factors * w.right)
        d_inputs = torch.empty_like(inputs) if ctx.needs_input_grad[0] else None
        G, H, _, N = inputs.shape
        d_condition = inputs.new_zeros(G, H, ctx.kept[0].sizes.c, N) if ctx.with_condition else None
        for group in reversed(range(G)):  # the last ones are still in a cache
            _Back(ctx.kept[group], w, d_w, residual=ctx.residual).run(
                inputs[group],
                d_result[group],
                None if d_inputs is None else d_inputs[group],
                None if d_condition is None else d_condition[group],
            )
        for d_gates in (d_w.left, d_w.centre, d_w.right, d_w.bias):
            d_gates.mul_(factors)
        return d_inputs, d_condition, None, None, None, *d_w


def _run(buffers: _Buffers, weights: RowWeights, *, residual: bool) -> None:
    """Run all layers over all rows of a group."""
    active = _of_active_layers(buffers, weights)
    for s in buffers.steps:
        w = active[s.on.start, s.on.stop]
        torch.baddbmm(w.bias, w.left, s.left, out=s.gates)
        s.gates.baddbmm_(w.centre, s.centre).baddbmm_(w.right, s.right)
        s.run()
        torch.baddbmm(w.up_bias, w.up, s.state, out=s.y)
        if residual:
            torch.add(s.y, s.x, out=s.to)
        else:
            s.to.copy_(s.y)


def _of_active_layers(buffers: _Buffers, weights: RowWeights) -> dict[tuple[int, int], RowWeights]:
    """Return the batched weights of each range of layers that are active at the same time."""
    layers = len(weights.h0)
    is_batched = [len(some) == layers and some.dim() == BATCHED for some in weights]
    ranges = {(s.on.start, s.on.stop) for s in buffers.steps}
    return {
        (first, end): RowWeights(
            *(some[first:end] if batched else some for some, batched in zip(weights, is_batched, strict=True))
        )
        for first, end in ranges
    }


class _Back:
    """The gradients of one group, added to those of the weights.

    Args:
        buffers: of the pass.
        w: the weights; those of the gates times the gradients' factors.
        d_w: the gradients of the weights; those of the gates get them without these factors.
        residual: whether each layer adds its input.
    """

    def __init__(self, buffers: _Buffers, w: RowWeights, d_w: RowWeights, *, residual: bool) -> None:
        self.buffers, self.w, self.d_w, self.residual = buffers, w, d_w, residual
        sizes, zeros = buffers.sizes, buffers.work.zeros
        H, L, h, N, k = sizes.H, sizes.L, sizes.h, sizes.N, sizes.k
        self.D = zeros("D", L, 4 * h, N + 2 * k)  # gradients of the gates; the columns at both ends stay zero
        self.dE, self.d_right = zeros("dE", L, 3 * h + sizes.c, N), zeros("d_right", L, h, N)
        self.dH = zeros("dH", sizes.times, L, h, N)  # gradients of the states
        self.dX = zeros("dX", 2, L + 1, 2 * h, N)  # of inputs and outputs, in turn
        self.d_out = zeros("d_out", H, 2 * h, N)  # of the outputs of the last layer
        self.dC = zeros("dC", L, h, N).zero_()
        self.dM = zeros("dM", sizes.seen, N)
        self.steps = buffers.work.once("steps back", lambda: [self._views(s) for s in buffers.steps])

    def _views(self, s: SimpleNamespace) -> SimpleNamespace:
        sizes = self.buffers.sizes
        (h, N, k, L), on, t = (sizes.h, sizes.N, sizes.k, sizes.L), s.on, s.t
        D, dE, before, after = self.D[on], self.dE[on], self.dX[(t + 1) % 2], self.dX[t % 2]
        v = SimpleNamespace(**s.__dict__)
        v.left_t, v.centre_t, v.right_t = s.left.transpose(1, 2), s.centre.transpose(1, 2), s.right.transpose(1, 2)
        v.state_t, v.dh, v.dc = s.state.transpose(1, 2), self.dH[t, on], self.dC[on]
        v.d, v.d_of_left, v.d_of_right = D[:, :, k:-k], D[:, :, 2 * k :], D[:, :, :N]
        v.dE, v.dE_left, v.dE_x = dE, dE[:, : 3 * h], dE[:, : 2 * h]
        v.run = step_back(v.dh, v.dc, gates=s.gates, squashed=s.squashed, before=s.before, state=s.state, d_gates=v.d)
        v.d_right, v.dy, v.dx, v.dx_first = self.d_right[on], after[on.start + 1 : on.stop + 1], before[on], before[0]
        v.last = (after[L], self.d_out[t - L + 1]) if on.stop == L else None
        below = slice(max(on.start, t + 2 - sizes.H), on.stop)  # layers with another row
        v.below = None
        if below.start < below.stop and t + 1 < sizes.times:
            v.below = self.dH[t, below], self.dE[below, 2 * h : 3 * h], self.d_right[below]
        return v

    def run(self, inputs: Tensor, d_result: Tensor, d_inputs: Tensor | None, d_condition: Tensor | None) -> None:
        """Go back through all times: inputs (H, K, N), d_result (H, head, N); d_inputs and d_condition are written."""
        sizes, w, d_w, h = self.buffers.sizes, self.w, self.d_w, self.buffers.sizes.h
        if sizes.seen == 2 * h:
            self.dH.zero_()
        for row in range(sizes.H):
            self._head(row, d_result[row])
        weights, gradients = _of_active_layers(self.buffers, _transposed(w)), _of_active_layers(self.buffers, d_w)
        for s in reversed(self.steps):
            t, layers = s.t, (s.on.start, s.on.stop)
            self._step(s, weights[layers], gradients[layers])
            if s.on.start == 0:
                d_w.first.addmm_(s.dx_first, inputs[t].t())
                d_w.first_bias.add_(s.dx_first.sum(1))
                if d_inputs is not None:
                    torch.mm(w.first.t(), s.dx_first, out=d_inputs[t])
            if d_condition is not None:
                for layer in range(*layers):
                    d_condition[t - layer] += self.dE[layer, 3 * h :]
            if t < sizes.L:  # layer t is at its first row; the state above is the initial state
                d_w.h0[t] += (self.dE[t, 2 * h : 3 * h] + self.d_right[t]).sum(1)
                d_w.c0[t] += self.dC[t].sum(1)

    def _head(self, row: int, d: Tensor) -> None:
        """Write the gradients that the states and outputs of a row get from the head's first layer."""
        r, dM, h = self.buffers.rows[row], self.dM, self.buffers.sizes.h
        self.buffers.of_row(r)
        self.d_w.head.addmm_(d, r.M_t)
        self.d_w.head_bias.add_(d.sum(1))
        torch.mm(self.w.head.t(), d, out=dM)
        threshold_backward(dM[: 2 * h], r.M_out, 0, grad_input=self.d_out[row])
        if len(r.M_states):
            _diagonal(self.dH, row).copy_(dM[2 * h :].view_as(r.M_states))

    def _step(self, s: SimpleNamespace, w: RowWeights, d_w: RowWeights) -> None:
        """Go back through one time; the weights are transposed."""
        if s.last is not None:
            s.last[0].copy_(s.last[1])
        if s.below is not None:
            dh, of_same, of_right = s.below
            dh.add_(of_same).add_(of_right)
        s.dh.baddbmm_(w.up, s.dy)
        d_w.up.baddbmm_(s.dy, s.state_t)
        d_w.up_bias.add_(s.dy.sum(2, keepdim=True))
        s.run()
        d_w.left.baddbmm_(s.d, s.left_t)
        d_w.centre.baddbmm_(s.d, s.centre_t)
        d_w.right.baddbmm_(s.d, s.right_t)
        d_w.bias.add_(s.d.sum(2, keepdim=True))
        torch.bmm(w.centre, s.d, out=s.dE)
        s.dE_left.baddbmm_(w.left, s.d_of_left)
        torch.bmm(w.right, s.d_of_right, out=s.d_right)
        if self.residual:
            torch.add(s.dy, s.dE_x, out=s.dx)
        else:
            s.dx.copy_(s.dE_x)


def _transposed(weights: RowWeights) -> RowWeights:
    """Return the weights with each layer's matrices transposed."""
    return RowWeights(*(some.transpose(1, 2) if some.dim() == BATCHED else some for some in weights))
