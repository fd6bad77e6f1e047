"""In which order checkpoints and extra outputs are downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import (
    UnreachableError,
)
from orchestrator.runs.events import (
    CheckpointPulled,
)
from orchestrator.runs.output_events import ExtraOutputsPulled
from orchestrator.runs.outputs import Output
from tests.support import memory_host
from tests.support.memory import Machine
from tests.support.run_checks import check_invariants
from tests.support.story import Story


def test_the_newest_checkpoint_comes_home_first(home: Path) -> None:
    def slow_line(number: int, machine: Machine) -> None:
        machine.pull_s = 40.0

    story = Story(home, slow_line)
    state = story.engine().run()
    order = [event.step for event in story.store.events() if isinstance(event, CheckpointPulled)]
    assert order[0] == 10
    assert order[1:5] == [50, 40, 30, 20]  # four were waiting: the newest of them first
    assert sorted(order) == list(range(10, 101, 10))
    assert state.state == "SUCCEEDED"


def test_the_last_samples_come_home_at_the_end_whatever_data_out_has_cost(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = memory_host.MemoryHost._outputs

    def with_samples(host: memory_host.MemoryHost, step: int, *, at_end: bool) -> Iterator[Output]:
        for one in checkpoints(host, step, at_end=at_end):
            yield one
            yield replace(one, name=f"samples-{one.step}.png")

    monkeypatch.setattr(memory_host.MemoryHost, "_outputs", with_samples)
    monkeypatch.setattr("orchestrator.engine.output_mirror.affordable_bytes", lambda attempt, now: 0.0)
    story = Story(home)
    assert story.engine(config_json=b"{}").run().state == "SUCCEEDED"
    assert sorted(story.store.state().checkpoints) == [100]
    assert [path.name for path in story.store.folder.glob("samples-*.png")] == ["samples-100.png"]


def test_checkpoints_of_the_same_content_all_come_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may write the same under several names; a run resumes from the newest name."""
    monkeypatch.setattr(memory_host, "weights", lambda step: b"always the same")
    monkeypatch.setattr(memory_host, "OUTPUTS", {})
    story = Story(home)
    story.later(60, lambda: story.cloud.interrupt(story.cloud.machines[0]))
    state = story.engine().run()
    assert state.state == "SUCCEEDED"
    assert {10, 20, 100} <= set(state.checkpoints)
    assert state.attempts[1].resumed_from == state.attempts[0].last_step > 10
    check_invariants(story)


def test_under_notice_the_newest_checkpoint_is_all_that_is_fetched_until_the_trainer_has_saved(home: Path) -> None:
    def slow(number: int, machine: Machine) -> None:
        machine.pull_s, machine.save_s = (25.0, 30.0) if number == 1 else (0.0, 0.0)

    story = Story(home, slow)
    story.later(55, lambda: story.cloud.interrupt(story.cloud.machines[0]))
    state = story.engine().run()
    saved = state.attempts[0].last_step
    assert state.attempts[1].resumed_from == saved, "what the trainer saved under notice came home in the two minutes"
    check_invariants(story)


def test_what_else_the_trainer_wrote_comes_home_and_what_is_too_large_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.engine.collect.LARGEST_BYTES", 100)

    def writes(number: int, machine: Machine) -> None:
        machine.rest = {"results.csv": b"a,b", "best.json": b'{"step": 50}', "model.bin": b"x" * 101}

    story = Story(home, writes)
    state = story.engine().run()
    assert state.state == "SUCCEEDED"
    outputs = story.store.folder / "outputs"
    assert {path.name: path.read_bytes() for path in outputs.iterdir()} == {
        "results.csv": b"a,b", "best.json": b'{"step": 50}',
    }  # fmt: skip
    assert (story.store.checkpoints / "best.json").read_bytes() == b'{"step": 50}', "evaluate looks for it there"
    (event,) = (event for event in story.store.events() if isinstance(event, ExtraOutputsPulled))
    assert (event.files, event.size_bytes, event.left) == (2, 15, "model.bin (0.0 MB)")
    check_invariants(story)


def test_a_machine_that_goes_while_the_rest_is_fetched_costs_nothing_more(home: Path) -> None:
    def writes(number: int, machine: Machine) -> None:
        machine.rest = {"results.csv": b"a,b"}

    story = Story(home, writes)

    def connect(*words: Any) -> Any:
        host: Any = story.cloud.connect(*words)
        host.extra_outputs = lambda root: (_ for _ in ()).throw(UnreachableError("gone"))
        return host

    assert story.engine(connect=connect).run().state == "SUCCEEDED"
    check_invariants(story)
