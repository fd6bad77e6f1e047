"""A run with a deadline on the embedded cloud goes as its simulation, on a trace of spot capacity. Slow."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from infra.local import EmbeddedCloudError
from orchestrator.policy.base import Job
from orchestrator.policy.market import Market
from orchestrator.policy.simulator import Outcome, simulate
from orchestrator.policy.uniform_progress import UniformProgress
from tests.support.stage import Stage, last_json, staged
from tests.support.tiny_trainer import expected, load

pytestmark = pytest.mark.slow

DEADLINE_S, WORK_S, STEP_S = 200, 80, 0.2
DOWN = ((10, 11.5), (20, 21.5), (30, 31.5), (40, 41.5), (50, 51.5), (60, 110))  # seconds since the launch: no spot
GAP_S = 0.5
STEPS = round(WORK_S / STEP_S)
NO_SPOT = {"operation": "RunInstances", "error": "InsufficientInstanceCapacity", "market": "spot", "times": 100_000}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage."""
    yield from staged(tmp_path)


def follow_the_trace(stage: Stage, launch: subprocess.Popen[str], began_at: float) -> None:
    """Give and take spot capacity as the trace says, until the run is over."""
    changes = sorted([*((down, False) for down, _ in DOWN), *((up, True) for _, up in DOWN)])
    for at, is_there in changes:
        while time.time() < began_at + at and launch.poll() is None:
            time.sleep(0.05)
        if launch.poll() is not None:
            return
        if is_there:
            stage.embedded().clear_faults()
            continue
        stage.embedded().add_fault(NO_SPOT)
        for attempt in stage.state().open_attempts():
            with contextlib.suppress(EmbeddedCloudError):  # it is on-demand, or on its way out
                stage.embedded().interrupt(attempt.instance_id)


def simulated(changeover_s: float) -> Outcome:
    """Return how the same job goes in the simulator, on the same trace, with these change-overs."""
    up = [not any(down <= point * GAP_S < end for down, end in DOWN) for point in range(4 * DEADLINE_S)]
    record = Market("trace", ("any",), GAP_S, np.array(up)[:, None], np.full((len(up), 1), 0.3))
    what = Job(WORK_S, DEADLINE_S, changeover_s)
    return simulate(record, what, UniformProgress(), np.array([0]), tick_s=GAP_S)


def test_a_trace_of_interruptions_goes_as_its_simulation(stage: Stage) -> None:
    """How a machine takes change-overs, and with it whether on-demand is needed, depends on the load of this one.

    The return from on-demand to spot is told in virtual time: tests/unit/engine/test_deadlines.py.
    """
    flags = ("--deadline", f"{DEADLINE_S}s", "--work", f"{WORK_S}s", "--policy", "uniform-progress", "-o", "json")
    trainer = (str(STEPS), str(STEP_S), "--every", "10")
    launch = stage.start(*stage.launch_words(*trainer, flags=flags))
    stage.until(lambda: stage.store.folder.exists() and stage.state().attempts, "a machine")
    follow_the_trace(stage, launch, stage.state().created_at)
    assert launch.wait(200) == 0, stage.said(launch)
    state, told = stage.state(), last_json(stage.said(launch))
    assert told["deadline"]["early_s"] > 0, told["deadline"]
    markets = [attempt.market for attempt in state.attempts]
    took = [a.first_step_at - a.started_at for a in state.attempts if a.first_step_at is not None]
    expected_ones = [simulated(changeover_s) for changeover_s in (min(took), sum(took) / len(took), max(took))]
    losses = [outcome.losses[0] for outcome in expected_ones]
    finishes_s = [outcome.finish_s[0] for outcome in expected_ones]
    assert state.interruptions >= 3, markets
    assert min(losses) - 2 <= state.interruptions <= max(losses) + 2, (markets, losses)
    took_s = state.updated_at - state.created_at
    assert min(finishes_s) - 40 <= took_s <= max(finishes_s) + 40, (took_s, finishes_s, markets)
    assert load(str(stage.store.checkpoints / f"checkpoint-{STEPS}.pt"))["weights"] == expected(STEPS)
    stage.check_nothing_is_left()
