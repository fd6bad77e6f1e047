"""Runs with a deadline, in virtual time: they wait, move to on-demand, return to spot, and are never late."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.config import TrainConfig
from orchestrator.engine.stop import Cancelled
from orchestrator.errors import BudgetError
from orchestrator.policy.base import Job
from orchestrator.policy.baselines import Greedy
from orchestrator.policy.market import Market
from orchestrator.policy.simulator import simulate
from orchestrator.runs.deadline_events import DeadlineDecided, DeadlineEndangered
from orchestrator.runs.spec import Deadline, GroupSpec, Limits, ProgramSpec, RecoveryPolicy
from tests.support.memory import EPOCH, ZONES, Machine, refusal_of
from tests.support.story import Story

HOUR_S = 3600.0
STEP_S = 10.0


def story(home: Path, *, hours: float, work_h: float = 2.0, policy: str = "planned", **spec: Any) -> Story:
    """Return a run of so many hours of work with a deadline so many hours ahead."""
    steps = round(work_h * HOUR_S / STEP_S)
    fate = spec.pop("fate", None)

    def fates(number: int, machine: Machine) -> None:
        machine.steps, machine.checkpoint_every, machine.steps_per_s = steps, 6, 1 / STEP_S
        if fate is not None:
            fate(number, machine)

    deadline = Deadline(at=EPOCH + hours * HOUR_S, policy=policy, work_s=spec.pop("promised_h", work_h) * HOUR_S)
    asked = {"trainer": TrainConfig(steps=steps), "program": ProgramSpec(deadline=deadline), **spec}
    return Story(home, fates, recovery=RecoveryPolicy(poll_s=60.0), **asked)


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


@pytest.mark.slow
def test_without_spot_it_waits_as_long_as_it_can_and_is_in_time(home: Path) -> None:
    one = story(home, hours=5)
    market(one, [(0, False)])
    assert one.engine().run().state == "SUCCEEDED"
    assert markets_of(one) == ["on-demand"]
    assert ended_h(one) < 5
    assert decided(one)[-1] == "on-demand"


@pytest.mark.slow
def test_greedy_waits_to_the_last_moment_and_the_safety_rule_moves_it(home: Path) -> None:
    one = story(home, hours=5, policy="greedy")
    market(one, [(0, False)])
    assert one.engine().run().state == "SUCCEEDED"
    assert markets_of(one) == ["on-demand"]
    assert 4.5 < ended_h(one) < 5
    last = [event for event in one.store.events() if isinstance(event, DeadlineDecided)][-1]
    assert (last.mode, last.is_forced) == ("on-demand", True)


@pytest.mark.slow
def test_it_goes_through_five_interruptions_and_returns_from_on_demand_to_spot(home: Path) -> None:
    one = story(home, hours=4.5, work_h=2.0)
    downs, ups = (0.2, 0.5, 0.8, 1.1, 1.4), (0.3, 0.6, 0.9, 1.2, 3.2)
    changes = sorted([*((at, False) for at in downs), *((at, True) for at in ups)])
    market(one, changes)
    assert one.engine().run().state == "SUCCEEDED"
    state = one.store.state()
    assert state.interruptions >= 5
    assert ended_h(one) < 4.5
    assert not one.cloud.security_groups, "nothing is left"
    assert all(machine.gone_at is not None for machine in one.cloud.machines)


@pytest.mark.slow
def test_on_demand_is_left_when_spot_comes_back_and_pays(home: Path) -> None:
    one = story(home, hours=3.6, work_h=3.0, policy="uniform-progress")
    market(one, [(0, False), (1.0, True)])
    assert one.engine().run().state == "SUCCEEDED"
    assert markets_of(one) == ["on-demand", "spot"]
    assert ended_h(one) < 3.6
    first = one.store.state().attempts[0]
    assert first.lost_cause is not None
    assert first.lost_cause.value == "moved"
    assert one.store.state().attempts[1].resumed_from > 1800 / STEP_S, "what on-demand trained goes with it"


@pytest.mark.slow
def test_a_spot_machine_that_does_not_boot_is_left_in_time(home: Path) -> None:
    def fate(number: int, machine: Machine) -> None:
        if machine.instance.market == "spot":
            machine.ready_at = float("inf")

    one = story(home, hours=2.4, fate=fate)
    assert one.engine().run().state == "SUCCEEDED"
    assert markets_of(one)[-1] == "on-demand"
    assert ended_h(one) < 2.4


@pytest.mark.slow
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


# -- through failures


class Killed(BaseException):
    """Stands for SIGKILL."""


def led_to_its_end(one: Story, *, away_s: float = 0.0) -> int:
    """Lead a run by one process after the other until it is over; return how many it took."""
    for lives in range(1, 20):
        try:
            one.engine().run("launch" if lives == 1 else "attach")
        except Killed:
            one.clock.sleep(away_s)
            continue
        return lives
    raise AssertionError("it does not end")


@pytest.mark.slow
@pytest.mark.parametrize("at_h", [0.05, 0.4, 1.0, 1.03, 1.06, 1.1, 1.5, 2.5])
def test_a_process_that_is_killed_is_followed_by_one_that_keeps_the_deadline(home: Path, at_h: float) -> None:
    one = story(home, hours=3.6, work_h=3.0, policy="uniform-progress")
    market(one, [(0, False), (1.0, True), (2.0, False), (2.1, True)])

    def kill() -> None:
        raise Killed

    one.clock.at(EPOCH + at_h * HOUR_S, kill)
    assert led_to_its_end(one) == 2
    assert one.store.state().state == "SUCCEEDED"
    assert ended_h(one) < 3.6
    assert one.cloud.alive() == []
    running = [event.mode for event in one.store.events() if isinstance(event, DeadlineDecided)]
    assert running


def test_a_run_that_was_resumed_after_an_outage_is_in_time_or_says_at_once_that_it_is_not(home: Path) -> None:
    one = story(home, hours=2.6, work_h=2.0)

    def kill() -> None:
        raise Killed

    one.clock.at(EPOCH + 0.5 * HOUR_S, kill)
    assert led_to_its_end(one, away_s=1.5 * HOUR_S) == 2
    assert one.store.state().state == "SUCCEEDED"
    told = [event for event in one.store.events() if isinstance(event, DeadlineEndangered)]
    assert bool(told) == (ended_h(one) > 2.6)


@pytest.mark.slow
def test_an_api_that_is_away_for_a_while_does_not_make_a_run_late(home: Path) -> None:
    one = story(home, hours=3.6, work_h=3.0)
    launch = one.cloud.launch

    def unwell(*rest: Any) -> Any:
        if 0.4 * HOUR_S < one.clock.now() - EPOCH < 0.5 * HOUR_S:
            raise refusal_of("RequestLimitExceeded", "us-east-1")
        return launch(*rest)

    one.cloud.launch = unwell  # type: ignore[method-assign]
    market(one, [(0.39, False)])
    assert one.engine().run().state == "SUCCEEDED"
    assert ended_h(one) < 3.6


def test_a_budget_and_a_deadline_that_exclude_each_other_are_told(home: Path) -> None:
    one = story(home, hours=3.0, work_h=2.0, policy="greedy", limits=Limits(budget_usd=Decimal("0.7")))
    market(one, [(0.2, False)])
    with pytest.raises(BudgetError):
        one.engine().run()
    (told,) = [event for event in one.store.events() if isinstance(event, DeadlineEndangered)]
    assert "both cannot be kept" in told.reason
    assert one.store.state().state == "STOPPED"


@pytest.mark.slow
def test_on_demand_without_capacity_is_asked_again_and_spot_too(home: Path) -> None:
    one = story(home, hours=2.5)
    one.cloud.empty_zones = set(ZONES)
    one.later(1.0 * HOUR_S, one.cloud.empty_zones.clear)
    assert one.engine().run().state == "SUCCEEDED"
    assert one.cloud.alive() == []


def no_on_demand(one: Story, from_h: float, to_h: float, code: str = "InsufficientInstanceCapacity") -> None:
    """Let EC2 refuse on-demand for a while."""
    launch = one.cloud.launch

    def ask(call: Any, *rest: Any) -> Any:
        is_spot = "InstanceMarketOptions" in call.parameters
        if not is_spot and from_h * HOUR_S <= one.clock.now() - EPOCH < to_h * HOUR_S:
            raise refusal_of(code, "us-east-1")
        return launch(call, *rest)

    one.cloud.launch = ask  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize("code", ["InsufficientInstanceCapacity", "VcpuLimitExceeded"])
def test_a_spot_machine_that_trains_is_kept_where_on_demand_cannot_be_had(home: Path, code: str) -> None:
    one = story(home, hours=2.3)  # on-demand from the beginning, by the safety rule
    no_on_demand(one, 0, 9, code)
    assert one.engine().run().state == "SUCCEEDED"
    assert markets_of(one) == ["spot"]
    assert ended_h(one) < 2.3


@pytest.mark.slow
def test_spot_is_left_for_an_on_demand_machine_that_is_there_and_not_before(home: Path) -> None:
    one = story(home, hours=2.1, work_h=2.0, promised_h=1.0)  # it is found out that there is more to do
    no_on_demand(one, 0, 0.5)
    assert one.engine().run().state == "SUCCEEDED"
    first, second = one.store.state().attempts
    assert (first.market, second.market) == ("spot", "on-demand")
    assert first.ended_at is not None
    assert second.started_at < first.ended_at
    assert second.started_at == pytest.approx(EPOCH + 0.5 * HOUR_S, abs=130)


def test_on_demand_is_not_left_for_spot_where_a_change_over_costs_more_than_the_rest(home: Path) -> None:
    def fate(number: int, machine: Machine) -> None:
        machine.steps_per_s, machine.setup_s = 2.0, 600.0  # done after 35 minutes; spot is asked for after 30

    one = story(home, hours=3.0, work_h=0.75, policy="uniform-progress", fate=fate)
    market(one, [(0, False), (0.4, True)])
    assert one.engine().run().state == "SUCCEEDED"
    assert markets_of(one) == ["on-demand"]


def test_a_request_for_spot_that_fails_ends_no_machine_that_trains(home: Path) -> None:
    one = story(home, hours=3.6, work_h=3.0, policy="uniform-progress")
    market(one, [(0, False)])
    launch = one.cloud.launch

    def expired(*rest: Any) -> Any:
        if one.cloud.machines:
            raise refusal_of("ExpiredToken", "us-east-1")
        return launch(*rest)

    one.cloud.launch = expired  # type: ignore[method-assign]
    assert one.engine().run().state == "SUCCEEDED"
    assert markets_of(one) == ["on-demand"]


def test_a_stop_while_spot_is_asked_for_lets_the_machine_that_trains_save(home: Path) -> None:
    one = story(home, hours=3.6, work_h=3.0, policy="uniform-progress")
    market(one, [(0, False)])
    engine, launch = one.engine(), one.cloud.launch

    def pressed(*rest: Any) -> Any:
        if one.cloud.machines:
            engine.request_stop("SIGINT")
        return launch(*rest)

    one.cloud.launch = pressed  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        engine.run()
    (attempt,) = one.store.state().attempts
    assert attempt.trainer_exit is not None
    assert max(one.store.state().checkpoints) == attempt.last_step


@pytest.mark.slow
def test_twenty_interruptions_end_no_run_that_has_a_deadline(home: Path) -> None:
    one = story(home, hours=9.0, work_h=2.0, policy="greedy")
    market(one, sorted([*((0.1 * n, False) for n in range(1, 30)), *((0.1 * n + 0.01, True) for n in range(1, 30))]))
    assert one.engine().run().state == "SUCCEEDED"
    assert len(one.store.state().attempts) > one.spec.recovery.max_attempts
    assert ended_h(one) < 9.0


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["planned", "uniform-progress"])
def test_a_run_that_is_resumed_plans_for_what_is_left_and_says_anew_that_it_is_late(home: Path, policy: str) -> None:
    one = story(home, hours=2.0, work_h=2.0, policy=policy)
    one.later(1.8 * HOUR_S, lambda: engine.request_stop("SIGINT"))
    engine = one.engine()
    with pytest.raises(Cancelled):
        engine.run()
    assert len(warnings_of(one)) == 1
    spent = len(one.store.state().attempts)
    program = ProgramSpec(deadline=Deadline(at=one.clock.now() + 1.5 * HOUR_S, policy=policy, work_s=2 * HOUR_S))
    one.spec = one.spec.model_copy(update={"program": program})
    assert one.engine().run("resume").state == "SUCCEEDED"
    assert markets_of(one)[spent:] == ["spot"], "a fifth of the work in an hour and a half"
    assert len(warnings_of(one)) == 1


def test_a_new_deadline_that_cannot_hold_is_told_though_the_old_one_was_too(home: Path) -> None:
    one = story(home, hours=1.5, work_h=2.0)
    one.later(0.5 * HOUR_S, lambda: engine.request_stop("SIGINT"))
    engine = one.engine()
    with pytest.raises(Cancelled):
        engine.run()
    program = ProgramSpec(deadline=Deadline(at=one.clock.now() + 1.0 * HOUR_S, policy="planned", work_s=2 * HOUR_S))
    one.spec = one.spec.model_copy(update={"program": program})
    assert one.engine().run("resume").state == "SUCCEEDED"
    assert len(warnings_of(one)) == 2


def warnings_of(one: Story) -> list[DeadlineEndangered]:
    return [event for event in one.store.events() if isinstance(event, DeadlineEndangered)]


# -- as the simulation says


@pytest.mark.slow
def test_a_run_goes_as_its_simulation_with_the_change_overs_that_it_measures(home: Path) -> None:
    hours, work_h = 4.0, 2.0
    downs, ups = (0.5, 1.0, 1.5), (1 / 3 + 0.5, 1.0 + 1 / 6, 1.5 + 2 / 3)  # at points of a record, every ten minutes
    one = story(home, hours=hours, work_h=work_h, policy="greedy")
    market(one, sorted([*((at, False) for at in downs), *((at, True) for at in ups)]))
    one.cloud.interrupt = lambda machine, **_: one.cloud.end(machine, "Server.SpotInstanceTermination")  # type: ignore
    assert one.engine().run().state == "SUCCEEDED"
    attempts = one.store.state().attempts
    changeover_s = sum((a.first_step_at or 0) - a.started_at for a in attempts) / len(attempts)
    up = [not any(down <= point / 6 + 1e-6 < up for down, up in zip(downs, ups, strict=True)) for point in range(36)]
    record = Market("x", ("a",), 600.0, np.array(up)[:, None], np.full((36, 1), 0.3))
    told = simulate(record, Job(work_h * HOUR_S, hours * HOUR_S, changeover_s, checkpoint_every_s=60.0), Greedy(),
                    np.array([0]))  # fmt: skip
    assert (len(attempts), one.store.state().interruptions) == (told.attempts[0], told.losses[0])
    assert ended_h(one) * HOUR_S == pytest.approx(told.finish_s[0], abs=400)


def in_group(home: Path, **spec: Any) -> Story:
    """Return a story with a deadline of two machines at once."""
    one = story(home, **spec)
    group = GroupSpec(min_nodes=2, max_nodes=2)
    one.spec = one.spec.model_copy(update={"program": one.spec.program.model_copy(update={"group": group})})
    one.store.write_spec(one.spec)
    return one


@pytest.mark.slow
def test_a_group_moves_to_on_demand_and_back_as_one(home: Path) -> None:
    """Both machines of a generation are of one market; the other two are there before these are left."""
    one = in_group(home, hours=4.5)
    market(one, [(0.5, False), (3.3, True)])
    assert one.engine().run().state == "SUCCEEDED"
    state = one.store.state()
    assert ended_h(one) < 4.5
    of_generations = [{member.market for member in state.members(g)} for g in range(1, state.generation + 1)]
    assert of_generations[0] == {"spot"}
    assert {"on-demand"} in of_generations
    assert all(len(found) == 1 for found in of_generations)
    assert all(len(state.members(g)) == 2 for g in range(1, state.generation + 1))
    assert one.cloud.alive() == []
    assert not one.cloud.security_groups


def test_a_group_that_loses_one_machine_to_an_empty_market_moves_as_a_whole(home: Path) -> None:
    one = in_group(home, hours=2.6)

    def lose_one() -> None:
        one.cloud.zones_without_spot = set(ZONES)
        one.cloud.interrupt(one.cloud.machines[1])

    one.later(0.3 * HOUR_S, lose_one)
    assert one.engine().run().state == "SUCCEEDED"
    state = one.store.state()
    assert [one.market for one in state.members(state.generation)] == ["on-demand", "on-demand"]
    assert ended_h(one) < 2.6


@pytest.mark.slow
def test_the_costs_of_a_decision_are_those_of_all_machines(home: Path) -> None:
    costs = []
    for make in (story, in_group):
        one = make(home / make.__name__, hours=4)
        one.engine().run()
        costs.append(next(e for e in one.store.events() if isinstance(e, DeadlineDecided)).costs["on-demand"])
    assert costs[1] == pytest.approx(2 * costs[0], rel=0.01)
