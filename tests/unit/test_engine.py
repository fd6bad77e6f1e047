"""The engine's stories, in virtual time: whatever happens, nothing is left behind and nothing acknowledged is lost."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.clock import Clock
from orchestrator.cloud.base import Instance
from orchestrator.engine.engine import Cancelled
from orchestrator.errors import (
    AccessError,
    BudgetError,
    CapacityError,
    CloudError,
    DiskFullError,
    HostError,
    QuotaError,
    ThrottledError,
    TrainingError,
    UnreachableError,
)
from orchestrator.runs.events import (
    FINAL_STATES,
    CheckpointPulled,
    CheckpointRefused,
    CredentialsExpiring,
    DiskFull,
    Event,
    InstanceEnded,
    Progress,
    RestPulled,
    StateChanged,
    TrainerExited,
)
from orchestrator.runs.spec import Limits, RecoveryPolicy
from orchestrator.runs.state import fold
from tests.memory import BrokenSetup, Machine, VirtualClock, refusal_of
from tests.story import Story


def check_invariants(story: Story) -> None:
    """After every story: no machine, no door, every acknowledged checkpoint whole, the last fact is a final state."""
    assert story.cloud.alive() == []
    assert story.cloud.doors == {}
    state = story.store.state()
    assert state.state in FINAL_STATES
    assert state.open_attempts() == []
    pulled = [e for e in story.store.events() if isinstance(e, CheckpointPulled)]
    refused = {e.name for e in story.store.events() if isinstance(e, CheckpointRefused)}
    assert all(story.store.is_whole(p) for p in state.checkpoints.values())
    assert {p.step for p in pulled if p.name not in refused} <= set(state.checkpoints)
    assert isinstance(story.store.events()[-1], StateChanged)


def test_a_quiet_run_takes_the_cheapest_pool_and_brings_every_checkpoint_home(home: Path) -> None:
    story = Story(home)
    state = story.engine().run()
    assert state.state == "SUCCEEDED"
    assert [a.zone for a in state.attempts] == ["us-east-1b"]
    assert sorted(state.checkpoints) == list(range(10, 101, 10))
    assert (state.attempts[0].first_step, state.attempts[0].last_step) == (1, 100)
    assert state.attempts[0].ended_by == "pixel-orch"
    check_invariants(story)


def test_an_interruption_with_notice_goes_on_in_another_pool_from_the_last_step(home: Path) -> None:
    story = Story(home)
    story.later(60, lambda: story.cloud.interrupt(story.cloud.machines[0]))
    state = story.engine().run()
    first, second = state.attempts
    assert state.state == "SUCCEEDED"
    assert first.zone != second.zone
    assert second.first_step == first.last_step + 1
    assert first.ended_by == "aws"
    check_invariants(story)


def test_an_instance_under_notice_in_its_first_hour_is_left_to_aws(home: Path) -> None:
    story = Story(home)
    story.later(60, lambda: story.cloud.interrupt(story.cloud.machines[0]))
    story.engine().run()
    assert story.cloud.machines[0].instance.instance_id not in story.cloud.terminations
    check_invariants(story)


def test_an_instance_under_notice_after_its_first_hour_is_ended_by_us_once_the_checkpoint_is_home(home: Path) -> None:
    def slow(number: int, machine: Machine) -> None:
        machine.steps_per_s = 0.025 if number == 1 else 10

    story = Story(home, slow)
    story.later(3700, lambda: story.cloud.interrupt(story.cloud.machines[0]))
    state = story.engine().run()
    assert state.attempts[0].ended_by == "pixel-orch"
    assert state.attempts[1].resumed_from == state.attempts[0].last_step > 0
    check_invariants(story)


def test_an_instance_that_outlives_its_notice_is_ended_after_another_minute(home: Path) -> None:
    story = Story(home)

    def notice_only() -> None:
        story.cloud.machines[0].noticed_at = story.clock.now()

    story.later(60, notice_only)
    state = story.engine().run()
    first = state.attempts[0]
    assert first.ended_by == "pixel-orch"
    assert first.noticed_ends_at is not None and first.ended_at is not None
    assert 55 <= first.ended_at - first.noticed_ends_at <= 75
    check_invariants(story)


def test_a_termination_without_notice_resumes_from_the_last_periodic_checkpoint(home: Path) -> None:
    story = Story(home)
    story.later(60, lambda: story.cloud.interrupt(story.cloud.machines[0], notice_s=0))
    state = story.engine().run()
    first, second = state.attempts
    assert second.resumed_from == first.last_step // 10 * 10
    assert state.state == "SUCCEEDED"
    check_invariants(story)


def test_a_frozen_host_is_given_up_ended_by_us_and_replaced(home: Path) -> None:
    def freeze(number: int, machine: Machine) -> None:
        machine.frozen_from = machine.ready_at + 40 if number == 1 else None

    story = Story(home, freeze)
    state = story.engine().run()
    assert state.attempts[0].ended_by == "pixel-orch"
    assert "no answer" in state.attempts[0].lost_because
    assert state.state == "SUCCEEDED"
    check_invariants(story)


def test_a_host_that_never_boots_is_given_up_and_replaced(home: Path) -> None:
    def never(number: int, machine: Machine) -> None:
        machine.frozen_from = 0.0 if number == 1 else None

    story = Story(home, never)
    assert story.engine().run().state == "SUCCEEDED"
    assert "did not answer within 30" in story.store.state().attempts[0].lost_because
    check_invariants(story)


def test_empty_pools_are_events_not_attempts(home: Path) -> None:
    story = Story(home)
    story.cloud.empty_zones = {"us-east-1b", "us-east-1c"}
    state = story.engine().run()
    assert [a.zone for a in state.attempts] == ["us-east-1a"]
    assert [f.zone for f in state.failures] == ["us-east-1b", "us-east-1c"]
    check_invariants(story)


def test_no_capacity_anywhere_ends_a_first_attempt_with_what_to_do(home: Path) -> None:
    story = Story(home)
    story.cloud.empty_zones = {"us-east-1a", "us-east-1b", "us-east-1c"}
    with pytest.raises(CapacityError, match=r"3 pools tried.*Add types with --instance"):
        story.engine().run()
    assert story.store.state().attempts == []
    check_invariants(story)


def test_while_recovering_empty_pools_are_tried_again_later(home: Path) -> None:
    story = Story(home)

    def storm() -> None:
        story.cloud.interrupt(story.cloud.machines[0], notice_s=0)
        story.cloud.empty_zones = {"us-east-1a", "us-east-1b", "us-east-1c"}

    story.later(60, storm)
    story.later(400, story.cloud.empty_zones.clear)
    story.later(401, lambda: setattr(story.cloud, "empty_zones", set()))
    state = story.engine().run()
    assert state.state == "SUCCEEDED"
    assert len(state.attempts) == 2
    check_invariants(story)


@pytest.mark.parametrize(
    "error", [QuotaError("limit of 0", code="VcpuLimitExceeded"), AccessError("no", code="UnauthorizedOperation")]
)
def test_quota_and_access_stop_at_once_since_another_zone_does_not_help(home: Path, error: CloudError) -> None:
    story = Story(home)
    story.cloud.refusals = {"us-east-1b": [error]}
    with pytest.raises(type(error)):
        story.engine().run()
    assert len(story.cloud.calls) == 1
    check_invariants(story)


def test_throttling_repeats_the_same_request_with_the_same_token(home: Path) -> None:
    story = Story(home)
    story.cloud.refusals = {"us-east-1b": [ThrottledError("slow down", code="RequestLimitExceeded")] * 2}
    assert story.engine().run().state == "SUCCEEDED"
    assert len({call.parameters["ClientToken"] for call in story.cloud.calls}) == 1
    check_invariants(story)


def test_a_lost_answer_does_not_make_a_second_instance(home: Path) -> None:
    story = Story(home)
    story.cloud.fail_after_serving = 1
    assert story.engine().run().state == "SUCCEEDED"
    assert len(story.cloud.machines) == 1
    check_invariants(story)


def test_a_trainer_that_fails_by_itself_is_not_relaunched(home: Path) -> None:
    def crash(number: int, machine: Machine) -> None:
        machine.crashes_at_step = 37

    story = Story(home, crash)
    with pytest.raises(TrainingError, match="exit code 1"):
        story.engine().run()
    state = story.store.state()
    assert state.state == "FAILED"
    assert len(state.attempts) == 1
    assert max(state.checkpoints) == 30
    check_invariants(story)


def test_a_bootstrap_that_fails_ends_the_run_and_says_why(home: Path) -> None:
    story = Story(home)
    engine = story.engine()
    engine.connect = lambda instance, user, key: BrokenSetup(story.cloud, story.cloud.machines[-1])
    with pytest.raises(HostError, match="no torch build has kernels"):
        engine.run()
    check_invariants(story)


def test_a_damaged_newest_checkpoint_at_home_is_said_and_the_one_before_it_used(home: Path) -> None:
    story = Story(home)

    def damage() -> None:
        newest = max(story.store.state().checkpoints)
        (story.store.checkpoints / f"checkpoint-{newest}.pt").write_bytes(b"damaged")
        story.cloud.interrupt(story.cloud.machines[0], notice_s=0)

    story.later(60, damage)
    state = story.engine().run()
    assert len(state.refused) == 1
    assert state.attempts[1].resumed_from == max(s for s in range(10, 100, 10) if s < _step_of(state.refused[0].name))
    assert state.state == "SUCCEEDED"
    check_invariants(story)


def test_a_checkpoint_that_the_trainer_refuses_is_said_and_the_one_before_it_used(home: Path) -> None:
    def refuse(number: int, machine: Machine) -> None:
        machine.refuses = {"checkpoint-30.pt"} if number == 2 else set()

    story = Story(home, refuse)
    story.later(58, lambda: story.cloud.interrupt(story.cloud.machines[0], notice_s=0))
    state = story.engine().run()
    assert [r.name for r in state.refused] == ["checkpoint-30.pt"]
    assert state.attempts[1].resumed_from == 20
    check_invariants(story)


def _step_of(name: str) -> int:
    return int(name.split("-")[1].split(".")[0])


@pytest.mark.parametrize("after_s", [0.5, 5, 21, 23, 40, 80, 121, 130])
def test_ctrl_c_at_any_time_ends_everything(home: Path, after_s: float) -> None:
    story = Story(home)
    engine = story.engine()
    story.later(after_s, lambda: engine.request_stop("SIGINT"))
    try:
        engine.run()
    except Cancelled:
        assert story.store.state().state == "CANCELLED"
    check_invariants(story)


def test_ctrl_c_in_mid_training_keeps_the_last_step(home: Path) -> None:
    story = Story(home)
    engine = story.engine()
    story.later(63, lambda: engine.request_stop("SIGINT"))
    with pytest.raises(Cancelled):
        engine.run()
    state = story.store.state()
    assert max(state.checkpoints) == state.attempts[0].last_step > 30
    check_invariants(story)


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ours runs."""


class DyingClock(VirtualClock):
    """A clock at which, at a given moment, the process dies."""

    dies_at = float("inf")

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.now() >= self.dies_at:
            raise Killed


def _led_until_killed(story: Story, monkeypatch: pytest.MonkeyPatch, after_s: float) -> bool:
    clock = DyingClock(story.clock.now())
    clock.dies_at = clock.now() + after_s
    story.clock = story.cloud.clock = clock
    engine = story.engine()
    monkeypatch.setattr(engine, "_finish", lambda state, reason: None)  # SIGKILL runs no exit path
    try:
        engine.run()
    except Killed:
        clock.dies_at = float("inf")
        return True
    return False


@pytest.mark.parametrize("after_s", [0.5, 10, 20.5, 22, 30, 60, 119])
def test_after_a_sigkill_attach_goes_on_and_finishes(
    home: Path, monkeypatch: pytest.MonkeyPatch, after_s: float
) -> None:
    story = Story(home)
    assert _led_until_killed(story, monkeypatch, after_s)
    state = story.engine().run("attach")
    assert state.state == "SUCCEEDED"
    assert len(story.cloud.machines) == 1, "the instance that was there is used, no second one rented"
    assert sorted(state.checkpoints) == list(range(10, 101, 10))
    check_invariants(story)


def test_after_a_sigkill_between_request_and_answer_attach_adopts_the_instance(home: Path) -> None:
    story = Story(home)

    engine = story.engine()
    launch = story.cloud.launch

    def launch_and_die(call, template=None):  # type: ignore[no-untyped-def]
        launch(call, template)
        raise Killed

    story.cloud.launch = launch_and_die  # type: ignore[method-assign]
    engine._finish = lambda state, reason: None  # type: ignore[method-assign]
    with pytest.raises(Killed):
        engine.run()
    story.cloud.launch = launch  # type: ignore[method-assign]
    assert story.cloud.alive() != []
    assert story.store.state().attempts == []
    state = story.engine().run("attach")
    assert state.state == "SUCCEEDED"
    assert len(story.cloud.machines) == 1
    check_invariants(story)


def test_an_instance_that_somebody_else_ended_is_replaced_and_said(home: Path) -> None:
    story = Story(home)
    story.later(60, lambda: story.cloud.end(story.cloud.machines[0], "Client.UserInitiatedShutdown"))
    state = story.engine().run()
    assert state.attempts[0].ended_by == "other"
    assert state.state == "SUCCEEDED"
    check_invariants(story)


def test_the_end_is_written_down_only_when_ec2_says_terminated(home: Path) -> None:
    story = Story(home, lambda number, machine: setattr(machine, "shutting_down_s", 240.0))
    began_at: Clock = story.clock
    story.engine().run()
    ended = [e for e in story.store.events() if isinstance(e, InstanceEnded)]
    assert ended[0].at - story.cloud.machines[0].gone_at >= 240  # type: ignore[operator]
    assert began_at.now() > 0
    check_invariants(story)


def test_a_laptop_that_is_offline_for_an_hour_loses_nothing(home: Path) -> None:
    patient = RecoveryPolicy(poll_s=2.0, owner_timeout_s=2 * 3600)  # else the instance ends itself meanwhile
    story = Story(home, lambda number, machine: setattr(machine, "steps_per_s", 0.02), recovery=patient)
    away = {"is": False}
    ask = story.cloud.instances

    def instances(run: str | None = None) -> list[Instance]:
        if away["is"]:
            raise CloudError("could not connect", code="EndpointConnectionError")
        return ask(run)

    story.cloud.instances = instances  # type: ignore[method-assign]

    def go_offline() -> None:
        away["is"], story.cloud.machines[0].frozen_from = True, story.clock.now()

    def come_back() -> None:
        away["is"], story.cloud.machines[0].frozen_from = False, None

    story.later(100, go_offline)
    story.later(3700, come_back)
    state = story.engine().run()
    assert state.state == "SUCCEEDED"
    assert len(state.attempts) == 1
    check_invariants(story)


def test_an_end_that_cannot_be_asked_for_at_once_is_asked_for_until_it_is_heard(home: Path) -> None:
    story = Story(home)
    refusals = [CloudError("could not connect", code="EndpointConnectionError")] * 4
    end = story.cloud.terminate

    def terminate(region: str, instance_ids: Sequence[str]) -> None:
        if refusals:
            raise refusals.pop()
        end(region, instance_ids)

    story.cloud.terminate = terminate  # type: ignore[method-assign]
    assert story.engine().run().state == "SUCCEEDED"
    check_invariants(story)


def test_prices_are_asked_again_before_a_recovery(home: Path) -> None:
    story = Story(home)
    engine = story.engine()
    engine.refresh = lambda: tuple(o for o in engine.plan.offers if o.pool.zone == "us-east-1a")
    story.later(60, lambda: story.cloud.interrupt(story.cloud.machines[0]))
    assert [a.zone for a in engine.run().attempts] == ["us-east-1b", "us-east-1a"]
    check_invariants(story)


def test_five_interruptions_in_a_row_still_train_every_step_once(home: Path) -> None:
    story = Story(home)

    def storm(number: int, machine: Machine) -> None:
        if number <= 5:
            story.later(35, lambda: story.cloud.interrupt(machine))

    story.cloud.configure = storm
    state = story.engine().run()
    assert len(state.attempts) == 6
    for before, after in zip(state.attempts, state.attempts[1:], strict=False):
        assert after.first_step == before.last_step + 1
    check_invariants(story)


def test_a_quota_of_one_family_leaves_the_other_families_to_try(home: Path) -> None:
    story = Story(home, instances=("g4dn.xlarge", "p3.2xlarge"))
    quota = [QuotaError("limit of 0", code="MaxSpotInstanceCountExceeded") for _ in range(3)]
    story.cloud.refusals = {"us-east-1b": quota[:1]}
    engine = story.engine()
    asked = [o.pool for o in engine.plan.offers]
    state = engine.run()
    assert state.state == "SUCCEEDED"
    first, second = story.cloud.calls[:2]
    assert first.parameters["InstanceType"] != second.parameters["InstanceType"], "the family was not asked again"
    assert len(asked) == 6
    check_invariants(story)


def test_an_empty_pool_and_a_quota_wait_for_the_pool(home: Path) -> None:
    """The quota alone would end it; the empty pool may fill."""
    story = Story(
        home,
        instances=("g4dn.xlarge", "p3.2xlarge"),
        recovery=RecoveryPolicy(poll_s=2.0, first_capacity_wait_s=3600),
    )
    no = CapacityError("empty", code="InsufficientInstanceCapacity")
    story.cloud.refusals = {
        "us-east-1b": [QuotaError("0", code="VcpuLimitExceeded"), no],
        "us-east-1c": [no],
        "us-east-1a": [no],
    }
    assert story.engine().run().state == "SUCCEEDED"
    check_invariants(story)


def test_strategy_any_sends_one_fleet_over_all_pools(home: Path) -> None:
    story = Story(home, strategy="any")
    story.cloud.empty_zones = {"us-east-1b"}
    state = story.engine().run()
    assert state.state == "SUCCEEDED"
    (fleet,) = story.cloud.calls
    assert fleet.operation == "CreateFleet"
    overrides = fleet.parameters["LaunchTemplateConfigs"][0]["Overrides"]
    assert [o["AvailabilityZone"] for o in overrides] == ["us-east-1b", "us-east-1c", "us-east-1a"]
    assert state.attempts[0].zone == "us-east-1c"
    assert state.attempts[0].price_usd_h == 0.35, "the price of the pool that served"
    check_invariants(story)


def test_strategy_any_survives_an_interruption_and_an_empty_region(home: Path) -> None:
    def fate(number: int, machine: Machine) -> None:
        if number == 1:
            story.later(60, lambda: story.cloud.interrupt(machine))
            story.later(59, lambda: story.cloud.empty_zones.update(("us-east-1a", "us-east-1b", "us-east-1c")))
            story.later(400, story.cloud.empty_zones.clear)

    story = Story(home, fate, strategy="any")
    state = story.engine().run()
    assert state.state == "SUCCEEDED"
    assert len(state.attempts) == 2
    assert len({call.parameters["ClientToken"] for call in story.cloud.calls}) == len(story.cloud.calls) > 3
    check_invariants(story)


def test_credentials_that_expire_are_told_of_before_and_end_in_an_instance_that_ends_itself(home: Path) -> None:
    story = Story(home)
    story.cloud.credentials_end = story.clock.now() + 60

    def expired(*_: object) -> None:
        raise AccessError("ExpiredToken: the token has expired", code="ExpiredToken")

    story.later(60, lambda: setattr(story.cloud, "terminate", expired))
    state = story.engine().run()
    told = [e for e in story.recorder.events if isinstance(e, CredentialsExpiring)]
    assert len(told) == 1, "said once, before"
    assert told[0].at < story.cloud.credentials_end
    assert max(state.checkpoints) == 100, "the training went on over SSH, and everything is home"
    assert state.state == "SUCCEEDED"
    assert "ends itself within 30 min" in state.reason
    assert "pixel-orch cleanup" in state.reason


# -- where our own address, the quota, and the line are the trouble


def test_a_laptop_that_moves_to_another_address_is_admitted_again_and_nothing_is_lost(home: Path) -> None:
    story = Story(home)
    story.later(60, lambda: story.cloud.move("198.51.100.7/32"))
    state = story.engine().run()
    assert (state.state, len(story.cloud.machines)) == ("SUCCEEDED", 1)
    assert "198.51.100.7/32" in story.cloud.admitted
    check_invariants(story)


def test_a_new_machine_admits_the_address_of_now(home: Path) -> None:
    story = Story(home)
    story.later(5, lambda: story.cloud.move("198.51.100.7/32"))  # while the first one boots
    state = story.engine().run()
    assert (state.state, len(story.cloud.machines)) == ("SUCCEEDED", 1)
    check_invariants(story)


def test_an_address_that_was_named_is_not_changed_by_us(home: Path) -> None:
    story = Story(home, ssh_cidr="192.0.2.0/24")
    story.later(60, lambda: story.cloud.move("198.51.100.7/32"))
    with pytest.raises(HostError):
        story.engine().run()
    assert story.cloud.admitted == {"192.0.2.0/24"}
    assert len(story.cloud.machines) <= 4, "three that could not be reached were enough"
    check_invariants(story)


@pytest.mark.parametrize("notice_s", [0.0, 120.0])
def test_with_room_for_one_machine_the_next_waits_until_the_last_no_longer_counts(home: Path, notice_s: float) -> None:
    def slow_end(number: int, machine: Machine) -> None:
        machine.shutting_down_s = 100.0

    story = Story(home, slow_end)
    story.cloud.room_for = 1
    story.later(60, lambda: story.cloud.interrupt(story.cloud.machines[0], notice_s=notice_s))
    state = story.engine().run()
    assert (state.state, len(state.attempts)) == ("SUCCEEDED", 2)
    assert {failure.code for failure in state.failures} == {"MaxSpotInstanceCountExceeded"}
    check_invariants(story)


def test_a_quota_that_stays_too_small_ends_the_run(home: Path) -> None:
    story = Story(home)
    story.later(60, lambda: story.cloud.interrupt(story.cloud.machines[0]))
    story.later(59, lambda: setattr(story.cloud, "room_for", 0))
    with pytest.raises(QuotaError):
        story.engine().run()
    assert story.clock.now() - story.store.state().attempts[0].ended_at < 700  # type: ignore[operator]
    check_invariants(story)


def test_a_line_that_is_cut_during_the_set_up_is_no_reason_for_another_machine(home: Path) -> None:
    def with_setup(number: int, machine: Machine) -> None:
        machine.setup_s = 60.0

    story = Story(home, with_setup)

    def cut() -> None:
        machine = story.cloud.machines[0]
        machine.frozen_from = story.clock.now()
        story.later(20, lambda: setattr(machine, "frozen_from", None))

    story.later(60, cut)
    state = story.engine().run()
    assert (state.state, len(story.cloud.machines)) == ("SUCCEEDED", 1)
    check_invariants(story)


def test_three_machines_that_cannot_be_reached_are_enough(home: Path) -> None:
    def frozen(number: int, machine: Machine) -> None:
        machine.frozen_from = 0.0

    story = Story(home, frozen)
    with pytest.raises(HostError, match="3 machines in a row were lost before a first step"):
        story.engine().run()
    assert len(story.cloud.machines) == 3
    check_invariants(story)


def test_interruptions_before_a_first_step_are_the_markets_and_do_not_count(home: Path) -> None:
    def taken(number: int, machine: Machine) -> None:
        if number <= 5:
            story.later(10, lambda: story.cloud.interrupt(machine, notice_s=0))

    story = Story(home, taken)
    state = story.engine().run()
    assert (state.state, len(state.attempts)) == ("SUCCEEDED", 6)
    check_invariants(story)


def test_the_newest_checkpoint_comes_home_first(home: Path) -> None:
    def slow_line(number: int, machine: Machine) -> None:
        machine.pull_s = 40.0

    story = Story(home, slow_line)
    state = story.engine().run()
    order = [event.step for event in story.store.events() if isinstance(event, CheckpointPulled)]
    assert order[0] == 10
    assert order[1:5] == [50, 40, 30, 20]  # four were waiting: the newest of them first
    assert sorted(order) == list(range(10, 101, 10))
    assert state.state == "SUCCEEDED"


def test_under_notice_the_newest_checkpoint_is_all_that_is_fetched_until_the_trainer_has_saved(home: Path) -> None:
    def slow(number: int, machine: Machine) -> None:
        machine.pull_s, machine.save_s = (25.0, 30.0) if number == 1 else (0.0, 0.0)

    story = Story(home, slow)
    story.later(55, lambda: story.cloud.interrupt(story.cloud.machines[0]))
    state = story.engine().run()
    saved = state.attempts[0].last_step
    assert state.attempts[1].resumed_from == saved, "what the trainer saved under notice came home in the two minutes"
    check_invariants(story)


@pytest.mark.parametrize("code", ["InvalidGroup.NotFound", "InvalidLaunchTemplateName.NotFoundException"])
def test_what_ec2_does_not_know_of_yet_is_asked_again(home: Path, code: str) -> None:
    story = Story(home)
    story.cloud.refusals["us-east-1b"] = [refusal_of(code, "us-east-1b")]
    state = story.engine().run()
    assert (state.state, state.attempts[0].zone) == ("SUCCEEDED", "us-east-1b")
    check_invariants(story)


@pytest.mark.parametrize("code", ["ConnectionClosedError", "HTTPClientError", "ResponseStreamingError"])
def test_a_connection_to_ec2_that_breaks_is_tried_again_with_the_same_token(home: Path, code: str) -> None:
    story = Story(home)
    story.cloud.refusals["us-east-1b"] = [CloudError("it broke", code=code)]
    assert story.engine().run().state == "SUCCEEDED"
    first, second = story.cloud.calls[:2]
    assert first.parameters["ClientToken"] == second.parameters["ClientToken"]


def test_who_died_after_the_trainer_had_finished_rents_nothing_when_it_is_back(home: Path) -> None:
    story = Story(home)
    engine = story.engine()
    engine._finish = lambda *_: None  # type: ignore[method-assign]  # killed before it could end anything
    engine.run()
    story.cloud.interrupt(story.cloud.machines[0], notice_s=0)
    story.clock.sleep(60)
    state = story.engine().run("attach")
    assert (state.state, len(story.cloud.machines)) == ("SUCCEEDED", 1)


def fill_disk(story: Story) -> dict[str, bool]:
    """Let our disk be full whenever the switch is on; return the switch."""
    switch = {"full": False}
    append = story.store.append

    def check() -> None:
        if switch["full"]:
            raise OSError(errno.ENOSPC, "No space left on device")

    def write_down(event: Event) -> None:
        check()
        append(event)

    def write(path: Path, content: bytes) -> None:
        check()
        path.write_bytes(content)

    story.store.append, story.cloud.write = write_down, write  # type: ignore[method-assign]
    return switch


def test_a_disk_of_ours_that_is_full_for_a_while_costs_nothing(home: Path) -> None:
    story = Story(home)
    switch = fill_disk(story)
    story.later(45, lambda: switch.update(full=True))
    story.later(700, lambda: switch.update(full=False))  # long after the trainer has ended
    state = story.engine().run()
    assert (state.state, len(story.cloud.machines)) == ("SUCCEEDED", 1)
    assert sorted(state.checkpoints) == list(range(10, 101, 10))
    assert state == fold(story.store.events()), "what could not be written down at once was, later"
    told = [event for event in story.recorder.events if isinstance(event, DiskFull)]
    assert 9 <= len(told) <= 12, "once a minute"
    check_invariants(story)


def test_a_disk_that_stays_full_ends_the_run_after_half_an_hour(home: Path) -> None:
    story = Story(home)
    switch = fill_disk(story)
    story.later(45, lambda: switch.update(full=True))
    with pytest.raises(DiskFullError, match=r"was full for 30 min .*free space, then: .* --resume story"):
        story.engine().run()
    assert story.cloud.alive() == []


# -- what else a program wrote


def test_what_else_the_trainer_wrote_comes_home_and_what_is_too_large_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.engine.collect.LARGEST_BYTES", 100)

    def writes(number: int, machine: Machine) -> None:
        machine.rest = {"results.csv": b"a,b", "best.json": b'{"step": 50}', "model.bin": b"x" * 101}

    story = Story(home, writes)
    state = story.engine().run()
    assert state.state == "SUCCEEDED"
    outputs = story.store.folder / "outputs"
    assert {path.name: path.read_bytes() for path in outputs.iterdir()} == {
        "results.csv": b"a,b", "best.json": b'{"step": 50}',
    }  # fmt: skip
    assert (story.store.checkpoints / "best.json").read_bytes() == b'{"step": 50}', "evaluate looks for it there"
    (event,) = (event for event in story.store.events() if isinstance(event, RestPulled))
    assert (event.files, event.size_bytes, event.left) == (2, 15, "model.bin (0.0 MB)")
    check_invariants(story)


def test_a_machine_that_goes_while_the_rest_is_fetched_costs_nothing_more(home: Path) -> None:
    def writes(number: int, machine: Machine) -> None:
        machine.rest = {"results.csv": b"a,b"}

    story = Story(home, writes)
    state = story.engine()
    monkey = state.connect

    def connect(*words: Any) -> Any:
        host = monkey(*words)
        host.rest = lambda root: (_ for _ in ()).throw(UnreachableError("gone"))
        return host

    state.connect = connect  # type: ignore[method-assign]
    assert state.run().state == "SUCCEEDED"
    check_invariants(story)


# -- small limits


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
