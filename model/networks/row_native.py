"""The passes of the fast Row LSTM between its products, compiled by numba; `model.networks.row_kernel` has the rest.

A pass takes one map of a layer at a time, which stays in the first cache. The columns of a tile are apart in memory
(see `model.networks.row_tiles`), so that each loop is over cells that are together, and becomes vector instructions.
Compilation takes about 10 s, once for each machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.compiled import compiled, inlined
from model.networks.lstm_native import (
    HALF,
    ONE,
    add,
    scale,
    tanh,
    through_squashing,
    to_copy,
    to_forget_gate,
    to_input_gate,
    to_memory,
    to_new_memory,
    to_output_gate,
    to_squashed,
)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

ZERO = np.float32(0.0)


@inlined
def place(where: Ints, operand: int, outer: int, plane: int, row: int) -> int:
    """Return where a row of an operand begins: its numbers are offset, and strides of the layer, the plane, the row."""
    at = 6 + 4 * operand
    return int(where[at] + outer * where[at + 1] + plane * where[at + 2] + row * where[at + 3])


@inlined
def subtract(x: Floats, y: Floats, out: Floats) -> None:
    """Compute out = x - y."""
    for n in range(out.size):
        out[n] = x[n] - y[n]


@inlined
def sum_of(x: Floats, y: Floats, out: Floats) -> None:
    """Compute out = x + y."""
    for n in range(out.size):
        out[n] = x[n] + y[n]


@inlined
def clear_missing(x: Floats, at: int, m: int, k: int, real: int) -> None:
    """Set the column that the image does not have to zero.

    Args:
        x: what has a row of twice m cells.
        at: where the row begins.
        m: cells of one column.
        k: images.
        real: columns of the last tile that the image has.
    """
    if real == 1:
        for n in range(at + m - k, at + m):
            x[n] = ZERO


@inlined
def sigmoid_even(even: Floats, both: Floats, twice: Floats, bias: Any, out: Floats) -> None:
    """Compute a gate in the even columns."""
    for n in range(out.size):
        out[n] = HALF + HALF * tanh(HALF * (even[n] + (both[n] + twice[n]) + bias))


@inlined
def sigmoid_odd(odd: Floats, both: Floats, twice: Floats, bias: Any, out: Floats) -> None:
    """Compute a gate in the odd columns."""
    for n in range(out.size):
        out[n] = HALF + HALF * tanh(HALF * (odd[n] + (both[n] - twice[n]) + bias))


@inlined
def states_to_planes(E: Floats, at: int, P: Floats, R: Floats, where: Ints, operand: int, outer: int, row: int) -> None:
    """Write the planes of a map of states.

    Args:
        E: has its cells with k zeros at both ends.
        at: where the cells begin.
        P: written, the planes of the first products.
        R: written, those of the others.
        where: as in `step`.
        operand: the number of P in it; R is the next.
        outer: the layer.
        row: the map.
    """
    m, k, shares = where[2], where[3], where[5]
    odd, even = E[at : at + m], E[at + m : at + 2 * m]
    to = place(where, operand, outer, 0, row)
    subtract(E[at - k : at - k + m], odd, P[to : to + m])
    to = place(where, operand, outer, 1, row)
    subtract(even, E[at + m + k : at + 2 * m + k], P[to : to + m])
    if shares:
        to = place(where, operand, outer, 2, row)
        sum_of(even, odd, P[to : to + m])
    else:
        to = place(where, operand + 1, outer, 0, row)
        sum_of(even, odd, R[to : to + m])
    to = place(where, operand + 1, outer, 1 - shares, row)
    subtract(odd, even, R[to : to + m])


@inlined
def to_state(o: Floats, memory: Floats, state: Floats) -> None:
    """Compute o tanh(c) of 2c."""
    for n in range(state.size):
        state[n] = o[n] * tanh(HALF * memory[n])


@compiled
def step(
    Q: Floats, R: Floats, bias: Floats, S: Floats, C: Floats, E: Floats, P: Floats, P1: Floats, where: Ints
) -> None:
    """Compute a step from the products; `model.networks.row_kernel.step` has what it computes.

    Args:
        Q: the buffer of the first products.
        R: of the others.
        bias: of the gates.
        S: of the gates.
        C: of the memories, before and after.
        E: of the states.
        P: of their planes for the first products.
        P1: of those for the others.
        where: layers, h, cells of a column, images, columns of the last tile, 1 if the input's taps share products, and
            the operands' places: Q, R, bias, gates, before, memory, state, P, P1.
    """
    h, m, k, shares = where[1], where[2], where[3], where[5]
    for outer in range(where[0]):
        for row in range(h):
            for gate in range(4):
                at, to = place(where, 0, outer, 0, gate * h + row), place(where, 3, outer, 0, gate * h + row)
                even = Q[at : at + m]
                at = place(where, 0, outer, 1, gate * h + row)
                odd = Q[at : at + m]
                if shares:
                    at = place(where, 0, outer, 2, gate * h + row)
                    both = Q[at : at + m]
                else:
                    at = place(where, 1, outer, 0, gate * h + row)
                    both = R[at : at + m]
                at = place(where, 1, outer, 1 - shares, gate * h + row)
                twice = R[at : at + m]
                b = bias[place(where, 2, outer, 0, gate * h + row)]
                sigmoid_odd(odd, both, twice, b, S[to : to + m])
                sigmoid_even(even, both, twice, b, S[to + m : to + 2 * m])
            at = place(where, 3, outer, 0, row)
            o = S[at : at + 2 * m]
            at = place(where, 3, outer, 0, h + row)
            f = S[at : at + 2 * m]
            at = place(where, 3, outer, 0, 2 * h + row)
            i = S[at : at + 2 * m]
            at = place(where, 3, outer, 0, 3 * h + row)
            g = S[at : at + 2 * m]
            at, to = place(where, 4, outer, 0, row), place(where, 5, outer, 0, row)
            memory = C[to : to + 2 * m]
            to_memory(f, C[at : at + 2 * m], i, g, memory)
            at = place(where, 6, outer, 0, row)
            to_state(o, memory, E[at : at + 2 * m])
            clear_missing(E, at, m, k, where[4])
            states_to_planes(E, at, P, P1, where, 7, outer, row)


@compiled
def states(E: Floats, P: Floats, P1: Floats, where: Ints) -> None:
    """Write the planes of states; `model.networks.row_kernel.states_to_planes` has what it computes.

    Args:
        E: the buffer of the states.
        P: of their planes for the first products.
        P1: of those for the others.
        where: as in `step`; the operands are these in their order.
    """
    for outer in range(where[0]):
        for row in range(where[1]):
            states_to_planes(E, place(where, 0, outer, 0, row), P, P1, where, 1, outer, row)


@inlined
def add_bias(x: Floats, bias: Any, out: Floats) -> None:
    """Compute out = x + bias."""
    for n in range(out.size):
        out[n] = x[n] + bias


@inlined
def add_to_row(x: Floats, y: Floats, bias: Any, out: Floats) -> None:
    """Compute out = x + y + bias."""
    for n in range(out.size):
        out[n] = x[n] + y[n] + bias


@inlined
def input_to_planes(X: Floats, at: int, P: Floats, where: Ints, operand: int, outer: int, row: int) -> None:
    """Write a map of the input where the products take it.

    Args:
        X: has its cells with k zeros at both ends.
        at: where the cells begin.
        P: written.
        where: as in `onward`.
        operand: the number of P in it.
        outer: the layer.
        row: the map.
    """
    maps, m, k, shares = where[1], where[2], where[3], where[5]
    before, odd, even = X[at - k : at - k + m], X[at : at + m], X[at + m : at + 2 * m]
    to = place(where, operand, outer, 0, row)
    if shares:
        subtract(before, even, P[to : to + m])
        to = place(where, operand, outer, 1, row)
        subtract(odd, even, P[to : to + m])
        to = place(where, operand, outer, 2, row)
        to_copy(even, P[to : to + m])
    else:
        to_copy(before, P[to : to + m])
        to = place(where, operand, outer, 0, maps + row)
        to_copy(even, P[to : to + m])
        to = place(where, operand, outer, 1, row)
        to_copy(even, P[to : to + m])
        to = place(where, operand, outer, 1, maps + row)
        to_copy(odd, P[to : to + m])


@compiled
def inputs(X: Floats, P: Floats, where: Ints) -> None:
    """Write inputs where products take them; `model.networks.row_kernel.input_to_planes` has what it computes.

    Args:
        X: the buffer of the inputs.
        P: of what the products take.
        where: as in `onward`; the operands are these.
    """
    for outer in range(where[0]):
        for row in range(where[1]):
            input_to_planes(X, place(where, 0, outer, 0, row), P, where, 1, outer, row)


@compiled
def onward(Y: Floats, bias: Floats, X: Floats, P: Floats, where: Ints) -> None:
    """Compute the inputs of layers; `model.networks.row_kernel.onward` has what it computes.

    Args:
        Y: the buffer of the products.
        bias: of the biases.
        X: of the inputs, of the layers before and of these.
        P: of what the products take.
        where: layers, maps, cells of a column, images, columns of the last tile, 1 if the input's taps share products,
            and the operands' places: Y, bias, the inputs before, the new ones, P; then how many of the first layers add
            no input.
    """
    m, k, without = where[2], where[3], where[6 + 4 * 5]
    for outer in range(where[0]):
        for row in range(where[1]):
            at, to = place(where, 0, outer, 0, row), place(where, 3, outer, 0, row)
            b = bias[place(where, 1, outer, 0, row)]
            if outer < without:
                add_bias(Y[at : at + 2 * m], b, X[to : to + 2 * m])
            else:
                of = place(where, 2, outer, 0, row)
                add_to_row(X[of : of + 2 * m], Y[at : at + 2 * m], b, X[to : to + 2 * m])
            clear_missing(X, to, m, k, where[4])
            input_to_planes(X, to, P, where, 4, outer, row)


@inlined
def total(x: Floats) -> Any:
    """Return the sum of x."""
    found = ZERO
    for n in range(x.size):
        found += x[n]
    return found


@inlined
def add_scaled(x: Floats, p: Any, out: Floats) -> None:
    """Compute out += p x."""
    for n in range(out.size):
        out[n] += p * x[n]


@inlined
def add3(x: Floats, y: Floats, z: Floats, q: Any, r: Any, out: Floats) -> None:
    """Compute out += x + q y + r z."""
    for n in range(out.size):
        out[n] += x[n] + q * y[n] + r * z[n]


@inlined
def states_from_planes(P: Floats, R: Floats, where: Ints, outer: int, row: int, d: Floats) -> None:
    """Add the gradients of the planes of a map of states to those of its cells, d; arguments as in `step_back`."""
    m, k, shares = where[2], where[3], where[5]
    at = place(where, 0, outer, 0, row)
    d0 = P[at : at + m]
    at = place(where, 0, outer, 1, row)
    d3 = P[at : at + m]
    if shares:
        at = place(where, 0, outer, 2, row)
        d1 = P[at : at + m]
    else:
        at = place(where, 1, outer, 0, row)
        d1 = R[at : at + m]
    at = place(where, 1, outer, 1 - shares, row)
    d2 = R[at : at + m]
    odd, even = d[:m], d[m : 2 * m]
    add3(d1, d2, d0, ONE, -ONE, odd)
    add(odd[: m - k], d0[k:])
    add3(d1, d2, d3, -ONE, ONE, even)
    add_scaled(d3[: m - k], -ONE, even[k:])


@inlined
def to_products(d: Floats, D: Floats, R: Floats, where: Ints, outer: int, row: int) -> None:
    """Write the gradients of a row of all products from those of a gate, d; arguments as in `step_back`."""
    m, shares = where[2], where[5]
    odd, even = d[:m], d[m:]
    to = place(where, 7, outer, 0, row)
    to_copy(even, D[to : to + m])
    to = place(where, 7, outer, 1, row)
    to_copy(odd, D[to : to + m])
    if shares:
        to = place(where, 7, outer, 2, row)
        sum_of(even, odd, D[to : to + m])
    else:
        to = place(where, 8, outer, 0, row)
        sum_of(even, odd, R[to : to + m])
    to = place(where, 8, outer, 1 - shares, row)
    subtract(even, odd, R[to : to + m])


@compiled
def step_back(
    P: Floats, P1: Floats, dH: Floats, S: Floats, C: Floats, dC: Floats, D: Floats, D1: Floats,
    d_bias: Floats, where: Ints,
) -> None:  # fmt: skip
    """Compute the gradients of a step; `model.networks.row_kernel.step_back` has what it computes.

    Args:
        P: the buffer of the gradients of the states' planes for the first products, of the row below.
        P1: of those for the others.
        dH: of the states' gradients.
        S: of the gates.
        C: of the memories, after and before.
        dC: of the memories' gradients.
        D: of the gradients of the first products.
        D1: of those of the others.
        d_bias: of the biases' gradients.
        where: as in `step`; the operands are these in their order, and the first layer that has a row below follows.
    """
    h, m, k, below = where[1], where[2], where[3], where[6 + 4 * 10]
    squashed = np.empty(2 * m, np.float32)
    d = np.empty(2 * m, np.float32)
    for outer in range(where[0]):
        for row in range(h):
            at = place(where, 2, outer, 0, row)
            d_state = dH[at : at + 2 * m]
            if outer >= below:
                states_from_planes(P, P1, where, outer, row, d_state)
            clear_missing(dH, at, m, k, where[4])
            at = place(where, 3, outer, 0, row)
            o = S[at : at + 2 * m]
            at = place(where, 3, outer, 0, h + row)
            f = S[at : at + 2 * m]
            at = place(where, 3, outer, 0, 2 * h + row)
            i = S[at : at + 2 * m]
            at = place(where, 3, outer, 0, 3 * h + row)
            g = S[at : at + 2 * m]
            at = place(where, 4, outer, 0, row)
            to_squashed(C[at : at + 2 * m], squashed)
            at = place(where, 5, outer, 0, row)
            before = C[at : at + 2 * m]
            at = place(where, 6, outer, 0, row)
            d_memory = dC[at : at + 2 * m]
            through_squashing(d_state, squashed, o, d_memory)
            for gate in range(4):
                if gate == 0:
                    to_output_gate(d_state, squashed, o, d)
                elif gate == 1:
                    to_forget_gate(d_memory, before, f, d)
                elif gate == 2:
                    to_input_gate(d_memory, g, i, d)
                else:
                    to_new_memory(d_memory, g, i, d)
                d_bias[place(where, 9, outer, 0, gate * h + row)] += total(d)
                to_products(d, D, D1, where, outer, gate * h + row)
            scale(d_memory, f)


@compiled
def back_to_input(P: Floats, dX: Floats, d_bias: Floats, where: Ints) -> None:
    """Pass gradients back to the inputs of layers; `model.networks.row_kernel.back_to_input` has what it computes.

    Args:
        P: the buffer of the gradients of what the products take.
        dX: of the gradients of inputs and outputs.
        d_bias: of the biases' gradients.
        where: as in `onward`; the operands are P, the outputs, the inputs, the biases of inputs and outputs, and two
            numbers follow: 1 if each layer adds its input, and 1 if the first input is that of the first layer.
    """
    maps, m, k, shares = where[1], where[2], where[3], where[5]
    residual, is_first = where[6 + 4 * 4], where[7 + 4 * 4]
    for outer in range(where[0]):
        for row in range(maps):
            at, to = place(where, 1, outer, 0, row), place(where, 2, outer, 0, row)
            dy, d = dX[at : at + 2 * m], dX[to : to + 2 * m]
            d_bias[place(where, 3, outer + 1, 0, row)] += total(dy)
            d_odd, d_even = d[:m], d[m:]
            first, second = place(where, 0, outer, 0, row), place(where, 0, outer, 1, row)
            if shares:
                third = place(where, 0, outer, 2, row)
                to_copy(P[second : second + m], d_odd)
                subtract(P[third : third + m], P[second : second + m], d_even)
                add_scaled(P[first : first + m], -ONE, d_even)
            else:
                even, odd = place(where, 0, outer, 0, maps + row), place(where, 0, outer, 1, maps + row)
                to_copy(P[odd : odd + m], d_odd)
                sum_of(P[even : even + m], P[second : second + m], d_even)
            add(d_odd[: m - k], P[first + k : first + m])
            if residual:
                add(d, dy)
            clear_missing(dX, to, m, k, where[4])
            if is_first and outer == 0:
                d_bias[place(where, 3, 0, 0, row)] += total(d)
