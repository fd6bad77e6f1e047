"""One LSTM step (equation 3) and its gradient, written into buffers; both fast recurrences use it.

On a CPU tanh takes four times as long as sigmoid, and tanh(x) = 2 sigmoid(2x) - 1. One sigmoid therefore computes all
four gates, and the weights of g include the factor 2 (`scaled`). The memory is stored as c/2, which saves a
multiplication wherever this formula is used.
"""

from __future__ import annotations

import torch
from torch import Tensor

Gates = tuple[Tensor, ...]  # o, f, i, g, each (n, h, cells)


def scaled(weights: Tensor) -> Tensor:
    """Double the weight rows of gate g: (n, 4h, K) -> (n, 4h, K)."""
    others = weights.shape[1] // 4 * 3
    return torch.cat([weights[:, :others], 2 * weights[:, others:]], dim=1)


def step(gates: Gates, before: Tensor, *, memory: Tensor, squashed: Tensor, state: Tensor) -> None:
    """Compute c/2, tanh(c) and h.

    Args:
        gates: the gates after the sigmoid.
        before: the old c/2.
        memory: the new c/2, written.
        squashed: tanh(c), written.
        state: h, written.
    """
    o, f, i, g = gates
    torch.mul(f, before, out=memory).addcmul_(i, g).sub_(i, alpha=0.5)
    torch.mul(memory, 4, out=squashed).sigmoid_().mul_(2).sub_(1)
    torch.mul(o, squashed, out=state)


def step_back(
    d_state: Tensor, d_memory: Tensor, *, gates: Gates, squashed: Tensor, before: Tensor, d_gates: Gates, spare: Tensor
) -> None:
    """Compute the gradients of the gates, after the sigmoid, and of the old memory.

    Args:
        d_state: gradient of h.
        d_memory: gradient of the new c/2 from the next step; overwritten with the gradient of the old c/2.
        gates: the gates of `step`.
        squashed: tanh(c) of `step`.
        before: the old c/2 of `step`.
        d_gates: the gradients of the gates, written.
        spare: scratch, (n, h, cells).
    """
    o, f, i, g = gates
    do, df, di, dg = d_gates
    torch.mul(d_state, squashed, out=do)
    torch.mul(d_state, o, out=spare)
    torch.ops.aten.tanh_backward.grad_input(spare, squashed, grad_input=spare)
    d_memory.add_(spare, alpha=2)
    torch.mul(d_memory, before, out=df)
    torch.mul(d_memory, g, out=di).sub_(d_memory, alpha=0.5)
    torch.mul(d_memory, i, out=dg)
    d_memory.mul_(f)
