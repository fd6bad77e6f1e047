"""How much training is left, from what a run has told so far."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.engine.work_left import WorkLeft
from orchestrator.runs.events import InstanceStarted, OwnerChanged, Progress, TrainerStarted
from orchestrator.runs.output_events import OutputsPulled
from orchestrator.runs.spec import Deadline, ProgramSpec
from tests.support.memory import EPOCH
from tests.support.story import Story


def own(home: Path) -> tuple[WorkLeft, Story]:
    """Return what is left of a program of the user's, of 200 seconds as was promised."""
    program = ProgramSpec(deadline=Deadline(at=EPOCH + 3600, work_s=200.0))
    one = Story(home, trainer=None, command=("python", "train.py"), program=program)
    return WorkLeft(one.spec, one.engine().journal), one


def trains(work: WorkLeft, number: int, steps: tuple[int, ...], *, saves: bool = True) -> None:
    """Let a machine tell its epochs, one every ten seconds, of twenty; and save what it has."""
    journal = work.journal
    at = journal.clock.now()
    journal.emit(InstanceStarted(
        at=at, attempt=number, instance_id=f"i-{number:017x}", instance_type="g4dn.xlarge", zone="us-east-1b",
        region="us-east-1", market="spot", price_usd_h=0.2,
    ))  # fmt: skip
    journal.emit(TrainerStarted(at=at, attempt=number, resumed_from=0))
    for step in steps:
        journal.clock.sleep(10.0)
        journal.emit(Progress(at=journal.clock.now(), attempt=number, step=step, unit="epoch", total=20))
    if saves:
        journal.emit(OutputsPulled(at=journal.clock.now(), attempt=number, number=number, files=1, size_bytes=1,
                                   deleted=0, all_files=1, all_bytes=1))  # fmt: skip


def test_epochs_that_are_saved_are_done_and_their_speed_is_measured(home: Path) -> None:
    work, _ = own(home)
    assert work.left_s(None) == 200.0
    trains(work, 1, (1, 2, 3, 4, 5))
    assert work.left_s(None) == pytest.approx(150.0)
    assert work.left_s(work.journal.state().attempts[0]) == pytest.approx(150.0)


def test_a_program_that_begins_anew_after_a_loss_has_all_of_its_work_left(home: Path) -> None:
    work, _ = own(home)
    trains(work, 1, tuple(range(1, 16)))
    assert work.left_s(None) == pytest.approx(50.0), "as far as is known"
    trains(work, 2, (1, 2, 3, 4, 5), saves=False)
    assert work.left_s(work.journal.state().attempts[1]) == pytest.approx(150.0)
    trains(work, 3, (1, 2, 3, 4))
    assert work.left_s(None) == pytest.approx(160.0)


def test_what_was_saved_before_a_resume_is_no_work_of_the_new_deadline(home: Path) -> None:
    work, _ = own(home)
    trains(work, 1, tuple(range(1, 16)))
    assert work.whole_s() == pytest.approx(200.0)
    work.journal.emit(OwnerChanged(at=work.journal.clock.now(), pid=1, verb="resume"))
    assert work.whole_s() == pytest.approx(50.0)
