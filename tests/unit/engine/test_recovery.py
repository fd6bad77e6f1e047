"""A run over interruptions, lost machines and damaged checkpoints, on the in-memory cloud in virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.clock import Clock
from orchestrator.errors import (
    CloudError,
    HostError,
    TrainingError,
    UserSetupError,
)
from orchestrator.host.base import Job, Setup
from orchestrator.market.billing import total_usd
from orchestrator.runs.events import (
    InstanceEnded,
)
from tests.support.memory import BrokenSetup, Machine, MemoryHost
from tests.support.run_checks import check_invariants
from tests.support.story import Story


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
    engine = story.engine(connect=lambda *_: BrokenSetup(story.cloud, story.cloud.machines[-1]))
    with pytest.raises(HostError, match="no torch build has kernels"):
        engine.run()
    check_invariants(story)


def test_packages_that_cannot_be_installed_end_the_run_with_one_machine_and_their_last_lines(home: Path) -> None:
    story = Story(home)

    class Refusing(MemoryHost):
        def set_up(self, job: Job) -> Setup:
            raise UserSetupError("pip install (requirements.txt) ended with exit code 1", "one\nno such package")

    engine = story.engine(connect=lambda *_: Refusing(story.cloud, story.cloud.machines[-1]))
    with pytest.raises(UserSetupError, match="its last lines:\n  one\n  no such package"):
        engine.run()
    state = story.store.state()
    assert (state.state, len(state.attempts)) == ("FAILED", 1)
    assert state.reason == "set-up: pip install (requirements.txt) ended with exit code 1: no such package"
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
    with pytest.raises(HostError, match="3 machines in a row were lost without a new step"):
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


def test_machines_that_die_from_pending_are_not_the_market(home: Path) -> None:
    """EC2's own words are kept and shown, the third one ends the run, and nothing is billed before `running`."""

    def stillborn(number: int, machine: Machine) -> None:
        story.later(2, lambda: story.cloud.end(machine, "Server.InternalError"))

    story = Story(home, stillborn)
    words = r"3 machines in a row .* \(the last: ended: Server.InternalError.*EC2 ended it before it ran"
    with pytest.raises(HostError, match=words):
        story.engine().run()
    state = story.store.state()
    assert len(state.attempts) == len(story.cloud.machines) == 3
    assert all(attempt.never_ran and "Server.InternalError" in attempt.lost_because for attempt in state.attempts)
    assert total_usd(state.attempts, story.clock.now()) == 0
    assert state.interruptions == 0
