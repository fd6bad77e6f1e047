"""A run with a deadline on the embedded cloud: interrupted, moved to on-demand where spot is gone, in time. Slow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.runs.deadline_events import DeadlineDecided
from tests.support.stage import Stage, last_json, staged
from tests.support.tiny_trainer import expected, load

pytestmark = pytest.mark.slow


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage."""
    yield from staged(tmp_path)


def test_a_run_that_loses_spot_is_done_in_time_on_on_demand(stage: Stage) -> None:
    flags = ("--deadline", "100s", "--work", "12s", "--policy", "greedy", "-o", "json")
    launch = stage.start(*stage.launch_words("60", "0.2", flags=flags))
    stage.until_step(5)
    spot = {"operation": "RunInstances", "error": "InsufficientInstanceCapacity", "market": "spot", "times": 10_000}
    stage.embedded().add_fault(spot)
    stage.embedded().interrupt(stage.instance_id())
    assert launch.wait(120) == 0, stage.said(launch)
    told = last_json(stage.said(launch))
    assert told["state"] == "SUCCEEDED"
    assert told["deadline"]["early_s"] > 0, told["deadline"]
    assert [attempt.market for attempt in stage.state().attempts] == ["spot", "on-demand"]
    assert stage.state().attempts[1].resumed_from >= 5
    modes = [event.mode for event in stage.store.events() if isinstance(event, DeadlineDecided)]
    assert modes[0] == "spot"
    assert modes == ["spot", "wait", "on-demand"], "it waits for spot as long as it can"
    assert load(str(stage.store.checkpoints / "checkpoint-60.pt"))["weights"] == expected(60)
    stage.check_nothing_is_left()
