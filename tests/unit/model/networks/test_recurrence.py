"""The recurrent layers against two loops over single cells, and the fast networks against the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.config import TrainConfig, groups
from model.config.cost import workspace_bytes
from model.networks import buffers, row_lstm_tiled
from model.networks.build import build
from model.networks.diagonal_bilstm import DiagonalBiLSTM, DiagonalLSTM, skew, unskew
from model.networks.likelihood import nats_per_image
from model.networks.row_lstm import RowLSTM
from tests.support.networks import FAST, network, reference_of


def seen_colours(out: int, into: int, colours: int) -> Tensor:
    """Draw mask B at the centre for four gates, one weight at a time."""
    mask = torch.zeros(4 * out, into, dtype=torch.float64)
    for gate in range(4):
        for to in range(out):
            for of in range(into):
                mask[gate * out + to, of] = (of * colours // into) <= (to * colours // out)
    return mask


def cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    h = len(gates) // 4
    o, f, i, g = gates[:h], gates[h : 2 * h], gates[2 * h : 3 * h], gates[3 * h :]
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def row_lstm_cell_by_cell(layer: RowLSTM, x: Tensor, colours: int, condition: Tensor | None) -> Tensor:
    (_, H, W), n = x.shape, layer.hidden
    conv, state = layer.input_to_state, layer.state_to_state.weight
    centre = conv.weight[:, :, 0, 1] * seen_colours(n, 2 * n, colours)
    hs: dict[tuple[int, int], Tensor] = {(-1, c): layer.h0 for c in range(W)}
    cs: dict[tuple[int, int], Tensor] = {(-1, c): layer.c0 for c in range(W)}
    for r in range(H):
        for c in range(W):
            assert conv.bias is not None
            gates = conv.bias + centre @ x[:, r, c]
            if c > 0:
                gates = gates + conv.weight[:, :, 0, 0] @ x[:, r, c - 1]
            if condition is not None and layer.condition is not None:
                gates = gates + layer.condition.weight[:, :, 0, 0] @ condition[:, r, c]
            for tap in range(3):
                if (r - 1, c + tap - 1) in hs:
                    gates = gates + state[:, :, tap] @ hs[r - 1, c + tap - 1]
            hs[r, c], cs[r, c] = cell(gates, cs[r - 1, c])
    return torch.stack([torch.stack([hs[r, c] for c in range(W)], dim=1) for r in range(H)], dim=1)  # (h, H, W)


def diagonal_cell_by_cell(
    layer: DiagonalLSTM, x: Tensor, colours: int, condition: Tensor | None, *, step: int
) -> Tensor:
    """Go over the columns from the left (step 1) or from the right (step -1)."""
    (_, H, W), n = x.shape, layer.hidden
    conv, state = layer.input_to_state, layer.state_to_state.weight
    centre = conv.weight[:, :, 0, 0] * seen_colours(n, 2 * n, colours)
    hs: dict[tuple[int, int], Tensor] = {}
    cs: dict[tuple[int, int], Tensor] = {}
    for r in range(H):
        for c in range(W)[::step]:
            assert conv.bias is not None
            gates = conv.bias + centre @ x[:, r, c] + state[:, :, 1] @ hs.get((r, c - step), layer.h0)
            if r > 0:
                gates = gates + state[:, :, 0] @ hs[r - 1, c]
            if condition is not None and layer.condition is not None:
                gates = gates + layer.condition.weight[:, :, 0, 0] @ condition[:, r, c]
            hs[r, c], cs[r, c] = cell(gates, cs.get((r, c - step), layer.c0))
    return torch.stack([torch.stack([hs[r, c] for c in range(W)], dim=1) for r in range(H)], dim=1)  # (h, H, W)


def bilstm_cell_by_cell(layer: DiagonalBiLSTM, x: Tensor, colours: int, condition: Tensor | None) -> Tensor:
    left = diagonal_cell_by_cell(layer.left, x, colours, condition, step=1)
    right = diagonal_cell_by_cell(layer.right, x, colours, condition, step=-1)
    return torch.cat([left[:, :1], left[:, 1:] + right[:, :-1]], dim=1)


def gradients(out: Tensor, module: nn.Module, *inputs: Tensor) -> list[Tensor]:
    weights = torch.rand(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(5)) - 0.5
    found = torch.autograd.grad((out * weights).sum(), [*module.parameters(), *inputs], allow_unused=True)
    assert all(grad is not None for grad in found)
    return list(found)


def assert_same(a: list[Tensor], b: list[Tensor], tolerance: float = 1e-12) -> None:
    for one, other in zip(a, b, strict=True):
        assert one.shape == other.shape
        assert float((one - other).detach().abs().max()) <= tolerance


@pytest.mark.parametrize(("kind", "loop"), [(RowLSTM, row_lstm_cell_by_cell), (DiagonalBiLSTM, bilstm_cell_by_cell)])
@pytest.mark.parametrize("sizes", [(3, 5, 1, 0), (5, 2, 1, 2), (3, 4, 3, 0), (1, 4, 3, 1), (4, 1, 1, 0)])
def test_a_layer_is_what_two_loops_over_its_cells_compute(
    kind: type[Any], loop: Callable[..., Tensor], sizes: tuple[int, int, int, int]
) -> None:
    H, W, colours, conditions = sizes
    torch.manual_seed(H * W)
    layer = kind(4, colours=colours, condition=conditions).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 8, H, W, dtype=torch.float64, requires_grad=True)
    condition = torch.randn(2, conditions, H, W, dtype=torch.float64, requires_grad=True) if conditions else None
    inputs = [x] if condition is None else [x, condition]
    out = layer(x, condition)
    wanted = torch.stack([loop(layer, x[b], colours, None if condition is None else condition[b]) for b in range(2)])
    assert_same([out], [wanted])
    if kind is DiagonalBiLSTM and H == 1:
        return  # the right map is shifted away as a whole: its parameters have no gradient
    assert_same(gradients(out, layer, *inputs), gradients(wanted, layer, *inputs))


def test_skewing_shifts_each_row_by_one_more_and_can_be_undone() -> None:
    x = torch.arange(1, 7).view(1, 1, 2, 3)
    assert skew(x)[0, 0].tolist() == [[1, 2, 3, 0], [0, 4, 5, 6]]
    assert torch.equal(unskew(skew(x), 3), x)


CASES = [
    {"H": 4, "W": 6, "layers": 3},
    {"H": 6, "W": 3, "layers": 2, "channels": 3, "levels": 4},
    {"H": 3, "W": 4, "layers": 4, "residual": False},
    {"H": 2, "W": 5, "layers": 2, "skip": False, "levels": 2},
    {"H": 5, "W": 1, "layers": 1},
    {"H": 1, "W": 5, "layers": 2},
    {"H": 3, "W": 4, "layers": 2, "condition": 2, "channels": 3},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", FAST)
def test_the_fast_network_is_the_reference_in_outputs_and_all_gradients(kind: str, case: dict[str, Any]) -> None:
    sizes = dict(case)
    H, W = sizes.pop("H"), sizes.pop("W")
    channels, conditions = sizes.get("channels", 1), sizes.get("condition", 0)
    fast, reference = (network(some, std=0.4, **sizes) for some in (kind, reference_of(kind)))
    assert list(fast.state_dict()) == list(reference.state_dict())
    x = torch.randn(3, channels, H, W, dtype=torch.float64, requires_grad=True)
    condition = torch.randn(3, conditions, H, W, dtype=torch.float64, requires_grad=True) if conditions else None
    outs = [net.predict(x, condition) for net in (fast, reference)]
    assert_same([outs[0]], [outs[1]])
    weights = torch.randn_like(outs[0])
    found = []
    for net, out in zip((fast, reference), outs, strict=True):
        inputs = [*net.parameters(), x, *([] if condition is None else [condition])]
        grads = torch.autograd.grad((out * weights).sum(), inputs, allow_unused=True)
        found.append([torch.zeros_like(i) if g is None else g for i, g in zip(inputs, grads, strict=True)])
    assert_same(*found, tolerance=1e-12 * max(1.0, *(float(grad.abs().max()) for grad in found[1])))


def outputs_and_gradients(net: nn.Module, x: Tensor, condition: Tensor | None) -> list[Tensor]:
    """Return the outputs, with and without gradients, and the gradients of all parameters and inputs."""
    out = net.predict(x, condition)  # type: ignore[operator]
    with torch.no_grad():
        again = net.predict(x, condition)  # type: ignore[operator]
    inputs = [*net.parameters(), x, *([] if condition is None else [condition])]
    weights = torch.rand(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) - 0.5
    grads = torch.autograd.grad((out * weights.to(out)).sum(), inputs, allow_unused=True)
    return [out.detach(), again, *(torch.zeros_like(i) if g is None else g for i, g in zip(inputs, grads, strict=True))]


ROWS = [
    {"W": 5, "H": 4},
    {"W": 6, "H": 2, "channels": 3, "condition": 2},
    {"W": 7, "H": 3, "residual": False, "condition": 1},
    {"W": 8, "H": 3, "skip": False},
    {"W": 1, "H": 4, "layers": 3},
    {"W": 9, "H": 1, "layers": 4, "residual": False, "skip": False},
]


def row_nets(case: dict[str, Any]) -> tuple[list[nn.Module], Tensor, Tensor | None]:
    sizes = {"layers": 3, **case}
    H, W = sizes.pop("H"), sizes.pop("W")
    nets: list[nn.Module] = [network(f"row-lstm {path}", std=0.4, **sizes) for path in ("tiled", "reference")]
    x = torch.randn(2, sizes.get("channels", 1), H, W, dtype=torch.float64, requires_grad=True)
    given = sizes.get("condition", 0)
    return nets, x, torch.randn(2, given, H, W, dtype=torch.float64, requires_grad=True) if given else None


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("case", ROWS, ids=str)
def test_a_few_layers_at_a_time_are_the_reference(
    case: dict[str, Any], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_lstm_tiled, "row_layers_at_once", lambda *_, **__: at_once)
    (fast, reference), x, condition = row_nets(case)
    found, wanted = (outputs_and_gradients(net, x, condition) for net in (fast, reference))
    assert_same(found, wanted, tolerance=1e-12 * max(1.0, *(float(some.abs().max()) for some in wanted)))


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("case", ROWS, ids=str)
def test_the_row_lstm_in_float32_is_the_reference_in_float64(
    case: dict[str, Any], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled where numba is installed, and twice: in new buffers and in used ones."""
    monkeypatch.setattr(row_lstm_tiled, "row_layers_at_once", lambda *_, **__: at_once)
    (fast, reference), x, condition = row_nets(case)
    wanted = outputs_and_gradients(reference, x, condition)
    fast.float()
    given = None if condition is None else condition.detach().float().requires_grad_()
    for _ in range(2):
        found = outputs_and_gradients(fast, x.detach().float().requires_grad_(), given)
        assert_same([some.double() for some in found], wanted, tolerance=2e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_compiled_diagonal_bilstm_is_that_of_torch(case: dict[str, Any]) -> None:
    """It computes in float32 only; the reference here in float64."""
    pytest.importorskip("numba")
    sizes = dict(case)
    H, W = sizes.pop("H"), sizes.pop("W")
    channels, conditions = sizes.get("channels", 1), sizes.get("condition", 0)
    x = torch.randn(3, channels, H, W, dtype=torch.float64)
    condition = torch.randn(3, conditions, H, W, dtype=torch.float64) if conditions else None
    found = []
    for dtype in (torch.float32, torch.float64):
        net = network("diagonal-bilstm", std=0.4, **sizes).to(dtype)
        given = [some.to(dtype).requires_grad_() for some in (x, condition) if some is not None]
        out = net.predict(*given)
        with torch.no_grad():
            torch.testing.assert_close(net.predict(*given), out, atol=1e-6, rtol=1e-6)
        grads = torch.autograd.grad(out.sin().sum(), [*given, *net.parameters()], allow_unused=True)
        found.append([out, *(grad for grad in grads if grad is not None)])
    for one, other in zip(*found, strict=True):
        scale = max(1.0, float(other.detach().abs().max()))
        torch.testing.assert_close(one.double() / scale, other / scale, atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", ["row-lstm", "diagonal-bilstm"])
def test_the_learned_initial_state_gets_a_gradient_in_every_layer(kind: str) -> None:
    net = network(kind, layers=3)
    nats_per_image(net, torch.randint(3, (2, 1, 3, 4))).sum().backward()
    states = {name: p.grad for name, p in net.named_parameters() if name.endswith(("h0", "c0"))}
    assert len(states) == (6 if kind == "row-lstm" else 12)
    for grad in states.values():
        assert grad is not None
        assert float(grad.abs().min()) > 0


@pytest.mark.parametrize("kind", [kind for kind in FAST if kind != "diagonal-bilstm"])
@pytest.mark.parametrize("images", [2, 4, 5])
def test_groups_of_images_are_the_reference(kind: str, images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images at a time; where that does not come out even, an empty one fills up the last group."""
    monkeypatch.setattr(groups, "_images", lambda batch, limit: 2)
    fast, reference = (network(some, std=0.4, condition=2) for some in (kind, reference_of(kind)))
    x = torch.randn(images, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    condition = torch.randn(images, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    outs = [net.predict(x, condition) for net in (fast, reference)]
    assert_same([outs[0]], [outs[1]])
    found = [gradients(out, net, x, condition) for net, out in zip((fast, reference), outs, strict=True)]
    assert_same(*found, tolerance=1e-12 * max(1.0, *(float(grad.abs().max()) for grad in found[1])))
    with torch.no_grad():
        assert torch.equal(fast.predict(x, condition), outs[0])


def test_groups_fit_into_the_cache_and_waste_few_images() -> None:
    assert groups.convolution_group(16, hidden=32, height=28, width=28) == 1
    assert groups.convolution_group(32, hidden=16, height=8, width=8) == 16  # 22 would fit: two groups, 12 empty images
    assert groups.tile_group(16, hidden=32, height=28, width=28) == 2
    assert groups.row_group(16, hidden=16, layers=7, width=28) == 16
    assert groups.row_group(64, hidden=384, layers=12, width=32) == 16
    assert groups.row_layers_at_once(7, hidden=16) == 7
    assert groups.row_layers_at_once(7, hidden=48) == 2
    assert groups.row_layers_at_once(12, hidden=384) == 1


@pytest.mark.parametrize("kind", FAST)
def test_two_passes_before_their_gradients_do_not_disturb_each_other(kind: str) -> None:
    """The fast networks reuse memory: only that of passes whose gradients nobody can ask for any more."""
    net = network(kind)
    images = [torch.randint(3, (2, 1, 4, 5)) for _ in range(3)]
    alone = []
    for image in images:
        alone.append(torch.autograd.grad(nats_per_image(net, image).sum(), list(net.parameters())))
    losses = [nats_per_image(net, image).sum() for image in images]
    with torch.no_grad():
        nats_per_image(net, images[0])
    for loss, wanted in zip(losses, alone, strict=True):
        for _ in range(2):  # and a second time from the same graph
            found = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("levels", [2, 3, 64])
@pytest.mark.parametrize("kind", FAST)
def test_a_pass_in_inference_mode_leaves_no_buffers_for_others(kind: str, levels: int) -> None:
    """Outside of that mode its buffers cannot be written to."""
    net = network(kind, levels=levels)
    images = torch.randint(levels, (2, 1, 9, 8))
    with torch.inference_mode():
        first = nats_per_image(net, images).clone()
    with torch.no_grad():
        assert torch.equal(nats_per_image(net, images), first)
    nats = nats_per_image(net, images)
    nats.sum().backward()
    assert torch.equal(nats.detach(), first)


@pytest.mark.parametrize("kind", FAST)
def test_the_fast_network_in_float32_is_the_reference(kind: str) -> None:
    fast, reference = (network(some, hidden=8, layers=3).float() for some in (kind, reference_of(kind)))
    images = torch.randint(3, (4, 1, 7, 6))
    assert torch.allclose(fast(images), reference(images), atol=1e-5)


def kept_and_counted(model: str, multiscale: int, dtype: torch.dtype, *, tiles: bool = False) -> tuple[int, int]:
    """Train for a step in new buffers; return how many values they have, and how many are counted."""
    config = TrainConfig.model_validate({"model": model, "multiscale": multiscale, "hidden": 5, "layers": 3})
    torch.manual_seed(0)
    nats_per_image(build(config).to(dtype), torch.randint(17, (6, 1, 8, 8))).sum().backward()
    networks = [some for key, some in buffers.free_buffers.items() if key[0] != "softmax"]
    made = [thing for some in networks for things in some for thing in things.values()]
    return sum(thing.numel() for thing in made if isinstance(thing, Tensor)), workspace_bytes(
        config, 6, tiles=tiles
    ) // 4


@pytest.mark.parametrize("multiscale", [0, 4])
@pytest.mark.parametrize("kind", FAST)
def test_the_memory_of_the_fast_networks_is_counted(
    kind: str, multiscale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, form = kind.partition(" ")
    monkeypatch.setattr(groups, "TILED_STATES", (0, 0) if form == "tiled" else (math.inf, math.inf))
    monkeypatch.setattr(groups, "TILES_PAY_FLOPS", 0 if form == "tiled" else math.inf)
    monkeypatch.setattr(buffers, "free_buffers", {})
    dtype = torch.float64 if model == "diagonal-bilstm" else torch.float32  # as torch's operations keep it
    kept, counted = kept_and_counted(model, multiscale, dtype, tiles=form == "tiled")
    assert kept == counted > 0


def test_a_compiled_diagonal_bilstm_keeps_half(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(buffers, "free_buffers", {})
    kept, counted = kept_and_counted("diagonal-bilstm", 0, torch.float32)
    assert 0 < kept < counted / 2
