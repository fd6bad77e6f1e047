"""Credentials that fail and heal: a training goes on, and no machine is left behind without a leading process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cloud.aws.errors import map_boto_errors
from orchestrator.engine import end_run
from orchestrator.errors import AccessError, CloudError, CredentialsError, PixelOrchError
from orchestrator.host.base import HostStatus
from orchestrator.report.event_text import event_words
from orchestrator.runs.events import CloudOutOfReach, Event, MetadataSilent
from orchestrator.runs.spec import RecoveryPolicy
from tests.support.memory import Machine, MemoryHost
from tests.support.run_checks import check_invariants
from tests.support.story import Story

API = ("instances", "terminate", "launch", "price_history", "open_security_group", "close_security_group")


@contextmanager
def helper_speaks_no_json() -> Iterator[None]:
    """Fail as botocore does with a credential_process helper that asks to log in."""
    with map_boto_errors("us-east-1"):
        yield json.loads("Please log in to the VPN first")


def break_between(story: Story, since_s: float, to_s: float, fail: Callable[[], object] | None = None) -> None:
    """Let every call to AWS fail from one moment to another (seconds from now)."""
    began = story.clock.now()

    def broken(call: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any, **kwargs: Any) -> Any:
            if since_s <= story.clock.now() - began < to_s:
                if fail is not None:
                    fail()
                with helper_speaks_no_json():
                    pass
            return call(*args, **kwargs)

        return asked

    for name in API:
        setattr(story.cloud, name, broken(getattr(story.cloud, name)))


def told(story: Story) -> list[CloudOutOfReach]:
    """Return what the watchers were told of AWS."""
    return [event for event in story.recorder.events if isinstance(event, CloudOutOfReach)]


@pytest.mark.parametrize("since_s", [1, 5, 10, 21, 30, 60, 100, 119, 125])
def test_a_helper_that_is_unwell_for_two_minutes_is_lived_through_at_any_moment(home: Path, since_s: float) -> None:
    story = Story(home)
    break_between(story, since_s, since_s + 120)
    state = story.engine().run()
    assert (state.state, len(story.cloud.machines), story.cloud.alive()) == ("SUCCEEDED", 1, [])
    assert max(state.checkpoints) == 100
    assert "cleanup" not in state.reason
    check_invariants(story)


def test_the_user_hears_of_it_and_of_the_remedy(home: Path) -> None:
    story = Story(home)
    break_between(story, 60, 300)
    story.engine().run()
    events = told(story)
    assert 1 <= len(events) <= 4, "now and then"
    assert "credential_process" in events[0].reason
    assert "AWS CANNOT BE ASKED" in event_words(events[0], 0.0)
    assert not [event for event in story.store.events() if isinstance(event, CloudOutOfReach)], "not written down"


def test_a_machine_that_is_lost_while_the_helper_is_unwell_is_replaced_once_it_is_well(home: Path) -> None:
    story = Story(home)
    story.later(60, lambda: story.cloud.interrupt(story.cloud.machines[0], notice_s=0))
    break_between(story, 55, 400)
    state = story.engine().run()
    assert (state.state, len(story.cloud.machines), story.cloud.alive()) == ("SUCCEEDED", 2, [])
    check_invariants(story)


def test_a_run_is_taken_over_while_the_helper_is_unwell(home: Path) -> None:
    story = Story(home, lambda number, machine: setattr(machine, "steps_per_s", 0.2))

    class KilledError(BaseException):
        pass

    def kill() -> None:
        raise KilledError

    story.later(100, kill)
    engine = story.engine()
    engine.finish = lambda state, reason: None  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        engine.run()
    break_between(story, 0, 300)
    state = story.engine().run("attach")
    assert (state.state, len(story.cloud.machines), story.cloud.alive()) == ("SUCCEEDED", 1, [])
    check_invariants(story)


def test_a_first_launch_says_at_once_that_the_credentials_do_not_work(home: Path) -> None:
    story = Story(home)
    break_between(story, 0, 300)
    began = story.clock.now()
    with pytest.raises(CredentialsError, match="credential_process"):
        story.engine().run()
    assert story.clock.now() - began < 1000
    assert story.cloud.machines == []


def test_a_policy_that_forbids_is_not_waited_for(home: Path) -> None:
    story = Story(home, lambda number, machine: setattr(machine, "shutting_down_s", 5))

    def forbid(*_: object) -> None:
        raise AccessError("TerminateInstances: UnauthorizedOperation: no", code="UnauthorizedOperation")

    story.cloud.terminate = forbid  # type: ignore[method-assign]
    state = story.engine().run()
    assert "EC2 has not yet ended i-" in state.reason
    assert "pixel-orch cleanup" in state.reason


def test_a_helper_that_stays_unwell_ends_in_a_message_that_names_what_is_left(home: Path) -> None:
    story = Story(home)
    break_between(story, 100, 1e9)
    state = story.engine().run()
    assert state.state == "SUCCEEDED", "the training went on over SSH"
    assert "i-00000000000000001" in state.reason
    assert "pixel-orch cleanup" in state.reason
    assert "ends itself within 30 min" in state.reason


@pytest.mark.parametrize("error", [ValueError("not JSON"), KeyError("Reservations"), EOFError(), OSError("odd")])
def test_whatever_the_cloud_raises_a_run_gets_a_final_state(home: Path, error: Exception) -> None:
    story = Story(home)

    def fail() -> None:
        raise error

    break_between(story, 115, 1e9, fail)  # when it is being ended
    with suppress(PixelOrchError, type(error)):
        story.engine().run()
    state = story.store.state()
    assert state.is_final
    assert "i-00000000000000001" in state.reason
    assert "pixel-orch cleanup" in state.reason


def test_down_names_what_is_left_when_it_cannot_ask(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(home, lambda number, machine: setattr(machine, "steps_per_s", 0.01))

    def stop_leading(_: Event | None = None) -> None:
        raise KeyboardInterrupt

    engine = story.engine()
    engine.finish = lambda state, reason: None  # type: ignore[method-assign]
    story.later(100, stop_leading)
    with pytest.raises(PixelOrchError):
        engine.run()
    break_between(story, 0, 1e9)

    @contextmanager
    def cloud_of(*_: object) -> Iterator[Any]:
        yield story.cloud

    monkeypatch.setattr(end_run, "cloud_of", cloud_of)
    monkeypatch.setattr(end_run, "SystemClock", lambda: story.clock)
    with pytest.raises(
        CloudError, match=r"i-00000000000000001 may still run .*credential_process.*`pixel-orch cleanup`"
    ):
        end_run.end_unowned(story.store, home)


def test_boot_time_during_which_ec2_cannot_be_asked_does_not_count(home: Path) -> None:
    def slow(number: int, machine: Machine) -> None:
        machine.ready_at = machine.instance.launched_at + 30

    story = Story(home, slow, recovery=RecoveryPolicy(poll_s=2.0, boot_timeout_s=60.0))
    break_between(story, 5, 600)
    state = story.engine().run()
    assert (state.state, len(story.cloud.machines)) == ("SUCCEEDED", 1)
    check_invariants(story)


def test_a_host_that_cannot_see_a_notice_is_told_of_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(home)
    poll = MemoryHost.poll

    def deaf(self: MemoryHost, *args: Any) -> HostStatus:
        return replace(poll(self, *args), metadata_trouble="http://169.254.169.254: timed out")

    monkeypatch.setattr(MemoryHost, "poll", deaf)
    story.engine().run()
    events = [event for event in story.store.events() if isinstance(event, MetadataSilent)]
    assert len(events) == 1
    assert "NO INTERRUPTION NOTICE CAN BE SEEN" in event_words(events[0], 0.0)
