"""Each data set from its files to a trained, scored and drawn-from network; mid-epoch resume; p(image | values)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.__main__ import main
from model.cli.flags import parse_values
from model.config import TrainConfig, config_from_settings, cost_of
from model.config.data_recipe import Options
from model.data import load as load_data
from model.data.prepare.prepare import prepare
from model.errors import ConfigError, SetupError
from model.networks.build import build
from model.networks.conditioned import Conditioned
from model.networks.likelihood import nats_per_image
from model.sampling.generate import draw
from model.training.checkpoint import digest, load, path_of
from model.training.loop import train
from model.training.stop import StopFlag
from tests.support.data_files import (
    Drive,
    crops,
    write_amat,
    write_bag,
    write_bag_archive,
    write_cifar,
    write_mnist,
    write_npz_zip,
    write_png_tar,
)

pytestmark = pytest.mark.usefixtures("trainers_signals")
torch.set_num_threads(1)
SMALL = ["hidden=3", "layers=1", "head=3", "samples=1", "device=cpu", "batch_size=8"]


def call(*words: str | Path) -> int:
    try:
        return main([str(word) for word in words])
    except SystemExit as leaving:
        return int(leaving.code or 0)


def sources(folder: Path) -> dict[str, list[str | Path]]:
    """Files of each format, and the words that prepare them."""
    write_mnist(folder / "mnist")
    write_amat(folder / "amat")
    write_cifar(folder / "cifar" / "cifar-10-binary.tar.gz", per_batch=4)
    for side in (32, 64):
        write_png_tar(folder / "small" / f"train_{side}x{side}.tar", crops(9, side), "a")
        write_png_tar(folder / "small" / f"valid_{side}x{side}.tar", crops(2, side), "valid")
    write_npz_zip(folder / "box" / "Imagenet32_train_npz.zip", {"train_data_batch_1.npz": crops(9, 32)})
    write_npz_zip(folder / "box" / "Imagenet32_val_npz.zip", {"val_data.npz": crops(2, 32)})
    for part in (1, 2):
        name = f"Imagenet64_train_part{part}_npz.zip"
        write_npz_zip(folder / "box" / name, {f"train_data_batch_{part}.npz": crops(5, 64)})
    write_npz_zip(folder / "box" / "Imagenet64_val_npz.zip", {"val_data.npz": crops(2, 64)})
    bag = write_bag(folder / "bags" / "drive.bag", Drive(seconds=2))
    write_bag_archive(folder / "udacity" / "dataset.bag.tar.gz", [bag])
    return {
        "mnist-static": [folder / "amat"],
        "mnist-static-own": [folder / "mnist"],
        "mnist-dynamic": [folder / "mnist"],
        "mnist-threshold": [folder / "mnist"],
        "cifar10": [folder / "cifar"],
        "imagenet-small-32": [folder / "small"],
        "imagenet-small-64": [folder / "small"],
        "imagenet-box-32": [folder / "box"],
        "imagenet-box-64": [folder / "box"],
        "udacity-2-1": [folder / "udacity", "--size", "8"],
        "udacity": [folder / "bags", "--size", "8", "--levels", "32"],
        "images": [write_png_tar(folder / "mine.tar", crops(30, 12), "mine"), "--size", "8"],
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str | Path]]:
    return sources(tmp_path_factory.mktemp("files"))


NAMES = (
    "digits mnist-static mnist-static-own mnist-dynamic mnist-threshold cifar10 imagenet-small-32 imagenet-small-64 "
    "imagenet-box-32 imagenet-box-64 udacity-2-1 udacity images"
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name[:8] in ("imagenet", "cifar10") else ())
        for name in NAMES.split()
    ],
)
def test_each_data_set_is_prepared_verified_trained_scored_and_drawn_from(
    name: str,
    files: dict[str, list[str | Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_DATA", str(tmp_path / "data"))
    more = ["--source", *files[name], "--unverified"] if name in files else []
    assert call("data", "prepare", name, *more) == 0
    assert call("data", "verify", name) == 0
    where = tmp_path / "data" / name
    large = "32" in name or "64" in name or name == "cifar10"  # drawing them takes as long as all the rest
    settings = [word for setting in [*SMALL[:-1], "batch_size=2"] for word in ("--set", setting)]
    settings[7] = "samples=0"
    assert call("train", "--dataset", where, "--steps", "20", "--out", tmp_path / "out", *settings) == 0
    checkpoint = path_of(tmp_path / "out", 20)
    capsys.readouterr()
    assert call("evaluate", "--checkpoint", checkpoint, "-o", "json") == 0
    score = json.loads(capsys.readouterr().out)
    facts = load_data(str(where)).facts
    assert score["images"] == (facts.test or facts.valid)
    assert score["bits_per_dim"] == pytest.approx(score["nats"] / facts.dims / np.log(2))
    assert score["paper"] is None  # these are not the published files
    if name in ("mnist-static", "cifar10", "imagenet-small-32", "imagenet-small-64"):
        assert (
            "not comparable with the paper's results: the data set's files are not the published ones"
            in score["remarks"]
        )
    if name.startswith("imagenet-box"):  # drawn as those of the same size above
        return
    draws = ["sample", "--checkpoint", checkpoint, "--count", "1", "--engine", "native" if large else "auto"]
    assert call(*draws, "--out", tmp_path / "a.png") == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == ("L" if facts.channels == 1 else "RGB")
    if large:
        return
    (where / "manifest.json").rename(tmp_path / "away.json")
    assert call(*draws, "--out", tmp_path / "b.png") == 0
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()  # the data are not needed for it


# Resume in the middle of an epoch


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty frames of driving with telemetry, in shards of 16."""
    folder = tmp_path_factory.mktemp("drive")
    bag = write_bag(folder / "drive.bag", Drive(seconds=6))
    prepare("udacity", Options(source=str(bag), out=folder / "data", size=8, levels=16, shard_bytes=16 * 192))
    return folder / "data"


def config(drive: Path, **more: object) -> TrainConfig:
    settings: dict[str, object] = {
        "dataset": str(drive), "steps": 9, "batch_size": 13, "hidden": 3, "layers": 1, "head": 3, "log_every": 3,
        "checkpoint_every": 1, "validate_every": 5, "keep_checkpoints": 100, "samples": 1, "device": "cpu", **more,
    }  # fmt: skip
    return TrainConfig(**settings)  # type: ignore[arg-type]


def run(settings: TrainConfig, out: Path) -> int:
    return train(settings, out, StopFlag(), began_s=time.monotonic())


def state(path: Path) -> str:
    saved = load(path)
    return digest([saved.step, saved.position, saved.model, saved.ema, saved.optimizer, saved.rng, saved.progress])


@pytest.mark.slow
@pytest.mark.parametrize(("began_mb", "condition"), [(0, ""), (1, "steering_angle,speed")])
def test_a_resume_in_mid_epoch_is_equal_in_every_bit_also_with_other_memory(
    began_mb: int, condition: str, drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards that fit and shards that do not: the order stays the one that the run began with."""
    monkeypatch.setattr("model.data.shuffle.BLOCK", 4)
    monkeypatch.setattr("model.data.shuffle.POOL", 2)

    def memory(mb: int) -> None:
        # One MiB is more than these frames have; the limit is lowered below them.
        monkeypatch.setattr("model.data.feed.Feed.available_bytes", property(lambda _: 1000 if mb else 2**30))

    memory(began_mb)
    assert run(config(drive, condition=condition), tmp_path / "whole") == 0
    order = load(path_of(tmp_path / "whole", 1)).progress["order"]
    assert order == ("blocks-4x2" if began_mb else "full")
    for step in (1, 4, 6):  # an epoch has 54 images: steps 5 and 9 hold the end of one
        (tmp_path / str(step)).mkdir()
        path_of(tmp_path / str(step), step).write_bytes(path_of(tmp_path / "whole", step).read_bytes())
        memory(1 - began_mb)
        assert run(config(drive, condition=condition), tmp_path / str(step)) == 0
        assert state(path_of(tmp_path / str(step), 9)) == state(path_of(tmp_path / "whole", 9))
        assert (tmp_path / str(step) / "samples-9.png").read_bytes() == (tmp_path / "whole/samples-9.png").read_bytes()


@pytest.mark.slow
def test_data_that_moved_are_the_same_data_and_others_are_told_apart(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config(drive, steps=2), tmp_path / "out") == 0
    moved = tmp_path / "moved"
    moved.symlink_to(drive)
    capsys.readouterr()
    assert run(config(moved, steps=3), tmp_path / "out") == 0
    assert "differs from the data" not in capsys.readouterr().err
    other = write_bag(tmp_path / "other.bag", Drive(seconds=6, jpeg=False))
    prepare("udacity", Options(source=str(other), out=tmp_path / "other", size=8, levels=16))
    assert run(config(tmp_path / "other", steps=4), tmp_path / "out") == 0
    assert "differs from the data that the checkpoint was trained on; training continues" in capsys.readouterr().err


def test_a_damaged_shard_ends_the_training_with_one_line(drive: Path, tmp_path: Path) -> None:
    import shutil

    place = shutil.copytree(drive, tmp_path / "data", ignore=shutil.ignore_patterns(".checked*"))
    content = bytearray((place / "shard-00001.npy").read_bytes())
    content[-1] ^= 1
    (place / "shard-00001.npy").write_bytes(content)
    with pytest.raises(SetupError, match=r"shard-00001.npy is damaged"):
        run(config(place), tmp_path / "out")


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ("cifra10", "did you mean cifar10"),
        ("cifar10", "cifar10 is not prepared (there is no {root}/cifar10); run: pixel-orch data prepare cifar10"),
        ("./nowhere", "no data set './nowhere'"),
        (".", "is not a prepared data set (no manifest.json)"),
    ],
)
def test_data_that_are_not_there_are_one_line(
    dataset: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert call("train", "--dataset", dataset, "--out", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert says.format(root=tmp_path) in err
    assert err.count("\n") == 1


# p(image | values)


def conditioned(drive: Path, model: str = "pixelcnn") -> tuple[Conditioned, torch.Tensor]:
    torch.manual_seed(0)
    facts = load_data(str(drive)).facts
    net = build(config(drive, model=model, condition="steering_angle,speed", facts=facts, layers=2, hidden=12, head=12))
    assert isinstance(net, Conditioned)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.3)
    return net.double(), torch.randint(0, 16, (2, 3, 8, 8))


@pytest.mark.parametrize("model", ["pixelcnn", "row-lstm", "diagonal-bilstm"])
def test_every_logit_sees_the_values_and_no_pixel_sees_the_future(model: str, drive: Path) -> None:
    net, levels = conditioned(drive, model)
    values = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    logits = net(levels, values)  # (B, K, C, H, W)
    for at in ((0, 0, 0), (1, 0, 5), (2, 7, 7)):
        gradient = torch.autograd.grad(logits[0, 3][at], values, retain_graph=True)[0]
        assert (gradient[0] != 0).all()  # from the first pixel on
        assert (gradient[1] == 0).all()  # and those of its own image only
    with torch.no_grad():
        for channel, row, column in ((0, 0, 0), (1, 3, 4), (2, 5, 7)):
            changed = levels.clone()
            changed[:, channel, row, column] = (changed[:, channel, row, column] + 5) % 16
            same = ((net(changed, values) - logits).abs() < 1e-12).all(dim=1)[0]  # (C, H, W), but for rounding
            place = (row * 8 + column) * 3 + channel
            order = same.permute(1, 2, 0).reshape(-1)
            assert order[: place + 1].all()
            assert not order[place + 1 :].all()


def test_a_value_that_is_missing_is_not_a_value_of_zero(drive: Path) -> None:
    net, levels = conditioned(drive)
    known = torch.tensor([[0.0, 1.0, 1.0, 1.0]]).expand(2, -1)
    missing = torch.tensor([[0.0, 1.0, 0.0, 1.0]]).expand(2, -1)
    assert not torch.equal(nats_per_image(net, levels, known), nats_per_image(net, levels, missing))
    net.standardise([0.5, 2.0], [0.25, 4.0])
    assert net.values({"steering_angle": 1.0}, 2).tolist() == [[2.0, 0.0, 1.0, 1.0]] * 2
    assert torch.equal(net(levels), net(levels, net.values({"steering_angle": 0.5, "speed": 2.0}, 2)))


def test_images_are_drawn_alike_by_all_samplers_and_differ_by_the_value(drive: Path) -> None:
    net, _ = conditioned(drive)
    facts = load_data(str(drive)).facts
    drawn = {
        (engine, angle): draw(
            net, facts, count=2, seed=1, values=net.values({"steering_angle": angle}, 2), engine=engine
        )  # type: ignore[arg-type]
        for engine in ("naive", "torch")
        for angle in (-1.0, 1.0)
    }
    assert torch.equal(drawn["naive", 1.0], drawn["torch", 1.0])
    assert torch.equal(drawn["naive", -1.0], drawn["torch", -1.0])
    assert not torch.equal(drawn["torch", 1.0], drawn["torch", -1.0])


@pytest.mark.slow
def test_a_conditioned_network_learns_what_its_values_say(tmp_path: Path) -> None:
    """Dark and light images, told apart by a label: what is drawn for each is of its kind."""
    from model.data.manifest import Column, Manifest
    from model.data.manifest import Image as Size
    from model.data.prepare.shard_writer import ShardWriter

    writer = ShardWriter(tmp_path / "data", Size(4, 4, 1, 2), (Column("light", "|u1"),), plan={})
    for split in ("train", "valid"):
        light = np.arange(64) % 2
        rows = np.zeros(64, [("light", "|u1")])
        rows["light"] = light
        noise = np.random.default_rng(0).random((64, 4, 4, 1)) < 0.05
        writer.add(split, (light[:, None, None, None] ^ noise).astype(np.uint8), rows)
    counts = {"train": 64, "valid": 64}
    writer.finish(lambda shards, columns: Manifest(
        "images", 1, Size(4, 4, 1, 2), counts, {"asked": {}}, [], shards, columns))  # fmt: skip
    words = ["--steps", "100", "--condition", "light", "--out", tmp_path / "out", "--set", "learning_rate=0.02"]
    small = [word for setting in ["hidden=8", *SMALL[1:], "ema=0"] for word in ("--set", setting)]
    assert call("train", "--dataset", tmp_path / "data", *words, *small) == 0
    for light in (0, 1):
        out = tmp_path / f"{light}.png"
        checkpoint = path_of(tmp_path / "out", 100)
        assert (
            call("sample", "--checkpoint", checkpoint, "--out", out, "--condition", f"light={light}", "--count", "9")
            == 0
        )
        with Image.open(out) as picture:
            inside = [slice(4 + 68 * place, 68 + 68 * place) for place in range(3)]
            mean = np.mean([np.asarray(picture)[row, column] for row in inside for column in inside])
        assert abs(float(mean) / 255 - light) < 0.25


def test_what_cannot_be_told_is_one_line(drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        (("--dataset", drive, "--condition", "weather"), "has no column weather; it has stamp_ns, camera, latitude"),
        (("--condition", "speed"), "digits has no column speed; it has no columns"),
        (("--dataset", drive, "--condition", "speed,speed"), "each once"),
        (
            ("--dataset", drive, "--condition", "speed", "--multiscale", "4"),
            "a multi-scale network cannot be conditioned",
        ),
    ):
        assert call("train", *words, "--out", tmp_path / "out", "--set", "samples=0") == 2
        err = capsys.readouterr().err
        assert says in err
        assert err.count("\n") == 1
    assert run(config(drive, steps=1, condition="speed"), tmp_path / "told") == 0
    for word, says in (("weather=1", "is not conditioned on weather; it is on speed"), ("speed", "is not NAME=NUMBER")):
        told = path_of(tmp_path / "told", 1)
        assert call("sample", "--checkpoint", told, "--out", tmp_path / "a.png", "--condition", word) == 2
        assert says in capsys.readouterr().err
    assert run(config(drive, steps=1), tmp_path / "plain") == 0
    plain = path_of(tmp_path / "plain", 1)
    assert call("sample", "--checkpoint", plain, "--out", tmp_path / "a.png", "--condition", "speed=1") == 2
    assert "this network is unconditional" in capsys.readouterr().err
    assert parse_values(["a=1,b=-2.5", "c=0"]) == {"a": 1.0, "b": -2.5, "c": 0.0}
    for wrong in ("a", "a=x", "a=nan", "a=1,a=2", "a=inf", ""):
        with pytest.raises(SetupError, match="is not NAME=NUMBER with each name once"):
            parse_values([wrong])


def test_its_cost_is_counted_and_it_completes_like_any_other(drive: Path, tmp_path: Path) -> None:
    facts = load_data(str(drive)).facts
    for model in ("pixelcnn", "row-lstm", "diagonal-bilstm"):
        settings = config(drive, model=model, condition="speed,brake", facts=facts)
        assert cost_of(settings).parameters == sum(parameter.numel() for parameter in build(settings).parameters())
    assert run(config(drive, steps=1, condition="speed"), tmp_path / "out") == 0
    words = ["--image", "train:0", "--occlude", "bottom", "--out", tmp_path / "c.png", "--count", "1"]
    assert call("complete", "--checkpoint", path_of(tmp_path / "out", 1), *words) == 0


def test_settings_of_data_are_checked_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="dataset = nosuch in --set: not a data set; give"):
        config_from_settings({"dataset": "nosuch"})
    assert config_from_settings({"dataset": "udacity-2-1"}).dataset == "udacity-2-1"
    assert config_from_settings({"dataset": "/data/mine"}).dataset == "/data/mine"
