"""A checkpoint proves itself: damaged anywhere, it is refused, and the one before it is used."""

from __future__ import annotations

import random
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import TrainConfig
from model.errors import CheckpointError
from model.training import checkpoint as checkpoints
from model.training.checkpoint import Checkpoint, digest, load, newest, path_of, prune, save

torch.set_num_threads(1)


def made(step: int = 7) -> Checkpoint:
    torch.manual_seed(step)
    weights = {"a.weight": torch.randn(3, 2), "a.scalar": torch.tensor(1.5), "a.empty": torch.zeros(0, 4)}
    moments = {0: {"step": torch.tensor(7.0), "exp_avg": torch.randn(3, 2)}, 1: {"step": torch.tensor(7.0)}}
    return Checkpoint(
        step=step,
        position=step * 32,
        config=TrainConfig(steps=9).model_dump(),
        model=weights,
        optimizer={"state": moments, "param_groups": [{"lr": 0.003, "betas": (0.9, 0.999), "params": [0, 1]}]},
        rng={"cpu": torch.get_rng_state()},
        progress={"window_sum": 0.1 + 0.2, "window_steps": 1, "valid": None, "best": (5, 80.25)},
    )


def proof(checkpoint: Checkpoint) -> str:
    return digest({name: getattr(checkpoint, name) for name in asdict(checkpoint)})


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, made())
    assert path.name == "checkpoint-7.pt"
    loaded = load(path)
    assert proof(loaded) == proof(made())
    assert torch.equal(loaded.model["a.weight"], made().model["a.weight"])
    assert loaded.train_config == TrainConfig(steps=9)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint-7.pt"]


def test_the_file_holds_no_code(tmp_path: Path) -> None:
    assert torch.load(save(tmp_path, made()), weights_only=True)["format"] == checkpoints.FORMAT


@pytest.mark.slow
def test_a_flipped_byte_is_refused_or_changed_nothing(tmp_path: Path) -> None:
    path = save(tmp_path, made())
    whole, sound, chance = path.read_bytes(), proof(made()), random.Random(0)
    places = [*chance.sample(range(len(whole)), 400), *range(64), *range(len(whole) - 128, len(whole))]
    refused = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            assert proof(load(path)) == sound, f"byte {place} changed the content unnoticed"
        except CheckpointError:
            refused += 1
    assert refused > len(places) // 4  # much of a small archive is padding and names


def test_any_truncation_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, made())
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 97), *range(len(whole) - 30, len(whole))]:
        path.write_bytes(whole[:length])
        refusal(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x02}q\x00.", bytes(1000), b"{}"])
def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint-1.pt"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "not a checkpoint" in refusal(path)
    assert "no checkpoint at" in refusal(tmp_path / "checkpoint-2.pt")
    assert "no checkpoint at" in refusal(tmp_path)


@pytest.mark.parametrize("content", [torch.zeros(3), {"state_dict": {}}, [1], {"format": "1"}])
def test_somebody_elses_file_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "checkpoint-1.pt"
    torch.save(content, path)
    assert "is not a checkpoint of pixel-orch" in refusal(path)


def test_a_file_with_code_in_it_is_refused_unrun(tmp_path: Path) -> None:
    path, mark = tmp_path / "checkpoint-1.pt", tmp_path / "mark"
    torch.save({"format": 1, "digest": "", "payload": _Touch(mark)}, path)
    refusal(path)
    assert not mark.exists()


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_folder_means_its_best_checkpoint_or_its_newest(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no checkpoint in .*; give a checkpoint file, or the output folder of a training"
    ):
        checkpoints.find(tmp_path)
    for step in (5, 7, 12):
        save(tmp_path, made(step))
    assert checkpoints.find(tmp_path) == path_of(tmp_path, 12)
    assert checkpoints.find(path_of(tmp_path, 5)) == path_of(tmp_path, 5)
    for text, step in (('{"step": 7}', 7), ('{"step": 8}', 12), ("[]", 12), ("torn", 12)):
        (tmp_path / "best.json").write_text(text)
        assert checkpoints.find(tmp_path) == path_of(tmp_path, step)


def test_a_checkpoint_of_the_first_format_is_still_read(tmp_path: Path) -> None:
    old = {name: value for name, value in vars(made()).items() if name != "ema"}
    torch.save({"format": 1, "digest": checkpoints.digest(old), "payload": old}, tmp_path / "checkpoint-7.pt")
    read = checkpoints.load(tmp_path / "checkpoint-7.pt")
    assert (read.step, read.ema) == (7, None)


def test_a_newer_format_asks_for_an_update(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-1.pt"
    torch.save({"format": checkpoints.FORMAT + 1}, path)
    assert (
        f"format {checkpoints.FORMAT + 1}, but this version reads formats up to {checkpoints.FORMAT}; update pixel-orch"
        in refusal(path)
    )


def test_the_newest_whole_one_is_found_and_the_refused_are_named(tmp_path: Path) -> None:
    assert newest(tmp_path) == (None, [])
    for step in (5, 40, 300, 1000):
        save(tmp_path, made(step))
    path_of(tmp_path, 1000).write_bytes(path_of(tmp_path, 1000).read_bytes()[:-1])
    path_of(tmp_path, 300).write_bytes(path_of(tmp_path, 40).read_bytes())
    (tmp_path / "checkpoint-2000.pt.part").touch()
    (tmp_path / ".checkpoint-3000-1.tmp").touch()
    (tmp_path / "checkpoint-0050.pt").touch()
    found, refused = newest(tmp_path)
    assert found is not None
    assert found.step == 40
    assert [name for name, _ in refused] == ["checkpoint-1000.pt", "checkpoint-300.pt"]
    assert "damaged" in refused[0][1]
    assert "holds step 40, which differs from its file name" in refused[1][1]


@pytest.mark.parametrize("best", [b"", b"[" * 100_000, b"{}", b"[]", b"7", b'{"step": []}', b'{"step": "5"}', b"\xff",
    b'{"step": 1e999}', b'{"step": ' + b"9" * 5_000 + b"}", b'{"step": 5, "x": "' + b"x" * 99_999 + b'"}'])  # fmt: skip
def test_a_note_of_the_best_that_makes_no_sense_means_the_newest(tmp_path: Path, best: bytes) -> None:
    """It is downloaded from a rented machine."""
    for step in (5, 9):
        path_of(tmp_path, step).write_bytes(b"w")
    (tmp_path / "best.json").write_bytes(best)
    assert checkpoints.find(tmp_path) == path_of(tmp_path, 9)


def test_pruning_keeps_the_newest_the_best_and_what_it_was_told_to_spare(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5, 6, 9):
        path_of(tmp_path, step).touch()
    prune(tmp_path, step=6, keep=2, best=1, spare=["checkpoint-5.pt"])
    assert checkpoints.steps_in(tmp_path) == [1, 4, 5, 6, 9]


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    save(tmp_path, made())
    for name in (".checkpoint-9-123.tmp", ".best.json-123.tmp", ".samples-9.png-123.tmp"):
        (tmp_path / name).touch()
    checkpoints.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-7.pt"]


def test_the_digest_tells_types_shapes_and_places_apart() -> None:
    zeros = torch.zeros(4)
    trees: list[object] = [
        *([1], [1.0], ["1"], [True], [None], (1,), {1: 1}, {"1": 1}, [[1]], [1, 1], [], {}, 1, "", "[1]"),
        *(zeros, zeros.int(), zeros.view(2, 2), zeros.double(), zeros.tolist(), -zeros, torch.zeros(0)),
        *({"a": 1, "b": 2}, {"a": 2, "b": 1}, [{"a": 1}, {"b": 2}], ["ab", "c"], ["a", "bc"]),
    ]
    assert len({digest(tree) for tree in trees}) == len(trees)
    assert digest({"a": 1, "b": zeros}) == digest({"b": zeros.clone(), "a": 1})
    with pytest.raises(TypeError, match="cannot hold a set"):
        digest({1})


def test_settings_of_a_later_version_are_one_line() -> None:
    later = replace(made(), config={**made().config, "colour_space": "lab"})
    with pytest.raises(CheckpointError, match="has a setting colour_space that this version does not support; update"):
        _ = later.train_config
