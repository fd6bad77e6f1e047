"""The inner loops of the native sampler, compiled by numba; only `model.sampling.native` imports this.

A row is drawn image by image and pixel by pixel, in loops over arrays that torch and numpy share. At these sizes a
torch product takes 2 us of call overhead and 0.1 us of arithmetic. Weights have the outputs first, as in torch, so
that each output is a dot product over contiguous memory.

Compilation takes about 10 s, once for each machine and float type. Numba caches the result next to this file, or in
its cache folder if this folder is not writable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.compiled import compiled

Floats = NDArray[Any]  # float32 or float64: the type of the network's weights
Ints = NDArray[np.int64]


@compiled
def add_product(out: Floats, x: Floats, weight: Floats) -> None:
    """Compute out += weight @ x: (o,), (o, i), (i,). It computes four outputs at a time, to read `x` less often."""
    outputs, inputs = out.size, x.size
    whole = outputs - outputs % 4
    zero = x[0] - x[0]
    for o in range(0, whole, 4):
        row_a, row_b, row_c, row_d = weight[o], weight[o + 1], weight[o + 2], weight[o + 3]
        a, b, c, d = zero, zero, zero, zero
        for i in range(inputs):
            value = x[i]
            a += value * row_a[i]
            b += value * row_b[i]
            c += value * row_c[i]
            d += value * row_d[i]
        out[o] += a
        out[o + 1] += b
        out[o + 2] += c
        out[o + 3] += d
    for o in range(whole, outputs):
        row_a = weight[o]
        a = zero
        for i in range(inputs):
            a += x[i] * row_a[i]
        out[o] += a


@compiled
def relu(out: Floats, x: Floats) -> None:
    """Compute out = max(x, 0)."""
    for i in range(out.size):
        value = x[i]
        if value < 0:
            value = value - value
        out[i] = value


@compiled
def choose(logits: Floats, noise: float, temperature: float, sums: NDArray[np.float64]) -> int:
    """Draw a level by inverse transform sampling, as `model.sampling.noise.choose` does.

    Args:
        logits: (K,).
        noise: uniform number in [0, 1).
        temperature: divides the logits.
        sums: scratch, (K,).
    """
    K = logits.size
    highest = logits.max()
    total = 0.0
    for k in range(K):
        total += np.exp((np.float64(logits[k]) - np.float64(highest)) / temperature)
        sums[k] = total
    wanted = noise * total
    level = 0
    while level < K - 1 and sums[level] <= wanted:
        level += 1
    return level


@compiled
def first_layer_at(out: Floats, b: int, column: int, colour: int, colours: int, start: int, first: Any) -> None:
    """Apply the first layer for a colour, and write its maps to `out`.

    Args:
        out: maps of the colour, (maps,), written.
        start: index of the first of these maps.
        first: contribution of the rows above (B, W, 2h); this row's values (B, (W + 2 reach) C); weight
            (2h, (reach + 1) C).
    """
    above, now, beside = first
    seen = beside.shape[1] - colours + colour
    out[:] = above[b, column, start : start + out.size]
    add_product(out, now[b, column * colours : column * colours + seen], beside[start : start + out.size])


@compiled
def head_at(logits: Floats, colour: int, maps: Floats, into: Floats, middle: Floats, weights: Any, bounds: Any) -> None:
    """Apply the head for a colour: compute its logits (K,) from its maps after the last layer and the states in `into`.

    Args:
        weights: weight (head, 2h + L h) and bias (head,), weight (C K, head) and bias (C K,) of the last two layers.
        bounds: the first map of each colour, among 2h, h and head maps, (C + 1,) each.
    """
    head, head_bias, last, last_bias = weights
    wide, _, heads = bounds
    start, stop, first, end, K = wide[colour], wide[colour + 1], heads[colour], heads[colour + 1], logits.size
    relu(into[start:stop], maps)
    own = middle[first:end]
    own[:] = head_bias[first:end]
    add_product(own, into, head[first:end])
    relu(own, own)
    logits[:] = last_bias[colour * K : colour * K + K]
    add_product(logits, middle[:end], last[colour * K : colour * K + K])


@compiled
def exponentiate(x: Floats, bits: NDArray[np.int32], powers: NDArray[np.float32]) -> None:
    """Compute x = exp(x) in place.

    The library's exp takes 4 ns and computes one number at a time. For float32 this function takes 0.7 ns. It uses
    exp(x) = 2^n exp(r) with |r| <= ln(2)/2: a polynomial gives exp(r) (Cephes' expf, relative error 1e-7), and the bit
    pattern of a float gives 2^n.

    Args:
        x: the exponents, overwritten; for float32 they are clamped to [-87, 87].
        bits: scratch, at least as long as x.
        powers: the memory of `bits`, as floats.
    """
    if x.itemsize != 4:
        for k in range(x.size):
            x[k] = np.exp(x[k])
        return
    real = np.float32
    for k in range(x.size):
        value = min(max(x[k], real(-87)), real(87))
        n = np.floor(value * real(1.44269504) + real(0.5))
        r = value - n * real(0.693359375) + n * real(2.12194440e-4)
        p = real(1.9875691500e-4)
        p = p * r + real(1.3981999507e-3)
        p = p * r + real(8.3334519073e-3)
        p = p * r + real(4.1665795894e-2)
        p = p * r + real(1.6666665459e-1)
        p = p * r + real(5.0000001201e-1)
        x[k] = p * r * r + r + real(1)
        bits[k] = (np.int32(n) + np.int32(127)) << np.int32(23)
    for k in range(x.size):
        x[k] *= powers[k]


@compiled
def lstm_step(gates: Floats, c: Floats, c_before: Floats, h: Floats, scratch: Any) -> None:
    """Apply one LSTM step (equation 3): compute c and h from the gate pre-activations and the old memory.

    Args:
        gates: pre-activations of o, f, i, g, (4n,); overwritten.
        c: new memory, (n,), written.
        c_before: old memory, (n,).
        h: state, (n,), written.
        scratch: `bits` and `powers` of `exponentiate`.
    """
    n, one = h.size, gates.dtype.type(1)
    for k in range(3 * n):
        gates[k] = -gates[k]
    for k in range(3 * n, 4 * n):  # tanh(x) = 2 sigmoid(2x) - 1
        gates[k] = -(gates[k] + gates[k])
    exponentiate(gates, scratch[0], scratch[1])
    for k in range(n):
        g = (one + one) / (one + gates[3 * n + k]) - one
        c[k] = c_before[k] / (one + gates[n + k]) + g / (one + gates[2 * n + k])
        h[k] = -(c[k] + c[k])
    exponentiate(h, scratch[0], scratch[1])
    for k in range(n):
        h[k] = ((one + one) / (one + h[k]) - one) / (one + gates[k])


@compiled
def convolution_layers(b: int, column: int, colour: int, maps: Floats, into: Floats, layers: Any, bounds: Any) -> None:
    """Apply PixelCNN's blocks to the maps of a colour, in place.

    Args:
        into: 2h maps, then the h maps of each layer, which are written; (2h + L h,).
        layers: the residual flag; x (L, 2h) and u (L, B, (W + 2) h), above (L, B, W, h), beside (L, h, 2h), down
            (L, h, 2h) and its bias (L, h), up (L, 2h, h) and its bias (L, 2h).
        bounds: the first map of each colour, among 2h, h and head maps, (C + 1,) each.
    """
    residual, x, u, above, beside, down, down_bias, up, up_bias = layers
    wide, narrow, _ = bounds
    start, stop, small, end, h = wide[colour], wide[colour + 1], narrow[colour], narrow[colour + 1], above.shape[3]
    for layer in range(len(above)):
        relu(x[layer, start:stop], maps)
        own = u[layer, b, (column + 1) * h + small : (column + 1) * h + end]
        own[:] = down_bias[layer, small:end]
        add_product(own, x[layer, :stop], down[layer, small:end])
        relu(own, own)
        state = into[(2 + layer) * h : (3 + layer) * h]
        around = state[small:end]
        around[:] = above[layer, b, column, small:end]
        add_product(around, u[layer, b, column * h : (column + 1) * h + end], beside[layer, small:end])
        relu(around, around)
        _up(maps, state[:end], up[layer, start:stop], up_bias[layer, start:stop], residual)


@compiled
def _up(maps: Floats, state: Floats, weight: Floats, bias: Floats, residual: bool) -> None:
    for k in range(maps.size):
        maps[k] = maps[k] + bias[k] if residual else bias[k]
    add_product(maps, state, weight)


@compiled
def row_layers(b: int, column: int, colour: int, maps: Floats, into: Floats, layers: Any, bounds: Any) -> None:
    """Apply the Row LSTM layers to the maps of a colour, in place.

    Args:
        into: 2h maps, then the h maps of each layer, which are written; (2h + L h,).
        layers: the residual flag; gates (4h,) and scratch for them, x (L, B, (W + 1) 2h), states (L, B, (W + 2) h),
            memory (L, B, W, h), above (L, B, W, 4h), beside (L, 4h, 4h), up (L, 2h, h) and its bias (L, 2h).
        bounds: the first map of each colour, among 2h, h and head maps, (C + 1,) each.
    """
    residual, gates, scratch, x, states, memory, above, beside, up, up_bias = layers
    wide, narrow, _ = bounds
    start, stop, small, end, h = wide[colour], wide[colour + 1], narrow[colour], narrow[colour + 1], memory.shape[3]
    now = gates[: 4 * (end - small)]
    for layer in range(len(above)):
        seen = x[layer, b, column * 2 * h : (column + 1) * 2 * h + stop]
        seen[2 * h + start :] = maps
        now[:] = above[layer, b, column, 4 * small : 4 * end]
        add_product(now, seen, beside[layer, 4 * small : 4 * end])
        own = states[layer, b, (column + 1) * h + small : (column + 1) * h + end]
        c = memory[layer, b, column, small:end]
        lstm_step(now, c, c, own, scratch)
        state = into[(2 + layer) * h : (3 + layer) * h]
        state[small:end] = own
        _up(maps, state[:end], up[layer, start:stop], up_bias[layer, start:stop], residual)


@compiled
def diagonal_layers(b: int, column: int, colour: int, maps: Floats, into: Floats, layers: Any, bounds: Any) -> None:
    """Apply the Diagonal BiLSTM layers to the maps of a colour, in place.

    Args:
        into: 2h maps, then the h maps of each layer, which are written; (2h + L h,).
        layers: the residual flag; gates (4h,) and scratch for them, row (L, B, h + W 3h), memory (L, B, W + 1, h),
            above (L, B, W, 4h), right (L, B, W, h), beside (L, 4h, 3h), up (L, 2h, h) and its bias (L, 2h).
        bounds: the first map of each colour, among 2h, h and head maps, (C + 1,) each.
    """
    residual, gates, scratch, row, memory, above, right, beside, up, up_bias = layers
    wide, narrow, _ = bounds
    start, stop, small, end, h = wide[colour], wide[colour + 1], narrow[colour], narrow[colour + 1], memory.shape[3]
    now = gates[: 4 * (end - small)]
    for layer in range(len(above)):
        seen = row[layer, b, column * 3 * h : column * 3 * h + h + stop]
        seen[h + start :] = maps
        now[:] = above[layer, b, column, 4 * small : 4 * end]
        add_product(now, seen, beside[layer, 4 * small : 4 * end])
        own = row[layer, b, (column + 1) * 3 * h + small : (column + 1) * 3 * h + end]
        before, c = memory[layer, b, column, small:end], memory[layer, b, column + 1, small:end]
        lstm_step(now, c, before, own, scratch)
        state = into[(2 + layer) * h : (3 + layer) * h]
        for k in range(end - small):
            state[small + k] = own[k] + right[layer, b, column, small + k]
        _up(maps, state[:end], up[layer, start:stop], up_bias[layer, start:stop], residual)


@compiled
def scan_right(known: Floats, right: Floats, weights: Any, scratch: Any) -> None:
    """Run the right direction of all layers over the row just drawn.

    Args:
        known: gates without the contribution of the adjacent states, (L, B, W, 4h); overwritten.
        right: states, written, (L, B, W, h).
        weights: weight of the adjacent states (L, 4h, h), initial state (L, h) and initial memory (L, h).
        scratch: `bits` and `powers` of `exponentiate`.
    """
    beside, h0, c0 = weights
    L, B, W, h = right.shape
    c = np.zeros(h, known.dtype)
    for layer in range(L):
        for b in range(B):
            before = h0[layer]
            c[:] = c0[layer]
            for column in range(W - 1, -1, -1):
                gates = known[layer, b, column]
                add_product(gates, before, beside[layer])
                before = right[layer, b, column]
                lstm_step(gates, c, c, before, scratch)


def _row_drawer(through: Callable[..., None]) -> Callable[..., None]:
    """Return the function that draws a row of all images with layers of one type."""

    @compiled
    def draw_row(
        levels: Ints,
        hidden: NDArray[np.bool_],
        noise: NDArray[np.float64],
        temperature: float,
        logits: Floats,
        first: Any,
        layers: Any,
        head: Any,
        bounds: Any,
        scratch: Any,
    ) -> None:
        wide = bounds[0]
        now = first[1]
        B, W, C, K = logits.shape
        inner = first[0].shape[1]
        left = now.shape[1] - inner * C
        all_maps, into, middle, sums = scratch
        for b in range(B):
            for c in range(inner):
                for g in range(C):
                    maps = all_maps[wide[g] : wide[g + 1]]
                    first_layer_at(maps, b, c, g, C, wide[g], first)
                    through(b, c, g, maps, into, layers, bounds)
                    if c >= W:  # the appended zero column
                        continue
                    head_at(logits[b, c, g], g, maps, into, middle, head, bounds)
                    if hidden[c]:
                        levels[b, c, g] = choose(logits[b, c, g], noise[b, c, g], temperature, sums)
                    now[b, left // 2 + c * C + g] = 2 * now.dtype.type(levels[b, c, g]) / (K - 1) - 1

    return draw_row


draw_convolution_row = _row_drawer(convolution_layers)
draw_lstm_row = _row_drawer(row_layers)
draw_diagonal_row = _row_drawer(diagonal_layers)
