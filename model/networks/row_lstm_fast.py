"""All Row LSTM layers of a network in one wavefront: each layer runs one row behind the layer before it.

Row r of layer l depends on row r of layer l-1 and on row r-1 of layer l. At time t, one batched matrix product
therefore computes row t-l of every layer l. This takes H+L-1 steps instead of H*L. With three layers (the number is the
time)::

              layer 0   layer 1   layer 2
    row 0        0         1         2
    row 1        1         2         3
    row 2        2         3         4

One matrix E for each row of a layer holds what its gates see, maps x cells. The cells of a row are in the order (column,
image), with zeros for one column at each end, so that a neighbour is a shift by k cells (k: images of a group) and no
map is stored twice::

    E  =  x            2h        gates  =    left @ E (x and h), shifted to the right
          h above      h                   + centre @ E
          condition    c                   + right @ E (h), shifted to the left, + bias

On a CPU a group of images passes through all times before the next group does: what a step reads is then still cached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.networks.buffers import Workspace
from model.networks.lstm_kernel import scaled, step, step_back
from model.networks.matrices import GROUP_BYTES

Grads = tuple[Tensor | None, ...]
Views = tuple[Tensor, Tensor, Tensor]
sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
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


def row_layers(
    inputs: Tensor, condition: Tensor | None, weights: RowWeights, *, images: int, residual: bool
) -> Tensor:
    """Run the first layer, all LSTM layers and the head's first layer.

    Args:
        inputs: what the first layer's kernel sees, (G, H, K, N); the N cells are W columns of k images.
        condition: (G, H, c, N), or None.
        weights: the weights.
        images: images of a group, k.
        residual: whether each layer adds its input.

    Returns:
        The head's first layer with the layer-to-output connections, before the ReLU, (G, H, head, N).
    """
    gates = {name: scaled(getattr(weights, name)) for name in ("left", "centre", "right", "bias")}
    run = cast("Callable[..., Tensor]", _Wavefront.apply)
    weights = weights._replace(**gates, c0=weights.c0 / 2)
    return run(inputs, condition, images, residual, torch.is_grad_enabled(), *weights)


def row_group_limit(layers: int, hidden: int, width: int, bytes_per_value: int) -> int:
    """Return how many images a group may have: the rows of all layers of one step fit into a cache."""
    return GROUP_BYTES // (12 * hidden * layers * width * bytes_per_value)


@dataclass(frozen=True)
class _Sizes:
    H: int
    N: int
    k: int
    L: int
    h: int
    c: int
    head: int

    @property
    def T(self) -> int:
        return self.H + self.L - 1

    def active(self, t: int) -> slice:
        """Return the layers that have a row at time t."""
        return slice(max(0, t - self.H + 1), min(self.L, t + 1))


class _Buffers:
    """The buffers of the pass of one group; at time t the rows of place t are read, and place t+1 is written."""

    def __init__(self, sizes: _Sizes, like: Tensor) -> None:
        T, L, h, N, k = sizes.T, sizes.L, sizes.h, sizes.N, sizes.k
        self.work, self.sizes = Workspace(("row", *sizes.__dict__.values()), like), sizes
        zeros = self.work.zeros
        # Layer L has the outputs of the last layer. The columns at both ends stay zero.
        self.E = zeros("E", T + 1, L + 1, 3 * h + sizes.c, N + 2 * k)
        self.S = zeros("S", T, L, 4 * h, N)  # the gates after the sigmoid
        self.C = zeros("C", T + 1, L, h, N)  # the memories before each step
        self.V = zeros("V", T, L, h, N)  # tanh of the memories after each step

    def seen(self, t: int, layers: slice) -> Views:
        """Return what the gates see of the left, of the same and of the right column."""
        E, (h, N, k) = self.E[t, layers], (self.sizes.h, self.sizes.N, self.sizes.k)
        return E[:, : 3 * h, :N], E[:, :, k : k + N], E[:, 2 * h : 3 * h, 2 * k :]

    def states(self, t: int, layers: slice) -> Tensor:
        """Return the states after time t, (n, h, N)."""
        h, k = self.sizes.h, self.sizes.k
        return self.E[t + 1, layers, 2 * h : 3 * h, k:-k]

    def x(self, t: int, layers: slice) -> Tensor:
        """Return the inputs at time t, (n, 2h, N)."""
        return self.E[t, layers, : 2 * self.sizes.h, self.sizes.k : -self.sizes.k]

    def begin(self, inputs: Tensor, condition: Tensor | None, weights: RowWeights) -> None:
        """Write what does not depend on the loop: inputs (H, K, N) and initial states."""
        L, h, k = self.sizes.L, self.sizes.h, self.sizes.k
        for row, seen in enumerate(inputs):
            self.E[row, 0, : 2 * h, k:-k] = torch.addmm(weights.first_bias[:, None], weights.first, seen)
        for layer in range(L):
            self.E[layer, layer, 2 * h : 3 * h, k:-k] = weights.h0[layer, :, None]
            self.C[layer, layer] = weights.c0[layer, :, None]
            if condition is not None:
                self.E[layer : layer + self.sizes.H, layer, 3 * h :, k:-k] = condition

    def of_row(self, row: int, head: Tensor) -> Tensor:
        """Return what the head sees of a row: the outputs after the ReLU and the states, (2h + L*h or 2h, N)."""
        h, L = self.sizes.h, self.sizes.L
        M = self.work.zeros("M", head.shape[1], self.sizes.N)
        torch.clamp_min(self.x(row + L, slice(L, L + 1))[0], 0, out=M[: 2 * h])
        if len(M) > 2 * h:
            first = self.states(row, slice(0, 1))
            time, layer = self.E.stride()[:2]
            M[2 * h :].view(L, h, -1).copy_(first.as_strided((L, *first.shape[1:]), (time + layer, *first.stride()[1:])))
        return M


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
        (G, H, _, N), (L, h), head = inputs.shape, w.h0.shape, len(w.head_bias)
        sizes = _Sizes(H, N, images, L, h, w.centre.shape[2] - 3 * h, head)
        result = inputs.new_empty(G, H, head, N)
        kept = []
        for group in range(G):
            buffers = _Buffers(sizes, inputs)
            buffers.begin(inputs[group], None if condition is None else condition[group], w)
            _run(buffers, w, residual=residual)
            for row in range(H):
                torch.addmm(w.head_bias[:, None], w.head, buffers.of_row(row, w.head), out=result[group, row])
            if keep:
                kept.append(buffers)
            del buffers
        ctx.kept, ctx.residual, ctx.with_condition = kept, residual, condition is not None
        ctx.save_for_backward(inputs, *tensors)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> Grads:
        inputs, *tensors = ctx.saved_tensors
        w = RowWeights(*tensors)
        d_w = RowWeights(*(torch.zeros_like(some) for some in w))
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
        return d_inputs, d_condition, None, None, None, *d_w


def _run(buffers: _Buffers, w: RowWeights, *, residual: bool) -> None:
    """Run all layers over all rows of a group."""
    sizes = buffers.sizes
    Y = buffers.work.zeros("Y", sizes.L, 2 * sizes.h, sizes.N)
    for t in range(sizes.T):
        on = sizes.active(t)
        left, centre, right = buffers.seen(t, on)
        s, state = buffers.S[t, on], buffers.states(t, on)
        torch.baddbmm(w.bias[on], w.left[on], left, out=s)
        s.baddbmm_(w.centre[on], centre).baddbmm_(w.right[on], right).sigmoid_()
        step(s.chunk(4, dim=1), buffers.C[t, on], memory=buffers.C[t + 1, on], squashed=buffers.V[t, on], state=state)
        y, to = Y[: on.stop - on.start], buffers.x(t + 1, slice(on.start + 1, on.stop + 1))
        torch.baddbmm(w.up_bias[on], w.up[on], state, out=y)
        if residual:
            torch.add(y, buffers.x(t, on), out=to)
        else:
            to.copy_(y)


class _Back:
    """The gradients of one group, added to those of the weights.

    Args:
        buffers: of the pass.
        w: the weights.
        d_w: the gradients of the weights.
        residual: whether each layer adds its input.
    """

    def __init__(self, buffers: _Buffers, w: RowWeights, d_w: RowWeights, *, residual: bool) -> None:
        self.buffers, self.w, self.d_w, self.residual = buffers, w, d_w, residual
        sizes, zeros = buffers.sizes, buffers.work.zeros
        L, h, N, k = sizes.L, sizes.h, sizes.N, sizes.k
        self.D = zeros("D", L, 4 * h, N + 2 * k)  # gradients of the gates; the columns at both ends stay zero
        self.dE, self.d_right = zeros("dE", L, 3 * h + sizes.c, N), zeros("d_right", L, h, N)
        self.dH = zeros("dH", sizes.T, L, h, N)  # gradients of the states
        self.dX, self.dX_next = zeros("dX", L + 1, 2 * h, N), zeros("dX2", L + 1, 2 * h, N)  # of inputs and outputs
        self.dC, self.spare = zeros("dC", L, h, N).zero_(), zeros("spare", L, h, N)
        self.dM = zeros("dM", w.head.shape[1], N)
        self.t = RowWeights(*(some.transpose(1, 2) if some.dim() == 3 else some.t() for some in w))  # noqa: PLR2004

    def run(self, inputs: Tensor, d_result: Tensor, d_inputs: Tensor | None, d_condition: Tensor | None) -> None:
        """Go back through all times: inputs (H, K, N), d_result (H, head, N); d_inputs and d_condition are written."""
        sizes, w, d_w = self.buffers.sizes, self.w, self.d_w
        h = sizes.h
        if w.head.shape[1] == 2 * h:
            self.dH.zero_()
        for row in range(sizes.H):
            self._head(row, d_result[row])
        for t in reversed(range(sizes.T)):
            on = sizes.active(t)
            self._step(t, on)
            if on.start == 0:
                d_w.first.addmm_(self.dX[0], inputs[t].t())
                d_w.first_bias.add_(self.dX[0].sum(1))
                if d_inputs is not None:
                    torch.mm(w.first.t(), self.dX[0], out=d_inputs[t])
            if d_condition is not None:
                for layer in range(on.start, on.stop):
                    d_condition[t - layer] += self.dE[layer, 3 * h :]
            if t < sizes.L:  # layer t is at its first row; the state above is the initial state
                d_w.h0[t] += (self.dE[t, 2 * h : 3 * h] + self.d_right[t]).sum(1)
                d_w.c0[t] += self.dC[t].sum(1)

    def _head(self, row: int, d: Tensor) -> None:
        """Write the gradients that the states and outputs of a row get from the head's first layer."""
        sizes, h = self.buffers.sizes, self.buffers.sizes.h
        M = self.buffers.of_row(row, self.w.head)
        self.d_w.head.addmm_(d, M.t())
        self.d_w.head_bias.add_(d.sum(1))
        dM = torch.mm(self.t.head, d, out=self.dM)
        d_out = self.buffers.work.zeros("d_out", sizes.H, 2 * h, sizes.N)[row]
        threshold_backward(dM[: 2 * h], M[: 2 * h], 0, grad_input=d_out)
        if len(dM) > 2 * h:
            first = self.dH[row, 0]
            time, layer = self.dH.stride()[:2]
            first.as_strided((sizes.L, *first.shape), (time + layer, *first.stride())).copy_(dM[2 * h :].view(sizes.L, h, -1))

    def _step(self, t: int, on: slice) -> None:
        sizes, buffers, w, d_w = self.buffers.sizes, self.buffers, self.w, self.d_w
        (h, N, k), (a, b) = (sizes.h, sizes.N, sizes.k), (on.start, on.stop)
        if b == sizes.L:
            self.dX[b] = buffers.work.zeros("d_out")[t - b + 1]
        dy, dh, dc, s, D = self.dX[a + 1 : b + 1], self.dH[t, on], self.dC[on], buffers.S[t, on], self.D[on]
        d = D[:, :, k : k + N]
        below = slice(max(a, t + 2 - sizes.H), b)  # layers with another row
        if below.start < b and t + 1 < sizes.T:
            self.dH[t, below].add_(self.dE[below, 2 * h : 3 * h]).add_(self.d_right[below])
        dh.baddbmm_(self.t.up[on], dy)
        d_w.up[on].baddbmm_(dy, buffers.states(t, on).transpose(1, 2))
        d_w.up_bias[on].add_(dy.sum(2, keepdim=True))
        step_back(
            dh, dc, gates=s.chunk(4, dim=1), squashed=buffers.V[t, on], before=buffers.C[t, on],
            d_gates=d.chunk(4, dim=1), spare=self.spare[on],
        )  # fmt: skip
        sigmoid_backward(d, s, grad_input=d)
        left, centre, right = (some.transpose(1, 2) for some in buffers.seen(t, on))
        d_w.left[on].baddbmm_(d, left)
        d_w.centre[on].baddbmm_(d, centre)
        d_w.right[on].baddbmm_(d, right)
        d_w.bias[on].add_(d.sum(2, keepdim=True))
        dE = torch.bmm(self.t.centre[on], d, out=self.dE[on])
        dE[:, : 3 * h].baddbmm_(self.t.left[on], D[:, :, 2 * k :])
        torch.bmm(self.t.right[on], D[:, :, :N], out=self.d_right[on])
        dx = self.dX_next[on]
        if self.residual:
            torch.add(dy, dE[:, : 2 * h], out=dx)
        else:
            dx.copy_(dE[:, : 2 * h])
        self.dX, self.dX_next = self.dX_next, self.dX
