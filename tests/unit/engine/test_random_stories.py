"""A few random stories in every run of the tests, and proof that a broken engine is caught by them.

`python -m tests.support.chaos --seeds 10000` tells many.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from orchestrator.engine import reaper
from orchestrator.engine.allowance import Allowance
from orchestrator.engine.engine import Engine
from orchestrator.engine.provisioner import Provisioner
from orchestrator.engine.reaper import Reaper
from orchestrator.engine.remote_store import RemoteCopy
from orchestrator.market import budget as limits
from orchestrator.plan.requests import Plan
from orchestrator.runs.spec import Limits
from orchestrator.runs.store import RunStore
from tests.support import chaos
from tests.support.tale import Fault, Setting


@pytest.mark.parametrize("seed", range(40))
def test_the_invariants_hold_whatever_happens(seed: int) -> None:
    assert chaos.failure_of(seed, chaos.faults_of(seed)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1500, 100))
def test_the_invariants_hold_in_many_more_stories(first: int) -> None:
    for seed in range(first, first + 100):
        assert chaos.failure_of(seed, chaos.faults_of(seed)) == "", f"seed {seed}: {chaos.faults_of(seed)}"


@pytest.mark.slow
def test_a_seed_tells_the_same_story_twice() -> None:
    told: list[list[Any]] = [[], []]
    for events in told:
        chaos.failure_in(chaos.setting_of(7), chaos.faults_of(7), told=events)
    assert told[0] == told[1] != []


# -- mutations: what they break must be seen


MOST_SEEDS = 1000


def is_caught(known: int) -> bool:
    """Return whether a story fails: first the one that is known to, then, should a change have hidden it, any other."""
    return any(chaos.failure_of(seed, chaos.faults_of(seed)) for seed in (known, *range(MOST_SEEDS)))


def ends_nothing(self: Reaper, *args: object, **kwargs: object) -> None:
    """Stand for an end that is never asked for."""


end_all = Reaper.end_all


def ends_in_a_hurry(self: Reaper, reason: str, *, even_under_notice: bool = False, patience_s: float = 0) -> list[str]:
    """Stand for an end that is given up when a credential helper is unwell."""
    return end_all(self, reason, even_under_notice=even_under_notice, patience_s=0)


MUTATIONS: dict[str, tuple[object, str, Callable[..., Any], int]] = {  # what, where, by what, within how many seeds
    "instances are not ended": (Reaper, "end", ends_nothing, 0),
    "EC2's words on who ended it are not read": (reaper, "who_ended", lambda *_: ("pixel-orch", ""), 20),
    "a price of another hour is billed": (reaper, "price_at", lambda history, at: history[-1].usd_h, 5),
    "one token stands for two requests": (Plan, "client_token", lambda s, offer, n, turn: f"{n} {offer.pool}", 77),
    "the guard does not know the budget": (Provisioner, "_alone_min", lambda *_: (60, 0), 9),
    "instances that only EC2 knows of are passed over": (Reaper, "_unknown", lambda *_: [], 55),
    "credentials that fail are not waited for": (Reaper, "end_all", ends_in_a_hurry, 106),
    "AWS's free end is not waited for": (Reaper, "should_leave_to_aws", lambda *_: False, 62),
    "the time that an instance has alone is wrong": (
        Engine, "_unattended_s", lambda self: self.policy.owner_timeout_s / 2, 647,
    ),
    "no budget is checked": (limits, "reached", lambda *_, **__: None, 33),
    "the instance is not told what its budget buys": (Allowance, "alone_s", lambda *_: None, 175),
    "the cap is today's price": (
        limits, "_instance_cap_usd_h", lambda spec, offer: Decimal(str(offer.price_usd_h)), 339,
    ),
    "what S3 tells of a lost instance is not heard": (RemoteCopy, "after_loss", lambda *_: None, 411),
    "no digest is compared": (RunStore, "is_whole", lambda *_: True, 188),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_engine_is_caught(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    where, what, by, known = MUTATIONS[name]
    monkeypatch.setattr(where, what, by)
    assert is_caught(known)


# -- two stories too rare for chance


def fault(kind: str, at_s: float, for_s: float = 5.0) -> Fault:
    """Return a fault of the first machine or the cheapest zone."""
    return Fault(kind, at_s, 1, "us-east-1b", for_s)


def test_an_instance_whose_launch_was_never_answered_is_waited_for_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [fault("vanish", 60), fault("lost-answer", 50), fault("ctrl-c-twice", 60.5, 2)]
    slow_to_list = Setting(listed_after_s=25.0)
    assert chaos.failure_in(slow_to_list, faults) == ""
    monkeypatch.setattr(Reaper, "has_unsure_requests", lambda self: False)
    assert "left behind" in chaos.failure_in(slow_to_list, faults)


@pytest.mark.slow
def test_a_budget_holds_though_nobody_could_ask_for_the_risen_price(monkeypatch: pytest.MonkeyPatch) -> None:
    more_expensive = Setting(
        steps_per_s=0.004, limits=Limits(budget_usd=Decimal("0.8")), moves=((100.0, "us-east-1b", 0.526),)
    )
    faults = [fault("expired", 3000, 8000)]
    assert chaos.failure_in(more_expensive, faults) == ""
    monkeypatch.setattr(limits, "worst_case", lambda spec, attempts, now: list(attempts))
    assert "are spent" in chaos.failure_in(more_expensive, faults)


def test_what_s3_has_is_resumed_from_though_less_came_home(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_line = Setting(pull_s=30.0, carry_s=0.0)
    faults = [fault("vanish", 80)]
    assert chaos.failure_in(slow_line, faults) == ""
    monkeypatch.setattr(RemoteCopy, "restore_on", lambda *_: 0)
    assert chaos.failure_in(slow_line, faults) == "", "what S3 has of a lost instance came home first"
    monkeypatch.setattr(RemoteCopy, "after_loss", lambda *_: None)
    assert "and it began with" in chaos.failure_in(slow_line, faults)


def test_what_finished_while_nobody_led_it_is_not_rented_again(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Setting(carry_s=5.0, away_s=20000.0)
    faults = [fault("kill", 60)]
    assert chaos.failure_in(away, faults) == ""
    monkeypatch.setattr(RemoteCopy, "catch_up", lambda _: None)
    assert "rented again" in chaos.failure_in(away, faults)
