"""A run is made under its lock or not at all: `down` at any point of a birth, and the passing on of the lock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine.engine import Engine
from orchestrator.engine.lead import lead
from orchestrator.errors import SpecError
from orchestrator.plan.launch_preparation import (
    PreparedRun,
    check_home,
    create_run,
    prepare_existing_run,
    prepare_launch,
    read_request,
)
from orchestrator.runs.lock import Holder, RunBusyError, RunLock, is_held
from orchestrator.runs.store import RunStore
from tests.support.memory import MemoryCloud, VirtualClock

FLAGS: Mapping[str, Any] = {
    "instance": "g4dn.xlarge",
    "spot": True,
    "cloud": "aws",
    "region": ["us-east-1"],
    "name": "new",
    "steps": 100,
    "instance_profile": "mine",
}


class Birth:
    """A launch on the in-memory cloud, in which something can happen at each point.

    Args:
        home: an empty home.
        patch: undone after the test.
        at: is called at each point with its number, from 0.
    """

    def __init__(self, home: Path, patch: pytest.MonkeyPatch, at: Callable[[int], None]) -> None:
        self.home = home
        self.clock = VirtualClock()
        self.cloud = MemoryCloud(self.clock)
        self.points = 0
        self.at = at
        patch.setattr("orchestrator.engine.lead.SystemClock", lambda: self.clock)
        patch.setattr("orchestrator.engine.build.connector", lambda store, spec: self.cloud.connect)
        for owner, name in ((RunStore, "publish"), (RunStore, "append"), (RunStore, "write_spec"), (RunLock, "sign"),
                            (Engine, "run")):  # fmt: skip
            patch.setattr(owner, name, self._seen(getattr(owner, name)))

    def _seen(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._pass()
            answer = real(*args, **kwargs)
            self._pass()
            return answer

        return call

    def _pass(self) -> None:
        if not self.cloud.machines:
            number, self.points = self.points, self.points + 1
            self.at(number)

    def launch(self, **flags: Any) -> PreparedRun:
        """Launch, or resume, and lead to the end."""
        given = {**FLAGS, **flags}
        if given.get("resume"):
            given = {"resume": given["resume"]}
        request = read_request(given, [], self.home)
        check_home(request, self.home)
        run = create_run(prepare_launch(request, self.cloud, self.home))
        lead(run)
        return run


def ask_down(home: Path) -> bool:
    """Do what `down` does to a run that somebody leads; return whether it found the run."""
    found = [store for store in RunStore.all(home) if not store.state().is_final]
    for store in found:
        with pytest.raises(RunBusyError), store.owned():
            raise AssertionError("no process leads a run that another command can see")
        store.request_stop("CANCELLED")
    return bool(found)


def at_point(point: int, home: Path, seen: list[bool]) -> Callable[[int], None]:
    """Return what happens at each point: `down` at one of them, whose answer goes to `seen`."""
    return lambda number: seen.append(ask_down(home)) if number == point else None


@pytest.mark.slow
def test_down_at_any_point_of_a_birth_leaves_nothing_rented(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        quiet = Birth(home, patch, lambda number: None)
        quiet.launch()
    assert len(quiet.cloud.machines) == 1
    assert quiet.points > 10
    seen: list[bool] = []
    cancelled = 0
    for point in range(quiet.points):
        at_home = tmp_path / f"home-{point}"
        with monkeypatch.context() as patch:
            birth = Birth(at_home, patch, at_point(point, at_home, seen))
            birth.launch()
        state = RunStore.open(at_home, "new").state()
        if seen[-1] and not state.requests:
            cancelled += 1
            assert (state.state, birth.cloud.machines) == ("CANCELLED", [])
        assert birth.cloud.alive() == []
    assert cancelled >= 3, "after it has its name, and before anything is requested"
    assert False in seen, "before it has its name no command finds it"


@pytest.mark.slow
def test_down_at_any_point_of_a_resume_leaves_nothing_rented(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resumed(at_home: Path, at: Callable[[int], None]) -> Birth:
        with monkeypatch.context() as patch:
            first = Birth(at_home, patch, lambda number: None)
            stop_after(first, 60)
            first.launch()
        assert RunStore.open(at_home, "new").state().state == "CANCELLED"
        with monkeypatch.context() as patch:
            again = Birth(at_home, patch, at)
            again.launch(resume="new")
        return again

    quiet = resumed(home, lambda number: None)
    assert len(quiet.cloud.machines) == 1
    requests_before, cancelled = len(RunStore.open(home, "new").state().requests) - 1, 0
    for point in range(quiet.points):
        at_home = tmp_path / f"home-{point}"
        seen: list[bool] = []
        birth = resumed(at_home, at_point(point, at_home, seen))
        state = RunStore.open(at_home, "new").state()
        assert birth.cloud.alive() == []
        if seen[0] and len(state.requests) == requests_before:
            cancelled += 1
            assert (state.state, birth.cloud.machines) == ("CANCELLED", [])
    assert cancelled >= 3, "after the resume is written down, and before anything is requested"


def stop_after(birth: Birth, seconds: float) -> None:
    """Let the run be told to stop after so many seconds."""
    real = Engine.run

    def run(self: Engine, *args: Any) -> Any:
        birth.clock.at(birth.clock.now() + seconds, lambda: self.request_stop("SIGINT"))
        return real(self, *args)

    Engine.run = run  # type: ignore[method-assign]
    birth.clock.at(birth.clock.now() + seconds, lambda: setattr(Engine, "run", real))


def test_a_birth_that_fails_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    birth = Birth(home, monkeypatch, lambda number: None)
    (home / "runs" / "new").mkdir(parents=True)
    (home / "runs" / "new" / "mine").touch()
    request = read_request(FLAGS, [], home)
    prepared = prepare_launch(request, birth.cloud, home)
    with pytest.raises(SpecError, match="there is a run called new already"):
        create_run(prepared)
    assert [path.name for path in (home / "runs").iterdir()] == ["new"]


def test_births_whose_process_died_are_cleared_away(home: Path) -> None:
    runs = home / "runs"
    old, held, young = (runs / f".{name}.x.new" for name in ("old", "held", "young"))
    for folder in (old, held, young):
        folder.mkdir(parents=True)
        (folder / "lock").touch()
    for folder in (old, held):
        os.utime(folder, (time.time() - 7200, time.time() - 7200))
    spec = read_request(FLAGS, [], home).spec
    with RunLock.take(held):
        RunStore.create(home, spec)
    assert sorted(path.name for path in runs.iterdir()) == [".held.x.new", ".young.x.new", "new"]
    assert [store.run for store in RunStore.all(home)] == ["new"]


def test_two_processes_cannot_resume_one_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    birth = Birth(home, monkeypatch, lambda number: None)
    stop_after(birth, 60)
    birth.launch()
    request = read_request({"resume": "new"}, [], home)
    prepared = prepare_launch(request, birth.cloud, home)
    first = create_run(prepared)
    with pytest.raises((RunBusyError, SpecError)):
        create_run(prepared)
    assert first.lock is not None
    first.lock.release()
    with pytest.raises(SpecError, match="PENDING"):
        create_run(prepared)


def test_a_run_that_was_ended_meanwhile_is_not_led(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    birth = Birth(home, monkeypatch, lambda number: None)
    stop_after(birth, 60)
    store = birth.launch().store
    rented = len(birth.cloud.machines)
    for verb in ("attach", "stop"):
        assert lead(prepare_existing_run(store, birth.cloud, verb)) is None  # type: ignore[arg-type]
    assert len(birth.cloud.machines) == rented


# -- the lock


def test_a_child_that_inherits_the_lock_holds_it_without_a_gap(tmp_path: Path) -> None:
    lock = RunLock.take(tmp_path)
    code = (
        "import sys; from orchestrator.runs.lock import RunLock; lock = RunLock(int(sys.argv[1])); "
        "lock.sign(); print(1, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(lock.descriptor)], pass_fds=[lock.descriptor],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:  # fmt: skip
        assert child.stdout is not None
        child.stdout.readline()
        lock.release()
        assert Holder.of(tmp_path).pid == child.pid
        with pytest.raises(RunBusyError, match=str(child.pid)):
            RunLock.take(tmp_path)
        child.kill()
        child.wait()
    assert not is_held(tmp_path)
    with RunLock.take(tmp_path):
        assert Holder.of(tmp_path).pid == os.getpid()


def test_a_process_with_the_number_of_an_old_holder_is_not_the_holder(tmp_path: Path) -> None:
    """Before the new holder has signed, the file still names the old one: a signal would reach a stranger."""
    with RunLock.take(tmp_path):
        (tmp_path / "lock").write_text(f"{os.getpid()} @12345")
        assert Holder.of(tmp_path).pid is None
        (tmp_path / "lock").write_text(f"{os.getpid()} shared")  # as version 0.1.0 writes it
        assert Holder.of(tmp_path).pid == os.getpid()
        assert Holder.of(tmp_path).is_shared
        for text in ("", "x", "-1", "0 @1", "9" * 200, "\0"):
            (tmp_path / "lock").write_text(text)
            assert Holder.of(tmp_path).pid is None


def test_a_lock_that_is_taken_to_be_shared_is_never_seen_as_one_process_own(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("9" * 90)  # a longer text, of an earlier holder
    with RunLock.take(tmp_path, shared=True):
        assert Holder.of(tmp_path).is_shared
        assert Holder.of(tmp_path).pid == os.getpid()
