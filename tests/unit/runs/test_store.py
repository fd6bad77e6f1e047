"""The store: append-only, crash-safe, one owner at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import SpecError, TrainingError
from orchestrator.runs.event_reader import KINDS, from_json
from orchestrator.runs.events import (
    CheckpointEvent,
    CheckpointPulled,
    Event,
    RunCreated,
    StateChanged,
)
from orchestrator.runs.files import read_jsonl, write_atomically
from orchestrator.runs.home import make_home
from orchestrator.runs.lock import RunBusyError
from orchestrator.runs.state import fold
from orchestrator.runs.store import RunStore
from tests.support.metrics import metrics_of
from tests.support.story import Story


def test_events_come_back_as_they_were_written(home: Path) -> None:
    story = Story(home)
    story.engine().run()
    kinds = {event.kind for event in story.store.events()}
    assert {"run_created", "launch_requested", "instance_started", "checkpoint_pulled", "state_changed"} <= kinds
    for event in story.store.events():
        assert from_json(event.to_json()) == event


def test_a_line_torn_by_a_crash_is_passed_over_and_the_next_one_is_whole(home: Path) -> None:
    store = Story(home).store
    with (store.folder / "events.jsonl").open("ab") as file:
        file.write(b'{"kind": "state_chan')
    store.append(StateChanged(at=2.0, state="RUNNING"))
    assert [e.kind for e in store.events()] == ["run_created", "state_changed"]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_whatever_the_crash_left_of_the_last_event_the_others_are_read(home: Path, cut: int) -> None:
    store = Story(home).store
    path = store.folder / "events.jsonl"
    store.append(StateChanged(at=2.0, state="RUNNING", reason="x" * 60))
    path.write_bytes(path.read_bytes()[:-cut])
    assert store.state().run == "story"
    store.append(StateChanged(at=3.0, state="FAILED"))
    assert store.state().state == "FAILED"


def test_an_event_of_a_newer_version_is_passed_over() -> None:
    assert from_json({"kind": "teleported", "at": 1.0}) is None
    event = from_json({"kind": "run_created", "at": 1.0, "run": "a", "cloud": "AWS", "colour": "red"})
    assert event == RunCreated(at=1.0, run="a", cloud="AWS")


def test_fold_of_nothing_is_a_pending_run() -> None:
    assert fold([]).state == "PENDING"


def test_every_event_has_a_kind_of_its_own() -> None:
    concrete = [cls for cls in (*Event.__subclasses__(), *CheckpointEvent.__subclasses__()) if cls.kind]
    assert len(KINDS) == len(concrete) > 20
    assert "" not in KINDS


def test_an_atomic_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"1")
    write_atomically(tmp_path / "a", b"2")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"2"


def test_a_second_owner_is_refused_and_the_lock_goes_with_the_process(home: Path) -> None:
    store = Story(home).store
    code = (
        "import sys, pathlib; from orchestrator.runs.store import RunStore\n"
        "with RunStore(pathlib.Path(sys.argv[1]), 'story').owned():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "held"
        assert store.owner_pid() == other.pid
        with pytest.raises(RunBusyError), store.owned():
            pass
    finally:
        other.kill()
        other.wait()
    with store.owned():
        assert store.owner_pid() == os.getpid()
    assert store.owner_pid() is None


def test_a_run_is_made_once_and_an_unknown_one_named(home: Path) -> None:
    story = Story(home)
    with pytest.raises(SpecError, match="there is a run called story already"):
        RunStore.create(home, story.spec)
    with pytest.raises(SpecError, match="no run is called nobody; there are: story"):
        RunStore.open(home, "nobody")
    with pytest.raises(SpecError, match="is not a run's name"):
        RunStore.open(home, "../etc")


def test_a_home_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="PIXEL_ORCH_HOME: cannot write to"):
        make_home(tmp_path / "file" / "home")


def test_a_checkpoint_that_was_changed_at_home_is_not_whole(home: Path) -> None:
    story = Story(home)
    story.engine().run()
    pulled = story.store.state().checkpoints[100]
    assert isinstance(pulled, CheckpointPulled)
    assert story.store.is_whole(pulled)
    path = story.store.checkpoint_path(pulled)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert not story.store.is_whole(pulled)


def test_metrics_of_a_later_attempt_replace_what_was_lost(home: Path) -> None:
    store = Story(home).store
    (store.attempt_folder(1) / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    (store.attempt_folder(2) / "metrics.jsonl").write_text('{"step": 3, "nats": 5}\n{"step": 4}\n')
    assert [line["step"] for line in metrics_of(store)] == [1, 2, 3, 4]
    assert metrics_of(store)[2]["nats"] == 5


def test_json_lines_that_are_no_objects_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b'{"a": 1}\n[1]\nnonsense\n\xff\xfe\n{"b": 2}\n')
    assert list(read_jsonl(tmp_path / "x")) == [{"a": 1}, {"b": 2}]


def test_the_state_of_a_run_that_is_not_created_yet_is_pending(home: Path) -> None:
    state = RunStore(home, "to-come").state()
    assert (state.run, state.state, state.step) == ("to-come", "PENDING", 0)


def test_the_last_lines_of_a_log_fit_an_event_and_keep_both_ends(home: Path) -> None:
    """A bar, or a tensor that is printed, is one line of megabytes: the event with it could not be read again."""
    store = Story(home).store
    store.attempt_folder(1)
    line = "begin " + "x" * (10 << 20) + " CUDA error: out of memory"
    store.log_path(1).write_text(f"{line}\n{'y' * 5000}\nRuntimeError: it failed")
    tail = store.log_tail(1)
    assert len(tail) < 3000
    assert tail.splitlines()[0].endswith("CUDA error: out of memory")
    error = TrainingError("exit code 1", tail=line)
    assert len(error.reason) < 400
    assert error.reason.startswith("exit code 1: begin xxx")
    assert error.reason.endswith("CUDA error: out of memory")
