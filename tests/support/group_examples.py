"""Runs the examples for several machines: two on the embedded cloud, one interrupted, then a look at the steps."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.runs.state import Attempt, RunState
from tests.support.example_runs import EXAMPLES, ONE_THREAD, ROOT
from tests.support.stage import Stage

STEP = re.compile(r"^step ([0-9]+)/", flags=re.MULTILINE)
SECONDS = 180.0  # for a run that takes 40 on an idle machine


def _loaded(path: Path) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=False)


@dataclass(frozen=True)
class GroupExample:
    """One folder of `examples/`; `saved_step` reads the step of its last checkpoint from the outputs of node 0."""

    name: str
    saved_step: Callable[[Path], int]
    steps: int


GROUP_EXAMPLES = (
    GroupExample("ddp", lambda out: int(_loaded(out / "model.pt")["step"]), 600),
    GroupExample("accelerate", lambda out: int(_loaded(out / "model.pt")["step"]), 600),
    GroupExample("lightning-ddp", lambda out: int(_loaded(out / "checkpoints" / "last.ckpt")["global_step"]), 500),
)


class GroupExampleRun:
    """An example on two machines.

    Args:
        stage: of its own.
        python: that has the packages.
        example: which.
    """

    def __init__(self, stage: Stage, python: Path, example: GroupExample) -> None:
        stage.python = str(python)
        stage.env["PYTHONPATH"] = str(ROOT)
        self.stage = stage
        self.example = example
        threads = [word for name, value in ONE_THREAD.items() for word in ("--env", f"{name}={value}")]
        where = ["--cloud", "local", "-t", "p2.8xlarge", "--nodes", "2", "--spot", "-y", "-n", "tiny", *threads]
        words = ["sh", "run.sh", "--steps", str(example.steps)]
        self.process = stage.start("launch", *where, "--workdir", str(EXAMPLES / example.name), "--", *words)

    def interrupt(self, rank: int, *, after_step: int) -> None:
        """Interrupt a machine with a notice once the first machine has told of a step."""
        give_up_at = time.monotonic() + SECONDS
        while max(self.steps_of(1), default=0) < after_step:
            assert time.monotonic() < give_up_at, self.stage.said(self.process)
            assert self.process.poll() is None, self.stage.said(self.process)
            time.sleep(0.05)
        self.stage.embedded().interrupt(self.lead(1, rank).instance_id)

    def end(self) -> RunState:
        """Wait for its end."""
        code = self.process.wait(timeout=SECONDS)
        assert code == 0, self.stage.said(self.process)
        return self.stage.state()

    def lead(self, generation: int, rank: int = 0) -> Attempt:
        """Return a machine's share in a generation."""
        return self.stage.state().members(generation)[rank]

    def log_of(self, generation: int, rank: int = 0) -> str:
        """Return the log of a machine in a generation, "" before there is one."""
        try:
            number = self.lead(generation, rank).number
            return (self.stage.store.folder / "attempts" / str(number) / "trainer.log").read_text()
        except (OSError, IndexError, ValueError):
            return ""

    def steps_of(self, generation: int) -> list[int]:
        """Return the steps that the first machine told of in a generation."""
        return [int(step) for step in STEP.findall(self.log_of(generation))]

    def saved_step(self) -> int:
        """Return the step of the checkpoint that came home."""
        return self.example.saved_step(self.stage.store.folder / "outputs")
