"""Starts and ends the process that collects the measurements of a program of the user's own.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from infra.instance.deadline import steady
from infra.instance.trainer_files import read_json, write_json

READY_S = 10.0  # for the look at what is there before the trainer's start
LAST_S = 15.0  # from the trainer's exit on
BASE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # the folder that has `infra/`


def collected_path(root: str) -> str:
    """Return the file of collected measurements, "" for the bundled trainer, which writes its own."""
    is_collected = os.path.exists(os.path.join(root, "agent", "metrics.json"))
    return os.path.join(root, "agent", "metrics.jsonl") if is_collected else ""


def told_of_metrics(root: str) -> tuple[str, dict[str, Any]]:
    """Return (the path of the collected measurements, what `status` tells of them: source, problem, saves)."""
    facts = read_json(os.path.join(root, "agent", "metrics.json"), {})
    saves = facts.get("saves", {})
    told = {
        "metrics_source": facts.get("source", ""),
        "metrics_problem": facts.get("problem", ""),
        "metrics_skipped": facts.get("skipped", 0),
        "metrics_total": facts.get("total", 0),
        "saves": saves.get("count", 0),
        "saves_every_s": saves.get("every_s", 0.0),
    }
    return collected_path(root), told


class MetricsProcess:
    """The process `infra.instance.metrics` of one run.

    Args:
        root: the run's folder.
        asked: `patterns`, by the names of their values; None for the bundled trainer, which writes its metrics itself.
    """

    def __init__(self, root: str, asked: dict[str, Any] | None) -> None:
        self.root = root
        self.asked = asked
        self.process: subprocess.Popen[bytes] | None = None
        self.ended_at: float | None = None

    def start(self, say: Callable[[str], None]) -> None:
        """Start it, and wait until it knows what the trainer did not write. Without it the trainer runs unmeasured."""
        if self.asked is None:
            return
        write_json(os.path.join(self.root, "agent", "metrics.json"), {})  # from now on the collected file is sent
        words = [sys.executable, "-m", __package__ + ".metrics", self.root, json.dumps(self.asked.get("patterns", {}))]
        env = {**os.environ, "PYTHONPATH": BASE}
        try:
            with open(os.path.join(self.root, "agent", "metrics.log"), "ab") as log:
                self.process = subprocess.Popen(
                    words,
                    cwd=BASE,
                    env=env,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            say("the metrics are not read: %s" % error)
            return
        answer = self.process.stdout
        if answer is None or not select.select([answer], [], [], READY_S)[0] or not answer.readline():
            say("the metrics may not be read: their process is not ready; see metrics.log")

    def is_over(self) -> bool:
        """Tell it, once, that the trainer has ended; return whether it has written all that it will."""
        if self.process is None:
            return True
        if self.ended_at is None:
            self.ended_at = steady()
            if self.process.stdin is not None:
                self.process.stdin.close()
        if self.process.poll() is None and steady() - self.ended_at > LAST_S:
            self.process.send_signal(signal.SIGKILL)
            return True
        return self.process.poll() is not None
