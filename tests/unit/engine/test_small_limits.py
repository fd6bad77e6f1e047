"""Small limits: a fifth at most is kept for saving."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import (
    BudgetError,
)
from orchestrator.runs.events import (
    Progress,
    TrainerExited,
)
from orchestrator.runs.spec import Limits
from tests.support.memory import Machine
from tests.support.run_checks import check_invariants
from tests.support.story import Story


def test_of_a_small_duration_a_fifth_at_most_is_kept_for_saving(home: Path) -> None:
    story = Story(home, limits=Limits(max_duration_s=100.0))
    began_at = story.clock.now()
    with pytest.raises(BudgetError, match="the duration of 100 s is over"):
        story.engine().run()
    exited = next(event for event in story.store.events() if isinstance(event, TrainerExited))
    assert 80 <= exited.at - began_at <= 90, "and the two minutes that it may take to save were not taken off"
    check_invariants(story)


def test_idleness_is_counted_to_the_second_that_was_asked_for(home: Path) -> None:
    def stuck(number: int, machine: Machine) -> None:
        machine.stuck_at_step = 20

    story = Story(home, stuck, limits=Limits(idle_s=60.0))
    with pytest.raises(BudgetError):
        story.engine().run()
    spoke_at = next(e.at for e in story.store.events() if isinstance(e, Progress) and e.step == 20)
    exited = next(event for event in story.store.events() if isinstance(event, TrainerExited))
    assert 55 <= exited.at - spoke_at <= 75
    check_invariants(story)
