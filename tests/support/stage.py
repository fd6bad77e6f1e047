"""What the scenarios share.

A command line as a user has it, the tiny trainer, and a look at what is left afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from infra.local import EmbeddedCloud
from orchestrator.runs.events import CheckpointPulled
from orchestrator.runs.state import RunState
from orchestrator.runs.store import RunStore
from tests.support import tiny_trainer
from tests.support.metrics import metrics_of

TINY = Path(__file__).with_name("tiny_trainer.py")
LIMIT_S = 90.0


class Stage:
    """A home of its own, and processes that are surely ended.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.work = folder / "work"
        self.work.mkdir()
        (self.work / "train.py").write_text(TINY.read_text())
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        self.env.update(PIXEL_ORCH_HOME=str(self.home), PYTHONUNBUFFERED="1")
        self.python = sys.executable
        self.processes: list[subprocess.Popen[str]] = []

    # -- the command line

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command; its output goes to a file that `said` reads."""
        log = (self.work.parent / f"log-{len(self.processes)}").open("w+")
        process = subprocess.Popen(
            [self.python, "-m", "orchestrator.cli", *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=self.env,
            text=True,
            start_new_session=True,
            preexec_fn=listen_to_ctrl_c,
        )
        process.log = log  # type: ignore[attr-defined]
        self.processes.append(process)
        return process

    def said(self, process: subprocess.Popen[str]) -> str:
        """Return what a command has printed so far."""
        return Path(process.log.name).read_text()  # type: ignore[attr-defined]

    def run(self, *words: str, limit_s: float = LIMIT_S) -> tuple[int, str]:
        """Run a command to its end, which must come within `limit_s`; return (exit code, output)."""
        process = self.start(*words)
        code = process.wait(timeout=limit_s)
        return code, self.said(process)

    def launch_words(self, *trainer: str, flags: tuple[str, ...] = ()) -> list[str]:
        """Return the words that launch the tiny trainer."""
        return [
            "launch",
            "--cloud",
            "local",
            "--instance",
            "p2.xlarge",
            "--spot",
            "-y",
            "-n",
            "tiny",
            "--workdir",
            str(self.work),
            *flags,
            "--",
            "python3",
            "train.py",
            *trainer,
        ]

    # -- waiting for something real

    def until(self, ready: Callable[[], Any], what: str) -> Any:
        """Wait for a condition of other processes; they tell us nothing, so we look."""
        give_up_at = time.monotonic() + LIMIT_S
        while time.monotonic() < give_up_at:
            with contextlib.suppress(OSError, ValueError):
                value = ready()
                if value:
                    return value
            if self.processes and self.processes[-1].poll():
                give_up_at = min(give_up_at, time.monotonic() + 1)  # nobody is left who could bring it about
            time.sleep(0.02)
        raise AssertionError(f"waited in vain for {what}; said:\n{self.said(self.processes[-1])}")

    def until_step(self, step: int) -> RunState:
        """Wait until that checkpoint is home or the step was seen in the metrics that came home."""
        return self.until(lambda: self._at(step), f"step {step}")  # type: ignore[no-any-return]

    def _at(self, step: int) -> RunState | None:
        steps = [line.get("step", 0) for line in metrics_of(self.store)]
        return self.state() if max(steps, default=0) >= step else None

    # -- looking

    @property
    def store(self) -> RunStore:
        """The store of the run `tiny`."""
        return RunStore(self.home, "tiny")

    def state(self) -> RunState:
        """The fold of its events."""
        return self.store.state()

    def embedded(self) -> EmbeddedCloud:
        """Return the running embedded cloud."""
        found = EmbeddedCloud.find(self.home)
        assert found is not None
        return found

    def instance_id(self, number: int = 1) -> str:
        """Return the id of an attempt's instance."""
        attempt = self.state().attempt(number)
        assert attempt is not None
        return attempt.instance_id

    def trainer_pid(self) -> int:
        """Return the process of the tiny trainer."""
        for instance in self.embedded().instances():
            for pid in instance["pids"]:
                with contextlib.suppress(OSError):
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    if b"train.py" in words:
                        return int(pid)
        return 0

    # -- after every scenario

    def check_nothing_is_left(self) -> None:
        """No instance, no process, every acknowledged checkpoint loadable, and cleanup has nothing to do."""
        assert EmbeddedCloud.find(self.home) is None, "the embedded cloud still runs"
        assert not (self.home / "local" / "endpoint.json").exists()
        assert self.leftovers() == []
        state = self.state()
        assert state.open_attempts() == []
        refused = {r.name for r in state.refused}
        for event in self.store.events():
            if isinstance(event, CheckpointPulled) and event.name not in refused:
                body = tiny_trainer.load(str(self.store.checkpoint_path(event)))
                assert body["weights"] == tiny_trainer.expected(body["step"])
        code, said = self.run("cleanup", "--cloud", "local", "-y")
        assert code == 0
        assert "nothing to do" in said

    def leftovers(self) -> list[str]:
        """Return processes that still speak of this home."""
        found = []
        mine = {p.pid for p in self.processes if p.poll() is None}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in mine | {os.getpid()}:
                with contextlib.suppress(OSError):
                    text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                    if str(self.home).encode() in text:
                        found.append(f"{entry.name}: {(entry / 'cmdline').read_bytes()!r}")
        return found

    def close(self) -> None:
        """End whatever a failed scenario has left."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            process.log.close()  # type: ignore[attr-defined]
        found = EmbeddedCloud.find(self.home) if self.home.exists() else None
        if found:
            found.stop()


def listen_to_ctrl_c() -> None:
    """Undo what a shell does to its background jobs, and all that they start: SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def last_json(text: str) -> dict[str, Any]:
    """Return the object on the last line."""
    value: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return value


def staged(folder: Path) -> Iterator[Stage]:
    """Give a stage and clear it away."""
    stage = Stage(folder)
    try:
        yield stage
    finally:
        stage.close()
