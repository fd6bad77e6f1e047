"""A diagonal of a Diagonal BiLSTM layer, compiled by numba; `model.networks.diagonal_compiled` has what calls it.

Beside the LSTM step, a diagonal takes its inputs from a map and adds its states to one, in runs of B values: the images
of a cell are together in memory. Both directions take from one map before they go to the next one: a few percent of a
step, since the pages of a map are then still known to the processor.

Compilation takes about 6 s, once for each machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.compiled import compiled, inlined
from model.networks.lstm_native import (
    HALF,
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
    to_product,
    to_squashed,
)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@inlined
def fill(value: np.float32, out: Floats) -> None:
    """Set all values."""
    for n in range(out.size):
        out[n] = value


@inlined
def to_sigmoid_of(x: Floats, out: Floats) -> None:
    """Compute the sigmoid of x."""
    for n in range(out.size):
        out[n] = HALF + HALF * tanh(HALF * x[n])


@inlined
def first_cell(side: int, row: int, j: int, W: int) -> int:
    """Return where a direction's cell on diagonal j is in the map; the right direction begins at the right."""
    return row * W + j - row if side == 0 else row * W + W - 1 - j + row


@inlined
def to_next_cell(side: int, W: int) -> int:
    """Return how many cells further in the map the diagonal's cell in the next row is."""
    return W - 1 if side == 0 else W + 1


@inlined
def take(X: Floats, A: Floats, at: int, step: int, to: int, rows: int, B: int) -> None:
    """Copy the cells of a diagonal from a map."""
    for _ in range(rows):
        to_copy(X[at : at + B], A[to : to + B])
        at += step
        to += B


@inlined
def give(A: Floats, X: Floats, at: int, step: int, to: int, rows: int, B: int) -> None:
    """Add the cells of a diagonal to a map."""
    for _ in range(rows):
        add(X[at : at + B], A[to : to + B])
        at += step
        to += B


@compiled
def take_inputs(X: Floats, Z: Floats, A: Floats, j: int, first: int, last: int, where: Ints) -> None:
    """Copy the inputs of diagonal j, rows first to last - 1, from the maps of input and condition."""
    h, B, H, W, seen, c = where[0], where[1], where[2], where[3], where[4], where[5]
    left, right = first_cell(0, first, j, W) * B, first_cell(1, first, j, W) * B
    for k in range(2 * h):
        at, to = k * H * W * B, (k * H + first) * B
        take(X, A, at + left, to_next_cell(0, W) * B, to, last - first, B)
        take(X, A, at + right, to_next_cell(1, W) * B, to + seen * H * B, last - first, B)
    for k in range(c):
        at, to = k * H * W * B, ((2 * h + k) * H + first) * B
        take(Z, A, at + left, to_next_cell(0, W) * B, to, last - first, B)
        take(Z, A, at + right, to_next_cell(1, W) * B, to + seen * H * B, last - first, B)


@compiled
def pass_back(dA: Floats, dH: Floats, dX: Floats, dZ: Floats, j: int, first: int, last: int, where: Ints) -> None:
    """Add the gradients of what the gates of diagonal j see, rows first to last - 1, to where it comes from."""
    h, B, H, W, seen, c = where[0], where[1], where[2], where[3], where[4], where[5]
    n = (last - first) * B
    top, begun = max(first, 1), min(last, j)  # row 0 has none above; row j begins here, from the initial state
    go_left, go_right = first_cell(0, first, j, W) * B, first_cell(1, first, j, W) * B
    for k in range(2 * h):
        to, at = k * H * W * B, k * n
        give(dA, dX, to + go_left, to_next_cell(0, W) * B, at, last - first, B)
        give(dA, dX, to + go_right, to_next_cell(1, W) * B, at + (seen - 1) * n, last - first, B)
    for k in range(c):
        to, at = k * H * W * B, (2 * h + k) * n
        give(dA, dZ, to + go_left, to_next_cell(0, W) * B, at, last - first, B)
        give(dA, dZ, to + go_right, to_next_cell(1, W) * B, at + (seen - 1) * n, last - first, B)
    for side in range(2):
        at = (side * (seen - 1) + 2 * h + c) * n
        for k in range(h):
            states = dH[(side * h + k) * H * B : (side * h + k + 1) * H * B]
            above, left = dA[at : at + n], dA[at + h * n : at + h * n + n]
            at += n
            if top < last:
                add(states[(top - 1) * B : (last - 1) * B], above[(top - first) * B :])
            if first < begun:
                add(states[first * B : begun * B], left[: (begun - first) * B])
            if begun < last:
                to_copy(left[(begun - first) * B :], states[begun * B : last * B])


@compiled
def forward(
    A: Floats, G: Floats, C: Floats, S: Floats, X: Floats, Y: Floats, Z: Floats, h0: Floats, c0: Floats, where: Ints
) -> None:  # fmt: skip
    """Compute a diagonal's step from its gates before their sigmoid, and get what the next diagonal's gates see.

    Args:
        A: the buffer of what the gates see.
        C: of the memories.
        G: the gates before their sigmoid.
        S: of the gates, written.
        X: the map of the inputs.
        Y: the map of the states, added to.
        Z: the map of the condition.
        h0: the initial states, 2 * h.
        c0: the initial memories.
        where: the numbers of `model.networks.diagonal_compiled.places`.
    """
    h, B, H, W, seen = where[0], where[1], where[2], where[3], where[4]
    j, first, last, s = where[6], where[9], where[10], where[13]
    before_at, before_held, memory_at, held = where[15], where[16], where[17], where[18]
    n, begins = (last - first) * B, where[12] > last
    for side in range(2):
        for k in range(h):
            at, row = side * h + k, s + (side * h + k) * 4 * n
            o, f = S[row : row + n], S[row + n : row + 2 * n]
            i, g = S[row + 2 * n : row + 3 * n], S[row + 3 * n : row + 4 * n]
            raw = G[row - s : row - s + 4 * n]
            to_sigmoid_of(raw[:n], o)
            to_sigmoid_of(raw[n : 2 * n], f)
            to_sigmoid_of(raw[2 * n : 3 * n], i)
            to_sigmoid_of(raw[3 * n :], g)
            before = C[before_at + (at + 1) * before_held - n : before_at + (at + 1) * before_held]
            block = C[memory_at + at * held : memory_at + (at + 1) * held]
            to_memory(f, before, i, g, block[:n])
            row = (side * seen + seen - 1 - h + k) * H * B
            left, above = A[row : row + H * B], A[row - h * H * B : row - h * H * B + H * B]
            state = left[first * B : last * B]
            to_squashed(block[:n], state)
            scale(state, o)
            to_copy(state[: held - B], above[(first + 1) * B : first * B + held])
            if begins:
                fill(c0[at], block[n:])
                fill(h0[at], left[last * B : last * B + B])
    for k in range(h):
        for side in range(2):
            row = ((side * seen + seen - 1 - h + k) * H + first) * B
            at = (k * H * W + first_cell(side, first, j, W) + side * W) * B
            give(A, Y, at, to_next_cell(side, W) * B, row, min(last, H - side) - first, B)
    take_inputs(X, Z, A, j + 1, where[11], where[12], where)


@compiled
def see_again(A: Floats, C: Floats, S: Floats, V: Floats, X: Floats, Z: Floats, h0: Floats, where: Ints) -> None:
    """Put into A what the gates of a diagonal saw, and into V tanh(c) of the one before it."""
    h, B, H, seen = where[0], where[1], where[2], where[4]
    j, before, ended, first, last, s, block, held = (
        where[6], where[7], where[8], where[9], where[10], where[14], where[15], where[16]
    )  # fmt: skip
    n, above_last = (ended - before) * B, min(ended, last - 1)
    for side in range(2):
        for k in range(h):
            at = side * h + k
            row = (side * seen + seen - 1 - h + k) * H * B
            left, above = A[row : row + H * B], A[row - h * H * B : row - h * H * B + H * B]
            squashed = V[at * H * B + before * B : at * H * B + ended * B]
            to_squashed(C[block + at * held : block + at * held + n], squashed)
            o = S[s + at * 4 * n : s + at * 4 * n + n]
            to_product(o[(first - before) * B :], squashed[(first - before) * B :], left[first * B : ended * B])
            if last > ended:
                fill(h0[at], left[j * B : j * B + B])
            length = (above_last - before) * B
            to_product(o[:length], squashed[:length], above[(before + 1) * B : (above_last + 1) * B])
    take_inputs(X, Z, A, j, first, last, where)


@compiled
def backward(
    A: Floats, C: Floats, S: Floats, V: Floats, X: Floats, Z: Floats, h0: Floats,
    D: Floats, dA: Floats, dH: Floats, dC: Floats, dX: Floats, dY: Floats, dZ: Floats, where: Ints,
) -> None:  # fmt: skip
    """Pass on the gradients of what the next diagonal's gates see, and compute those of this diagonal's gates.

    Args:
        A: the buffer of what the gates see; what this diagonal's gates saw is put there.
        C: of the memories.
        S: of the gates.
        V: of tanh(c), by row of the map; written for the diagonal before this one.
        X: the map of the inputs.
        Z: the map of the condition.
        h0: the initial states, 2 * h.
        D: of the gradients of the gates, written.
        dA: of the gradients of what the next diagonal's gates see.
        dH: of the gradients of the states, by row of the map, written; at the end of the initial ones.
        dC: of the gradients of the memories, by row of the map, overwritten; at the end of the initial ones.
        dX: the map of the gradients of the inputs, added to.
        dY: the map of the gradients of the states.
        dZ: the map of the gradients of the condition, added to.
        where: the numbers of `model.networks.diagonal_compiled.places`.
    """
    h, B, H, W = where[0], where[1], where[2], where[3]
    j, first, last, s = where[6], where[9], where[10], where[13]
    before_at, before_held, memory_at, held = where[15], where[16], where[17], where[18]
    n = (last - first) * B
    for k in range(h):
        for side in range(2):
            states = dH[(side * h + k) * H * B : (side * h + k + 1) * H * B]
            at = (k * H * W + first_cell(side, first, j, W) + side * W) * B
            take(dY, states, at, to_next_cell(side, W) * B, first * B, min(last, H - side) - first, B)
            if last > H - side:  # shifted out of the map
                fill(np.float32(0), states[(H - 1) * B :])
    pass_back(dA, dH, dX, dZ, j + 1, where[11], where[12], where)
    if n == 0:
        return
    for side in range(2):
        for k in range(h):
            at, row = side * h + k, s + (side * h + k) * 4 * n
            o, f = S[row : row + n], S[row + n : row + 2 * n]
            i, g = S[row + 2 * n : row + 3 * n], S[row + 3 * n : row + 4 * n]
            before = C[before_at + (at + 1) * before_held - n : before_at + (at + 1) * before_held]
            squashed = V[at * H * B + first * B : at * H * B + last * B]
            if where[11] == where[12]:  # the last diagonal
                to_squashed(C[memory_at + at * held : memory_at + at * held + n], squashed)
            d_state = dH[at * H * B + first * B : at * H * B + last * B]
            d_memory = dC[at * H * B + first * B : at * H * B + last * B]
            row -= s
            to_output_gate(d_state, squashed, o, D[row : row + n])
            through_squashing(d_state, squashed, o, d_memory)
            to_forget_gate(d_memory, before, f, D[row + n : row + 2 * n])
            to_input_gate(d_memory, g, i, D[row + 2 * n : row + 3 * n])
            to_new_memory(d_memory, g, i, D[row + 3 * n : row + 4 * n])
            scale(d_memory, f)
    see_again(A, C, S, V, X, Z, h0, where)
