"""Runs with a deadline, in virtual time: they wait, move to on-demand, return to spot, and are never late."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from model.config import TrainConfig
from orchestrator.runs.deadline_events import DeadlineDecided, DeadlineEndangered
from orchestrator.runs.spec import Deadline, ProgramSpec, RecoveryPolicy
from tests.support.memory import EPOCH, ZONES, Machine
from tests.support.story import Story

HOUR_S = 3600.0


def story(home: Path, *, hours: float, work_h: float = 2.0, policy: str = "planned", **spec: Any) -> Story:
    """Return a run of so many hours of work with a deadline so many hours ahead."""
    steps = round(work_h * HOUR_S)
    fate = spec.pop("fate", None)

    def fates(number: int, machine: Machine) -> None:
        machine.steps = steps
        if fate is not None:
            fate(number, machine)

    deadline = Deadline(at=EPOCH + hours * HOUR_S, policy=policy, work_s=spec.pop("promised_h", work_h) * HOUR_S)
    asked = {"trainer": TrainConfig(steps=steps), "program": ProgramSpec(deadline=deadline), **spec}
    return Story(home, fates, recovery=RecoveryPolicy(poll_s=20.0), **asked)


def market(one: Story, changes: Iterable[tuple[float, bool]]) -> None:
    """Let spot be there from some hours on, or not: what runs is interrupted where it ends."""
    for at_h, is_there in changes:
        if at_h == 0:
            turn(one, is_there=is_there)
            continue
        one.clock.at(EPOCH + at_h * HOUR_S, lambda is_there=is_there: turn(one, is_there=is_there))  # type: ignore[misc]


def turn(one: Story, *, is_there: bool) -> None:
    """Give or take all spot capacity now."""
    one.cloud.zones_without_spot = set() if is_there else set(ZONES)
    if not is_there:
        for machine in one.cloud.machines:
            if machine.gone_at is None and machine.instance.market == "spot":
                one.cloud.interrupt(machine)


def markets_of(one: Story) -> list[str]:
    return [attempt.market for attempt in one.store.state().attempts]


def decided(one: Story) -> list[str]:
    return [event.mode for event in one.store.events() if isinstance(event, DeadlineDecided)]


def ended_h(one: Story) -> float:
    return (one.clock.now() - EPOCH) / HOUR_S


def test_spot_that_stays_is_all_that_it_takes(home: Path) -> None:
    one = story(home, hours=4)
    assert one.engine().run().state == "SUCCEEDED"
    assert markets_of(one) == ["spot"]
    assert decided(one) == ["spot"]


def test_without_spot_it_waits_as_long_as_it_can_and_is_in_time(home: Path) -> None:
    one = story(home, hours=5)
    market(one, [(0, False)])
    assert one.engine().run().state == "SUCCEEDED"
    assert markets_of(one) == ["on-demand"]
    assert ended_h(one) < 5
    assert decided(one)[-1] == "on-demand"


def test_greedy_waits_to_the_last_moment_and_the_safety_rule_moves_it(home: Path) -> None:
    one = story(home, hours=5, policy="greedy")
    market(one, [(0, False)])
    assert one.engine().run().state == "SUCCEEDED"
    assert markets_of(one) == ["on-demand"]
    assert 4.5 < ended_h(one) < 5
    last = [event for event in one.store.events() if isinstance(event, DeadlineDecided)][-1]
    assert (last.mode, last.is_forced) == ("on-demand", True)


def test_it_goes_through_five_interruptions_and_returns_from_on_demand_to_spot(home: Path) -> None:
    one = story(home, hours=12, work_h=6.0)
    downs, ups = (0.5, 1.1, 1.7, 2.3, 2.9), (0.7, 1.3, 1.9, 2.5, 8.5)
    changes = sorted([*((at, False) for at in downs), *((at, True) for at in ups)])
    market(one, changes)
    assert one.engine().run().state == "SUCCEEDED"
    state = one.store.state()
    assert state.interruptions >= 5
    assert ended_h(one) < 12
    assert not one.cloud.security_groups, "nothing is left"
    assert all(machine.gone_at is not None for machine in one.cloud.machines)


def test_on_demand_is_left_when_spot_comes_back_and_pays(home: Path) -> None:
    one = story(home, hours=7.2, work_h=6.0, policy="uniform-progress")
    market(one, [(0, False), (2.0, True)])
    assert one.engine().run().state == "SUCCEEDED"
    assert markets_of(one) == ["on-demand", "spot"]
    assert ended_h(one) < 7.2
    first = one.store.state().attempts[0]
    assert first.lost_cause is not None
    assert first.lost_cause.value == "moved"
    assert one.store.state().attempts[1].resumed_from > 3600, "what on-demand trained goes with it"


def test_a_spot_machine_that_does_not_boot_is_left_in_time(home: Path) -> None:
    def fate(number: int, machine: Machine) -> None:
        if machine.instance.market == "spot":
            machine.ready_at = float("inf")

    one = story(home, hours=2.4, fate=fate)
    assert one.engine().run().state == "SUCCEEDED"
    assert markets_of(one)[-1] == "on-demand"
    assert ended_h(one) < 2.4


def test_work_is_measured_and_not_promised(home: Path) -> None:
    one = story(home, hours=5, work_h=4.0, promised_h=1.0, policy="greedy")
    market(one, [(0.3, False)])
    assert one.engine().run().state == "SUCCEEDED"
    assert ended_h(one) < 5
    assert markets_of(one)[-1] == "on-demand"


def test_a_deadline_that_cannot_hold_is_told_at_once_and_the_work_is_done(home: Path) -> None:
    one = story(home, hours=1.5)
    assert one.engine().run().state == "SUCCEEDED"
    (told,) = [event for event in one.store.events() if isinstance(event, DeadlineEndangered)]
    assert "late by" in told.reason
    assert told.at == pytest.approx(EPOCH, abs=60)
    assert "on-demand" in markets_of(one)


def crash(number: int) -> Callable[[Any, int], None]:
    """Return what kills the leading process at a step."""

    def act(attempt: Any, step: int) -> None:
        if step >= number:
            raise KeyboardInterrupt

    return act
