"""A machine whose GPU is broken is replaced; a driver that does not work anywhere is said once."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from orchestrator.engine.engine import Engine
from orchestrator.errors import HostError, TrainingError
from orchestrator.report.event_text import event_words
from orchestrator.runs.events import AttemptLost, GpuSeen, LossReason, SetupProgress, TrainerExited
from tests.support.memory import Machine, MemoryHost
from tests.support.run_checks import check_invariants
from tests.support.story import Story

OFF_THE_BUS = "the GPU of this machine is broken (nvidia-smi printed: [GPU is lost]); another machine is needed"
HANGS = "the GPU of this machine, or its driver, hangs (nvidia-smi did not end within 60 s; it printed nothing)"


def test_a_gpu_that_is_broken_from_the_start_costs_one_machine(home: Path) -> None:
    def first_is_broken(number: int, machine: Machine) -> None:
        machine.setup_problem = (75, f"bootstrap: looking\nbootstrap: {OFF_THE_BUS}\n") if number == 1 else None

    story = Story(home, first_is_broken)
    state = story.engine().run()
    assert (state.state, len(state.attempts)) == ("SUCCEEDED", 2)
    first = state.attempts[0]
    assert first.lost_cause == LossReason.GPU_FAILED
    assert first.lost_because == f"{first.instance_id}: set-up failed: {OFF_THE_BUS}"
    assert first.ended_by == "pixel-orch"
    check_invariants(story)


def test_three_machines_whose_nvidia_smi_hangs_end_the_run_with_what_to_do_about_that(home: Path) -> None:
    def hangs(number: int, machine: Machine) -> None:
        machine.setup_problem = (75, f"bootstrap: {HANGS}\n")

    story = Story(home, hangs)
    with pytest.raises(HostError) as caught:
        story.engine().run()
    assert len(story.store.state().attempts) == 3
    assert "nvidia-smi did not end within 60 s" in str(caught.value)
    assert "Check the image's driver (--ami), or try another --instance" in str(caught.value)
    assert "--ssh-cidr" not in str(caught.value)
    check_invariants(story)


def test_the_use_of_a_gpu_is_written_down_every_15_seconds(home: Path) -> None:
    def has_one(number: int, machine: Machine) -> None:
        machine.has_gpu = True

    story = Story(home, has_one)
    story.engine().run()
    seen = [event.at for event in story.store.events() if isinstance(event, GpuSeen)]
    trained_s = 100.0
    assert trained_s / 30 < len(seen) <= trained_s / 15 + 2
    assert all(after - before >= 15 for before, after in itertools.pairwise(seen[:-1]))
    check_invariants(story)


def fails_with_its_gpu(number: int, machine: Machine) -> None:
    """Let the first machine's trainer fail at step 37, because of its GPU."""
    if number == 1:
        machine.crashes_at_step = 37
        machine.gpu_problem = "the kernel says: NVRM: Xid (PCI:0000:00:1e): 79, GPU has fallen off the bus."


def test_a_trainer_whose_gpu_fails_goes_on_on_another_machine(home: Path) -> None:
    story = Story(home, fails_with_its_gpu)
    state = story.engine().run()
    assert state.state == "SUCCEEDED"
    first, second = state.attempts
    assert first.lost_cause == LossReason.GPU_FAILED
    assert first.lost_because.startswith("the GPU failed under the trainer: the kernel says: NVRM: Xid")
    assert second.resumed_from == 30
    check_invariants(story)


def test_a_process_that_takes_over_after_the_exit_was_written_down_goes_on_too(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        """Stands for a SIGKILL."""

    def dies(engine: Engine) -> None:
        emit = engine.journal.emit

        def emit_or_die(event: object) -> None:
            if isinstance(event, AttemptLost):
                raise KilledError
            emit(event)  # type: ignore[arg-type]

        monkeypatch.setattr(engine.journal, "emit", emit_or_die)
        monkeypatch.setattr(engine, "finish", lambda *_: None)

    story = Story(home, fails_with_its_gpu)
    first = story.engine()
    dies(first)
    with pytest.raises(KilledError):
        first.run()
    assert any(isinstance(event, TrainerExited) and event.gpu_problem for event in story.store.events())
    state = story.engine().run("attach")
    assert (state.state, len(state.attempts)) == ("SUCCEEDED", 2)
    check_invariants(story)


def test_a_trainer_that_fails_with_a_gpu_that_works_is_not_started_again(home: Path) -> None:
    def fails(number: int, machine: Machine) -> None:
        machine.crashes_at_step = 37

    story = Story(home, fails)
    with pytest.raises(TrainingError):
        story.engine().run()
    assert len(story.store.state().attempts) == 1


def test_gpus_that_fail_without_a_new_step_end_the_run(home: Path) -> None:
    def always(number: int, machine: Machine) -> None:
        machine.crashes_at_step = 5
        machine.gpu_problem = "it is gone, says a machine that lies"

    story = Story(home, always)
    with pytest.raises(HostError, match="3 machines in a row were lost without a new step"):
        story.engine().run()
    check_invariants(story)


def test_a_long_set_up_says_what_it_does(home: Path) -> None:
    words = ["pip install torch==2.13.0: 20 s so far; its last output: Downloading torch", ""]

    class Talking(MemoryHost):
        def setup_words(self) -> str:
            return words.pop(0) if words else ""

    def takes_a_minute(number: int, machine: Machine) -> None:
        machine.setup_s = 60.0

    story = Story(home, takes_a_minute)
    story.engine(connect=lambda *_: Talking(story.cloud, story.cloud.machines[-1])).run()
    (told,) = [event for event in story.recorder.events if isinstance(event, SetupProgress)]
    assert event_words(told, told.at) == f"  set-up: {told.words}"
    assert "its last output: Downloading torch" in told.words
    assert not [event for event in story.store.events() if isinstance(event, SetupProgress)]
