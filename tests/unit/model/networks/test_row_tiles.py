"""Minimal filtering in tiles of two columns: the algebra, and the compiled passes against those of torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from model.networks import row_kernel, row_tiles
from model.networks.row_kernel import Row
from model.networks.row_tiles import Form

torch.set_num_threads(1)
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
LAYERS, H, K = 3, 2, 2  # layers, maps of a state, images
WIDTHS = [1, 4, 6, 11]


FORMS = [Form(shares=True), Form(shares=False)]


def row_of(width: int, form: Form) -> Row:
    return Row(K, width - row_tiles.TILE * (row_tiles.tiles_of(width) - 1), form)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("width", WIDTHS)
def test_cells_are_put_back_in_order(width: int) -> None:
    maps = drawn(2, 3, 5, width, K, seed=0)  # G, H, maps, W, k
    cells = row_tiles.to_cells(maps)
    assert cells.shape[-1] == 2 * row_tiles.tiles_of(width) * K
    assert torch.equal(row_tiles.from_cells(cells, width, K), maps.permute(0, 4, 1, 3, 2))
    assert float(cells.abs().sum()) == pytest.approx(float(maps.abs().sum()))  # what fills up the last tile is zero


def test_the_products_are_fewer_than_the_taps() -> None:
    """For two cells of a gate, 56h multiplications of the taps become 40h with one colour and 48h with several."""
    left, centre, right = (drawn(LAYERS, 4 * H, maps, seed=maps) for maps in (3 * H, 3 * H, H))
    for form, multiplications in zip(FORMS, (10, 12), strict=True):
        first, others = row_tiles.weights_of_tiles(form, left, centre, right)
        assert first.shape == (LAYERS, form.first, 4 * H, form.inputs(H) + H)
        assert others.shape == (LAYERS, form.others, 4 * H, H)
        of_a_row = first.shape[1] * first.shape[3] + others.shape[1] * others.shape[3]
        assert of_a_row == multiplications * H  # of 14: 2 * (3 * h + 2 * 2h)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_products_are_the_convolutions(width: int, form: Form) -> None:
    """Each operand of a single gate: two taps on the input, three on the states, one on the condition."""
    left, centre, right = drawn(1, 4, 3, seed=1), drawn(1, 4, 5, seed=2), drawn(1, 4, 1, seed=3)
    x, h, condition = drawn(2, width, K, seed=4), drawn(1, width, K, seed=5), drawn(2, width, K, seed=6)
    row, m, inputs = row_of(width, form), row_tiles.tiles_of(width) * K, form.inputs(1)
    seen = torch.zeros(1, form.first, inputs + 3, m, dtype=torch.float64)
    others_seen = torch.zeros(1, form.others, 1, m, dtype=torch.float64)
    around = [torch.nn.functional.pad(row_tiles.to_cells(maps), (K, K))[None] for maps in (x, h)]
    row_kernel.input_to_planes(row, around[0], seen[:, :, :inputs])()
    row_kernel.states_to_planes(row, around[1], seen[:, :, inputs : inputs + 1], others_seen)()
    of_columns = row_tiles.to_cells(condition).split(m, dim=1)
    seen[0, row_tiles.ODD, inputs + 1 :], seen[0, row_tiles.EVEN, inputs + 1 :] = of_columns
    weights, of_others = row_tiles.weights_of_tiles(form, left, centre, right)
    first, others = weights @ seen, of_others @ others_seen
    both, twice = row.both(first, others)[0], others[0, -1]
    columns = torch.stack([first[0, row_tiles.EVEN] + both + twice, first[0, row_tiles.ODD] + both - twice], dim=1)
    found = columns.view(4, 2, -1, K).transpose(1, 2).reshape(4, -1, K)[:, :width]

    maps = torch.cat([x, h, condition])
    before, after = torch.nn.functional.pad(maps, (0, 0, 1, 0))[:, :-1], torch.nn.functional.pad(h, (0, 0, 0, 1))[:, 1:]
    taps = [(left[0], before[:3]), (centre[0], maps), (right[0], after)]
    wanted = sum(torch.einsum("gm,mwk->gwk", weight, seen_by) for weight, seen_by in taps)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


class Given:
    """Numbers for all passes, as views of larger buffers, in which layers are apart."""

    def __init__(self, dtype: torch.dtype, width: int, form: Form) -> None:
        self.dtype, m = dtype, row_tiles.tiles_of(width) * K
        self.row, N, self.inputs = row_of(width, form), 2 * m, form.inputs(H)
        first, others = form.first, form.others
        self.sums, self.others = self.of(first, 4 * H, m, seed=1), self.of(others, 4 * H, m, seed=2)
        self.bias, self.gates = self.of(4 * H, 1, seed=3), self.of(4 * H, N, seed=4)
        self.memories = self.of(2 * H, N, seed=5)
        self.around, self.x_around = (self.padded(maps, N, seed=maps) for maps in (H, 2 * H))
        self.seen, self.others_seen = self.of(first, self.inputs + H, m, seed=6), self.of(others, H, m, seed=7)
        self.y, self.out_bias = self.of(2 * H, N, seed=8), self.of(2 * H, 1, seed=9)
        self.d_state, self.d_memory = self.of(H, N, seed=10), self.of(H, N, seed=11)
        self.d_seen, self.d_others_seen = self.of(first, self.inputs + H, m, seed=12), self.of(others, H, m, seed=13)
        self.d_bias, self.d_out_bias = self.of(4 * H, 1, seed=14), self.of(2 * H, 1, layers=LAYERS + 1, seed=15)
        self.dX = self.of(2 * 2 * H, N, seed=16)
        self.row.clear(self.dX), self.row.clear(self.d_memory)

    def of(self, *shape: int, seed: int, layers: int = LAYERS) -> Tensor:
        return drawn(layers + 2, *shape, seed=seed).to(self.dtype)[1:-1]

    def padded(self, maps: int, cells: int, seed: int) -> Tensor:
        around = torch.nn.functional.pad(self.of(2 * maps, cells, seed=seed), (K, K))
        self.row.clear(around[..., K:-K])
        return around


def stepped(given: Given) -> list[Tensor]:
    state, (before, memory) = given.around[:, :H], given.memories.split(H, dim=1)
    row_kernel.step(
        given.row, given.sums, given.others, given.bias, before, gates=given.gates, memory=memory, around=state,
        seen=given.seen[:, :, given.inputs :], others_seen=given.others_seen,
    )()  # fmt: skip
    return [given.gates, given.memories, given.around, given.seen, given.others_seen]


def moved_on(given: Given, without: int) -> list[Tensor]:
    before, after = given.x_around.split(2 * H, dim=1)
    x = None if without == LAYERS else before[without:, :, K:-K]
    row_kernel.onward(given.row, given.y, given.out_bias, x, around=after, seen=given.seen[:, :, : given.inputs])()
    return [given.x_around, given.seen]


def looked_again(given: Given) -> list[Tensor]:
    row_kernel.input_to_planes(given.row, given.x_around[:, : 2 * H], given.seen[:, :, : given.inputs])()
    row_kernel.states_to_planes(given.row, given.around[:, :H], given.seen[:, :, given.inputs :], given.others_seen)()
    return [given.seen, given.others_seen]


def stepped_back(given: Given, below: int) -> list[Tensor]:
    before, memory = given.memories.split(H, dim=1)
    given.gates.sigmoid_()
    state = (given.gates[:, :H] * torch.tanh(memory / 2)).contiguous()
    of_below = (given.d_seen[-below:, :, given.inputs :], given.d_others_seen[-below:]) if below else None
    row_kernel.step_back(
        given.row, given.d_state, given.d_memory, of_below, gates=given.gates, memory=memory, before=before,
        state=state, d_sums=given.sums, d_others=given.others, d_bias=given.d_bias,
    )()  # fmt: skip
    return [given.d_state, given.d_memory, given.sums, given.others, given.d_bias]


def back_to_input(given: Given, residual: bool, is_first: bool) -> list[Tensor]:
    dy, dx = given.dX.split(2 * H, dim=1)
    row_kernel.back_to_input(
        given.row,
        given.d_seen[:, :, : given.inputs],
        dy,
        dx=dx,
        d_bias=given.d_out_bias,
        residual=residual,
        is_first=is_first,
    )()
    return [given.dX, given.d_out_bias]


PASSES: list[tuple[Callable[..., list[Tensor]], tuple[Any, ...]]] = [
    (stepped, ()),
    (looked_again, ()),
    *((moved_on, (without,)) for without in (0, 1, LAYERS)),
    *((stepped_back, (below,)) for below in (0, 2, LAYERS)),
    (back_to_input, (True, True)),
    (back_to_input, (False, False)),
]


@needs_numba
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("run", "arguments"), PASSES, ids=lambda of: getattr(of, "__name__", str(of)))
def test_a_compiled_pass_is_that_of_torch_in_float64(
    run: Callable[..., list[Tensor]], arguments: tuple[Any, ...], width: int, form: Form
) -> None:
    found, wanted = (run(Given(dtype, width, form), *arguments) for dtype in (torch.float32, torch.float64))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, atol=2e-5, rtol=1e-6)


@needs_numba
def test_what_is_not_a_number_stays_so() -> None:
    """A training that diverges is seen by it."""
    given = Given(torch.float32, 4, FORMS[0])
    given.sums[1, 0, 3, 0] = torch.nan
    gates, memories, around, *_ = stepped(given)
    assert gates[1, 3].isnan().any()
    assert memories[1].isnan().any()
    assert around[1].isnan().any()
    assert not around[0].isnan().any()


@needs_numba
def test_cells_that_are_apart_are_refused() -> None:
    given = Given(torch.float32, 4, FORMS[0])
    given.y = given.y.repeat_interleave(2, dim=2)[..., ::2]
    with pytest.raises(ValueError, match="a stride of 2"):
        moved_on(given, 0)


def test_tiles_pay_for_large_states_where_the_passes_are_compiled() -> None:
    compiled = importlib.util.find_spec("numba") is not None
    for hidden, channels, large in ((15, 1, False), (16, 1, True), (16, 3, False), (32, 3, True)):
        assert row_kernel.pays(torch.zeros(1), hidden=hidden, channels=channels) == (large and compiled)
        assert row_kernel.pays(torch.zeros(1, dtype=torch.float64), hidden=hidden, channels=channels) == large
        assert not row_kernel.pays(torch.zeros(1, device="meta"), hidden=hidden, channels=channels)
