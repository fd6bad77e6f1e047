"""The trainer as a real process: stopped and killed at random moments, it ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.config import TrainConfig
from model.training.checkpoint import digest, load, path_of, steps_in

pytestmark = pytest.mark.slow

PATIENCE_S = 120.0
CONFIG = TrainConfig(steps=240, hidden=8, layers=2, head=16, log_every=7, checkpoint_every=30, validate_every=50)


def start(out: Path, config: TrainConfig) -> subprocess.Popen[bytes]:
    out.parent.mkdir(exist_ok=True)
    path = out.with_suffix(".json")
    path.write_text(config.model_dump_json())
    with out.with_suffix(".log").open("ab") as log:
        words = [sys.executable, "-m", "model", "train", "--config", str(path), "--out", str(out)]
        return subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(process: subprocess.Popen[bytes]) -> int:
    return process.wait(timeout=PATIENCE_S)


def lines(out: Path) -> list[dict[str, Any]]:
    """All lines that are whole: a kill may cut one off."""
    found = []
    for text in (out / "metrics.jsonl").read_text().splitlines():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Look again and again, with next to no pause: some of what is waited for lasts a millisecond."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0002)


def state(out: Path, step: int) -> str:
    saved = load(path_of(out, step))
    return digest([saved.step, saved.position, saved.model, saved.optimizer, saved.rng, saved.progress])


def nats(out: Path) -> dict[tuple[int, str], float]:
    found: dict[tuple[int, str], float] = {}
    for line in lines(out):
        if "nats" in line:
            key = (line["step"], line.get("split", "train"))
            assert found.setdefault(key, line["nats"]) == line["nats"]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert finish(start(out, CONFIG)) == 0
    return out


def same_as(whole: Path, out: Path) -> None:
    assert state(out, CONFIG.steps) == state(whole, CONFIG.steps)
    assert nats(whole).items() <= nats(out).items()
    picture = f"samples-{CONFIG.steps}.png"
    assert (out / picture).read_bytes() == (whole / picture).read_bytes()
    assert not list(out.glob(".*"))


def test_sigterm_at_random_moments_loses_no_step(whole: Path, tmp_path: Path) -> None:
    chance, out, codes = random.Random(0), tmp_path / "out", []
    while not codes or codes[-1] != 0:
        assert len(codes) < 30
        done = len(lines(out)) if (out / "metrics.jsonl").exists() else 0
        process, lag = start(out, CONFIG), chance.randrange(5, 16)
        metrics = out / "metrics.jsonl"
        until(lambda: metrics.exists() and metrics.read_text().count("\n") >= done + lag, process)  # noqa: B023
        process.send_signal(signal.SIGTERM)
        codes.append(finish(process))
        last = lines(out)[-1]
        assert last["event"] == "end"
        if last["reason"] == "finished":  # a busy machine may take so long to look that the signal comes after the end
            assert last["step"] == CONFIG.steps
        else:
            assert (last["reason"], codes[-1]) == ("stopped", 143)
        assert last["step"] == max(steps_in(out), default=0)  # every step that was done is kept
    assert set(codes) == {143, 0}
    same_as(whole, out)


def test_a_stop_during_start_up_is_a_stop(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for delay_s in (0.3, 0.8, 1.3):
        process = start(out, CONFIG)
        time.sleep(delay_s)  # torch is being imported: there is nothing to look at
        process.send_signal(signal.SIGINT)
        assert finish(process) == 130
        assert lines(out)[-1]["reason"] == "stopped"


def test_sigkill_at_random_moments_goes_on_from_the_newest_checkpoint(whole: Path, tmp_path: Path) -> None:
    chance, out, kills = random.Random(5), tmp_path / "out", 0
    for _ in range(4):
        process = start(out, CONFIG)
        wanted = max(steps_in(out), default=0) + CONFIG.checkpoint_every if out.exists() else 30
        until(lambda: path_of(out, wanted).exists(), process)  # noqa: B023
        time.sleep(chance.random() * 0.05)  # short: a quick machine must not be done before it is killed often
        process.kill()
        kills += finish(process) == -signal.SIGKILL
    assert kills >= 1
    assert finish(start(out, CONFIG)) == 0
    same_as(whole, out)


def test_sigkill_while_a_checkpoint_is_written_leaves_no_half_checkpoint(whole: Path, tmp_path: Path) -> None:
    out, torn = tmp_path / "out", 0
    every_step = CONFIG.model_copy(update={"checkpoint_every": 1})
    for lag in range(1, 6):
        process = start(out, every_step)
        first = max(steps_in(out), default=0) if out.exists() else 0

        def writing(after: int = first + 3 * lag) -> bool:
            names = [entry.name for entry in os.scandir(out)] if out.exists() else []
            return any(name.startswith(f".checkpoint-{after}-") for name in names)

        until(writing, process)
        process.kill()
        finish(process)
        torn += bool(list(out.glob(".checkpoint-*")))
        for step in steps_in(out):
            assert load(path_of(out, step)).step == step  # whatever has the name is whole
    assert torn >= 1
    assert finish(start(out, CONFIG)) == 0
    same_as(whole, out)
