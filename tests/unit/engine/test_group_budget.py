"""What the budget of a group pays for, in virtual time."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from orchestrator.errors import BudgetError
from orchestrator.market.billing import total_usd
from orchestrator.runs.spec import Limits, RecoveryPolicy
from tests.support.groups import group_story
from tests.support.memory import Machine


def test_after_the_first_hour_all_machines_are_counted_at_the_price_in_force(home: Path) -> None:
    """An hour whose price is not known counts as the on-demand price: the run would end long before its money does."""

    def fate(number: int, machine: Machine) -> None:
        machine.steps, machine.steps_per_s, machine.checkpoint_every = 100_000, 0.1, 100

    limits = Limits(budget_usd=Decimal("3"))
    story = group_story(home, "3", fate, limits=limits, recovery=RecoveryPolicy(poll_s=10.0))
    with pytest.raises(BudgetError):
        story.engine().run()
    state = story.store.state()
    assert state.generation == 1 and len(state.attempts) == 3
    assert Decimal("2.8") < total_usd(state.attempts, story.clock.now()) <= Decimal("3")
