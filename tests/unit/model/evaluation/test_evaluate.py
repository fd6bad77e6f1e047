"""What is said beside a score: how the checkpoint was chosen, what the images are, and when the paper's figures are."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.__main__ import main
from model.config import TrainConfig
from model.data import manifest as manifests
from model.data.dataset import Prepared
from model.data.manifest import Column, Image, Manifest
from model.data.prepare.shard_writer import ShardWriter
from model.errors import CheckpointError
from model.evaluation.evaluate import paper_table
from model.training.checkpoint import digest, find, load, path_of
from model.training.loop import train
from model.training.stop import StopFlag

torch.set_num_threads(1)

ALL = {"train": 24, "valid": 12, "test": 12}


def prepare(folder: Path, splits: Mapping[str, int] = ALL, *, side: int = 4, levels: int = 2) -> Path:
    """Images with a column `light`, which some images do not have."""
    image = Image(side, side, 1, levels)
    writer = ShardWriter(folder, image, (Column("light", "<f4"),), plan={})
    for split, count in splits.items():
        chance = np.random.default_rng(count)
        rows = np.zeros(count, [("light", "<f4")])
        rows["light"] = np.where(np.arange(count) % 5 == 0, np.nan, chance.normal(3, 2, count))
        writer.add(split, chance.integers(0, levels, (count, side, side, 1), np.uint8), rows)
    writer.finish(
        lambda shards, columns: Manifest("images", 1, image, dict(splits), {"asked": {}}, [], shards, columns)
    )
    return folder


def prepare_otherwise(of: Path, folder: Path) -> Path:
    """The same images, prepared so that the column's mean and spread are others: of a longer drive, say."""
    shutil.copytree(of, folder)
    manifest = manifests.read(folder)
    columns = [replace(column, mean=column.mean + 3, std=column.std * 4) for column in manifest.columns]
    manifests.write(folder, replace(manifest, columns=columns))
    return folder


def config(data: Path, **more: object) -> TrainConfig:
    settings: dict[str, Any] = {
        "dataset": str(data), "steps": 6, "batch_size": 5, "hidden": 4, "layers": 1, "head": 4, "learning_rate": 0.1,
        "validate_every": 2, "checkpoint_every": 1, "keep_checkpoints": 100, "samples": 0, "device": "cpu", "ema": 0.0,
    }  # fmt: skip
    return TrainConfig(**{**settings, **more})


def run(settings: TrainConfig, out: Path) -> None:
    assert train(settings, out, StopFlag(), began_s=time.monotonic()) == 0


def score(capsys: pytest.CaptureFixture[str], checkpoint: Path, *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", "--checkpoint", str(checkpoint), "-o", "json", *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


# How the checkpoint was chosen


@pytest.mark.parametrize(
    ("splits", "asked", "own"),
    [
        ({"train": 24, "test": 12}, "test", ", because there are no valid images"),  # CIFAR-10 without --holdout
        ({"train": 24, "valid": 12}, "test", ""),  # the small ImageNets
        (ALL, "valid", ""),
        (ALL, "test", None),
    ],
)
def test_it_is_said_that_the_best_was_chosen_by_the_images_that_it_is_scored_on(
    splits: dict[str, int], asked: str, own: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored = asked if asked in splits else "valid"
    run(config(prepare(tmp_path / "data", splits)), tmp_path / "out")
    best = load(find(tmp_path / "out")).step
    for checkpoint, step in ((tmp_path / "out", best), (path_of(tmp_path / "out", 3), 3)):  # 3 was never validated
        found = score(capsys, checkpoint, "--split", asked)
        assert (found["split"], found["step"]) == (scored, step)
        said = [f"this checkpoint was chosen as the best on the same {scored} images{own}"]
        assert [remark for remark in found["remarks"] if "chosen" in remark] == (
            said if own is not None and step == best else []
        )
        elsewhere = f"there are no {asked} images; the {scored} images are scored instead"
        assert (elsewhere in found["remarks"]) == (asked != scored)


# Data that were prepared anew


def test_values_mean_to_a_network_what_they_meant_when_it_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepare(tmp_path / "data")
    other = prepare_otherwise(data, tmp_path / "other")
    run(config(data, condition="light"), tmp_path / "out")
    before = score(capsys, path_of(tmp_path / "out", 6))
    assert before["remarks"] == ["the scores are -log p(image | light), not -log p(image)"]
    shutil.copytree(tmp_path / "out", tmp_path / "resumed")
    for step in (4, 5, 6):
        path_of(tmp_path / "resumed", step).unlink()
    data.rename(tmp_path / "gone")
    other.rename(data)
    after = score(capsys, path_of(tmp_path / "out", 6))
    assert after["nats"] == before["nats"]
    assert f"{data} differs from the data that the checkpoint was trained on" in after["remarks"]
    capsys.readouterr()
    run(config(data, condition="light"), tmp_path / "resumed")
    assert "differs from the data that the checkpoint was trained on; training continues" in capsys.readouterr().err
    whole, resumed = (load(path_of(tmp_path / name, 6)) for name in ("out", "resumed"))
    assert digest([whole.model, whole.optimizer]) == digest([resumed.model, resumed.optimizer])
    assert whole.progress["best"] == resumed.progress["best"]


@pytest.mark.parametrize("size", [{"side": 6}, {"levels": 3}])
def test_images_of_another_size_are_one_line(
    size: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepare(tmp_path / "data")
    run(config(data), tmp_path / "out")
    shutil.rmtree(data)
    prepare(data, **size)  # type: ignore[arg-type]
    there, here = (
        "4x4x1 in 2 levels",
        f"{size.get('side', 4)}x{size.get('side', 4)}x1 in {size.get('levels', 2)} levels",
    )
    capsys.readouterr()
    complete = ["complete", "--image", "test:0", "--occlude", "bottom", "--out", str(tmp_path / "a.png")]
    commands = [["evaluate"], complete]
    try:
        import matplotlib  # noqa: F401 - of an extra

        commands.append(["figures", "--out", str(tmp_path / "figures")])
    except ImportError:
        pass
    for words in commands:
        assert main([*words, "--checkpoint", str(path_of(tmp_path / "out", 6))]) == 2
        err = capsys.readouterr().err
        assert f"holds images of {here}, the network expects {there}; prepare the data set with" in err
        assert err.count("\n") == 1
    with pytest.raises(
        CheckpointError, match=f"of another network: the checkpoint's images are {there}, this run's are {here}"
    ):
        run(config(data, steps=7), tmp_path / "out")


# The paper's figures


def published(name: str = "cifar10", **more: Any) -> Prepared:
    """A data set that needs no files: only its manifest is asked for."""
    data = Prepared.__new__(Prepared)
    settings: dict[str, Any] = {"recipe": {"asked": {"holdout": None, "levels": 256}}, "published": True, **more}
    data.manifest = Manifest(
        name, 1, Image(32, 32, 3, 256), {"train": 1, "test": 1}, sources=[], shards=[], **settings
    )  # fmt: skip
    return data


def test_the_papers_figures_stand_beside_published_files_prepared_as_they_are() -> None:
    plain = TrainConfig(dataset="cifar10")
    table, remarks = paper_table(plain, published())
    assert "3.00" in str(table)
    assert remarks == []
    for change, says in (
        ({"recipe": {"asked": {"holdout": 5000, "levels": 256}}}, "the data set was prepared with holdout = 5000"),
        ({"recipe": {"asked": {"holdout": None, "levels": 8}}}, "the data set was prepared with levels = 8"),
        ({"published": False}, "the data set's files are not the published ones"),
    ):
        assert paper_table(plain, published(**change)) == (None, [f"not comparable with the paper's results: {says}"])
    for other in ("imagenet-box-32", "mnist-dynamic", "mnist-threshold", "mnist-static-own"):
        assert paper_table(plain, published(other)) == (None, [])


@pytest.mark.parametrize(
    ("dataset", "setting", "says"),
    [
        ("cifar10", {"condition": "label"}, "the network is conditioned on label"),
        ("imagenet-small-64", {"multiscale": 32}, "the paper reports none for multi-scale networks"),
    ],
)
def test_the_papers_figures_do_not_stand_beside_what_they_do_not_measure(
    dataset: str, setting: dict[str, Any], says: str
) -> None:
    assert paper_table(TrainConfig(dataset=dataset), published(dataset))[0] is not None
    found = paper_table(TrainConfig(dataset=dataset, **setting), published(dataset))
    assert found == (None, [f"not comparable with the paper's results: {says}"])
