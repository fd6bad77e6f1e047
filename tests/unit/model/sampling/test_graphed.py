"""The sampler of recorded rows: what it records, how often, and what it says where it cannot. On a CPU nothing is
captured; a recorder that runs the same work stands for the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from model.config import MODELS, TrainConfig
from model.networks.build import build
from model.sampling import cached, generate, graphed, naive
from tests.support.networks import network

torch.set_num_threads(1)


class Recorder:
    """Records by keeping the work: a replay runs it on the same buffers, as a graph does."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return replay


def drawn(sampler: Any, noise: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
    empty, everything = torch.zeros(noise.shape, dtype=torch.uint8), torch.ones(noise.shape[2:], dtype=torch.bool)
    made: torch.Tensor = sampler(
        empty, everything, noise, temperature=0.8, condition=condition, before_row=lambda: None
    )
    return made


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_batches_of_one_size_are_recorded_once_and_drawn_alike(kind: str, conditional: bool) -> None:
    maps = 2 if conditional else 0
    net = network(kind, std=0.6, channels=3, levels=4, condition=maps).eval()
    record = Recorder()
    sampler = graphed.Sampler(net, record=record)
    for batch in (3, 3, 3, 2, 3, 2):
        noise = torch.rand(batch, 3, 4, 5, dtype=torch.float64)
        condition = torch.randn(batch, maps, 4, 5, dtype=torch.float64) if conditional else None
        empty, everything = torch.zeros(noise.shape, dtype=torch.uint8), torch.ones(4, 5, dtype=torch.bool)
        wanted = naive.sample(net, empty, everything, noise, condition=condition, temperature=0.8)
        assert torch.equal(drawn(sampler, noise, condition), wanted)
    assert record.recorded == 2  # of 3 and of 2 images
    assert record.replayed == 6 * 4 - 2  # the first row of each size ran as it is


@pytest.mark.parametrize("words", ["operation not permitted when stream is capturing\nmore", "", "no kernel"])
def test_why_nothing_is_recorded_is_said_once_and_the_images_are_the_same(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError(words)

    net = network("pixelcnn", std=0.6, channels=1, levels=4).eval()
    sampler = graphed.Sampler(net, record=fail)
    for _ in range(3):
        noise = torch.rand(2, 1, 4, 5, dtype=torch.float64)
        empty, everything = torch.zeros(noise.shape, dtype=torch.uint8), torch.ones(4, 5, dtype=torch.bool)
        cache = cached.Cache(net, batch=2, width=5)
        wanted = cached.sample(cache, empty, everything, noise, temperature=0.8)
        assert torch.equal(drawn(sampler, noise, None), wanted)
    reason = words.splitlines()[0] if words else "RuntimeError"
    assert capsys.readouterr().err == f"images are drawn without a CUDA graph, which is slower: {reason}\n"


def test_memory_that_runs_out_while_it_records_is_not_taken_for_a_missing_feature() -> None:
    def fail(work: Callable[[], None]) -> Callable[[], None]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    sampler = graphed.Sampler(network("pixelcnn", channels=1, levels=4).eval(), record=fail)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        drawn(sampler, torch.rand(2, 1, 4, 5, dtype=torch.float64), None)


@pytest.mark.parametrize("has_modes", [True, False])
def test_other_threads_do_not_end_a_capture_where_torch_has_a_mode_for_it(
    has_modes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class Graph:
        def replay(self) -> None:
            told.append("replayed")

    class Old:
        def __init__(self, graph: Graph) -> None:
            told.append({})

        def __enter__(self) -> None:
            told.append("begun")

        def __exit__(self, *_: object) -> None:
            told.append("ended")

    class New(Old):
        def __init__(self, graph: Graph, capture_error_mode: str = "global") -> None:
            told.append({"mode": capture_error_mode})

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", New if has_modes else Old)
    graphed.record_on_gpu(lambda: told.append("work"))()
    assert told == [{"mode": "thread_local"} if has_modes else {}, "begun", "work", "ended", "replayed"]


@pytest.mark.parametrize("multiscale", [0, 4])
def test_more_images_than_a_batch_are_recorded_once(multiscale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Recorder()
    begin = graphed.Sampler.__init__
    monkeypatch.setattr(graphed, "require", lambda _: None)  # as if this were a GPU
    monkeypatch.setattr(graphed.Sampler, "__init__", lambda self, net: begin(self, net, record=record))
    for module in ("engines", "generate"):
        monkeypatch.setattr(f"model.sampling.{module}.AT_A_TIME", 2)
    torch.manual_seed(0)
    config = TrainConfig(model="row-lstm", multiscale=multiscale, hidden=3, layers=1, head=4)
    net = build(config).eval()
    facts = config.data
    drawn = generate.draw(net, facts, count=6, seed=1, engine="graph")
    assert record.recorded == (2 if multiscale else 1)  # of the small images and of the large ones
    assert torch.equal(drawn, generate.draw(net, facts, count=6, seed=1, engine="torch"))
