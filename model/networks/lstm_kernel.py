"""One LSTM step (equation 3) and its gradient, written into buffers; both fast recurrences use it.

On a CPU tanh takes four times as long as sigmoid, and tanh(x) = 2 sigmoid(2x) - 1. One sigmoid therefore computes all
four gates, and the weights of g include the factor 2 (`scaled`). The memory is stored as 2c, of which the sigmoid is
taken as it is. A small operation costs as much as its data: the gradients of i and g are left with constant factors,
which their weights take in once for a whole pass (`gradient_factors`).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

Gates = tuple[Tensor, ...]  # o, f, i, g, each (n, h, cells)
MEMORY = 2.0  # the memory is stored times this


def scaled(weights: Tensor) -> Tensor:
    """Double the weight rows of gate g: (n, 4h, K) -> (n, 4h, K)."""
    others = weights.shape[1] // 4 * 3
    return torch.cat([weights[:, :others], 2 * weights[:, others:]], dim=1)


@cache
def gradient_factors(h: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return what the gradients of the gates from `step_back` are to be multiplied by, (4h, 1), rows o, f, i, g."""
    return torch.tensor([1.0, 1.0, -2.0, 4.0]).repeat_interleave(h)[:, None].to(device, dtype)


@cache
def _minus_one(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((), -1.0, dtype=dtype, device=device)


def step(gates: Gates, before: Tensor, *, memory: Tensor, squashed: Tensor, state: Tensor) -> None:
    """Compute 2c, tanh(c) and h.

    Args:
        gates: the gates after the sigmoid.
        before: the old 2c.
        memory: the new 2c, written.
        squashed: tanh(c), written.
        state: h, written.
    """
    o, f, i, g = gates
    torch.mul(f, before, out=memory).addcmul_(i, g, value=4).sub_(i, alpha=2)
    torch.sigmoid(memory, out=squashed)
    torch.add(_minus_one(squashed.dtype, squashed.device), squashed, alpha=2, out=squashed)
    torch.mul(o, squashed, out=state)


def step_back(
    d_state: Tensor, d_memory: Tensor, *, gates: Gates, squashed: Tensor, before: Tensor, state: Tensor, d_gates: Gates
) -> None:
    """Compute the gradients of the gates, after the sigmoid, and of the old memory.

    Args:
        d_state: gradient of h.
        d_memory: gradient of the new 2c from the next step; overwritten with the gradient of the old 2c.
        gates: the gates of `step`.
        squashed: tanh(c) of `step`.
        before: the old 2c of `step`.
        state: h of `step`.
        d_gates: the gradients of the gates without their `gradient_factors`, written.
    """
    o, f, i, g = gates
    do, df, di, dg = d_gates
    torch.mul(d_state, squashed, out=do)
    d_memory.addcmul_(d_state, o, value=0.5).addcmul_(do, state, value=-0.5)  # d_state * o * (1 - tanh(c)^2) / 2
    torch.mul(d_memory, before, out=df)
    torch.addcmul(d_memory, d_memory, g, value=-2, out=di)
    torch.mul(d_memory, i, out=dg)
    d_memory.mul_(f)
