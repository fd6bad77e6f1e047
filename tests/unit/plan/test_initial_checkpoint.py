"""`launch --from`: what is refused before anything is rented, and what the run begins with."""

from __future__ import annotations

import copy
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.config import FORMAT, TrainConfig, peek
from model.errors import CheckpointError
from model.training import checkpoint as checkpoints
from orchestrator.errors import SpecError
from orchestrator.plan.initial_checkpoint import adopt, find_local
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore
from tests.unit.model.training.test_checkpoint import made


def spec(trainer: TrainConfig | None, **more: object) -> RunSpec:
    words: dict[str, object] = {"run": "later", "cloud": "local", "instances": ("p2.xlarge",), "market": "spot"}
    return RunSpec(**{**words, "regions": ("us-east-1",), "trainer": trainer, **more})  # type: ignore[arg-type]


def test_peeking_without_torch_sees_what_loading_sees(tmp_path: Path) -> None:
    path = checkpoints.save(tmp_path, made())
    peeked = peek(path)
    loaded = checkpoints.load(path)
    assert (peeked.step, peeked.config) == (loaded.step, loaded.config)


def test_peeking_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint-1.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'touch harmed'\ntR.")
    with pytest.raises(CheckpointError, match="is damaged, truncated or not a checkpoint"):
        peek(path)
    assert not Path("harmed").exists()


def test_the_newest_of_a_folder_is_taken_and_becomes_the_runs_first(tmp_path: Path) -> None:
    old = tmp_path / "old"
    (old / "checkpoints").mkdir(parents=True)
    for step in (3, 7):
        checkpoints.save(old / "checkpoints", made(step))
    asked = spec(TrainConfig(steps=9))
    checkpoint = find_local(str(old), asked)
    assert checkpoint is not None
    assert (checkpoint.name, checkpoint.step) == ("checkpoint-7.pt", 7)
    store = RunStore.create(tmp_path / "home", asked)
    adopt(store, checkpoint)
    (pulled,) = store.state().checkpoints.values()
    assert (pulled.step, pulled.attempt, store.is_whole(pulled)) == (7, 0, True)
    assert checkpoint.path.exists(), "the file stays where it was"
    assert store.state().attempts == []


def test_a_run_s_name_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    old = RunStore.create(tmp_path / "home", spec(TrainConfig(steps=9), run="old"))
    checkpoints.save(old.checkpoints, made(7))
    checkpoint = find_local("old", spec(TrainConfig(steps=9)))
    assert checkpoint is not None
    assert checkpoint.path == old.checkpoints / "checkpoint-7.pt"
    Path("old").mkdir()
    with pytest.raises(SpecError, match=r"no checkpoint-<step>.pt in old"):
        find_local("old", spec(TrainConfig(steps=9)))


@pytest.mark.parametrize(
    ("place", "settings", "says"),
    [
        ("nowhere", {}, "there is no nowhere; give a run's name, a checkpoint, its folder, or s3://BUCKET/PREFIX"),
        ("empty", {}, "there is no checkpoint-<step>.pt in empty"),
        ("model.pt", {}, "model.pt has no step in its name"),
        ("checkpoint-8.pt", {}, "checkpoint-8.pt holds step 7, not the step of its name"),
        ("checkpoint-5.pt", {}, "checkpoint-5.pt is damaged, truncated or not a checkpoint"),
        (
            "checkpoint-4.pt",
            {},
            f"has format {FORMAT + 1}, but this version reads formats up to {FORMAT}; update",
        ),
        (
            "checkpoint-7.pt",
            {"hidden": 8},
            "does not fit: the checkpoint has hidden=16, this run has 8; give hidden=16",
        ),
        ("checkpoint-7.pt", {"optimizer": "rmsprop"}, "the checkpoint has optimizer=adamw, this run has rmsprop"),
        ("checkpoint-7.pt", {"steps": 7}, "is of step 7, and --steps is 7: nothing is left to train"),
        ("s3://bucket", {}, "is not an S3 URL; give s3://BUCKET/PREFIX"),
        ("s3://No/where", {}, "is not an S3 URL"),
    ],
)
def test_what_cannot_be_begun_with_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, settings: dict[str, int], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    whole = checkpoints.save(tmp_path, made(7)).read_bytes()
    torch.save({"format": FORMAT + 1, "weights": object}, "checkpoint-4.pt")
    for name, content in (("model.pt", whole), ("checkpoint-8.pt", whole), ("checkpoint-5.pt", whole[:400])):
        Path(name).write_bytes(content)
    with pytest.raises(SpecError) as caught:
        find_local(place, spec(TrainConfig(**{"steps": 9, **settings})))  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert str(caught.value).startswith("--from: ")
    assert "\n" not in str(caught.value)


# -- a file that declares more than it holds


def rezipped(path: Path, *, compressed: bool = False, **parts: bytes) -> None:
    """Write a checkpoint anew, with parts replaced: `data_pkl`, or with a part more: `more`."""
    with zipfile.ZipFile(path) as archive:
        found = {info.filename: archive.read(info) for info in archive.infolist()}
    top = next(iter(found)).split("/")[0]
    for name, data in parts.items():
        found[f"{top}/{name.replace('data_pkl', 'data.pkl')}"] = data
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, data in found.items():
            archive.writestr(name, data)


def bomb_of_zeros(path: Path) -> None:
    rezipped(path, compressed=True, more=bytes(50 << 20))


def bomb_in_the_directory(path: Path) -> None:
    """One part, named many times at the same place."""
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.infolist()[0]
        for number in range(3000):
            again = copy.copy(first)
            again.filename = f"archive/data/x{number}"
            again.file_size = again.compress_size = 1 << 20
            archive.filelist.append(again)
        archive._didModify = True  # type: ignore[attr-defined]


def bomb_of_entries(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.infolist()[0]
        for number in range(1000):
            again = copy.copy(first)
            again.filename = f"archive/{number:05}" + "x" * 60_000
            archive.filelist.append(again)
        archive._didModify = True  # type: ignore[attr-defined]


def bomb_of_a_stride(path: Path) -> None:
    """A tensor of 10**12 values over one."""
    wide = torch.zeros(1).as_strided((10**6, 10**6), (0, 0))
    torch.save({"format": 2, "digest": "", "payload": {"step": 7, "config": {}, "model": wide}}, path)


def bomb_of_names(path: Path) -> None:
    """Lists that hold the one before ten times, twenty deep."""
    value: object = "lol"
    for _ in range(20):
        value = [value] * 10
    torch.save({"format": 2, "digest": "", "payload": {"step": 7, "config": {"seed": value}}}, path)


def bomb_in_the_head(path: Path) -> None:
    rezipped(path, data_pkl=b"\x80\x02" + b"]" * (9 << 20) + b".")


def storage_larger_than_its_data(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        top = archive.namelist()[0].split("/")[0]
        head = archive.read(f"{top}/data.pkl")
    pickled = head.replace(b"FloatStorage", b"DoubleStorage")
    rezipped(path, data_pkl=pickled)


BOMBS = [bomb_of_zeros, bomb_in_the_directory, bomb_of_entries, bomb_of_a_stride, bomb_of_names, bomb_in_the_head]


@pytest.mark.slow
@pytest.mark.parametrize("bomb", [*BOMBS, storage_larger_than_its_data])
def test_what_declares_more_than_it_holds_is_refused_before_it_is_unpacked(
    tmp_path: Path, bomb: Callable[[Path], None]
) -> None:
    path = checkpoints.save(tmp_path, made(7))
    bomb(path)
    tracemalloc.start()
    try:
        for read in (peek, checkpoints.load):
            with pytest.raises(CheckpointError, match=str(path)) as caught:
                read(path)
            assert "\n" not in str(caught.value)
        with pytest.raises(SpecError, match=r"^--from: "):
            find_local(str(path), spec(TrainConfig()))
        assert tracemalloc.get_traced_memory()[1] < 150 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("step", [True, 1.5, "7", -1, 10**40, None])
def test_a_step_that_is_none_is_refused(tmp_path: Path, step: object) -> None:
    path = tmp_path / "checkpoint-7.pt"
    torch.save({"format": 2, "digest": "", "payload": {"step": step, "config": {}}}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        peek(path)
