"""A recorded step gives the bits of the plain one, or is not used, and why is said. On a CPU a recorder that runs the
same work on the same buffers stands for a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from model.config import MODELS, TrainConfig
from model.data import load as load_data
from model.errors import TrainingError
from model.training import validation
from model.training.checkpoint import digest
from model.training.graphed import WARM_UP, Gradients
from model.training.state import Training
from model.training.stop import StopFlag
from model.training.validation import validate
from tests.support.ranks import in_world

torch.set_num_threads(1)

CPU = torch.device("cpu")
SMALL = TrainConfig(batch_size=20, hidden=4, layers=2, head=5, device="cpu", ema=0.9)
SHAPES: list[dict[str, Any]] = [
    *({"model": model} for model in MODELS),
    {"model": "row-lstm", "accumulate": 2},
    {"model": "diagonal-bilstm", "multiscale": 4},
    {"model": "pixelcnn", "precision": "bf16", "optimizer": "rmsprop"},
]


class Recorder:
    """Keeps the work; a replay runs it and writes its results to where the recording has put them, as a graph does."""

    def __init__(self, run: Training, *, off: float = 0.0) -> None:
        self.run, self.off = run, off
        self.recorded = self.replayed = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        parameters = list(self.run.net.parameters())
        work()
        nats = self.run.gradients._nats
        assert nats is not None
        places = [parameter.grad for parameter in parameters]
        for place in places:
            if place is not None:
                place.fill_(float("nan"))  # a capture computes nothing

        def replay() -> None:
            self.replayed += 1
            for parameter in parameters:
                parameter.grad = None
            work()
            made = self.run.gradients._nats
            assert made is not None
            nats.copy_(made)
            self.run.gradients._nats = nats
            for place, parameter in zip(places, parameters, strict=True):
                if place is not None and parameter.grad is not None:
                    place.copy_(parameter.grad + self.off)

        return replay


def recorded(run: Training, *, mode: Any = "auto", off: float = 0.0) -> Recorder:
    record = Recorder(run, off=off)
    run.gradients = Gradients(run._add_gradients, list(run.net.parameters()), mode=mode, record=record)
    return record


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_training_of_recorded_steps_has_the_bits_of_a_plain_one(shape: dict[str, Any]) -> None:
    config = SMALL.model_copy(update=shape)
    plain, graphed = (Training(config, load_data("digits"), CPU) for _ in range(2))
    record = recorded(graphed)
    for _ in range(WARM_UP + 5):
        plain.advance()
        graphed.advance()
    assert graphed.gradients.recorded
    assert record.recorded == 1
    assert record.replayed == 1 + 4  # to compare, and instead of the steps that follow
    assert digest([plain.checkpoint().model, plain.checkpoint().optimizer, plain.checkpoint().ema]) == digest(
        [graphed.checkpoint().model, graphed.checkpoint().optimizer, graphed.checkpoint().ema]
    )
    assert plain.mean_nats() == graphed.mean_nats()


def test_a_batch_of_another_size_is_computed_plainly() -> None:
    run = Training(SMALL, load_data("digits"), CPU)
    record = recorded(run)
    for _ in range(WARM_UP + 2):
        run.advance()
    before = record.replayed
    images = run.feed.images
    assert images is not None
    nats = run.gradients(images[:7], None)
    assert record.replayed == before
    assert torch.equal(nats, run._add_gradients(images[:7], None))


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_gradients_of_other_bits_are_not_used(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain, graphed = (Training(SMALL, load_data("digits"), CPU) for _ in range(2))
    recorded(graphed, mode=mode, off=1e-9)
    for _ in range(WARM_UP):
        graphed.advance()
    if mode == "on":
        with pytest.raises(TrainingError, match=r"graph=on: .* not the same bits; set graph=auto or off"):
            graphed.advance()
        return
    for _ in range(3):
        graphed.advance()
    for _ in range(WARM_UP + 3):
        plain.advance()
    assert not graphed.gradients.recorded
    assert digest(graphed.checkpoint().model) == digest(plain.checkpoint().model)
    err = "steps run without a CUDA graph, which is slower: its gradients are not the same bits\n"
    assert capsys.readouterr().err == err


def test_why_a_step_cannot_be_recorded_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be")

    plain, graphed = (Training(SMALL, load_data("digits"), CPU) for _ in range(2))
    graphed.gradients = Gradients(graphed._add_gradients, list(graphed.net.parameters()), mode="auto", record=fail)
    for _ in range(WARM_UP + 3):
        plain.advance()
        graphed.advance()
    assert digest(graphed.checkpoint().model) == digest(plain.checkpoint().model)
    assert capsys.readouterr().err == (
        "steps run without a CUDA graph, which is slower: operation not permitted when stream is capturing\n"
    )


@pytest.mark.parametrize(("mode", "steps"), [("off", 0), ("auto", 1)])
def test_off_records_nothing(mode: Any, steps: int) -> None:
    run = Training(SMALL, load_data("digits"), CPU)
    record = recorded(run, mode=mode)
    for _ in range(WARM_UP + 2):
        run.advance()
    assert record.recorded == steps


def test_a_validation_that_runs_out_of_memory_has_that_of_the_recorded_step(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data("digits")
    run = Training(SMALL, data, CPU)
    record = recorded(run)
    for _ in range(WARM_UP + 2):
        run.advance()
    wanted = validate(run, data, StopFlag()).nats
    scoring = validation.nats_of_all

    def lacks_memory(*args: Any, **kwargs: Any) -> Any:
        if run.gradients.recorded:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return scoring(*args, **kwargs)

    monkeypatch.setattr(validation, "nats_of_all", lacks_memory)
    assert validate(run, data, StopFlag()).nats == wanted
    assert not run.gradients.recorded
    for _ in range(WARM_UP + 1):
        run.advance()
    assert run.gradients.recorded
    assert record.recorded == 2


def trained(group: Any, graph: bool) -> list[str]:
    run = Training(SMALL, load_data("digits"), CPU, group)
    record = recorded(run) if graph else None
    for _ in range(WARM_UP + 4):
        run.advance()
    assert record is None or record.recorded == 1
    return [digest(run.checkpoint().model)]


@pytest.mark.slow
def test_the_sum_over_the_ranks_stays_outside() -> None:
    plain, graphed = in_world(2, trained, False), in_world(2, trained, True)
    assert plain == graphed
    assert plain[0] == plain[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
@pytest.mark.parametrize("shape", SHAPES[:5], ids=str)
def test_a_gpu_records_the_step(shape: dict[str, Any]) -> None:
    gpu = torch.device("cuda")
    config = SMALL.model_copy(update={**shape, "device": "cuda", "graph": "on"})
    run = Training(config, load_data("digits"), gpu)
    for _ in range(WARM_UP + 3):
        run.advance()
    assert run.gradients.recorded
