"""Memory: how many images are scored at a time, what is kept between two passes, and what is said when it is short."""

from __future__ import annotations

import signal
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from model.__main__ import main
from model.config import MODELS, DatasetFacts, TrainConfig
from model.config.cost import evaluation_bytes
from model.networks import buffers, fused_nats
from model.networks.build import build, evaluation_batch
from model.networks.likelihood import nats_per_image
from model.networks.pixelrnn import Implementation

torch.set_num_threads(1)


class Peak(TorchDispatchMode):
    """Counts the bytes of the tensors that live at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._live, self._sizes = 0, 0, dict[int, int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = storage.nbytes()
                    self._live += storage.nbytes()
                    self.peak = max(self.peak, self._live)
                    weakref.finalize(storage, self._gone, storage._cdata)
        return out

    def _gone(self, address: int) -> None:
        self._live -= self._sizes.pop(address, 0)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> dict[Any, list[dict[str, Any]]]:
    """Hide what other tests' networks have left to be used again."""
    kept: dict[Any, list[dict[str, Any]]] = {}
    monkeypatch.setattr(buffers, "free_buffers", kept)
    return kept


def images_of(side: int, levels: int) -> DatasetFacts:
    return DatasetFacts(side, side, 3, levels, train=9, valid=9, test=9)


SIZES: list[dict[str, Any]] = [
    {"levels": 256, "head": 8, "layers": 2},
    {"levels": 2, "head": 96, "layers": 5},
    {"levels": 64, "head": 8, "layers": 2, "multiscale": 4},
]


@pytest.mark.skipif(
    not hasattr(torch.Tensor, "nbytes"), reason="torch 2.0 makes a new storage object at each look: nothing is counted"
)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("implementation", ["fast", "reference"])
@pytest.mark.parametrize("model", MODELS)
def test_a_validation_takes_no_more_memory_than_is_counted(
    model: str, implementation: Implementation, sizes: dict[str, Any]
) -> None:
    levels = sizes["levels"]
    facts = {"dataset": "./mine", "facts": images_of(8, levels)}
    chosen = {"model": model, "implementation": implementation, "hidden": 6}
    config = TrainConfig(**facts, **chosen, **{name: size for name, size in sizes.items() if name != "levels"})
    net = build(config, implementation).eval()
    counted = evaluation_bytes(config, 4, fast=implementation == "fast")
    with torch.no_grad(), Peak() as measured:
        nats_per_image(net, torch.randint(levels, (4, 3, 8, 8), dtype=torch.uint8))
    assert measured.peak <= counted
    if implementation == "reference" or not fused_nats.pays(64, 3 * levels, sizes["head"]):  # else logits are not kept
        assert counted / 3 < measured.peak


def test_large_images_are_scored_as_many_at_a_time_as_fit() -> None:
    """The logits of 128 images of 256x256 in 256 levels are 25.8 GB."""
    large = TrainConfig(dataset="./mine", facts=images_of(256, 256), batch_size=1)
    assert [evaluation_batch(large, gb * 10**9) for gb in (1000, 80, 16, 1)] == [128, 64, 8, 1]
    for model in MODELS:
        small = TrainConfig(model=model, layers=2)
        assert evaluation_batch(small, 10**10) == 128
        assert evaluation_batch(small, 1) == 1


@pytest.mark.parametrize("model", ["row-lstm", "diagonal-bilstm"])
def test_what_a_training_keeps_makes_room_for_a_validation(
    model: str, nothing_kept: dict[Any, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 % of the memory for a training's buffers and as much for a validation's would be more than there is."""
    net = build(TrainConfig(model=model, hidden=6, layers=3))

    def step(images: int) -> None:
        levels = torch.randint(17, (images, 1, 8, 8))
        if images == 5:
            nats_per_image(net, levels).mean().backward()  # type: ignore[no-untyped-call]
        else:
            with torch.no_grad():
                nats_per_image(net, levels)

    def kept() -> int:
        return sum(thing.numel() * thing.element_size() for free in nothing_kept.values() for things in free
                   for thing in things.values() if isinstance(thing, torch.Tensor))  # fmt: skip

    step(5)
    trained = kept()
    assert trained > 0
    monkeypatch.setattr(buffers, "idle_limit", lambda _: 10 * trained)
    step(7)
    assert kept() > trained  # both fit
    monkeypatch.setattr(buffers, "idle_limit", lambda _: trained // 2)
    step(5)  # its buffers are there: nothing is made, nothing dropped
    assert kept() > trained
    step(8)
    with_others = kept()
    nothing_kept.clear()
    step(8)
    assert with_others <= kept() + trained // 2  # of the others as much as may lie idle, and no more
    step(5)
    assert trained <= kept() <= trained + trained // 2


def test_buffers_are_used_again(nothing_kept: dict[Any, list[dict[str, Any]]]) -> None:
    like = torch.zeros(1)
    first = buffers.Workspace(("some",), like).zeros("A", 1000)
    assert buffers.Workspace(("some",), like).zeros("A", 1000) is first
    assert buffers.Workspace(("other",), like).zeros("A", 1000) is not first


# Too little of it


def of_a_gpu(*_: object, **__: object) -> None:
    raise torch.cuda.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 24.00 GiB. GPU 0 has a total capacity of 14.57 GiB of which 12 are free."
    )


def of_a_cpu(*_: object, **__: object) -> None:
    torch.empty(10**15)


def of_numpy(*_: object, **__: object) -> None:
    np.empty(10**15)


@pytest.fixture
def signals() -> Iterator[None]:
    """Give pytest its signal handlers back."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


COMMANDS = {
    "evaluate": ("model.evaluation.evaluate.report", "use --device cpu or a machine with more memory"),
    "sample --out a.png": ("model.evaluation.samples.draw_samples", "use a smaller --count, --device cpu or"),
    "complete --image a.png --occlude top --out b.png": (
        "model.evaluation.complete.complete",
        "use a smaller --count",
    ),
    "figures --out figures": ("model.evaluation.figures.write_all", "use --device cpu or"),
    "train": ("model.training.loop.Training", "use a smaller batch_size, hidden or layers or"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("signals")
def test_too_little_memory_is_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where, instead = COMMANDS[command]
    words = [*command.split(), *(["--out", str(tmp_path)] if command == "train" else ["--checkpoint", "c.pt"])]
    for fails, wanted in ((of_a_gpu, "24.00 GiB"), (of_a_cpu, "4000000000000000 bytes"), (of_numpy, "7.11 PiB")):
        monkeypatch.setattr(where, fails)
        assert main(words) == 1
        err = capsys.readouterr().err
        assert f"error: out of memory (allocating {wanted}); {instead}" in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (
            "model.training.compiled_step.nats_per_image",
            "out of memory in training with batch_size=32, hidden=16, layers=5 (allocating 24.00 GiB)",
        ),
        (
            "model.training.validation.nats_of_all",
            "out of memory in a validation with 128 images at a time (allocating 24.00 GiB)",
        ),
    ],
)
@pytest.mark.usefixtures("signals")
def test_a_training_says_what_the_memory_does_not_hold(
    where: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(where, of_a_gpu)
    assert main(["train", "--steps", "1", "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_other_failures_are_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("model.evaluation.evaluate.report", fails)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        main(["evaluate", "--checkpoint", "c.pt"])
