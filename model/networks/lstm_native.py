"""An LSTM step and its gradient in one pass over memory, compiled by numba; `model.networks.lstm_kernel` has the rest.

torch reads and writes a step's values once for each of its ten operations, and each of them costs some microseconds
before it begins. Here a row of cells stays in the first cache from the gates to the state. Loops over slices of flat,
contiguous arrays become vector instructions; loops over views with strides would not.

tanh is a quotient of two polynomials, fitted to numpy's for this file: `python benchmarks/tanh_fit.py` gives the
coefficients again. Its relative error is 2e-8 before it is rounded to float32.

Compilation takes about 4 s, once for each machine. Numba caches the result next to this file, or in its cache folder.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.compiled import compiled, inlined

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

A0, A1, A2, A3, A4, A5 = (
    np.float32(c) for c in (1.0, 0.12979156263, 2.9857877442e-3, 9.8779253207e-6, -1.4701702877e-8, 2.3501010881e-11)
)
B1, B2, B3 = (np.float32(c) for c in (0.46312472299, 0.024027626703, 2.3719262987e-4))
HALF, ONE, TWO, FOUR, LARGEST = (np.float32(c) for c in (0.5, 1.0, 2.0, 4.0, 8.0))


@inlined
def tanh(x: Any) -> Any:
    """Compute tanh(x); NaN stays NaN."""
    x = min(x, LARGEST)
    x = max(x, -LARGEST)
    u = x * x
    above = A0 + u * (A1 + u * (A2 + u * (A3 + u * (A4 + u * A5))))
    return x * above / (ONE + u * (B1 + u * (B2 + u * B3)))


@inlined
def to_sigmoid(x: Floats) -> None:
    """Replace x by its sigmoid."""
    for n in range(x.size):
        x[n] = HALF + HALF * tanh(HALF * x[n])


@inlined
def to_memory(f: Floats, before: Floats, i: Floats, g: Floats, memory: Floats) -> None:
    """Compute the new 2c; g is a sigmoid, tanh is 2g - 1."""
    for n in range(memory.size):
        memory[n] = f[n] * before[n] + i[n] * (FOUR * g[n] - TWO)


@inlined
def to_squashed(memory: Floats, squashed: Floats) -> None:
    """Compute tanh(c) of 2c."""
    for n in range(squashed.size):
        squashed[n] = tanh(HALF * memory[n])


@inlined
def to_product(x: Floats, y: Floats, out: Floats) -> None:
    """Compute out = x * y."""
    for n in range(out.size):
        out[n] = x[n] * y[n]


@inlined
def to_copy(x: Floats, out: Floats) -> None:
    """Copy x."""
    for n in range(out.size):
        out[n] = x[n]


@inlined
def place(where: Ints, operand: int, outer: int, row: int) -> int:
    """Return where a row of an operand begins: its numbers are offset, stride of the outer dimension, and of a row."""
    at = 3 + 3 * operand
    return int(where[at] + outer * where[at + 1] + row * where[at + 2])


@compiled
def step(S: Floats, C: Floats, V: Floats, E: Floats, where: Ints) -> None:
    """Compute a step; `model.networks.lstm_kernel.step` has what it computes.

    Args:
        S: the buffer of the gates, o, f, i, g.
        C: of the memories, before and after.
        V: of tanh(c).
        E: of the states.
        where: outer size, h, cells, and for each operand offset and strides: gates, before, memory, squashed, state,
            and the second copy of the state, with an offset below 0 if there is none.
    """
    h, cells = where[1], where[2]
    for outer in range(where[0]):
        for k in range(h):
            at = place(where, 0, outer, k)
            o = S[at : at + cells]
            at = place(where, 0, outer, h + k)
            f = S[at : at + cells]
            at = place(where, 0, outer, 2 * h + k)
            i = S[at : at + cells]
            at = place(where, 0, outer, 3 * h + k)
            g = S[at : at + cells]
            to_sigmoid(o)
            to_sigmoid(f)
            to_sigmoid(i)
            to_sigmoid(g)
            at = place(where, 1, outer, k)
            before = C[at : at + cells]
            at = place(where, 2, outer, k)
            memory = C[at : at + cells]
            to_memory(f, before, i, g, memory)
            at = place(where, 3, outer, k)
            squashed = V[at : at + cells]
            to_squashed(memory, squashed)
            at = place(where, 4, outer, k)
            state = E[at : at + cells]
            to_product(o, squashed, state)
            if where[18] >= 0:
                at = place(where, 5, outer, k)
                to_copy(state, E[at : at + cells])


@inlined
def to_output_gate(d_state: Floats, squashed: Floats, o: Floats, out: Floats) -> None:
    """Compute the gradient of gate o before its sigmoid."""
    for n in range(out.size):
        out[n] = d_state[n] * squashed[n] * o[n] * (ONE - o[n])


@inlined
def through_squashing(d_state: Floats, squashed: Floats, o: Floats, d_memory: Floats) -> None:
    """Add the gradient that the memory, 2c, gets from its step's state."""
    for n in range(d_memory.size):
        d_memory[n] += HALF * d_state[n] * o[n] * (ONE - squashed[n] * squashed[n])


@inlined
def to_forget_gate(d_memory: Floats, before: Floats, f: Floats, out: Floats) -> None:
    """Compute the gradient of gate f before its sigmoid."""
    for n in range(out.size):
        out[n] = d_memory[n] * before[n] * f[n] * (ONE - f[n])


@inlined
def to_input_gate(d_memory: Floats, g: Floats, i: Floats, out: Floats) -> None:
    """Compute the gradient of gate i before its sigmoid, divided by -2."""
    for n in range(out.size):
        out[n] = d_memory[n] * (ONE - TWO * g[n]) * i[n] * (ONE - i[n])


@inlined
def to_new_memory(d_memory: Floats, g: Floats, i: Floats, out: Floats) -> None:
    """Compute the gradient of gate g before its sigmoid, divided by 4."""
    for n in range(out.size):
        out[n] = d_memory[n] * i[n] * g[n] * (ONE - g[n])


@inlined
def scale(x: Floats, y: Floats) -> None:
    """Compute x *= y."""
    for n in range(x.size):
        x[n] *= y[n]


@compiled
def step_back(S: Floats, C: Floats, V: Floats, D: Floats, dC: Floats, dH: Floats, where: Ints) -> None:
    """Compute the gradients of a step; `model.networks.lstm_kernel.step_back` has what it computes.

    Args:
        S: the buffer of the gates after the sigmoid.
        C: of the memories.
        V: of tanh(c).
        D: of the gates' gradients.
        dC: of the memories' gradients.
        dH: of the states' gradients.
        where: outer size, h, cells, and for each operand offset and strides: gates, before, squashed, gradients of the
            gates, of the memory, of the state.
    """
    h, cells = where[1], where[2]
    for outer in range(where[0]):
        for k in range(h):
            at = place(where, 0, outer, k)
            o = S[at : at + cells]
            at = place(where, 0, outer, h + k)
            f = S[at : at + cells]
            at = place(where, 0, outer, 2 * h + k)
            i = S[at : at + cells]
            at = place(where, 0, outer, 3 * h + k)
            g = S[at : at + cells]
            at = place(where, 1, outer, k)
            before = C[at : at + cells]
            at = place(where, 2, outer, k)
            squashed = V[at : at + cells]
            at = place(where, 4, outer, k)
            d_memory = dC[at : at + cells]
            at = place(where, 5, outer, k)
            d_state = dH[at : at + cells]
            at = place(where, 3, outer, k)
            to_output_gate(d_state, squashed, o, D[at : at + cells])
            through_squashing(d_state, squashed, o, d_memory)
            at = place(where, 3, outer, h + k)
            to_forget_gate(d_memory, before, f, D[at : at + cells])
            at = place(where, 3, outer, 2 * h + k)
            to_input_gate(d_memory, g, i, D[at : at + cells])
            at = place(where, 3, outer, 3 * h + k)
            to_new_memory(d_memory, g, i, D[at : at + cells])
            scale(d_memory, f)


@inlined
def add(x: Floats, y: Floats) -> None:
    """Compute x += y."""
    for n in range(x.size):
        x[n] += y[n]
