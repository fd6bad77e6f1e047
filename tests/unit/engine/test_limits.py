"""Budget, duration, idleness: a run that reaches a limit is saved, ended and resumable, and on time."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from orchestrator.errors import BudgetError
from orchestrator.market.billing import total_usd
from orchestrator.runs.spec import Limits
from tests.support.memory import Machine
from tests.support.run_checks import check_invariants
from tests.support.story import Story

SLOW = 0.01  # steps/s: 100 steps take 10,000 s, which cost 0.83 $ at 0.30 $/h


def slow(number: int, machine: Machine) -> None:
    """Let a run last hours."""
    machine.steps_per_s = SLOW


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["0.05", "0.2", "0.31", "0.5"])
def test_a_budget_stops_the_run_saved_and_within_it(home: Path, budget: str) -> None:
    story = Story(home, slow, limits=Limits(budget_usd=Decimal(budget)))
    with pytest.raises(BudgetError, match="used up"):
        story.engine().run()
    state = story.store.state()
    assert state.state == "STOPPED"
    assert max(state.checkpoints) == state.attempts[0].last_step
    spent = total_usd(state.attempts, story.clock.now())
    assert spent <= Decimal(budget)
    assert spent > Decimal(budget) * Decimal("0.85"), "and most of it was used"
    check_invariants(story)


def test_a_budget_holds_over_all_attempts(home: Path) -> None:
    story = Story(home, slow, limits=Limits(budget_usd=Decimal("0.4")))
    for at_s in (4000, 8000):
        story.later(at_s, lambda: story.cloud.interrupt(story.cloud.machines[-1]))
    with pytest.raises(BudgetError):
        story.engine().run()
    state = story.store.state()
    assert len(state.attempts) >= 2
    assert total_usd(state.attempts, story.clock.now()) <= Decimal("0.4")
    check_invariants(story)


def test_a_budget_that_buys_no_minute_rents_nothing(home: Path) -> None:
    story = Story(home, limits=Limits(budget_usd=Decimal("0.001")))
    with pytest.raises(BudgetError, match="--resume story --budget MORE"):
        story.engine().run()
    assert story.cloud.machines == []
    assert story.store.state().state == "STOPPED"


def test_the_instance_is_told_how_long_it_may_go_on_alone(home: Path) -> None:
    story = Story(home, limits=Limits(budget_usd=Decimal("0.526")))
    story.engine().run()
    allow_s = story.cloud.machines[0].allow_s
    assert allow_s is not None
    assert 3400 < allow_s < 3600, "at the price cap, not at today's price"


def test_a_duration_stops_the_run(home: Path) -> None:
    story = Story(home, slow, limits=Limits(max_duration_s=1800))
    with pytest.raises(BudgetError, match="duration"):
        story.engine().run()
    state = story.store.state()
    assert state.attempts[0].ended_at is not None
    assert 1700 < state.attempts[0].ended_at - state.attempts[0].started_at < 1830
    check_invariants(story)


def test_a_trainer_that_has_nothing_to_say_any_more_is_stopped(home: Path) -> None:
    def stuck(number: int, machine: Machine) -> None:
        machine.steps_per_s = 0.0001

    story = Story(home, stuck, limits=Limits(idle_s=600))
    with pytest.raises(BudgetError, match="written nothing"):
        story.engine().run()
    check_invariants(story)


def test_a_stopped_run_goes_on_where_it_was_saved(home: Path) -> None:
    story = Story(home, slow, limits=Limits(max_duration_s=1800))
    with pytest.raises(BudgetError):
        story.engine().run()
    saved = max(story.store.state().checkpoints)
    story.cloud.configure = lambda number, machine: None
    story.spec = story.spec.model_copy(update={"limits": Limits()})
    state = story.engine().run("resume")
    assert state.state == "SUCCEEDED"
    assert state.attempts[1].resumed_from == saved > 0
    check_invariants(story)
