"""Commands in a real terminal (a pty of 80 columns), as a person sees them. Slow: `make test-all`."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

from tests.support.report_runs import Had, write_run
from tests.support.stage import Stage, listen_to_ctrl_c, staged

pytestmark = pytest.mark.slow

LIMIT_S = 90.0
PROGRAM = """
import json, time
for step in range(1, 13):
    time.sleep(0.5)
    with open("metrics.jsonl", "a") as file:
        print(json.dumps({"step": step, "loss": 1 / step}), file=file)
    print("step", step, flush=True)
"""


class Shown:
    """A command in a terminal whose screen can be read."""

    def __init__(self, *words: str, env: dict[str, str]) -> None:
        self.screen = pyte.Screen(80, 40)
        self.parser = pyte.ByteStream(self.screen)
        self.sent = b""
        self.seen: list[str] = []  # screens
        ours, theirs = pty.openpty()
        self.ours = ours
        env = {**env, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli", *words],
            stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True,
            preexec_fn=listen_to_ctrl_c,
        )  # fmt: skip
        os.close(theirs)

    def until(self, ready: Callable[[str], bool]) -> str:
        """Read until the screen is so; return it."""
        give_up_at = time.monotonic() + LIMIT_S
        while time.monotonic() < give_up_at:
            if select.select([self.ours], [], [], 0.1)[0]:
                try:
                    data = os.read(self.ours, 65536)
                except OSError:  # the command has ended
                    data = b""
                self.sent += data
                self.parser.feed(data)
                self.seen.append("\n".join(line.rstrip() for line in self.screen.display).rstrip())
                if ready(self.seen[-1]):
                    return self.seen[-1]
                if not data:
                    break
        raise AssertionError("waited in vain; the screen:\n" + (self.seen[-1] if self.seen else ""))

    def close(self) -> None:
        """End it, whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.ours)

    def end(self) -> int:
        """Read to the end; return the exit code."""
        with contextlib.suppress(AssertionError):
            self.until(lambda _: False)
        return self.process.wait(timeout=LIMIT_S)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    yield from staged(tmp_path)


@pytest.fixture
def show() -> Iterator[Callable[..., Shown]]:
    """Give what starts a command in a terminal, and ends it after the test."""
    started: list[Shown] = []

    def start(*words: str, env: dict[str, str]) -> Shown:
        started.append(Shown(*words, env=env))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_a_run_is_alive_in_the_terminal_and_its_summary_stays(stage: Stage, show: Callable[..., Shown]) -> None:
    (stage.work / "train.py").write_text(PROGRAM)
    words = ["launch", "--cloud", "local", "-t", "p2.xlarge", "--spot", "-y", "-n", "tiny", "--budget", "1"]
    shown = show(*words, "--workdir", str(stage.work), "--", "python", "train.py", env=stage.env)
    view = shown.until(lambda screen: "\nloss    0." in screen and "\nlog     step " in screen)
    assert "\nrun     tiny  RUNNING" in view
    assert "\nmachine p2.xlarge spot in " in view
    assert "\ncost    ~$0.0" in view
    assert "of $1" in view
    assert shown.end() == 0
    last = shown.seen[-1]
    assert "tiny: SUCCEEDED" in last
    assert "\nrun     tiny" not in last, "the view is gone"
    assert b"\x1b[?25h" in shown.sent, "the cursor is shown again"
    assert not shown.screen.cursor.hidden
    stage.check_nothing_is_left()


def test_status_is_watched_until_ctrl_c(tmp_path: Path, show: Callable[..., Shown]) -> None:
    (tmp_path / "home").mkdir()
    write_run(tmp_path / "home", "watched", [Had(ended_by=None)])
    shown = show("status", "--watch", env={**os.environ, "PIXEL_ORCH_HOME": str(tmp_path / "home")})
    shown.until(lambda screen: "watched" in screen and "RUN" in screen)
    shown.process.send_signal(signal.SIGINT)
    assert shown.end() == 0
    assert b"Traceback" not in shown.sent


def test_watching_needs_a_terminal(tmp_path: Path) -> None:
    env = {**os.environ, "PIXEL_ORCH_HOME": str(tmp_path)}
    words = [sys.executable, "-m", "orchestrator.cli", "status", "--watch"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--watch draws in a terminal" in done.stderr
