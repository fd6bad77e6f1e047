"""Ctrl-C and SIGKILL at any moment: no machine is left behind, and another process goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cloud.base import Image
from orchestrator.engine.stop import Cancelled
from tests.support.memory import VirtualClock
from tests.support.run_checks import check_invariants
from tests.support.story import Story


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
    monkeypatch.setattr(engine, "finish", lambda state, reason: None)  # SIGKILL runs no exit path
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


def die_before_the_answer_to_a_launch(story: Story) -> None:
    """Lead a run until EC2 has made its instance, and die before that is written down."""
    engine = story.engine()
    launch = story.cloud.launch

    def launch_and_die(call, template=None):  # type: ignore[no-untyped-def]
        launch(call, template)
        raise Killed

    story.cloud.launch = launch_and_die  # type: ignore[method-assign]
    engine.finish = lambda state, reason: None  # type: ignore[method-assign]
    with pytest.raises(Killed):
        engine.run()
    story.cloud.launch = launch  # type: ignore[method-assign]


def test_after_a_sigkill_between_request_and_answer_attach_adopts_the_instance(home: Path) -> None:
    story = Story(home)
    die_before_the_answer_to_a_launch(story)
    assert story.cloud.alive() != []
    assert story.store.state().attempts == []
    state = story.engine().run("attach")
    assert state.state == "SUCCEEDED"
    assert len(story.cloud.machines) == 1
    check_invariants(story)


@pytest.mark.parametrize("is_gone", [False, True])
def test_an_instance_that_is_found_later_has_the_disk_and_the_login_user_of_its_image(
    home: Path, is_gone: bool
) -> None:
    story = Story(home)
    story.image = Image("ami-1", login_user="ec2-user", least_disk_gib=150)
    die_before_the_answer_to_a_launch(story)
    if is_gone:
        story.cloud.end(story.cloud.machines[0], "Client.UserInitiatedShutdown")
    attempts = story.engine().run("attach").attempts
    assert len(attempts) == (2 if is_gone else 1)
    assert {(a.login_user, a.disk_gib) for a in attempts} == {("ec2-user", 150)}, "a smaller disk would be under-billed"


def test_who_died_after_the_trainer_had_finished_rents_nothing_when_it_is_back(home: Path) -> None:
    story = Story(home)
    engine = story.engine()
    engine.finish = lambda *_: None  # type: ignore[method-assign]  # killed before it could end anything
    engine.run()
    story.cloud.interrupt(story.cloud.machines[0], notice_s=0)
    story.clock.sleep(60)
    state = story.engine().run("attach")
    assert (state.state, len(story.cloud.machines)) == ("SUCCEEDED", 1)
