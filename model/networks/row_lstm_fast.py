"""All Row LSTM layers of a network in one wavefront: each layer runs one row behind the layer before it.

Row r of layer l depends on row r of layer l-1 and on row r-1 of layer l. At time t, one batched matrix product
therefore computes row t-l of every layer l. This takes H+L-1 steps instead of H*L. With three layers (the number is the
time)::

              layer 0   layer 1   layer 2
    row 0        0         1         2
    row 1        1         2         3
    row 2        2         3         4

One matrix A for each row holds all inputs of its gates, maps x cells. The cells of a row are in the order (column,
image), so that a shift by one column of the image is a shift by B columns of A::

    A  =  x of the left pixel   2h         gates  =  weights @ A
          x                     2h
          condition             c          (absent if there is none)
          h above left          h
          h above               h
          h above right         h
          1                     1          (its weight is the bias)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.networks.buffers import Workspace
from model.networks.lstm_kernel import scaled, step, step_back

Grads = tuple[Tensor | None, ...]


def row_layers(
    x: Tensor, condition: Tensor | None, weights: Tensor, up: Tensor, *, h0: Tensor, c0: Tensor, residual: bool
) -> tuple[Tensor, Tensor]:
    """Run all layers.

    Args:
        x: input of the first layer (H, 2h, W, B).
        condition: (H, c, W, B), or None.
        weights: weights for the matrix A of each layer (L, 4h, 4h + c + 3h + 1), gates o, f, i, g.
        up: the 1x1 convolution to 2h maps, with the bias as its last column, (L, 2h, h + 1).
        h0: initial states (L, h).
        c0: initial memories (L, h).
        residual: whether each layer adds its input.

    Returns:
        Output of the last layer (H, 2h, W, B), and the states of all layers (H, L*h, W, B).
    """
    run = cast("Callable[..., tuple[Tensor, Tensor]]", _Wavefront.apply)
    y, states = run(x, condition, scaled(weights), up, h0, c0 / 2, residual)
    return y.view_as(x), states.view(x.shape[0], -1, *x.shape[2:])


class _Wavefront(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes arguments by position
        ctx: Any,
        x: Tensor,
        condition: Tensor | None,
        weights: Tensor,
        up: Tensor,
        h0: Tensor,
        c0: Tensor,
        residual: bool,
    ) -> tuple[Tensor, Tensor]:
        (H, m, W, B), (L, h) = x.shape, h0.shape
        N, K, T = W * B, weights.shape[2], H + L - 1
        c = K - 2 * m - 3 * h - 1
        work = Workspace(("row", H, W, B, L, h, c), x)
        A = work.zeros("A", T, L, K, N)  # the border columns of the shifted maps stay zero
        S = work.zeros("S", T, L, 4 * h, N)  # the gates after the sigmoid
        C = work.zeros("C", T + 1, L, h, N)  # the memories before each step
        V = work.zeros("V", T, L, h, N)  # tanh of the memories after each step
        Z = work.zeros("Z", T, L, h + 1, N)  # the states, and a one for the bias of `up`
        Y = work.zeros("Y", L, m, N)
        A[:, :, -1] = 1
        Z[:, :, -1] = 1
        xs = x.reshape(H, m, N)
        A[:H, 0, m : 2 * m] = xs
        A[:H, 0, :m, B:] = xs[..., :-B]
        for layer in range(L):
            _hand_down(A[layer, layer : layer + 1], h0[layer, :, None].expand(1, h, N), B)
            C[layer, layer] = c0[layer, :, None]
            if condition is not None:
                A[layer : layer + H, layer, 2 * m : 2 * m + c] = condition.reshape(H, c, N)
        out = x.new_empty(H, m, N)
        for t in range(T):
            a, b = max(0, t - H + 1), min(L, t + 1)  # the active layers
            s, memory, state = S[t, a:b], C[t + 1, a:b], Z[t, a:b, :h]
            torch.bmm(weights[a:b], A[t, a:b], out=s).sigmoid_()
            step(s.chunk(4, dim=1), C[t, a:b], memory=memory, squashed=V[t, a:b], state=state)
            y = torch.bmm(up[a:b], Z[t, a:b], out=Y[: b - a])
            if residual:
                y += A[t, a:b, m : 2 * m]
            if b == L:
                out[t - L + 1] = y[-1]
                y = y[:-1]
            if len(y):
                A[t + 1, a + 1 : a + 1 + len(y), m : 2 * m] = y
                A[t + 1, a + 1 : a + 1 + len(y), :m, B:] = y[..., :-B]
            below = max(a, t + 2 - H)  # the layers below..b have another row
            if below < b and t + 1 < T:
                _hand_down(A[t + 1, below:b], state[below - a :], B)
        ctx.work, ctx.sizes, ctx.residual = work, (H, W, B, L, h, c), residual
        ctx.save_for_backward(weights, up)
        return out, _by_row(Z, H, h).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_states: Tensor) -> Grads:
        weights, up = ctx.saved_tensors
        H, W, B, L, h, c = ctx.sizes
        m, N, K, T = 2 * h, W * B, weights.shape[2], H + L - 1
        work = ctx.work
        A, S, C, V, Z = (work.zeros(name) for name in "ASCVZ")
        D = work.zeros("D", L, 4 * h, N)
        dA = work.zeros("dA", L, K, N)
        dH = work.zeros("dH", T, L, h, N)  # gradients of the states
        dX = work.zeros("dX", L + 1, m, N)  # gradients of the inputs; place l+1 holds that of layer l's output
        dX2, spare = work.zeros("dX2", L, m, N), work.zeros("spare", L, h, N)
        dC = work.zeros("dC", L, h, N).zero_()
        _by_row(dH, H, h).copy_(d_states)
        d_weights, d_up = torch.zeros_like(weights), torch.zeros_like(up)
        dx = weights.new_empty(H, m, N)
        d_condition = weights.new_zeros(H, c, N) if c else None
        dh0, dc0 = weights.new_zeros(L, h), weights.new_zeros(L, h)
        down, back = up[:, :, :h].transpose(1, 2), weights.transpose(1, 2)
        for t in reversed(range(T)):
            a, b = max(0, t - H + 1), min(L, t + 1)
            n = b - a
            if b == L:
                dX[L] = d_out[t - L + 1]
            dy, dh, dc = dX[a + 1 : b + 1], dH[t, a:b], dC[a:b]
            dh.baddbmm_(down[a:b], dy)
            d_up[a:b].baddbmm_(dy, Z[t, a:b].transpose(1, 2))
            s, d = S[t, a:b], D[:n]
            gates, d_gates = s.chunk(4, dim=1), d.chunk(4, dim=1)
            step_back(dh, dc, gates=gates, squashed=V[t, a:b], before=C[t, a:b], d_gates=d_gates, spare=spare[:n])
            torch.ops.aten.sigmoid_backward.grad_input(d, s, grad_input=d)
            d_weights[a:b].baddbmm_(d, A[t, a:b].transpose(1, 2))
            da = torch.bmm(back[a:b], d, out=dA[:n])
            # Layer l-1 reads the gradient that layer l writes to place l at the next step of this loop.
            dX[a:b] = torch.add(dy, da[:, m : 2 * m], out=dX2[:n]) if ctx.residual else da[:, m : 2 * m]
            dX[a:b, :, :-B] += da[:, :m, B:]
            if a == 0:
                dx[t] = dX[0]
            if d_condition is not None:
                for layer in range(a, b):
                    d_condition[t - layer] += da[layer - a, 2 * m : 2 * m + c]
            if t < L:  # layer t is at its first row; the state above is the initial state
                first = da.new_zeros(1, h, N)
                _hand_back(first, da[t - a :], B)
                dh0[t], dc0[t] = first[0].sum(1), dC[t].sum(1)
                n -= 1
            if n:
                _hand_back(dH[t - 1, a : a + n], da[:n], B)
        d_x = dx.view(H, m, W, B)
        d_cond = d_condition.view(H, c, W, B) if d_condition is not None else None
        return d_x, d_cond, d_weights, d_up, dh0, dc0, None


def _hand_down(A: Tensor, state: Tensor, B: int) -> None:
    """Write states (n, h, N) to the matrix A of the row below (n, K, N)."""
    h = state.shape[1]
    left, above, right = A[:, -1 - 3 * h : -1].chunk(3, dim=1)
    left[..., B:] = state[..., :-B]
    above.copy_(state)
    right[..., :-B] = state[..., B:]


def _hand_back(d_state: Tensor, dA: Tensor, B: int) -> None:
    """Add the gradient from the row below, (n, K, N), to the gradient of states (n, h, N)."""
    h = d_state.shape[1]
    left, above, right = dA[:, -1 - 3 * h : -1].chunk(3, dim=1)
    d_state += above
    d_state[..., :-B] += left[..., B:]
    d_state[..., B:] += right[..., :-B]


def _by_row(skewed: Tensor, H: int, h: int) -> Tensor:
    """Return a view of a buffer by time and layer, (T, L, h or more, N), by row and layer, (H, L, h, N)."""
    time, layer, *rest = skewed.stride()
    return skewed.as_strided((H, skewed.shape[1], h, skewed.shape[3]), (time, time + layer, *rest))
