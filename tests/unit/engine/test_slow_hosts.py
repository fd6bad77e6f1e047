"""A slow answer is not a dead host, and a host that runs no command of ours is not worth another machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import HostError, NoCommandsError
from orchestrator.report.event_text import event_words
from orchestrator.runs.events import LossReason, SetupProgress
from tests.support.memory import Machine
from tests.support.run_checks import check_invariants
from tests.support.story import Story


def test_a_machine_that_is_slow_for_a_while_is_kept(home: Path) -> None:
    story = Story(home)
    story.later(60, lambda: setattr(story.cloud.machines[0], "slow_from", story.clock.now()))
    story.later(150, lambda: setattr(story.cloud.machines[0], "slow_from", None))
    state = story.engine().run()
    assert (state.state, len(story.cloud.machines)) == ("SUCCEEDED", 1)
    check_invariants(story)


def test_a_machine_that_is_slow_while_it_is_set_up_is_kept(home: Path) -> None:
    def slow(number: int, machine: Machine) -> None:
        machine.setup_s = 20.0

    story = Story(home, slow)
    story.later(40, lambda: setattr(story.cloud.machines[0], "slow_from", story.clock.now()))
    story.later(80, lambda: setattr(story.cloud.machines[0], "slow_from", None))
    state = story.engine().run()
    assert (state.state, len(story.cloud.machines)) == ("SUCCEEDED", 1)
    check_invariants(story)


def test_a_machine_that_stays_slow_is_replaced_and_not_called_silent(home: Path) -> None:
    def slow(number: int, machine: Machine) -> None:
        machine.slow_from = machine.ready_at + 40 if number == 1 else None

    story = Story(home, slow)
    state = story.engine().run()
    first = state.attempts[0]
    assert state.state == "SUCCEEDED"
    assert first.lost_cause == LossReason.TOO_SLOW
    assert "no answer" not in first.lost_because
    assert "agent.py status ran out of time (30 s)" in first.lost_because
    assert "last words" in first.lost_because
    check_invariants(story)


def test_three_machines_that_are_too_slow_are_not_a_matter_of_the_network(home: Path) -> None:
    def slow(number: int, machine: Machine) -> None:
        machine.slow_from = machine.ready_at + 1

    with pytest.raises(HostError, match="too slow") as caught:
        Story(home, slow).engine().run()
    assert "--ssh-cidr" not in str(caught.value)
    assert "larger instance type" in str(caught.value)


def test_a_login_shell_that_runs_nothing_ends_the_run_with_its_words_on_the_first_machine(home: Path) -> None:
    def refuses(number: int, machine: Machine) -> None:
        machine.no_commands = "the login shell runs no command of ours: it printed 'Please login as ubuntu'"

    story = Story(home, refuses)
    with pytest.raises(NoCommandsError, match="Please login as ubuntu"):
        story.engine().run()
    assert len(story.cloud.machines) == 1
    assert story.store.state().open_attempts() == []
    check_invariants(story)


def test_a_login_shell_that_runs_nothing_during_the_boot_is_waited_for(home: Path) -> None:
    def refuses(number: int, machine: Machine) -> None:
        machine.no_commands = "System is booting up"

    story = Story(home, refuses)
    story.later(60, lambda: setattr(story.cloud.machines[0], "no_commands", ""))
    assert story.engine().run().state == "SUCCEEDED"
    assert len(story.cloud.machines) == 1


def test_a_long_set_up_says_what_it_does_and_that_is_not_written_down(home: Path) -> None:
    def long(number: int, machine: Machine) -> None:
        machine.setup_s = 200.0

    story = Story(home, long)
    assert story.engine().run().state == "SUCCEEDED"
    told = [event_words(event, event.at) for event in story.recorder.events if isinstance(event, SetupProgress)]
    assert told
    assert set(told) == {"  set-up: installing torch"}
    assert not [event for event in story.store.events() if isinstance(event, SetupProgress)]


@pytest.mark.parametrize("digest_s", [5.0, 90.0])
def test_the_last_checkpoint_is_waited_for_while_its_digest_is_computed(home: Path, digest_s: float) -> None:
    def slow(number: int, machine: Machine) -> None:
        machine.digest_s = digest_s

    story = Story(home, slow)
    state = story.engine().run()
    assert (state.state, max(state.checkpoints)) == ("SUCCEEDED", 100)
    check_invariants(story)


def test_a_machine_that_never_has_its_digests_is_not_waited_for_without_end(home: Path) -> None:
    def never(number: int, machine: Machine) -> None:
        machine.digest_s = 1e6

    story = Story(home, never)
    state = story.engine().run()
    assert (state.state, dict(state.checkpoints)) == ("SUCCEEDED", {})
    first = state.attempts[0]
    assert first.ended_at is not None
    assert first.ended_at - first.started_at < 4500
