"""What a trainer has started is found and ended, however it was started; nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.instance.descendants import Process, below, processes
from tests.support.bare_machine import INSTANCE

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")

LEAVES = textwrap.dedent(
    """
    import os, signal, sys, time
    os.environ.clear()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork():
        time.sleep(60)
    os.setsid()
    if sys.argv[2] == "twice" and os.fork():
        os._exit(0)
    with open(sys.argv[1] + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(sys.argv[1] + ".part", sys.argv[1])
    time.sleep(60)
    """
)
"""A program that leaves a process in a session of its own, which ignores SIGTERM and has no variables."""

WATCHES = textwrap.dedent(
    """
    import json, os, signal, subprocess, sys, time
    from infra.instance.descendants import Descendants
    program, mark, how = sys.argv[1:]
    null = subprocess.DEVNULL
    helper = subprocess.Popen(["sleep", "60"], stdout=null, start_new_session=True)
    said = []
    family = Descendants(lambda: [helper.pid], said.append)
    if how == "twice":
        family.adopt()
    trainer = subprocess.Popen([sys.executable, "-c", program, mark, how], stdout=null, start_new_session=True)
    while not os.path.exists(mark):
        time.sleep(0.01)
    if how == "once":
        family.note(trainer.pid)
    os.killpg(trainer.pid, signal.SIGKILL)
    trainer.wait()
    left = family.kill(None)
    with open("/proc/self/task/%d/children" % os.getpid()) as file:
        children = [int(word) for word in file.read().split()]
    print(json.dumps({"said": said, "left": left, "helper": helper.poll(), "children": children}))
    helper.kill()
    helper.wait()
    """
)


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    found = processes().get(pid)
    return found is not None and not found.is_zombie


def watch(tmp_path: Path, how: str) -> tuple[dict[str, Any], int]:
    """Let another process watch over such a program and end it; return what it says, and the pid of what was left."""
    mark = tmp_path / "mark"
    words = [sys.executable, "-c", WATCHES, LEAVES, str(mark), how]
    env = {**os.environ, "PYTHONPATH": str(INSTANCE.parents[1])}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=30, check=True)
    said: dict[str, Any] = json.loads(done.stdout)
    return said, int(mark.read_text())


def test_what_has_left_the_trainers_session_is_ended_after_it_and_the_helpers_go_on(tmp_path: Path) -> None:
    said, pid = watch(tmp_path, "twice")
    assert (said["said"], said["left"], said["helper"]) == ([], [], None)
    assert not is_running(pid)
    assert len(said["children"]) == 1, "the helper; no zombie is left"


def test_what_was_seen_below_the_trainer_is_ended_where_nobody_is_adopted(tmp_path: Path) -> None:
    """Without PR_SET_CHILD_SUBREAPER."""
    said, pid = watch(tmp_path, "once")
    assert (said["left"], said["helper"]) == ([], None)
    assert not is_running(pid)


def test_a_docker_daemon_and_what_runs_below_it_stay() -> None:
    table = {
        10: Process(1, False, "trainer", "5"),
        11: Process(10, False, "worker", "6"),
        12: Process(10, False, "dockerd", "6"),
        13: Process(12, False, "containerd", "6"),
        14: Process(10, False, "containerd-shim", "6"),
        15: Process(14, False, "of another", "6"),
        16: Process(11, True, "ended", "7"),
        20: Process(1, False, "of another", "5"),
    }
    assert below([10, 99], table) == {10, 11, 16}
    assert below([12], table) == set()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", ") (x"])
    yield process
    process.kill()
    process.wait()


def test_the_list_of_processes_has_parents_states_and_starts(sleeper: subprocess.Popen[bytes]) -> None:
    until(lambda: sleeper.pid in processes())
    found = processes()[sleeper.pid]
    assert (found.parent, found.is_zombie) == (os.getpid(), False)
    assert found.start.isdigit()
    sleeper.kill()
    until(lambda: sleeper.pid not in processes() or processes()[sleeper.pid].is_zombie)
    assert processes()[os.getpid()].parent == os.getppid()


def until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
