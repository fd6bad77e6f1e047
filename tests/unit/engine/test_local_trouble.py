"""Troubles of the laptop: another address, no network, a full disk, credentials that expire."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from orchestrator.cloud.base import Instance
from orchestrator.errors import (
    AccessError,
    CloudError,
    DiskFullError,
    HostError,
)
from orchestrator.runs.events import (
    CredentialsExpiring,
    DiskFull,
    Event,
)
from orchestrator.runs.spec import RecoveryPolicy
from orchestrator.runs.state import fold
from tests.support.run_checks import check_invariants
from tests.support.story import Story


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
    assert max(state.checkpoints) == 100, "the training continues over SSH, and every checkpoint is on the local disk"
    assert state.state == "SUCCEEDED"
    assert "ends itself within 30 min" in state.reason
    assert "cleanup" in state.reason


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
