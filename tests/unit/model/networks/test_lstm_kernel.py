"""The compiled LSTM steps compute what torch's operations compute, and are not needed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.config import TrainConfig
from model.networks import buffers, lstm_kernel
from model.networks.build import steps_by
from model.networks.likelihood import nats_per_image
from model.networks.pixelrnn import PixelRNN

torch.set_num_threads(1)
N, H, CELLS = 2, 3, 21
CPU = torch.device("cpu")
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(buffers, "free_buffers", {})  # their steps are bound to what computes them
    monkeypatch.setitem(sys.modules, "numba", None)
    for module in ("model.networks.lstm_native", "model.compiled"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    lstm_kernel._compiled.cache_clear()
    yield
    lstm_kernel._compiled.cache_clear()


def parts(dtype: torch.dtype, *maps: int, seed: int) -> list[Tensor]:
    """Return views of one larger buffer, as the networks have them: rows and outer items are apart, cells are not."""
    values = torch.randn(
        N, sum(maps) + 2, CELLS + 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return list(values.to(dtype)[:, 1:-1, 2:-3].split(maps, dim=1))


def stepped(dtype: torch.dtype) -> list[Tensor]:
    """Compute a step and its gradient from the same numbers; return all that is written."""
    (gates,), (d_gates,), (squashed,) = (parts(dtype, maps, seed=maps) for maps in (4 * H, 4 * H, H))
    (before, memory), (state, above) = parts(dtype, H, H, seed=1), parts(dtype, H, H, seed=2)
    (d_state,), (d_memory,) = parts(dtype, H, seed=3), parts(dtype, H, seed=4)
    gates *= 3
    lstm_kernel.step(gates, before, memory=memory, squashed=squashed, state=state, above=above)()
    lstm_kernel.step_back(
        d_state, d_memory, gates=gates, squashed=squashed, before=before, state=state, d_gates=d_gates
    )()
    return [gates, memory, squashed, state, above, d_gates, d_memory]


@needs_numba
def test_a_compiled_step_is_that_of_torch_in_float64() -> None:
    assert lstm_kernel.steps_by(torch.device("cpu"), torch.float32).startswith("numba ")
    assert lstm_kernel.steps_by(torch.device("cpu"), torch.float64) == "torch"
    for found, wanted in zip(stepped(torch.float32), stepped(torch.float64), strict=True):
        torch.testing.assert_close(found.double(), wanted, atol=2e-6, rtol=0)


@needs_numba
def test_tanh_is_within_four_units_of_the_last_place_of_one() -> None:
    from model.networks import lstm_native

    x = torch.linspace(-20, 20, 400_001)
    memory, squashed = 2 * x, torch.empty_like(x)
    lstm_native.to_squashed(memory.numpy(), squashed.numpy())
    assert float((squashed.double() - torch.tanh(x.double())).abs().max()) <= 4e-7
    assert float(squashed.abs().max()) <= 1.0
    for special, wanted in ((np.inf, 1.0), (-np.inf, -1.0)):
        lstm_native.to_squashed(np.full(9, special, np.float32), squashed[:9].numpy())
        assert squashed[:9].tolist() == pytest.approx([wanted] * 9, abs=3e-7)


@needs_numba
@pytest.mark.parametrize("operand", ["gates", "before"])
def test_what_is_not_a_number_stays_so(operand: str) -> None:
    """A training that diverges is seen by it."""
    before, memory = torch.zeros(1, 2, 8).split(1, dim=1)
    given = {"gates": torch.zeros(1, 4, 8), "before": before}
    given[operand][..., 3] = torch.nan
    squashed, state = torch.zeros(1, 1, 8), torch.zeros(1, 1, 8)
    lstm_kernel.step(given["gates"], before, memory=memory, squashed=squashed, state=state)()
    for found in (memory, squashed, state):
        assert found.isnan().flatten().tolist() == [False, False, False, True, False, False, False, False]


@needs_numba
def test_cells_that_are_apart_and_memories_in_two_buffers_are_refused() -> None:
    gates = torch.zeros(1, 8, 4).transpose(1, 2)
    maps = [torch.zeros(1, 1, 8) for _ in range(4)]
    with pytest.raises(ValueError, match="a stride of 4"):
        lstm_kernel.step(gates, maps[0], memory=maps[1], squashed=maps[2], state=maps[3])
    with pytest.raises(ValueError, match="in one buffer"):
        lstm_kernel.step(gates.contiguous(), maps[0], memory=maps[1], squashed=maps[2], state=maps[3])


def gradients(kind: Any) -> list[Tensor]:
    torch.manual_seed(0)
    net = PixelRNN(kind, channels=1, levels=3, hidden=6, layers=3, head=5)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    images = torch.randint(3, (4, 1, 7, 6))
    nats = nats_per_image(net, images)
    return [nats.detach(), *torch.autograd.grad(nats.sum(), list(net.parameters()))]


@pytest.mark.parametrize("kind", ["row-lstm", "diagonal-bilstm"])
def test_without_numba_torch_computes_the_same(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffers, "free_buffers", {})
    usual = gradients(kind)
    use: Callable[[str], Any] = request.getfixturevalue
    use("without_numba")
    assert lstm_kernel.steps_by(torch.device("cpu"), torch.float32) == "torch"
    for found, wanted in zip(gradients(kind), usual, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@needs_numba
@pytest.mark.parametrize(
    ("settings", "implementation", "by"),
    [
        ({"model": "row-lstm"}, "fast", "numba"),
        ({"model": "row-lstm"}, "reference", "torch"),
        ({"model": "pixelcnn"}, "fast", "torch"),  # 8x8 digits are too little work
        ({"model": "pixelcnn", "hidden": 64}, "fast", "numba"),
        ({"model": "pixelcnn", "hidden": 64}, "reference", "torch"),
        ({"model": "pixelcnn", "hidden": 64, "precision": "bf16"}, "fast", "torch"),
    ],
)
def test_a_training_says_what_computes_its_steps(settings: dict[str, Any], implementation: Any, by: str) -> None:
    assert steps_by(TrainConfig(**settings), implementation, CPU).startswith(by)
    assert steps_by(TrainConfig(**settings), implementation, torch.device("meta")) == "torch"
