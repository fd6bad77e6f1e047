"""How many operations a training step queues on a GPU: each costs Python some microseconds, however little it computes.

The network runs on torch's `meta` device, which takes the code of a GPU and computes nothing. The bounds are what was
counted when they were written: they may only fall.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.config import TrainConfig
from model.config.datasets import DatasetFacts
from model.networks import buffers
from model.networks.build import build
from model.networks.diagonal_bilstm import DiagonalBiLSTM
from model.networks.diagonal_bilstm_gpu import diagonal_layer
from model.networks.likelihood import nats_per_image

torch.set_num_threads(1)

CIFAR10 = DatasetFacts(32, 32, 3, 256, train=50_000, valid=0, test=10_000)
PAPER = {"pixelcnn": 15, "row-lstm": 12, "diagonal-bilstm": 12}  # layers
MOST = {  # operations and views of a step, forward and backward, with the paper's sizes for CIFAR-10
    "pixelcnn": (460, 354),
    "row-lstm": (2391, 1828),
    "diagonal-bilstm": (15_430, 1051),
}


OLD = pytest.mark.skipif(
    not hasattr(torch.Tensor, "nbytes"), reason="torch 2.0 cannot run these operations on its meta device"
)


class Operations(TorchDispatchMode):
    """Counts the operations that compute, and those that only make a view."""

    def __init__(self) -> None:
        super().__init__()
        self.computed = self.viewed = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returns = func._schema.returns
        is_view = bool(returns) and returns[0].alias_info is not None and not returns[0].alias_info.is_write
        if is_view:
            self.viewed += 1
        else:
            self.computed += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "free_buffers", {})


def counted(model: str, *, layers: int, batch: int = 16) -> tuple[int, int]:
    """Count the operations and the views of the second step; the first makes the buffers and their views."""
    config = TrainConfig(
        model=model, hidden=128, head=1024, layers=layers, dataset="./mine", facts=CIFAR10  # type: ignore[arg-type]
    )  # fmt: skip
    with torch.device("meta"):
        levels = torch.zeros(batch, 3, 32, 32, dtype=torch.uint8)
    net = build(config).to("meta")

    def step() -> None:
        net.zero_grad()
        nats_per_image(net, levels).mean().backward()  # type: ignore[no-untyped-call]

    step()
    with Operations() as operations:
        step()
    return operations.computed, operations.viewed


@OLD
@pytest.mark.parametrize("model", PAPER)
@pytest.mark.slow
def test_a_step_of_the_papers_network_queues_no_more_operations_than_before(model: str) -> None:
    computed, viewed = counted(model, layers=PAPER[model])
    assert computed <= MOST[model][0], computed
    assert viewed <= MOST[model][1], viewed


@OLD
@pytest.mark.slow
def test_the_views_of_the_diagonals_are_kept_between_steps() -> None:
    """A layer adds its 64 diagonals of 20 operations and some large ones, and next to no views."""
    (one, few), (two, more) = counted("diagonal-bilstm", layers=1), counted("diagonal-bilstm", layers=2)
    assert two - one <= 64 * 20 + 80
    assert more - few <= 120


SIZES = [
    (4, 3, 4, 2, 2),
    (6, 5, 2, 3, 3),
    (5, 1, 4, 1, 2),
    (4, 4, 1, 2, 2),
    (3, 1, 1, 1, 1),
    (7, 6, 6, 2, 3),
]  # F, H, W, B, h


def reference(x: Tensor, weights: Tensor, h0: Tensor, c0: Tensor) -> Tensor:
    """Run the layer as the paper writes it, with the arguments of `diagonal_layer`."""
    (F, *_), h = x.shape, h0.shape[1]
    layer = DiagonalBiLSTM(h, condition=F - 2 * h).double()
    given: dict[str, Tensor] = {}
    for name, side, w, state, memory in zip(("left", "right"), (layer.left, layer.right), weights, h0, c0, strict=True):
        some = {"h0": state, "c0": memory, "input_to_state.bias": w[:, -1]}
        some["input_to_state.weight"] = w[:, : 2 * h, None, None]
        some["state_to_state.weight"] = torch.stack([w[:, F : F + h], w[:, F + h : F + 2 * h]], dim=2)
        if side.condition is not None:
            some["condition.weight"] = w[:, 2 * h : F, None, None]
        given.update({f"{name}.{key}": value for key, value in some.items()})
    maps = x.permute(3, 0, 1, 2)
    out: Tensor = torch.func.functional_call(layer, given, (maps[:, : 2 * h], maps[:, 2 * h :] if 2 * h < F else None))
    return out.permute(1, 2, 3, 0)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_code_of_a_gpu_computes_the_layer_of_the_paper(size: tuple[int, ...]) -> None:
    F, H, W, B, h = size
    torch.manual_seed(0)
    shapes = [(F, H, W, B), (2, 4 * h, F + 2 * h + 1), (2, h), (2, h)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weights = torch.randn(h, H, W, B, dtype=torch.float64)

    def results(run: Any) -> list[Tensor]:
        states = run(*inputs)
        return [states, *torch.autograd.grad((states * weights).sum(), inputs)]

    for _ in range(2):  # in new buffers, and in used ones
        for one, other in zip(results(diagonal_layer), results(reference), strict=True):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_two_passes_that_live_at_once_have_buffers_of_their_own() -> None:
    torch.manual_seed(0)
    x = [torch.randn(4, 3, 5, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    rest = [torch.randn(shape, dtype=torch.float64) for shape in ((2, 8, 9), (2, 2), (2, 2))]
    ours, theirs = ([run(some, *rest) for some in x] for run in (diagonal_layer, reference))
    for one, other, some in zip(ours, theirs, x, strict=True):
        [d_one], [d_other] = (torch.autograd.grad(y.sin().sum(), some) for y in (one, other))
        torch.testing.assert_close(d_one, d_other, atol=1e-12, rtol=1e-12)
