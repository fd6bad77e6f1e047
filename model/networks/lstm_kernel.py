"""One LSTM step (equation 3) and its gradient, written into buffers; both fast recurrences use it.

On a CPU tanh takes four times as long as sigmoid, and tanh(x) = 2 sigmoid(2x) - 1. One sigmoid therefore computes all
four gates, and the weights of g include the factor 2 (`scaled`). The memory is stored as 2c, of which the sigmoid is
taken as it is. A small operation costs as much as its data: the gradients of i and g are left with constant factors,
which their weights take in once for a whole pass (`gradient_factors`).

In float32 on a CPU, `model.networks.lstm_native` does a step in one pass over memory, if numba is installed. Everywhere
else torch's operations do it; the last bits differ.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MEMORY = 2.0  # the memory is stored times this


def scaled(weights: Tensor) -> Tensor:
    """Double the weight rows of gate g: (n, 4h, K) -> (n, 4h, K)."""
    others = weights.shape[1] // 4 * 3
    return torch.cat([weights[:, :others], 2 * weights[:, others:]], dim=1)


@cache
def gradient_factors(h: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return what the gradients of the gates from `step_back` are to be multiplied by, (4h, 1), rows o, f, i, g."""
    return torch.tensor([1.0, 1.0, -2.0, 4.0]).repeat_interleave(h)[:, None].to(device, dtype)


def step(
    gates: Tensor, before: Tensor, *, memory: Tensor, squashed: Tensor, state: Tensor, above: Tensor | None = None
) -> Callable[[], None]:
    """Return what computes gates, 2c, tanh(c) and h from what is in these tensors whenever it is called.

    Args:
        gates: the gates o, f, i, g before their sigmoid, (n, 4h, cells); overwritten with the gates.
        before: the old 2c, (n, h, cells).
        memory: the new 2c, written; in the same buffer as the old one.
        squashed: tanh(c), written.
        state: h, written.
        above: h, written a second time; in the same buffer.
    """
    native = _native(gates)
    if native is not None:
        operands = [gates, before, memory, squashed, state, *([] if above is None else [above])]
        where = _places(before.shape, operands, 6)
        S, C, V, E = flat(gates), flat(memory, before), flat(squashed), flat(state, above)
        return lambda: native.step(S, C, V, E, where)
    o, f, i, g = gates.chunk(4, dim=1)
    minus_one = torch.full((), -1.0, dtype=gates.dtype, device=gates.device)

    def run() -> None:
        gates.sigmoid_()
        torch.mul(f, before, out=memory).addcmul_(i, g, value=4).sub_(i, alpha=2)
        torch.sigmoid(memory, out=squashed)
        torch.add(minus_one, squashed, alpha=2, out=squashed)
        torch.mul(o, squashed, out=state)
        if above is not None:
            above.copy_(state)

    return run


def step_back(
    d_state: Tensor,
    d_memory: Tensor,
    *,
    gates: Tensor,
    squashed: Tensor,
    before: Tensor,
    state: Tensor,
    d_gates: Tensor,
) -> Callable[[], None]:
    """Return what computes the gradients of the gates before their sigmoid, and of the old memory.

    Args:
        d_state: gradient of h, (n, h, cells).
        d_memory: gradient of the new 2c from the next step; overwritten with the gradient of the old 2c.
        gates: the gates of `step`, (n, 4h, cells).
        squashed: tanh(c) of `step`.
        before: the old 2c of `step`.
        state: h of `step`.
        d_gates: the gradients of the gates without their `gradient_factors`, written, (n, 4h, cells).
    """
    native = _native(gates)
    if native is not None:
        where = _places(before.shape, [gates, before, squashed, d_gates, d_memory, d_state], 6)
        S, C, V, D, dC, dH = map(flat, (gates, before, squashed, d_gates, d_memory, d_state))
        return lambda: native.step_back(S, C, V, D, dC, dH, where)
    (o, f, i, g), (do, df, di, dg) = gates.chunk(4, dim=1), d_gates.chunk(4, dim=1)

    def run() -> None:
        torch.mul(d_state, squashed, out=do)
        # d_state * o * (1 - tanh(c)^2) / 2
        d_memory.addcmul_(d_state, o, value=0.5).addcmul_(do, state, value=-0.5)
        torch.mul(d_memory, before, out=df)
        torch.addcmul(d_memory, d_memory, g, value=-2, out=di)
        torch.mul(d_memory, i, out=dg)
        d_memory.mul_(f)
        torch.ops.aten.sigmoid_backward.grad_input(d_gates, gates, grad_input=d_gates)

    return run


def steps_by(device: torch.device, dtype: torch.dtype) -> str:
    """Return what computes the steps: "numba" and its version, or "torch"."""
    native = _compiled() if (device.type, dtype) == ("cpu", torch.float32) else None
    return "torch" if native is None else f"numba {version('numba')}"


def is_compiled(like: Tensor) -> bool:
    """Return whether compiled steps compute on tensors of this kind."""
    return _native(like) is not None


def _native(gates: Tensor) -> ModuleType | None:
    """Return the module of compiled steps where it can be used."""
    return _compiled() if (gates.device.type, gates.dtype) == ("cpu", torch.float32) else None


def native_module(name: str, like: Tensor) -> ModuleType | None:
    """Return a module of compiled steps by its name, where it can be used for tensors like this."""
    return None if _native(like) is None else importlib.import_module(name)


@cache
def _compiled() -> ModuleType | None:
    try:
        return importlib.import_module("model.networks.lstm_native")
    except ImportError:  # numba is not installed, or rejects the version of numpy
        return None


def flat(tensor: Tensor, *others: Tensor | None) -> NDArray[np.float32]:
    """Return the whole buffer of a tensor, and of others that are in it too, as a flat array of the same memory."""
    buffer = tensor.untyped_storage().data_ptr()
    if any(other is not None and other.untyped_storage().data_ptr() != buffer for other in others):
        raise ValueError("the compiled steps need these tensors in one buffer")
    size = tensor.untyped_storage().size() // tensor.element_size()
    whole: NDArray[np.float32] = tensor.as_strided((size,), (1,), 0).numpy()
    return whole


def _places(size: torch.Size, operands: list[Tensor], most: int) -> NDArray[np.int64]:
    """Return sizes, offsets and strides as the compiled steps take them; the cells of a row are together in memory."""
    numbers = [*size]
    for tensor in operands:
        outer, row, cell = tensor.stride()
        if cell != 1 and tensor.shape[2] > 1:
            raise ValueError(f"the cells have a stride of {cell}; the compiled steps need them next to each other")
        numbers += [tensor.storage_offset(), outer, row]
    return np.array(numbers + [-1, 0, 0] * (most - len(operands)), dtype=np.int64)
