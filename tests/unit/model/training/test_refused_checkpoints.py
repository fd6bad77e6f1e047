"""A checkpoint that is not read is never written over, and one of a later version ends the training at once."""

from __future__ import annotations

import math
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.__main__ import main
from model.config import FORMAT, TrainConfig, peek
from model.errors import CheckpointError, NewerCheckpointError
from model.training import checkpoint as checkpoints
from model.training.checkpoint import load, path_of, save
from model.training.loop import train
from model.training.stop import StopFlag

torch.set_num_threads(1)

SMALL = TrainConfig(
    steps=4, batch_size=20, hidden=2, layers=1, head=3, checkpoint_every=2, validate_every=9, validate_images=20,
    samples=0, device="cpu", keep_checkpoints=9,
)  # fmt: skip


def run(out: Path, config: TrainConfig = SMALL) -> int:
    return train(config, out, StopFlag(), began_s=time.monotonic())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert run(out) == 0
    return out


class Unknown:
    """What a later version may put into a checkpoint, and this one does not know."""


def newer(path: Path, **more: Any) -> bytes:
    torch.save({"format": FORMAT + 1, **more}, path)
    return path.read_bytes()


@pytest.mark.parametrize("more", [{}, {"payload": {"step": 2}}, {"weights": Unknown()}, {"weights": torch.zeros(9)}])
def test_a_later_format_is_named_whatever_else_the_file_has(more: dict[str, Any], tmp_path: Path) -> None:
    newer(tmp_path / "checkpoint-2.pt", **more)
    for read in (peek, load):
        with pytest.raises(NewerCheckpointError, match=rf"has format {FORMAT + 1}, but this version reads .* update"):
            read(tmp_path / "checkpoint-2.pt")


def test_a_later_format_whose_parts_are_compressed_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-2.pt"
    newer(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(NewerCheckpointError):
        load(path)


@pytest.mark.parametrize("content", [{"format": "9"}, {"format": True}, {"other": 9, "format": 9}, [9], {"format": -1}])
def test_what_only_resembles_a_format_is_no_later_one(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "checkpoint-2.pt")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of pixel-orch|damaged") as caught:
        load(tmp_path / "checkpoint-2.pt")
    assert not isinstance(caught.value, NewerCheckpointError)


@pytest.mark.usefixtures("trainers_signals")
@pytest.mark.parametrize("older", [False, True])
def test_a_training_does_not_pass_a_checkpoint_of_a_later_version(
    older: bool, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = newer(path_of(tmp_path, 3))
    if older:
        path_of(tmp_path, 2).write_bytes(path_of(whole, 2).read_bytes())
    assert main(["train", "--steps", "4", "--set", "device=cpu", "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "checkpoint-3.pt has format" in err
    assert "update pixel-orch" in err
    assert "or start in another folder with --out" in err
    assert path_of(tmp_path, 3).read_bytes() == content


@pytest.mark.parametrize("words", [["evaluate"], ["sample", "--out", "s.png"],
    ["complete", "--image", "test:0", "--occlude", "bottom", "--out", "c.png"],
    ["figures", "--out", "figures"]], ids=lambda words: words[0])  # fmt: skip
def test_every_command_names_a_later_format_in_one_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    newer(path_of(tmp_path, 3))
    assert main([*words, "--checkpoint", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "update pixel-orch, or give another checkpoint" in err


def bad_files(whole: Path) -> dict[str, bytes]:
    sound = path_of(whole, 4).read_bytes()
    return {
        "cut off": sound[:-100],
        "empty": b"",
        "a text": b"hello",
        "of another step": path_of(whole, 2).read_bytes(),
    }


@pytest.mark.parametrize("kind", ["cut off", "empty", "a text", "of another step"])
def test_a_refused_checkpoint_has_another_name_when_its_step_is_written(kind: str, whole: Path, tmp_path: Path) -> None:
    content = bad_files(whole)[kind]
    path_of(tmp_path, 4).write_bytes(content)
    assert run(tmp_path) == 0
    assert load(path_of(tmp_path, 4)).step == 4
    assert (tmp_path / "checkpoint-4.pt.refused").read_bytes() == content
    assert checkpoints.steps_in(tmp_path) == [2, 4]


def test_refused_again_it_has_a_number(whole: Path, tmp_path: Path) -> None:
    for content in (b"one", b"two", b"three"):
        path_of(tmp_path, 4).write_bytes(content)
        assert run(tmp_path, SMALL.model_copy(update={"keep_checkpoints": 1})) == 0
    names = ("checkpoint-4.pt.refused", "checkpoint-4.pt.refused-2", "checkpoint-4.pt.refused-3")
    assert [(tmp_path / name).read_bytes() for name in names] == [b"one", b"two", b"three"]


def test_a_folder_and_a_dead_link_in_its_place_are_set_aside_too(tmp_path: Path) -> None:
    path_of(tmp_path, 4).mkdir()
    path_of(tmp_path, 2).symlink_to(tmp_path / "nowhere")
    assert run(tmp_path) == 0
    assert (tmp_path / "checkpoint-4.pt.refused").is_dir()
    assert (tmp_path / "checkpoint-2.pt.refused").is_symlink()
    assert load(path_of(tmp_path, 4)).step == 4


@pytest.mark.parametrize("part", ["model", "ema", "optimizer"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_saved_state_that_is_not_finite_is_refused(part: str, value: float, whole: Path, tmp_path: Path) -> None:
    saved = load(path_of(whole, 4))
    tensors = [t for t in checkpoints.tensors_of(getattr(saved, part)) if t.dim()]
    tensors[-1].view(-1)[-1] = value
    save(tmp_path, replace(saved))
    save(tmp_path, load(path_of(whole, 2)))
    found, [(name, why)] = checkpoints.newest(tmp_path)
    assert found is not None
    assert (found.step, name) == (2, "checkpoint-4.pt")
    assert "not finite in its" in why


@pytest.mark.parametrize("words", [["evaluate"], ["sample", "--out", "s.png"]], ids=lambda words: words[0])
def test_weights_that_are_not_finite_are_not_scored_or_drawn_from(
    words: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved = load(path_of(whole, 4))
    assert saved.ema is not None
    next(iter(saved.ema.values())).fill_(math.nan)
    save(tmp_path, saved)
    assert main([*words, "--checkpoint", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "checkpoint-4.pt has values that are not finite in its running mean" in err
