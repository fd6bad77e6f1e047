"""Runs `examples/` for real: a Python that has their packages, an interruption, and a look at what came home."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.local import EmbeddedCloud, EmbeddedCloudError
from orchestrator.runs.events import InterruptionNoticed, TrainerStarted
from orchestrator.runs.output_events import OutputsPulled, OutputsRestored
from orchestrator.runs.store import RunStore
from tests.support.own_packages import python_with
from tests.support.stage import Stage, last_json

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PACKAGES = ("transformers", "accelerate", "lightning", "papermill", "ipykernel")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # sums do not depend on the load of this machine then, nor does the time so much
RUN_S = 240.0
OLD_S = 2.0  # a save of that age stands still


@dataclass(frozen=True)
class Example:
    """One folder of `examples/`.

    `result` returns the epochs that were done, and what is the same in each run of the program; None where nothing is.
    """

    name: str
    words: tuple[str, ...]  # its command, for a training of some seconds
    result: Callable[[Path], tuple[int, Any]]
    files: tuple[str, ...]  # patterns of what is in `outputs/` at the end; the first is what it resumes from
    epochs: int
    is_deterministic: bool = True


def _loaded(path: Path) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=False)


def _plain(out: Path) -> tuple[int, Any]:
    saved = _loaded(out / "model.pt")
    return saved["epoch"], saved["model"]


def _hugging_face(out: Path) -> tuple[int, Any]:
    import json

    checkpoints = sorted((out / "runs").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    state = json.loads((checkpoints[-1] / "trainer_state.json").read_text())
    return round(state["epoch"]), {"weights": (out / "model" / "model.safetensors").read_bytes()}


def _lightning(out: Path) -> tuple[int, Any]:
    # Beside a restored `last.ckpt` Lightning may write `last-v1.ckpt`; `ckpt_path="last"` takes the newest of them.
    newest = max((out / "checkpoints").glob("last*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    return _loaded(newest)["epoch"] + 1, None  # the order of the images is not restored


def _notebook(out: Path) -> tuple[int, Any]:
    saved = _loaded(out / "state.pt")
    return len(saved["losses"]), saved["model"]


def examples(epochs: int = 30) -> tuple[Example, ...]:
    """Return all of them; an epoch takes about a fifth of a second on one core."""
    less = max(2, epochs // 4)
    count = str(epochs)
    plain = ("python", "train.py", "--epochs", count, "--repeat", "4")
    trainer = ("python", "train.py", "--epochs", str(less), "--width", "64")
    papermill = ("papermill", "train.ipynb", "result.ipynb", "-p", "epochs", count, "-p", "width", "3000")
    return (
        Example("plain", plain, _plain, ("model.pt",), epochs),
        Example(
            "huggingface",
            trainer,
            _hugging_face,
            ("runs/checkpoint-*/trainer_state.json", "model/model.safetensors"),
            less,
        ),
        Example(
            "lightning",
            ("python", "train.py", "--epochs", count, "--width", "512"),
            _lightning,
            ("checkpoints/last.ckpt", f"checkpoints/epoch={epochs - 1}.ckpt", "logs/version_*/metrics.csv"),
            epochs,
            is_deterministic=False,
        ),
        Example("notebook", papermill, _notebook, ("state.pt", "result.ipynb"), epochs),
    )


def python_with_packages() -> tuple[Path | None, str]:
    """Return a Python that has the packages of all examples beside our own, and "", or None and why there is none."""
    return python_with("examples", PACKAGES)


def alone(python: Path, example: Example, folder: Path) -> float:
    """Run an example without pixel-orch in a copy of its folder; return how many seconds it took."""
    shutil.copytree(EXAMPLES / example.name, folder)
    env = {**os.environ, **ONE_THREAD, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    began_at = time.monotonic()
    with (folder / "alone.log").open("w") as log:
        subprocess.run(example.words, cwd=folder, env=env, check=True, stdout=log, stderr=log, timeout=RUN_S)
    return time.monotonic() - began_at


@dataclass(frozen=True)
class Outcome:
    """How an interrupted run ended; `problems` is empty if it is as it should be."""

    machines: int
    restored: bool
    had_saved: bool  # something, some seconds before the interruption
    wall_s: float
    problems: tuple[str, ...]


class ExampleRun:
    """An example on the embedded cloud, interrupted once.

    Args:
        stage: of its own.
        python: that has the packages.
        example: which.
    """

    def __init__(self, stage: Stage, python: Path, example: Example) -> None:
        stage.python = str(python)
        stage.env["PYTHONPATH"] = str(ROOT)
        self.stage = stage
        self.example = example
        self.had_saved = False
        self.began_at = time.monotonic()
        threads = [word for name, value in ONE_THREAD.items() for word in ("--env", f"{name}={value}")]
        words = [
            "launch",
            "--cloud",
            "local",
            "-t",
            "g4dn.xlarge",
            "--spot",
            "-y",
            "-n",
            "tiny",
            "-o",
            "json",
            *threads,
        ]
        folder = str(EXAMPLES / example.name)
        self.process = stage.start(*words, "--workdir", folder, "--", *example.words)

    def store(self) -> RunStore:
        """Return the run's store."""
        return self.stage.store

    def seen(self, kind: type) -> bool:
        """Return whether an event of that kind is written."""
        return any(isinstance(event, kind) for event in self.store().events())

    def until_outputs(self) -> None:
        """Wait until a state of the outputs is downloaded."""
        self.stage.until(lambda: self.seen(OutputsPulled), "outputs at home")

    def until_moment(self, after_s: float) -> bool:
        """Wait until so many seconds after the program's start; return whether it still runs."""
        self.stage.until(lambda: self.seen(TrainerStarted), "the program's start")
        time.sleep(after_s)
        return self.process.poll() is None and len(self.stage.state().open_attempts()) == 1

    def interrupt(self, *, notice: bool) -> bool:
        """Interrupt its machine, and note whether something was saved there by then; return whether it still ran."""
        found = EmbeddedCloud.find(self.stage.home)
        assert found is not None
        code = f"local/instances/*/home/pixel-orch/tiny/code/{self.example.files[0]}"
        self.had_saved = any(time.time() - path.stat().st_mtime > OLD_S for path in self.stage.home.glob(code))
        try:
            found.interrupt(self.stage.instance_id(1), notice=notice)
        except EmbeddedCloudError:  # the program has just ended
            return False
        return True

    def outcome(self, expected: Any) -> Outcome:
        """Wait for the end; return what is wrong beside `expected`, which a run without pixel-orch has computed."""
        code = self.process.wait(timeout=RUN_S)
        said = self.stage.said(self.process)
        wall_s = time.monotonic() - self.began_at
        problems = []
        if code != 0:
            problems.append(f"exit code {code}, {self.store().state().reason}: {' '.join(said.split())[:300]}")
        else:
            state = last_json(said)["state"]
            if state != "SUCCEEDED":
                problems.append(f"state {state}")
        out = self.store().folder / "outputs"
        problems += [f"not home: {pattern}" for pattern in self.example.files if not list(out.glob(pattern))]
        if not problems:
            epochs, value = self.example.result(out)
            if epochs != self.example.epochs:
                problems.append(f"{epochs} epochs, not {self.example.epochs}")
            if expected is not None and not is_same(value, expected):
                problems.append("the weights differ from those of an uninterrupted run")
        if self.had_saved and self.seen(InterruptionNoticed) and not self.seen(OutputsRestored):
            problems.append("what it had saved was not restored, although there was a notice")
        machines = len(self.stage.state().attempts)
        return Outcome(machines, self.seen(OutputsRestored), self.had_saved, wall_s, tuple(problems))


def is_same(one: Any, other: Any) -> bool:
    """Return whether two results are equal to the last bit."""
    import torch

    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return bool(one == other)
