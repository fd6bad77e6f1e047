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


@pytest.mark.slow
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


def test_a_quota_with_room_for_the_smaller_group_only_gives_the_smaller_one(home: Path) -> None:
    """`--nodes 2:3` begins with 2 where the account may have 2."""
    story = group_story(home, "2:3")
    story.cloud.room_for = 2
    story.engine().run()
    state = story.store.state()
    assert state.state == "SUCCEEDED"
    assert len(state.members(1)) == 2


def test_a_budget_that_does_not_pay_for_a_larger_group_does_not_end_the_smaller_one(home: Path) -> None:
    """It asks to grow, and trains on; it saves before its money is gone."""

    def fate(number: int, machine: Machine) -> None:
        machine.steps, machine.steps_per_s, machine.checkpoint_every = 100_000, 0.1, 100_000

    limits = Limits(budget_usd=Decimal("0.075"))
    story = group_story(home, "1:4", fate, limits=limits, recovery=RecoveryPolicy(poll_s=2.0))
    for zone in list(story.cloud.prices):
        story.cloud.room_in[zone] = 1
    with pytest.raises(BudgetError):
        story.engine().run()
    state = story.store.state()
    assert [one.trainer_exit is not None for one in state.attempts] == [True], "it was told, and saved"
    assert max(state.checkpoints) == state.step
