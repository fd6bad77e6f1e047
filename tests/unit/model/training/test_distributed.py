"""Several processes train as one: the same weights as one process, and they stop, fail and resume together."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.config import TrainConfig
from model.data.manifest import Column, Image, Manifest
from model.data.prepare.shard_writer import ShardWriter
from model.errors import RANK_LOST
from model.training.checkpoint import digest, load, part_not_finite, path_of, steps_in
from tests.support.ranks import Command, free_port, in_world, trained, validated

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

SMALL = TrainConfig(
    steps=12, batch_size=24, hidden=4, layers=2, head=5, device="cpu", samples=0, learning_rate=0.01, grad_clip=0.1
)


def words(out: Path, **more: Any) -> list[str]:
    """Return the command line of a training of twelve steps."""
    settings = {
        "batch_size": 24, "hidden": 2, "layers": 1, "head": 3, "samples": 0, "log_every": 3, "validate_every": 100,
        "checkpoint_every": 100, "device": "cpu", **more,
    }  # fmt: skip
    return [
        "--steps",
        "12",
        "--out",
        str(out / "out"),
        *(w for k, v in settings.items() for w in ("--set", f"{k}={v}")),
    ]


def furthest(one: Any, other: Any) -> float:
    """Return the largest difference between two trees of tensors, relative to the largest value."""
    if isinstance(one, torch.Tensor):
        scale = max(1.0, float(one.abs().max())) if one.numel() else 1.0
        return float((one.double() - other.double()).abs().max()) / scale if one.numel() else 0.0
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max((furthest(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, (list, tuple)):
        return max((furthest(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    return 0.0 if one == other else abs(one - other) if isinstance(one, float) else float("inf")


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return how far two trainings are apart: weights, running mean, optimizer, and the sum of the nats."""
    parts = ("model", "ema", "optimizer", "step", "position")
    nats = abs(one["progress"]["window_sum"] / other["progress"]["window_sum"] - 1)
    return max(nats, *(furthest(one[part], other[part]) for part in parts))


# The same training


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("pixelcnn", {}),
        ("row-lstm", {"optimizer": "rmsprop", "ema": 0.0}),
        ("diagonal-bilstm", {}),
        ("pixelcnn", {"multiscale": 4}),
    ],
)
def test_several_ranks_train_as_one(model: str, more: dict[str, Any]) -> None:
    """Float64 shows the algebra: in float32 the order of a sum alone makes 7e-3 after 60 steps."""
    config = SMALL.model_copy(update={"model": model, **more})
    [alone] = in_world(1, trained, config, 6)
    for size, accumulate in ((2, 1), (3, 2), (4, 3)):
        states = in_world(size, trained, config.model_copy(update={"accumulate": accumulate}), 6)
        assert {digest(state["model"]) for state in states} == {digest(states[0]["model"])}, (
            "each rank has the same bits"
        )
        assert {digest(state["optimizer"]) for state in states} == {digest(states[0]["optimizer"])}
        assert {digest(state["ema"]) for state in states} == {digest(states[0]["ema"])}
        assert apart(alone, states[0]) < 1e-12


def test_a_conditioned_network_on_streamed_shards_trains_as_one(tmp_path: Path) -> None:
    """More data than the memory holds: each rank reads its images of each block, with their columns."""
    writer = ShardWriter(tmp_path, Image(4, 4, 1, 4), (Column("light", "<f8"),), plan={}, shard_bytes=1 << 18)
    counts = {"train": 100_000, "valid": 8}
    for split, count in counts.items():
        generator = np.random.default_rng(count)
        rows = generator.normal(size=count).astype([("light", "<f8")])
        writer.add(split, generator.integers(0, 4, (count, 4, 4, 1), np.uint8), rows)
    writer.finish(
        lambda shards, columns: Manifest("images", 1, Image(4, 4, 1, 4), counts, {"asked": {}}, [], shards, columns)
    )
    config = SMALL.model_copy(update={"dataset": str(tmp_path), "condition": "light", "data_memory_mb": 1})
    [alone] = in_world(1, trained, config, 6)
    assert alone["progress"]["order"] == "blocks-512x16"
    for size in (2, 3):
        assert apart(alone, in_world(size, trained, config, 6)[-1]) < 1e-12


def test_the_number_of_ranks_may_change_on_the_way() -> None:
    [alone] = in_world(1, trained, SMALL, 9)
    state: dict[str, Any] | None = None
    for size in (2, 1, 3):
        state = in_world(size, trained, SMALL, 3, state)[-1]
    assert state is not None
    assert apart(alone, state) < 1e-12


def test_a_resumed_training_of_three_ranks_has_the_same_bits() -> None:
    """Of three: with two ranks the order of a sum cannot matter, since a + b = b + a."""
    whole = in_world(3, resumed, SMALL, 10, None)
    half = in_world(3, resumed, SMALL, 5, None)
    rest = in_world(3, resumed, SMALL, 5, half[0])
    assert digest(rest[0]) == digest(whole[0])
    assert digest(rest[2]["model"]) == digest(whole[0]["model"])


def resumed(group: Any, config: TrainConfig, steps: int, begin: dict[str, Any] | None) -> dict[str, Any]:
    return trained(group, config, steps, begin, dtype="float32")


def test_a_validation_does_not_depend_on_the_number_of_ranks() -> None:
    [alone] = in_world(1, validated, SMALL)
    for size in (2, 3):  # of three ranks one has no batch of digits' two
        assert in_world(size, validated, SMALL) == [alone] * size


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_whole_commands_write_what_one_process_writes(tmp_path: Path) -> None:
    """Rank 0 alone writes; the validation has the nats of one process; a measurement names the slowest rank."""
    found = {}
    for size in (1, 3):
        out = tmp_path / str(size)
        out.mkdir()
        command = Command(size, words(out, validate_every=6, samples=2), out)
        assert command.codes() == [0] * size
        found[size] = lines(out / "out")
        written = {path.name for path in (out / "out").iterdir()} - {"samples-6.png"}  # drawn only if it is quick
        assert written == {"best.json", "checkpoint-6.pt", "checkpoint-12.pt", "metrics.jsonl", "samples-12.png"}
        assert [(out / f"{rank}.out").read_text().count("\n") for rank in range(1, size)] == [0] * (size - 1)
    alone, three = found[1], found[3]
    assert [line.get("step") for line in alone] == [line.get("step") for line in three]
    assert "world" not in alone[0] and not any("rank_s" in line for line in alone)
    assert three[0]["world"] == 3 and len(three[0]["ranks"]) == 3
    for one, other in zip(alone, three, strict=True):
        if "nats" in one:
            assert other["nats"] == pytest.approx(one["nats"], rel=1e-5)
        assert ("rank_s" in other) == ("images_per_s" in other)
    assert all(len(line["rank_s"]) == 3 and min(line["rank_s"]) > 0 for line in three if "rank_s" in line)


def test_a_command_of_three_ranks_goes_on_with_two(tmp_path: Path) -> None:
    """Only rank 0 reads the checkpoint; a damaged newer one is refused once, by it."""
    three = Command(3, words(tmp_path, validate_every=12), tmp_path, mishaps={2: (5, "SIGTERM")})
    assert three.codes() == [143] * 3
    (tmp_path / "out" / "checkpoint-7.pt").write_bytes(b"PK")
    two = Command(2, words(tmp_path, validate_every=12), tmp_path)
    assert two.codes() == [0, 0]
    assert two.said(0).startswith("refused: ") and two.said(1) == ""
    alone = Command(1, words(tmp_path / "alone", validate_every=12), tmp_path / "alone")
    assert alone.codes() == [0]
    found, wanted = (
        [(line["step"], line["nats"]) for line in lines(out / "out") if "nats" in line and line["step"] in (6, 9, 12)]
        for out in (tmp_path, tmp_path / "alone")
    )
    assert [step for step, _ in found] == [6, 9, 12, 12]
    assert [nats for _, nats in found] == pytest.approx([nats for _, nats in wanted], rel=1e-5)


# Stops


@pytest.mark.parametrize(("rank", "name"), [(0, "SIGTERM"), (2, "SIGTERM"), (1, "SIGINT")])
def test_a_signal_to_one_rank_stops_all_at_one_step(rank: int, name: str, tmp_path: Path) -> None:
    command = Command(3, words(tmp_path), tmp_path, mishaps={rank: (5, name)})
    assert command.codes() == [128 + getattr(signal, name)] * 3
    assert steps_in(tmp_path / "out") == [5]
    assert lines(tmp_path / "out")[-1]["reason"] == "stopped"


def test_a_stop_is_agreed_while_rank_0_draws_samples(tmp_path: Path) -> None:
    command = Command(2, words(tmp_path, samples=1), tmp_path, mishaps={0: (0, "slow samples")}, timeout_s=3)
    until = time.monotonic() + 30
    while not list((tmp_path / "out").glob("checkpoint-*.pt")) and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(3.5)  # longer than the timeout: to wait for rank 0 is no silence
    command.signal(1, signal.SIGTERM)
    assert command.codes(within_s=10) == [143, 143]
    assert not list((tmp_path / "out").glob("samples-*"))


def test_a_stop_elsewhere_ends_a_wait_for_data(tmp_path: Path) -> None:
    """Rank 0 waits inside torch for rank 1, which waits for a shard: the signal to rank 0 ends both waits."""
    command = Command(2, words(tmp_path), tmp_path, mishaps={1: (6, "wait")})
    until = time.monotonic() + 20
    while "step 3/12" not in command.wrote(0) and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)
    command.signal(0, signal.SIGTERM)
    assert command.codes(within_s=5) == [143, 143]
    assert steps_in(tmp_path / "out") == [5]


@pytest.mark.parametrize("what", ["late", "late validation"])
def test_data_that_come_later_than_the_timeout_are_waited_for(what: str, tmp_path: Path) -> None:
    """The others hear from the rank that waits; what they have computed they compute again."""
    more = words(tmp_path, validate_every=6)
    command = Command(2, more, tmp_path, mishaps={1: (4, what)}, timeout_s=3)
    assert command.codes() == [0, 0]
    alone = Command(1, words(tmp_path / "alone", validate_every=6), tmp_path / "alone")
    assert alone.codes() == [0]
    found, wanted = (
        [line["nats"] for line in lines(out / "out") if "nats" in line] for out in (tmp_path, tmp_path / "alone")
    )
    assert found == pytest.approx(wanted, rel=1e-5)


def test_a_stop_in_a_validation_is_agreed(tmp_path: Path) -> None:
    command = Command(2, words(tmp_path, validate_every=6), tmp_path, mishaps={1: (0, "SIGTERM in validation")})
    assert command.codes() == [143, 143]
    assert steps_in(tmp_path / "out") == [6]
    assert not any(line.get("split") == "valid" for line in lines(tmp_path / "out"))


def test_a_rank_that_waits_for_the_others_can_be_stopped(tmp_path: Path) -> None:
    command = Command(2, words(tmp_path), tmp_path, ranks=[1])
    time.sleep(0.7)
    command.signal(1, signal.SIGTERM)
    assert command.codes(within_s=5) == [-signal.SIGTERM]  # which a shell, and the launcher, report as 143


# Failures


@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        ("nan", 1, "error: the loss became nan by step 6"),
        ("fail", 1, "ValueError: the dog ate the batch"),
        ("memory", 1, "error: out of memory in training with batch_size=24"),
    ],
)
def test_a_failure_of_one_rank_ends_all_with_its_own_words(what: str, code: int, says: str, tmp_path: Path) -> None:
    command = Command(3, words(tmp_path), tmp_path, mishaps={1: (5, what)})
    assert command.codes(within_s=15) == [RANK_LOST, code, RANK_LOST]
    assert says in command.said(1)
    for other in (0, 2):
        assert command.said(other).count("\n") == 1
        assert "rank" in command.said(other)
    if what == "nan":
        assert "rank 1 ended this training: its loss or gradient is not finite" in command.said(0)
        assert "; the last good checkpoint is checkpoint-" in command.said(0) or "no good checkpoint" in command.said(0)
        assert "lower learning_rate" in command.said(1)
        assert all(
            part_not_finite(load(path_of(tmp_path / "out", step))) is None for step in steps_in(tmp_path / "out")
        )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_rank_ends_the_others_and_no_step_is_lost(rank: int, tmp_path: Path) -> None:
    command = Command(3, words(tmp_path), tmp_path, mishaps={rank: (8, "SIGKILL")})
    codes = command.codes(within_s=10)
    assert codes.pop(rank) == -signal.SIGKILL
    assert codes == [RANK_LOST, RANK_LOST]
    assert "[rank 2] python -m model train: error: another rank was lost (" in command.said(2)
    assert ".cc" not in command.said(2)
    assert steps_in(tmp_path / "out") == ([7] if rank else [])  # rank 0 keeps the last step that all have done


def test_a_frozen_rank_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    command = Command(2, words(tmp_path), tmp_path, mishaps={1: (4, "SIGSTOP")}, timeout_s=3)
    command.processes[0].join(15)
    assert command.codes(within_s=0) == [RANK_LOST, None]


def test_a_rank_that_never_comes_is_given_up(tmp_path: Path) -> None:
    command = Command(2, words(tmp_path), tmp_path, ranks=[0], timeout_s=2)
    assert command.codes(within_s=12) == [RANK_LOST]
    assert "the 2 ranks did not all meet at 127.0.0.1:" in command.said(0)


# What cannot work


def test_ranks_of_different_versions_do_not_train_together(tmp_path: Path) -> None:
    command = Command(2, words(tmp_path), tmp_path, versions={1: "2.0.1"})
    assert command.codes() == [2, 2]
    ours = torch.__version__
    assert f"error: the processes differ in torch: rank 0 has {ours}, rank 1 has 2.0.1" in command.said(0)
    assert command.said(0).count("\n") == 1


def test_ranks_of_different_settings_do_not_train_together(tmp_path: Path) -> None:
    first = Command(2, words(tmp_path), tmp_path, ranks=[0], port=(port := free_port()))
    second = Command(2, words(tmp_path, learning_rate=0.5), tmp_path, ranks=[1], port=port)
    assert first.codes() == second.codes() == [2]
    assert "differ in settings: rank 0 has learning_rate=0.01, rank 1 has learning_rate=0.5" in first.said(0)


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = Command(2, words(tmp_path), tmp_path, ranks=[0], port=port)
        assert command.codes(within_s=10) == [2]
    assert command.said(0) == (
        f"python -m model train: error: port {port} of 127.0.0.1 is in use, perhaps by another training; "
        "give another MASTER_PORT\n"
    )
