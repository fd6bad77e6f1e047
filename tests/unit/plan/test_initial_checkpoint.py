"""`launch --from`: what is refused before anything is rented, and what the run begins with."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from model.config import TrainConfig, peek
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
    for name, content in (("model.pt", whole), ("checkpoint-8.pt", whole), ("checkpoint-5.pt", whole[:400])):
        Path(name).write_bytes(content)
    with pytest.raises(SpecError) as caught:
        find_local(place, spec(TrainConfig(**{"steps": 9, **settings})))  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert str(caught.value).startswith("--from: ")
    assert "\n" not in str(caught.value)
