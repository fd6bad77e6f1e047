"""A trainer that fails right after a resume: the checkpoint before is tried once, on the in-memory cloud."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import TrainingError
from orchestrator.runs.events import CheckpointTakenBack, LossReason
from orchestrator.runs.state import RunState
from tests.support.memory import Machine
from tests.support.run_checks import check_invariants
from tests.support.story import Story


def failing_on(home: Path, *numbers: int, at_step: int = 1, first_steps_per_s: float = 1.0) -> Story:
    """Return a story whose first machine is interrupted, and whose machines of these numbers fail at that step.

    A machine that resumes from a later step fails before its first one.
    """

    def make(number: int, machine: Machine) -> None:
        if number in numbers:
            machine.crashes_at_step = at_step
        elif number == 1:
            machine.steps_per_s = first_steps_per_s

    story = Story(home, make)
    story.later(100, lambda: story.cloud.interrupt(story.cloud.machines[0]))
    return story


def test_the_checkpoint_before_is_tried_once_and_that_is_said(home: Path) -> None:
    story = failing_on(home, 2)
    state = story.engine().run()
    newest, older = state.attempts[1].resumed_from, state.attempts[2].resumed_from
    assert state.state == "SUCCEEDED"
    assert [attempt.lost_cause for attempt in state.attempts][1] == LossReason.RESUME_FAILED
    assert newest > older > 0
    assert newest - older == 10
    assert state.attempts[1].lost_because == (
        f"the trainer ended by itself with exit code 1 before its first step after checkpoint-{newest}.pt; "
        f"the checkpoint of step {older} is tried once"
    )
    check_invariants(story)


def test_if_the_older_one_does_not_help_the_newest_counts_again(home: Path) -> None:
    story = failing_on(home, 2, 3)
    with pytest.raises(TrainingError, match="exit code 1"):
        story.engine().run()
    state: RunState = story.store.state()
    newest = state.attempts[1].resumed_from
    assert state.state == "FAILED"
    assert len(state.attempts) == 3
    assert newest in state.checkpoints
    assert state.checkpoints[newest].size_bytes > 0
    assert not state.refused
    assert any(isinstance(event, CheckpointTakenBack) for event in story.store.events())
    pulled = sum(attempt.pulled_bytes for attempt in state.attempts)
    assert pulled < 2 * sum(one.size_bytes for one in state.checkpoints.values())  # received and billed once
    check_invariants(story)


def test_without_an_older_one_the_failure_stands(home: Path) -> None:
    story = failing_on(home, 2, first_steps_per_s=0.1)
    with pytest.raises(TrainingError, match="exit code 1"):
        story.engine().run()
    state = story.store.state()
    assert len(state.attempts) == 2
    assert len(state.checkpoints) == 1
    check_invariants(story)


def test_a_failure_after_the_first_step_stands(home: Path) -> None:
    story = failing_on(home, 2, at_step=99)
    with pytest.raises(TrainingError, match="exit code 1"):
        story.engine().run()
    assert len(story.store.state().attempts) == 2
    check_invariants(story)
