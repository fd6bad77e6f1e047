"""A machine that lies: nothing is written elsewhere, no error escapes, it is ended, what was received is billed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.engine.stop import Cancelled
from orchestrator.errors import BudgetError, HostError, PixelOrchError
from orchestrator.runs.events import DataReceived, InterruptionNoticed, TrainerStarted
from orchestrator.runs.spec import Limits
from tests.support.lies import LIES, ODD, SENSELESS
from tests.support.memory import Machine
from tests.support.run_checks import check_invariants
from tests.support.story import Story


def lying(lie: str, *, first: int = 1, last: int = 99) -> Callable[[int, Machine], None]:
    """Return the fate: these machines tell this lie."""

    def fate(number: int, machine: Machine) -> None:
        machine.lie = lie if first <= number <= last else ""

    return fate


@pytest.mark.slow
@pytest.mark.parametrize("lie", LIES)
def test_a_run_on_lying_machines_ends_and_hides_nothing(
    home: Path, lie: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    story = Story(home, lying(lie))
    before = {path for path in home.parent.rglob("*") if path.is_file()}
    with suppress(PixelOrchError):
        story.engine().run()
    new = {path for path in home.parent.rglob("*") if path.is_file()} - before
    assert all(story.store.folder in path.parents for path in new)
    state = story.store.state()
    assert state.is_final
    assert story.cloud.alive() == []
    assert len(story.cloud.machines) <= 3
    for attempt, machine in zip(state.attempts, story.cloud.machines, strict=True):
        assert 0 <= attempt.pulled_bytes <= machine.sent_bytes
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    for words in (["status"], ["status", "story"], ["report", "--no-html"], ["status", "-o", "json"]):
        code = main([word for word in words if word != "--no-html"])
        printed = capsys.readouterr()
        assert code == 0
        assert "Traceback" not in printed.out + printed.err
        assert "\x1b" not in printed.out


@pytest.mark.slow
@pytest.mark.parametrize("lie", SENSELESS)
def test_one_machine_that_makes_no_sense_is_replaced_once_it_trains(home: Path, lie: str) -> None:
    story = Story(home)
    story.later(60, lambda: setattr(story.cloud.machines[0], "lie", lie))
    state = story.engine().run()
    assert state.state == "SUCCEEDED"
    assert "makes no sense" in state.attempts[0].lost_because
    assert len(state.attempts) == 2
    check_invariants(story)


@pytest.mark.parametrize("lie", sorted(set(ODD) - {name for name in ODD if "notice" in name}))
def test_an_odd_answer_changes_nothing_of_the_training(home: Path, lie: str) -> None:
    story = Story(home, lying(lie))
    state = story.engine().run()
    assert state.state == "SUCCEEDED"
    assert len(state.attempts) == 1
    assert state.step == 100
    assert len(state.attempts[0].device) <= 100
    assert sum(isinstance(event, TrainerStarted) for event in story.store.events()) == 1


def test_machines_that_claim_a_notice_without_a_new_step_are_counted(home: Path) -> None:
    """A notice is the machine's word; that AWS interrupted it is EC2's."""

    def fate(number: int, machine: Machine) -> None:
        machine.noticed_at = machine.instance.launched_at  # and EC2 never ends it
        machine.steps_per_s = 0.0

    story = Story(home, fate)
    with pytest.raises(HostError, match="3 machines in a row were lost without a new step"):
        story.engine().run()
    assert len(story.cloud.machines) <= 4
    assert story.cloud.alive() == []


def test_a_notice_from_the_past_does_not_shorten_the_bill(home: Path) -> None:
    story = Story(home)
    lie = "an interruption notice of the year 1"
    story.later(60, lambda: setattr(story.cloud.machines[0], "lie", lie))
    story.engine().run()
    noticed = [event for event in story.store.events() if isinstance(event, InterruptionNoticed)]
    assert noticed
    assert all(event.ends_at >= event.at for event in noticed)
    check_invariants(story)


def test_three_machines_that_repeat_the_same_steps_are_enough(home: Path) -> None:
    """Each says that it trains, up to the step where the one before it was lost too, and no further."""

    def fate(number: int, machine: Machine) -> None:
        machine.steps_per_s = 1.0
        machine.stuck_at_step = 5
        machine.frozen_from = machine.instance.launched_at + 60

    story = Story(home, fate)
    with pytest.raises(HostError, match="without a new step"):
        story.engine().run()
    assert len(story.cloud.machines) == 4  # the first one made new steps


def test_what_is_received_is_billed_also_when_it_is_refused(home: Path) -> None:
    story = Story(home)
    story.later(60, lambda: setattr(story.cloud.machines[0], "sent_bytes", story.cloud.machines[0].sent_bytes + 10**9))
    state = story.engine().run()
    refused = sum(event.size_bytes for event in story.store.events() if isinstance(event, DataReceived))
    assert refused >= 10**9
    assert state.attempts[0].pulled_bytes == story.cloud.machines[0].sent_bytes


# -- transfers


def slow_transfers(number: int, machine: Machine) -> None:
    """Make each download take hours."""
    machine.pull_s = 7_000.0


def test_a_stop_is_passed_on_during_a_transfer(home: Path) -> None:
    story = Story(home, slow_transfers)
    engine = story.engine()
    story.later(100, lambda: engine.request_stop("SIGINT"))
    with pytest.raises(Cancelled):
        engine.run()
    asked_at = story.cloud.machines[0].stop_at
    assert asked_at is not None
    assert asked_at <= story.store.state().created_at + 102
    assert story.cloud.alive() == []


def test_an_urgent_stop_ends_a_transfer(home: Path) -> None:
    story = Story(home, slow_transfers)
    engine = story.engine()
    story.later(100, lambda: engine.request_stop("SIGINT", is_urgent=True))
    with pytest.raises(Cancelled):
        engine.run()
    assert story.clock.now() < story.store.state().created_at + 200


def test_a_stop_does_not_wait_for_a_transfer_that_trickles(home: Path) -> None:
    story = Story(home, slow_transfers)
    engine = story.engine()
    story.later(100, lambda: engine.request_stop("SIGINT"))
    with pytest.raises(Cancelled):
        engine.run()
    over_s = story.clock.now() - story.store.state().created_at - 100
    assert over_s < story.spec.recovery.stop_timeout_s + 120


@pytest.mark.parametrize("limits", [Limits(max_duration_s=600.0), Limits(budget_usd=0.05)])  # type: ignore[arg-type]
def test_a_limit_is_kept_during_a_transfer(home: Path, limits: Limits) -> None:
    story = Story(home, slow_transfers, limits=limits)
    with pytest.raises(BudgetError):
        story.engine().run()
    assert story.cloud.alive() == []
    assert story.clock.now() < story.store.state().created_at + 1_200
    assert story.store.state().state == "STOPPED"


def test_a_limit_is_kept_during_the_set_up(home: Path) -> None:
    def slow(number: int, machine: Machine) -> None:
        machine.setup_s = 5_000.0

    story = Story(home, slow, limits=Limits(max_duration_s=600.0))
    with pytest.raises(BudgetError):
        story.engine().run()
    assert story.clock.now() < story.store.state().created_at + 700
