"""What a training leaves behind when it ends where it should not: waiting for data, or between two files."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import TrainConfig
from model.data.manifest import Image, Manifest
from model.data.prepare.shard_writer import ShardWriter
from model.data.shards import Patience
from model.data.shuffle import Order, Strategy
from model.errors import DataError
from model.training import checkpoint as checkpoints
from model.training.checkpoint import digest, load, path_of
from model.training.loop import train
from model.training.stop import StopFlag

torch.set_num_threads(1)

SIZES = {"hidden": 2, "layers": 1, "head": 3, "samples": 0, "log_every": 3}
SMALL = TrainConfig(
    steps=12, batch_size=419, checkpoint_every=4, validate_every=5, device="cpu", keep_checkpoints=2,
    **SIZES,  # type: ignore[arg-type]
)  # fmt: skip


def run(config: TrainConfig, out: Path, stop: StopFlag | None = None) -> int:
    return train(config, out, StopFlag() if stop is None else stop, began_s=time.monotonic())


def state(path: Path) -> str:
    saved = load(path)
    return digest([saved.step, saved.position, saved.model, saved.ema, saved.optimizer, saved.rng, saved.progress])


# Waiting for data


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six shards of four binary images, the last two of them to validate on."""
    writer = ShardWriter(tmp_path / "data", Image(4, 4, 1, 2), (), plan={}, shard_bytes=4 * 16)
    for split, count in (("train", 16), ("valid", 8)):
        writer.add(split, np.random.default_rng(count).integers(0, 2, (count, 4, 4, 1), np.uint8))
    counts = {"train": 16, "valid": 8}
    writer.finish(
        lambda shards, columns: Manifest("images", 1, Image(4, 4, 1, 2), counts, {"asked": {}}, [], shards, columns)
    )
    return tmp_path / "data"


def config(images: Path, **more: object) -> TrainConfig:
    settings = {"dataset": str(images), "steps": 9, "batch_size": 3, "validate_every": 5, "device": "cpu"}
    return TrainConfig(**{**settings, **SIZES, **more})  # type: ignore[arg-type]


class Shards:
    """Patience that runs out fast, and what happens while a shard is waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, timeout_s: float) -> None:
        self.now_s, self.polls = 0.0, 0
        self.during = lambda: None
        patience = Patience(timeout_s=timeout_s, sleep=self._sleep, clock=lambda: self.now_s)
        monkeypatch.setattr("model.data.shards.Patience", lambda: patience)

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.polls += 1
        self.during()


@pytest.mark.slow
@pytest.mark.parametrize("late", ["shard-00004.npy", "shard-00005.npy"])
def test_stopped_while_a_validation_waits_for_a_shard_it_keeps_its_steps(
    late: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(config(images), tmp_path / "whole") == 0
    (images / late).rename(tmp_path / late)
    shards, stop = Shards(monkeypatch, timeout_s=60), StopFlag()

    def ask() -> None:
        stop.signum = signal.SIGTERM if shards.polls == 7 else None

    shards.during = ask
    assert run(config(images), tmp_path / "out", stop) == 143
    assert shards.polls == 7  # at the next look
    assert checkpoints.steps_in(tmp_path / "out") == [5]
    (tmp_path / late).rename(images / late)
    assert run(config(images), tmp_path / "out") == 0
    assert state(path_of(tmp_path / "out", 9)) == state(path_of(tmp_path / "whole", 9))


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_shard_that_never_comes_ends_the_training_with_its_steps_kept(
    split: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.data.shuffle.BLOCK", 4)  # a shard
    monkeypatch.setattr("model.data.shuffle.POOL", 1)
    monkeypatch.setattr(
        "model.data.feed.Feed.available_bytes", 0
    )  # they come shard by shard, as they would from a bucket
    assert run(config(images), tmp_path / "whole") == 0
    third = int(Order(0, [4] * 4, Strategy(4, 1)).at(8, 1)[0][0]) // 4
    late, step = ("shard-00005.npy", 5) if split == "valid" else (f"shard-0000{third}.npy", 2)
    (images / late).rename(tmp_path / late)
    Shards(monkeypatch, timeout_s=3)
    for _ in range(2):  # again: nothing is lost or written twice
        with pytest.raises(DataError, match=rf"{late} has not arrived for 3 s"):
            run(config(images), tmp_path / "out")
        assert checkpoints.steps_in(tmp_path / "out") == [step]
    (tmp_path / late).rename(images / late)
    assert run(config(images), tmp_path / "out") == 0
    assert state(path_of(tmp_path / "out", 9)) == state(path_of(tmp_path / "whole", 9))


# Between two files


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training that kept the checkpoint of every step."""
    out = tmp_path_factory.mktemp("whole")
    assert run(SMALL.model_copy(update={"checkpoint_every": 1, "keep_checkpoints": 100}), out) == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 5, 10, 12])
@pytest.mark.parametrize("stale", [None, '{"step": 4, "nats": 1.0, "bits_per_dim": 1.0}'])
def test_killed_between_a_checkpoint_and_best_json_it_ends_with_the_same_files(
    step: int, stale: str | None, whole: Path, tmp_path: Path
) -> None:
    """The checkpoint was written; best.json and the old checkpoints are as they were before."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "killed").mkdir()
    assert run(SMALL, tmp_path / "plain") == 0
    for old in (4, 5, 8, 10, 12):
        if old <= step:
            shutil.copy(path_of(whole, old), tmp_path / "killed")
    if stale is not None:
        (tmp_path / "killed" / "best.json").write_text(stale)
    assert run(SMALL, tmp_path / "killed") == 0
    assert (
        json.loads((tmp_path / "killed/best.json").read_text())["step"] == load(path_of(whole, 12)).progress["best"][0]
    )
    names = {path.name for path in (tmp_path / "plain").iterdir()}
    assert {path.name for path in (tmp_path / "killed").iterdir()} == names
    for name in names - {"metrics.jsonl"} - {f"checkpoint-{at}.pt" for at in range(13)}:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_a_best_that_was_not_kept_is_not_named(whole: Path, tmp_path: Path) -> None:
    """The newest whole checkpoint is from before the first validation."""
    shutil.copy(path_of(whole, 4), tmp_path)
    (tmp_path / "best.json").write_text('{"step": 5, "nats": 1.0, "bits_per_dim": 1.0}')
    stop = StopFlag()
    stop.signum = signal.SIGTERM
    assert run(SMALL, tmp_path, stop) == 143
    assert not (tmp_path / "best.json").exists()
