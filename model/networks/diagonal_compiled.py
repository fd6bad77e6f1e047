"""The layers of `model.networks.diagonal_bilstm_fast` with one compiled pass over each diagonal beside its products.

A pass over a diagonal waits for memory as long as it computes: a training step keeps more than the caches hold. So a
layer keeps only gates, memories and, once for both directions, its inputs. What the gates of a diagonal see is put
together in one matrix A, which stays in the cache, before the diagonal's product; the backward pass does it again::

    A  =  x           2h        gates  =  weights @ A
          condition    c        (absent if there is none)
          h above      h
          h left       h
          1            1        (its weight is the bias)

The gates' maps are in the order o, f, i, g of the first map of the state, then of the second, and so on: a pass then
reads them from beginning to end.
"""

from __future__ import annotations

import importlib
from functools import cache
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.networks.buffers import Workspace
from model.networks.diagonal_maps import DiagonalWeights, Gradients, Maps, Sizes
from model.networks.lstm_kernel import gradient_factors


class Layer:
    """What a layer keeps: gates S and memories C.

    Each diagonal has a block of its own in C. It has the rows of the diagonal before it, whose memories it gets, and
    the row that begins with it; the diagonal itself is at its end::

        W = 4, H = 3      block    0   1   2   3   4   5   6
                          rows     0   0   0   0   0   1   2
                                       1   1   1   1   2
                                           2   2   2

    Args:
        sizes: of the network.
        like: a tensor of the dtype.
    """

    def __init__(self, sizes: Sizes, like: Tensor) -> None:
        H, W, B, _, h, _ = sizes
        self.work = Workspace(("diagonal", *sizes), like)
        self.C = self.work.zeros("C", 2 * h * H * (W + 1) * B)
        self.S = self.work.zeros("S", 8 * h * H * W * B)

    def run(self, maps: Maps, number: int, w: DiagonalWeights) -> None:
        """Compute both directions, shift the right direction's map down by one row, and write the sum."""
        seen, weights = _seen(maps), by_map(w.gates[number])
        out = maps.states[number].zero_()
        arrays = (seen.array, seen.gates_array, *map(_flat, (self.C, self.S, maps.x[number], out)), _condition(maps))
        initial, forward = (_flat(w.h0[number]), _flat(w.c0[number])), _native().forward
        forward(*arrays, *initial, seen.places[0])
        for A, gates, place in zip(seen.diagonals, seen.gates, seen.places[1:], strict=True):
            torch.bmm(weights, A, out=gates)
            forward(*arrays, *initial, place)


class Back(Gradients):
    """The gradients of a pass.

    Args:
        sizes: of the network.
        like: a tensor of the dtype.
        of_head: maps of the head's first layer.
    """

    def __init__(self, sizes: Sizes, like: Tensor, *, of_head: int) -> None:
        super().__init__(sizes, like, of_head=of_head)
        (H, W, B, _, h, _), zeros = sizes, self.work.zeros
        longest, maps = min(H, W) * B, sizes.seen - 1
        self.D, self.dA = zeros("D", 8 * h * longest), zeros("dA", 2 * maps * longest)
        self.dH, self.dC = zeros("dH", 2, h, H, B), zeros("dC", 2, h, H, B)
        self.squashed = zeros("V", 2, h, H, B)
        self.views = self.work.once("views", lambda: self._views(sizes, maps))
        self.initial_states, self.initial_memories = self.dH, self.dC

    def _views(self, sizes: Sizes, maps: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return the gradients of each diagonal's gates, the same transposed, and of what they see."""
        counts = [(last - first) * sizes.B for first, last in map(sizes.rows, range(sizes.diagonals))]
        D = [self.D[: 8 * sizes.h * n].view(2, 4 * sizes.h, n) for n in counts]
        dA = [self.dA[: 2 * maps * n].view(2, maps, n) for n in counts]
        return [(one, one.transpose(1, 2), other) for one, other in zip(D, dA, strict=True)]

    def run(self, layer: Layer, maps: Maps, number: int, w: DiagonalWeights, d_weights: Tensor) -> None:
        """Go back over the diagonals of a layer, from the gradients of its states, and add those of its inputs.

        Args:
            layer: of the pass.
            maps: of the pass.
            number: of the layer.
            w: the weights.
            d_weights: the gradients of the gates' weights, written, (2, 4h, maps of A).
        """
        seen, h = _seen(maps), maps.sizes.h
        factors = gradient_factors(h, d_weights.dtype, d_weights.device)
        back = by_map(factors * w.gates[number, :, :, :-1]).transpose(1, 2).contiguous()
        # MKL multiplies faster with the long side of a result across.
        found = d_weights.new_zeros(2, maps.sizes.seen, 4 * h)
        none = np.empty(0, np.float32)
        arrays = (
            seen.array, *map(_flat, (layer.C, layer.S, self.squashed, maps.x[number])), _condition(maps),
            _flat(w.h0[number]), *map(_flat, (self.D, self.dA, self.dH, self.dC, self.x, self.states)),
            none if self.condition is None else _flat(self.condition),
        )  # fmt: skip
        backward = _native().backward
        maps.x[number].sum()  # read in one piece, they are in the cache when a diagonal takes its cells
        self.dC.zero_()
        for j in reversed(range(maps.sizes.diagonals)):
            D, transposed, dA = self.views[j]
            backward(*arrays, seen.places[j + 1])
            found.baddbmm_(seen.diagonals[j], transposed)
            torch.bmm(back, D, out=dA)
        backward(*arrays, seen.places[0])
        torch.mul(by_gate(found.transpose(1, 2)), factors, out=d_weights)


def by_map(gates: Tensor) -> Tensor:
    """Bring the gates' maps from the order o, f, i, g into that of the maps of the state: (n, 4h, K) -> (n, 4h, K)."""
    n, rows, K = gates.shape
    return gates.reshape(n, 4, rows // 4, K).transpose(1, 2).reshape(n, rows, K)


def by_gate(gates: Tensor) -> Tensor:
    """Undo `by_map`."""
    n, rows, K = gates.shape
    return gates.reshape(n, rows // 4, 4, K).transpose(1, 2).reshape(n, rows, K)


def _seen(maps: Maps) -> SimpleNamespace:
    """Return the matrix A, by row of the map, its part for each diagonal, and the `places` of the diagonals."""

    def make() -> SimpleNamespace:
        A[:, -1] = 1
        rows = map(sizes.rows, range(sizes.diagonals))
        parts = [A[:, :, first * sizes.B : last * sizes.B] for first, last in rows]
        gates = [G[: 8 * sizes.h * n].view(2, 4 * sizes.h, n) for n in (part.shape[2] for part in parts)]
        return SimpleNamespace(
            array=_flat(A), diagonals=parts, gates_array=_flat(G), gates=gates, places=list(places(sizes))
        )

    sizes = maps.sizes
    A = maps.work.zeros("A", 2, sizes.seen, sizes.H * sizes.B)
    G = maps.work.zeros("G", 8 * sizes.h * min(sizes.H, sizes.W) * sizes.B)
    found: SimpleNamespace = maps.work.once("seen", make)
    return found


def places(sizes: Sizes) -> NDArray[np.int64]:
    """Return what a compiled pass needs to know of each diagonal, and of the one before the first.

    A row has h, B, H, W, maps of A, maps of the condition; the number of the diagonal; the first row and the one after
    the last of the diagonal before it, of its own, and of the next one; where its gates begin in S, and those of the
    diagonal before it; where its block in C begins, the cells of that, and the same of the next block.
    """
    H, _, B, _, h, c = sizes
    every = range(-1, sizes.diagonals + 1)
    cells = {j: (sizes.rows(j)[1] - sizes.rows(j)[0]) * B for j in every}
    held = {j: (min(j, H - 1) + 1 - sizes.rows(j - 1)[0]) * B if j >= 0 else 0 for j in every}
    gates = dict(zip(every, accumulate((8 * h * n for n in cells.values()), initial=0), strict=False))
    block = dict(zip(every, accumulate((2 * h * n for n in held.values()), initial=0), strict=False))
    found = [
        [
            h, B, H, sizes.W, sizes.seen, c, j, *sizes.rows(j - 1), *sizes.rows(j), *sizes.rows(j + 1), gates[j],
            gates[max(j - 1, -1)], block[j], held[j], block[j + 1], held[j + 1],
        ]
        for j in every[:-1]
    ]  # fmt: skip
    return np.array(found, dtype=np.int64)


def _condition(maps: Maps) -> NDArray[np.float32]:
    return np.empty(0, np.float32) if maps.condition is None else _flat(maps.condition)


def _flat(tensor: Tensor) -> NDArray[np.float32]:
    """Return the values of a contiguous tensor as a flat array of the same memory."""
    values: NDArray[np.float32] = tensor.detach().view(-1).numpy()
    return values


@cache
def _native() -> Any:
    return importlib.import_module("model.networks.diagonal_native")
