"""Random stories with real processes: `python -m tests.support.real_chaos --seeds 100`.

Each seed launches the tiny trainer on an embedded cloud of its own, with a random `--faults` file (no capacity,
throttling, lost answers, interruptions, a frozen host, a cut link), and meanwhile kills the command at random moments
and attaches again, or presses Ctrl-C. Then, from the outside: no instance, no process, every checkpoint loadable and
its chain of digests right, `cleanup` has nothing to do, and a run that nobody stopped has done every step.

It takes seconds a seed: `tests.support.chaos` tells thousands, this one checks that the world is as that one believes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.runs.events import FINAL_STATES
from tests.support.stage import Stage
from tests.support.tiny_trainer import expected, load

MOST_LIVES = 6
LIFE_S = 75.0  # one command, on a machine that is busy
MOMENTS = ("home", "requested", "instance", "step", "later step", "noticed", "lost")


@dataclass(frozen=True)
class Act:
    """What is done to the command: kill it or Ctrl-C, so many seconds after a moment."""

    kind: str
    moment: str
    delay_s: float


@dataclass(frozen=True)
class RealStory:
    """What a seed tells."""

    steps: int
    trainer: tuple[str, ...]
    faults: tuple[dict[str, Any], ...]
    acts: tuple[Act, ...]


def story_of(seed: int) -> RealStory:
    """Return the story of a seed."""
    dice = random.Random(seed)
    steps = dice.choice([40, 80, 120])
    trainer = (str(steps), dice.choice(["0.01", "0.03"]), "--every", dice.choice(["5", "20"]), *dice.choice([
        (), (), ("--size", "2000000"), ("--slow-write",),
    ]))  # fmt: skip
    kinds = ["kill", "kill", "kill", "ctrl-c"]
    acts = [
        Act(dice.choice(kinds), dice.choice(MOMENTS), dice.choice([0.0, dice.uniform(0, 1.5)]))
        for _ in range(dice.choice([0, 1, 1, 2]))
    ]
    return RealStory(steps, trainer, tuple(faults_of(dice)), tuple(acts))


def faults_of(dice: random.Random) -> list[dict[str, Any]]:
    """Return zero or more faults of the cloud and its machines."""
    after_s = round(dice.uniform(0.5, 3.0), 1)
    every: list[dict[str, Any]] = [
        {"operation": "RunInstances", "error": "InsufficientInstanceCapacity", "zone": "us-east-1b", "times": 1},
        {"operation": "RunInstances", "error": "RequestLimitExceeded", "times": 1},
        {"operation": "RunInstances", "error": "InternalError", "served": True, "times": 1},
        {"operation": "DescribeInstances", "error": "RequestLimitExceeded", "probability": 0.1},
        {"operation": "TerminateInstances", "error": "InternalError", "times": 1},
        {"operation": "DescribeSpotPriceHistory", "error": "Unavailable", "skip": 1, "times": 1},
        {"event": "interruption", "after_s": after_s, "notice_s": dice.choice([1.0, 3.0]), "times": 1},
        {"event": "interruption", "after_s": after_s, "notice_s": 2.0, "times": 2},
        {"event": "interruption-without-notice", "after_s": after_s, "times": 1},
        {"event": "frozen-host", "after_s": after_s, "for_s": 2.0, "times": 1},
        {"event": "cut-link", "after_s": after_s, "for_s": 2.0, "times": 1},
        {"event": "cut-link", "after_s": after_s, "after_bytes": 100_000, "times": 1},
        {"event": "not-found", "for_s": 1.5, "times": 1},
        {"event": "slow-boot", "boot_s": 1.5},
        {"event": "failed-boot", "times": 1},
        {"event": "rebalance", "after_s": after_s},
        {"event": "clock-skew", "skew_s": dice.choice([-300.0, 300.0])},
    ]
    return dice.sample(every, dice.choice([0, 1, 2, 3]))


class RealTale:
    """One story on one stage."""

    def __init__(self, story: RealStory, stage: Stage) -> None:
        self.story = story
        self.stage = stage
        self.was_struck = self.was_stopped = False

    def tell(self) -> None:
        """Lead the run to its end, over as many commands as it takes."""
        faults = self.stage.work.parent / "faults.json"
        faults.write_text(json.dumps(list(self.story.faults)))
        acts = list(self.story.acts)
        command = self.stage.start(*self.stage.launch_words(*self.story.trainer, flags=("--faults", str(faults))))
        for _ in range(MOST_LIVES):
            if acts:
                self._act(acts.pop(0), command)
            command.wait(LIFE_S)
            if not self._is_born():
                assert self.was_struck, self.stage.said(command)  # nobody else keeps it from making the run
                return
            if self.stage.state().state in FINAL_STATES:
                return
            assert command.returncode < 0, f"{command.args}: {self.stage.said(command)}"  # else it ends the run
            command = self.stage.start("attach", "tiny")
        raise AssertionError("it does not end")

    def _act(self, act: Act, command: subprocess.Popen[str]) -> None:
        give_up_at = time.monotonic() + LIFE_S
        while command.poll() is None and not self._has_come(act.moment) and time.monotonic() < give_up_at:
            time.sleep(0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(act.delay_s)
        if command.poll() is None:
            self.was_struck, self.was_stopped = True, self.was_stopped or act.kind == "ctrl-c"
            os.kill(command.pid, signal.SIGINT if act.kind == "ctrl-c" else signal.SIGKILL)

    def _is_born(self) -> bool:
        return (self.stage.store.folder / "spec.json").exists()

    def _has_come(self, moment: str) -> bool:
        if moment == "home" or not self._is_born():
            return moment == "home" and (self.stage.home / "local").exists()
        state = self.stage.state()
        come: dict[str, Callable[[], object]] = {
            "requested": lambda: state.requests,
            "instance": lambda: state.attempts,
            "step": lambda: state.step > 0,
            "later step": lambda: state.checkpoints,
            "noticed": lambda: any(a.noticed_ends_at or a.trainer_exit for a in state.attempts),
            "lost": lambda: any(a.lost_because or a.trainer_exit for a in state.attempts),
        }
        return bool(come[moment]())

    def _cleanup(self) -> None:
        """Let `cleanup` end an embedded cloud that a killed command has left, perhaps before it stood."""
        quiet = 0
        for _ in range(60):
            quiet = 0 if self.stage.leftovers() else quiet + 1
            if quiet == 5:
                return
            if quiet == 0:
                self.stage.run("cleanup", "--cloud", "local", "-y")
            time.sleep(0.3)

    def check(self) -> None:
        """Raise AssertionError for a broken invariant."""
        if not self._is_born():  # killed, or stopped, before there was a run
            self._cleanup()
            assert self.stage.leftovers() == []
            return
        if self.stage.processes[-1].returncode < 0:  # killed when the run was over, and the cloud not yet ended
            self._cleanup()
        said = "\n".join(self.stage.said(process) for process in self.stage.processes)
        assert "Traceback" not in said, said
        if self.stage.state().state != "SUCCEEDED":
            assert self.was_stopped, f"{self.stage.state().state}: {self.stage.state().reason}"
        else:
            newest = self.stage.store.checkpoints / f"checkpoint-{self.story.steps}.pt"
            assert load(str(newest))["weights"] == expected(self.story.steps)
        state = self.stage.state()
        for before, after in zip(state.attempts, state.attempts[1:], strict=False):
            assert after.resumed_from <= max(before.last_step, before.resumed_from), "resumed from what nobody trained"
        self.stage.check_nothing_is_left()


def failure_of(seed: int, folder: Path | None = None) -> str:
    """Tell one story; return what broke, "" for nothing."""
    with tempfile.TemporaryDirectory(prefix="real-chaos-", dir=folder) as place:
        stage = Stage(Path(place))
        tale = RealTale(story_of(seed), stage)
        try:
            tale.tell()
            tale.check()
        except (AssertionError, subprocess.TimeoutExpired, OSError, ValueError) as error:
            said = [f"--- {' '.join(map(str, p.args[3:6]))}\n{stage.said(p)}" for p in stage.processes]  # type: ignore[index,union-attr]
            return f"{type(error).__name__}: {error}\n{tale.story}\n" + "\n".join(said)
        finally:
            stage.close()
    return ""


def main() -> int:
    """Tell stories, two at a time."""
    parser = argparse.ArgumentParser(description="Random stories with real processes.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, choices=(1, 2))
    args = parser.parse_args()
    began, broken = time.perf_counter(), 0
    with ProcessPoolExecutor(args.jobs) as pool:
        seeds = range(args.first, args.first + args.seeds)
        for seed, problem in zip(seeds, pool.map(failure_of, seeds), strict=True):
            if problem:
                broken += 1
                print(
                    f"seed {seed}: {problem}\n    again: python -m tests.support.real_chaos --first {seed} --seeds 1",
                    flush=True,
                )
    print(f"{args.seeds} seeds from {args.first}: {broken} broken, {time.perf_counter() - began:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
