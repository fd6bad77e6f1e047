"""The passes over memory between the matrix products of `model.networks.pixelcnn_tiled`, compiled by numba.

torch needs four to ten operations for each of them, and each reads and writes everything once. Here a map is still in
the first cache when its next value is computed. Loops over slices of rows become vector instructions.

The ReLU passes NaN on, as torch's does, so that a training that diverges is noticed. Compilation takes some seconds,
once for each machine and type of float.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.compiled import compiled, inlined

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
EVEN, ODD, BOTH, TWICE = 0, 1, 2, 3  # the products, by the columns that they are for


@inlined
def rectified(x: Floats, shift: Any, out: Floats) -> None:
    """Compute out = max(x + shift, 0)."""
    zero = out.dtype.type(0)  # a plain 0.0 would be of float64
    for i in range(out.size):
        y = x[i] + shift
        out[i] = zero if y <= zero else y


@inlined
def masked(x: Floats, by: Floats, out: Floats) -> Any:
    """Compute out = x where `by` is positive, else 0; return the sum."""
    zero = out.dtype.type(0)
    total = zero
    for i in range(out.size):
        y = zero if by[i] <= zero else x[i]
        out[i] = y
        total += y
    return total


@inlined
def masked_and_added(x: Floats, by: Floats, out: Floats) -> Any:
    """Compute out += x where `by` is positive; return the sum of out."""
    zero = out.dtype.type(0)
    total = zero
    for i in range(out.size):
        y = out[i] + (zero if by[i] <= zero else x[i])
        out[i] = y
        total += y
    return total


@inlined
def copied(x: Floats, out: Floats) -> None:
    """Compute out = x."""
    for i in range(out.size):
        out[i] = x[i]


@inlined
def added(x: Floats, y: Floats, out: Floats) -> None:
    """Compute out = x + y."""
    for i in range(out.size):
        out[i] = x[i] + y[i]


@inlined
def subtracted(x: Floats, y: Floats, out: Floats) -> None:
    """Compute out = x - y."""
    for i in range(out.size):
        out[i] = x[i] - y[i]


@inlined
def added_and_subtracted(x: Floats, y: Floats, of_sum: Floats, of_difference: Floats) -> None:
    """Compute x + y and x - y."""
    for i in range(of_sum.size):
        of_sum[i] = x[i] + y[i]
        of_difference[i] = x[i] - y[i]


@inlined
def differences(e: Floats, o: Floats, k: int, row: int, d0: Floats, d1: Floats, d2: Floats, d3: Floats) -> None:
    """Compute the planes of a 3-tap convolution from even and odd columns; outside of a row is 0.

    d0 = o of the tile before - o, d1 = e + o, d2 = o - e, d3 = e - e of the next tile.
    """
    subtracted(o[:-k], o[k:], d0[k:])
    added_and_subtracted(o, e, d1, d2)
    subtracted(e[:-k], e[k:], d3[:-k])
    for start in range(0, e.size, row):
        for i in range(start, start + k):
            d0[i] = -o[i]
        for i in range(start + row - k, start + row):
            d3[i] = e[i]


@compiled
def neighbours(columns: Floats, seen: Floats) -> None:
    """Write what the 7x7 kernel with mask A sees, as `model.networks.matrices.neighbours_of_tiles` does.

    Args:
        columns: the even and the odd columns of the padded images, (2, G, C, H + 3, tiles + 3, k).
        seen: written, (G, taps, C, 2, H, tiles * k).
    """
    _, groups, colours, _, _, k = columns.shape
    height, row = seen.shape[4], seen.shape[5]
    for group in range(groups):
        for tap in range(seen.shape[1]):
            r, c = tap // 7, tap % 7
            for colour in range(colours):
                for parity in range(2):
                    first, of = (c + parity) // 2, (c + parity) % 2
                    for y in range(height):
                        source = columns[of, group, colour, r + y].reshape(-1)
                        copied(source[first * k : first * k + row], seen[group, tap, colour, parity, y])


@compiled
def rectify(X: Floats, shift: Floats, R: Floats) -> None:
    """Compute R = max(X + shift, 0): (maps, n), (maps,), (maps, n)."""
    for m in range(len(X)):
        rectified(X[m], shift[m], R[m])


@compiled
def planes(X: Floats, shift: Floats, Y: Floats, Z: Floats, at: Ints, shares: bool, k: int, row: int, ends: int) -> None:
    """Apply bias and ReLU to the input of a 3x3 convolution and write what its products need.

    Args:
        X: the input (h, n).
        shift: (h,).
        Y: max(X + shift, 0), written, (h, n).
        Z: the planes (7, h, n/2). Of those of the row above (d0 to d3) the first row is not written and stays 0.
        at: the places in Z of d0, the planes for the left tap, of even and of odd columns, d3, d1, d2.
        shares: whether these three are e0, e1, e2, which share products, or the columns themselves.
        k: images of a group.
        row: cells of a row of tiles.
        ends: cells at the end of each row of odd columns that are outside of the image.
    """
    half = Y.shape[1] // 2
    over = half - row  # the last row is above no other
    for m in range(len(Y)):
        rectified(X[m], shift[m], Y[m])
        e, o = Y[m, :half], Y[m, half:]
        if ends > 0:
            for end in range(row, half + 1, row):
                for i in range(end - ends, end):
                    o[i] = 0
        d0, d1, d2, d3 = Z[at[0], m, row:], Z[at[5], m, row:], Z[at[6], m, row:], Z[at[4], m, row:]
        differences(e[:over], o[:over], k, row, d0, d1, d2, d3)
        left = Z[at[1], m]
        copied(e, Z[at[2], m])
        if shares:
            subtracted(o[:-k], e[k:], left[k:])
            subtracted(o, e, Z[at[3], m])
            for start in range(0, half, row):
                for i in range(start, start + k):
                    left[i] = -e[i]
        else:
            copied(o[:-k], left[k:])
            copied(o, Z[at[3], m])
            for start in range(0, half, row):
                for i in range(start, start + k):
                    left[i] = 0


@inlined
def combined(even: Floats, odd: Floats, both: Floats, twice: Floats, shift: Any, out_e: Floats, out_o: Floats) -> None:
    """Compute the even and the odd columns from the four products, and their ReLU."""
    zero = out_e.dtype.type(0)
    for i in range(even.size):
        e, o = even[i] + (both[i] + twice[i]) + shift, odd[i] + (both[i] - twice[i]) + shift
        out_e[i] = zero if e <= zero else e
        out_o[i] = zero if o <= zero else o


@inlined
def combined_back(  # by_e, by_o: what the ReLU gave
    even: Floats, odd: Floats, both: Floats, twice: Floats, by_e: Floats, by_o: Floats, out_e: Floats, out_o: Floats
) -> Any:
    """Compute the gradients of the even and the odd columns before their ReLU; return their sum."""
    zero = out_e.dtype.type(0)
    total = zero
    for i in range(even.size):
        e = zero if by_e[i] <= zero else even[i] + (both[i] + twice[i])
        o = zero if by_o[i] <= zero else odd[i] + (both[i] - twice[i])
        out_e[i], out_o[i] = e, o
        total += e + o
    return total


@compiled
def combine(M: Floats, shift: Floats, more: bool, Y: Floats) -> None:
    """Compute the output of a 3x3 convolution from its products, with bias and ReLU.

    Args:
        M: the products, (4, h, n/2).
        shift: (h,).
        more: whether what Y has is added too.
        Y: written, (h, n).
    """
    half = M.shape[2]
    for m in range(len(Y)):
        if more:
            added(M[EVEN, m], Y[m, :half], M[EVEN, m])
            added(M[ODD, m], Y[m, half:], M[ODD, m])
        combined(M[EVEN, m], M[ODD, m], M[BOTH, m], M[TWICE, m], shift[m], Y[m, :half], Y[m, half:])


@compiled
def mask(d: Floats, Y: Floats, sums: Floats) -> None:
    """Pass a gradient through a ReLU.

    Args:
        d: gradient of the ReLU's output, (h, n); overwritten with that of its input.
        Y: the output.
        sums: the sum of `d` over all cells is added to it, (h,).
    """
    for m in range(len(d)):
        sums[m] += masked(d[m], Y[m], d[m])


@compiled
def planes_back(d: Floats, Y: Floats, Z: Floats, at: Ints, shares: bool, P: Floats, k: int, row: int) -> None:
    """Write what the products for the gradients of a 3x3 convolution need.

    Args:
        d: gradient of the output before its ReLU, (h, n).
        Y: the input, after `planes`.
        Z: the planes of `d` (7, h, n/2). Of those of the row below (d0 to d3) the last row is not written and stays 0.
        at: the places in Z of d0, the planes of even columns, of odd ones, of the next tile's even ones, d3, d1, d2.
        shares: whether these three are e - o, o, and e of the next tile - o, or the columns themselves.
        P: written: sum and difference of even and odd columns of the input, (2, h, n/2).
        k: images of a group.
        row: cells of a row of tiles.
    """
    half = d.shape[1] // 2
    under = half - row  # the first row is below no other
    for m in range(len(d)):
        e, o = d[m, :half], d[m, half:]
        d0, d1, d2, d3 = Z[at[0], m, :under], Z[at[5], m, :under], Z[at[6], m, :under], Z[at[4], m, :under]
        differences(e[row:], o[row:], k, row, d0, d1, d2, d3)
        right = Z[at[3], m]
        copied(o, Z[at[2], m])
        if shares:
            subtracted(e, o, Z[at[1], m])
            subtracted(e[k:], o[:-k], right[:-k])
            for end in range(row, half + 1, row):
                for i in range(end - k, end):
                    right[i] = -o[i]
        else:
            copied(e, Z[at[1], m])
            copied(e[k:], right[:-k])
            for end in range(row, half + 1, row):
                for i in range(end - k, end):
                    right[i] = 0
        added_and_subtracted(Y[m, :half], Y[m, half:], P[0, m], P[1, m])


@compiled
def combine_back(M: Floats, Y: Floats, d: Floats, sums: Floats) -> None:
    """Compute the gradient of a 3x3 convolution's input before its ReLU.

    Args:
        M: the products, (4, h, n/2).
        Y: the input after its ReLU, (h, n).
        d: written, (h, n).
        sums: the sum of `d` over all cells is added to it, (h,).
    """
    half = M.shape[2]
    for m in range(len(Y)):
        even, odd, both, twice = M[EVEN, m], M[ODD, m], M[BOTH, m], M[TWICE, m]
        sums[m] += combined_back(even, odd, both, twice, Y[m, :half], Y[m, half:], d[m, :half], d[m, half:])


@compiled
def rectify_back(dR: Floats, R: Floats, more: bool, dX: Floats, sums: Floats) -> None:
    """Pass a gradient through a ReLU and add it to that of the residual sum.

    Args:
        dR: gradient of the ReLU's output, (maps, n).
        R: the output.
        more: whether the gradient is added to what dX has.
        dX: gradient of the input (maps, n).
        sums: the sum of `dX` over all cells is added to it, (maps,).
    """
    for m in range(len(dR)):
        if more:
            sums[m] += masked_and_added(dR[m], R[m], dX[m])
        else:
            sums[m] += masked(dR[m], R[m], dX[m])
