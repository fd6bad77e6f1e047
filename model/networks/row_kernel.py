"""What the tiled Row LSTM does between its products: the LSTM step, its gradient, and the planes of `row_tiles`.

In float32, `model.networks.row_native` does each in one pass over memory. In float64, where the network is compared
with the reference, torch's operations do it. In float32 they would take longer than the products save: without numba,
`pays` says no. What `model.networks.lstm_kernel` says of the memory and the factors holds here too.

The functions return what computes, whenever it is called, from what is in the tensors then. In their shapes, n are
layers, h maps of a state, m cells of a column (tiles * k images), and N = 2m cells of a row. "Around" is a row with k
zeros at both ends, N + 2k.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import groups
from model.networks import lstm_kernel
from model.networks.lstm_kernel import flat, native_module
from model.networks.row_tiles import BOTH, EVEN, ODD, TILE, Form

Run = Callable[[], None]


def pays(like: Tensor, *, hidden: int, channels: int) -> bool:
    """Tell whether tiles are faster for tensors like this, so many maps of a state, and colours."""
    compiled = like.dtype == torch.float64 or _native(like) is not None  # in float64 they are for the proofs
    return groups.row_pays_in_tiles(hidden=hidden, channels=channels) and like.device.type == "cpu" and compiled


class Row(NamedTuple):
    """Images of a row, columns of the last tile that the image has, and how the products are put together."""

    k: int
    real: int
    form: Form

    def both(self, first: Tensor, others: Tensor) -> Tensor:
        """Return the part of the product `both`, (n, maps, m), of (n, first, maps, m) and (n, others, maps, m)."""
        return first[:, BOTH] if self.form.shares else others[:, 0]

    def clear(self, cells: Tensor) -> None:
        """Set the columns that the image does not have to zero: (..., N)."""
        if self.real < TILE:
            columns = cells.view(*cells.shape[:-1], TILE, -1)
            columns[..., : TILE - self.real, -self.k :] = 0


def step(
    row: Row, sums: Tensor, others: Tensor, bias: Tensor, before: Tensor,
    *, gates: Tensor, memory: Tensor, around: Tensor, seen: Tensor, others_seen: Tensor,
) -> Run:  # fmt: skip
    """Compute gates, 2c, tanh(c), h, and the planes of h where the next row's products take them.

    Args:
        row: sizes.
        sums: the first products of the gates o, f, i, g, (n, first, 4h, m).
        others: the others, (n, others, 4h, m).
        bias: (n, 4h, 1).
        before: the old 2c, (n, h, N).
        gates: after the sigmoid, written, (n, 4h, N).
        memory: the new 2c, written; in the same buffer as the old one.
        around: h around, written, (n, h, N + 2k).
        seen: the planes of h for the first products, written, (n, first, h, m).
        others_seen: those for the others, written, (n, others, h, m).
    """
    state = around[..., row.k : -row.k]
    native = _native(sums)
    if native is not None:
        operands = [sums, others, bias, gates, before, memory, state, seen, others_seen]
        where = _where(row, state, operands)
        arrays = [flat(x) for x in (sums, others, bias, gates, memory, state, seen, others_seen)]
        flat(memory, before)
        return lambda: native.step(*arrays, where)
    m = sums.shape[3]
    lstm = lstm_kernel.step(gates, before, memory=memory, squashed=torch.empty_like(before), state=state)
    to_planes = states_to_planes(row, around, seen, others_seen)

    def run() -> None:
        both = row.both(sums, others) + bias
        torch.add(sums[:, ODD], both - others[:, -1], out=gates[..., :m])
        torch.add(sums[:, EVEN], both + others[:, -1], out=gates[..., m:])
        lstm()
        row.clear(state)
        to_planes()

    return run


def states_to_planes(row: Row, around: Tensor, seen: Tensor, others_seen: Tensor) -> Run:
    """Write the planes of states; `step` names the arguments."""
    native = _native(around)
    k, m = row.k, seen.shape[-1]
    if native is not None:
        where = _where(row, seen[:, 0], [around[..., k:-k], seen, others_seen], columns=1)
        E, P, P1 = flat(around), flat(seen), flat(others_seen)
        return lambda: native.states(E, P, P1, where)
    before, odd, even, after = (around[..., at : at + m] for at in (0, k, k + m, 2 * k + m))

    def run() -> None:
        torch.sub(before, odd, out=seen[:, EVEN])
        torch.sub(even, after, out=seen[:, ODD])
        torch.add(even, odd, out=row.both(seen, others_seen))
        torch.sub(odd, even, out=others_seen[:, -1])

    return run


def onward(row: Row, y: Tensor, bias: Tensor, x: Tensor | None, *, around: Tensor, seen: Tensor) -> Run:
    """Compute y + bias + x, the inputs of layers, and the same where the products take it.

    Args:
        row: sizes.
        y: (n, 2h, N).
        bias: (n, 2h, 1).
        x: of the last n' layers, (n', 2h, N); None if no layer adds its input.
        around: the inputs around, written, (n, 2h, N + 2k), in the same buffer as x.
        seen: where the first products take it, written, (n, first, inputs, m).
    """
    to = around[..., row.k : -row.k]
    native = _native(y)
    without = len(y) - (0 if x is None else len(x))
    if native is not None:
        before = to if x is None else x  # `to` is not read then
        where = _where(row, y, [y, bias, before, to, seen])
        where[6 + 4 * 2] -= without * where[6 + 4 * 2 + 1]
        where = np.append(where, without)
        Y, b, X, P = flat(y), flat(bias), flat(to, x), flat(seen)
        return lambda: native.onward(Y, b, X, P, where)
    to_planes = input_to_planes(row, around, seen)

    def run() -> None:
        torch.add(y, bias, out=to)
        if x is not None:
            to[without:].add_(x)
        row.clear(to)
        to_planes()

    return run


def input_to_planes(row: Row, around: Tensor, seen: Tensor) -> Run:
    """Write inputs where the products take them; `onward` names the arguments."""
    native = _native(around)
    k, m, maps = row.k, seen.shape[-1], around.shape[1]
    if native is not None:
        where = _where(row, around[..., : 2 * m], [around[..., k:-k], seen])
        X, P = flat(around), flat(seen)
        return lambda: native.inputs(X, P, where)
    before, odd, even = (around[..., at : at + m] for at in (0, k, k + m))

    def run() -> None:
        if row.form.shares:
            torch.sub(before, even, out=seen[:, EVEN])
            torch.sub(odd, even, out=seen[:, ODD])
            seen[:, BOTH].copy_(even)
            return
        for column, left, own in ((EVEN, before, even), (ODD, even, odd)):
            seen[:, column, :maps].copy_(left)
            seen[:, column, maps:].copy_(own)

    return run


def step_back(
    row: Row, d_state: Tensor, d_memory: Tensor, of_below: tuple[Tensor, Tensor] | None,
    *, gates: Tensor, memory: Tensor, before: Tensor, state: Tensor, d_sums: Tensor, d_others: Tensor, d_bias: Tensor,
) -> Run:  # fmt: skip
    """Compute the gradients of the products before the gates, of their bias, and of the old memory.

    Args:
        row: sizes.
        d_state: gradient of h without that of `of_below`, which is added to it, (n, h, N).
        d_memory: gradient of the new 2c from the next step; overwritten with the gradient of the old 2c.
        of_below: gradients of the planes of h, (n', first, h, m) and (n', others, h, m), for the last n' layers; None
            if no layer has another row.
        gates: of `step`.
        memory: the new 2c of `step`, in the same buffer as the old one.
        before: the old one.
        state: h of `step`, (n, h, N).
        d_sums: the gradients of the first products without their `gradient_factors`, written, (n, first, 4h, m).
        d_others: those of the others, written, (n, others, 4h, m).
        d_bias: the gradient of the bias is added to it, (n, 4h, 1); also without the factors.
    """
    native = _native(gates)
    n, m = len(gates), d_sums.shape[3]
    if native is not None:
        skipped = n - len(of_below[0]) if of_below is not None else n
        below = (d_sums, d_others) if of_below is None else of_below  # these are not read
        operands = [*below, d_state, gates, memory, before, d_memory, d_sums, d_others, d_bias]
        where = _where(row, d_state, operands)
        for operand in (0, 1):  # they begin with a later layer
            where[6 + 4 * operand] -= skipped * where[6 + 4 * operand + 1]
        where = np.append(where, skipped)
        arrays = [flat(x) for x in operands if x is not memory]
        return lambda: native.step_back(*arrays, where)
    d_gates, squashed = torch.empty_like(gates), torch.empty_like(before)
    lstm = lstm_kernel.step_back(
        d_state, d_memory, gates=gates, squashed=squashed, before=before, state=state, d_gates=d_gates
    )

    def run() -> None:
        if of_below is not None:
            _states_from_planes(row, *of_below, d_state[-len(of_below[0]) :])
        row.clear(d_state)
        torch.sub(torch.sigmoid(memory, out=squashed), 0.5, out=squashed).mul_(2)
        lstm()
        d_bias.add_(d_gates.sum(2, keepdim=True))
        odd, even = d_gates[..., :m], d_gates[..., m:]
        d_sums[:, EVEN], d_sums[:, ODD] = even, odd
        torch.add(even, odd, out=row.both(d_sums, d_others))
        torch.sub(even, odd, out=d_others[:, -1])

    return run


def _states_from_planes(row: Row, of_first: Tensor, others: Tensor, d: Tensor) -> None:
    """Add the gradients of the planes of states, of the first products and of the others, to those of their cells."""
    m, k, both, twice = of_first.shape[3], row.k, row.both(of_first, others), others[:, -1]
    odd, even = d[..., :m], d[..., m:]
    odd.add_(both).add_(twice).sub_(of_first[:, EVEN])
    odd[..., : m - k].add_(of_first[:, EVEN, :, k:])
    even.add_(both).sub_(twice).add_(of_first[:, ODD])
    even[..., k:].sub_(of_first[:, ODD, :, : m - k])


def back_to_input(
    row: Row, d_seen: Tensor, dy: Tensor, *, dx: Tensor, d_bias: Tensor, residual: bool, is_first: bool
) -> Run:
    """Compute the gradients of the inputs of layers, and add those of the biases of their outputs.

    Args:
        row: sizes.
        d_seen: gradients of the inputs where the first products take them, (n, first, inputs, m).
        dy: of the layers' outputs, (n, 2h, N).
        dx: of the inputs, written, (n, 2h, N), in the same buffer as dy.
        d_bias: added to, of the first input and of all outputs, (1 + n, 2h, 1).
        residual: whether each layer adds its input.
        is_first: whether the first input is the network's, so that its bias gets a gradient here.
    """
    native = _native(dy)
    if native is not None:
        where = np.append(_where(row, dy, [d_seen, dy, dx, d_bias]), [residual, is_first])
        P, dX, b = flat(d_seen), flat(dx, dy), flat(d_bias)
        return lambda: native.back_to_input(P, dX, b, where)
    maps, m, k = dy.shape[1], d_seen.shape[3], row.k

    def run() -> None:
        d_bias[1:].add_(dy.sum(2, keepdim=True))
        odd, even = dx[..., :m], dx[..., m:]
        if row.form.shares:
            odd.copy_(d_seen[:, ODD])
            torch.sub(d_seen[:, BOTH], d_seen[:, ODD], out=even).sub_(d_seen[:, EVEN])
        else:
            odd.copy_(d_seen[:, ODD, maps:])
            torch.add(d_seen[:, EVEN, maps:], d_seen[:, ODD, :maps], out=even)
        odd[..., : m - k].add_(d_seen[:, EVEN, :maps, k:])
        if residual:
            dx.add_(dy)
        row.clear(dx)
        if is_first:
            d_bias[0].add_(dx[0].sum(1, keepdim=True))

    return run


def _native(like: Tensor) -> ModuleType | None:
    """Return the module of compiled passes where it can be used."""
    return native_module("model.networks.row_native", like)


def _where(row: Row, like: Tensor, operands: list[Tensor], columns: int = TILE) -> NDArray[np.int64]:
    """Return sizes, offsets and strides as the compiled passes take them.

    The sizes are layers, maps, m, k, columns of the last tile, and whether the input's taps share products.

    Args:
        row: sizes.
        like: a tensor (layers, maps, cells).
        operands: of the pass.
        columns: how many columns the cells of `like` are.
    """
    numbers = [*like.shape[:2], like.shape[2] // columns, row.k, row.real, row.form.shares]
    for tensor in operands:
        *outer, cell = tensor.stride()
        if cell != 1 and tensor.shape[-1] > 1:
            raise ValueError(f"the cells have a stride of {cell}; the compiled steps need them next to each other")
        numbers += [tensor.storage_offset(), outer[0], outer[1] if len(outer) > 2 else 0, outer[-1]]
    return np.array(numbers, dtype=np.int64)
