"""The figures are written and hold what they say; the paper's figures; the names of devices."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import image_files
from model.config import TrainConfig
from model.data import load as load_data
from model.device import cpu_name, device_name, has_kernels
from model.errors import SetupError
from model.evaluation import plots
from model.evaluation.evaluate import report
from model.evaluation.figures import chosen_pixels, predictive, write_all
from model.evaluation.measured import described, read_metrics
from model.evaluation.paper import TABLES
from model.sampling.generate import draw
from model.training import checkpoint as checkpoints
from model.training.checkpoint import load, path_of
from model.training.state import Training, network_of

torch.set_num_threads(1)

SMALL = TrainConfig(steps=4, hidden=2, layers=1, head=3, samples=0, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and its metrics, a torn line among them."""
    out = tmp_path_factory.mktemp("trained")
    training = Training(SMALL, load_data("digits"), torch.device("cpu"))
    training.advance()
    checkpoints.save(out, training.checkpoint())
    lines = [{"event": "start"}, *({"step": step, "nats": 180.0 / step} for step in range(1, 5))]
    lines.append({"step": 4, "split": "valid", "nats": 50.0})
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5, "na\n')
    return out


@pytest.mark.slow
def test_all_figures_are_pictures_with_something_on_them(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    line = write_all(path_of(folder, 1), tmp_path / "made", seed=0)
    for name in ("predictions.png", "samples.png", "completions.png", "training.png"):
        assert name in line
        with Image.open(tmp_path / "made" / name) as image:
            assert min(image.size) > 200
            assert np.asarray(image).std() > 10
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        "completions.png",
        "predictions.png",
        "samples.png",
        "training.png",
    ]


@pytest.mark.slow
def test_a_multi_scale_network_also_shows_small_images_beside_large_ones(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    config = SMALL.model_copy(update={"multiscale": 4})
    training = Training(config, load_data("digits"), torch.device("cpu"))
    training.advance()
    checkpoints.save(tmp_path, training.checkpoint())
    assert "scales.png" in write_all(path_of(tmp_path, 1), tmp_path / "made", seed=3)
    with Image.open(tmp_path / "made" / "scales.png") as image:
        pixels = np.asarray(image)
    tiles = [pixels[4:68:8, left : left + 64 : 8] for left in (4, 72)]  # 8x8 pixels each
    small, large = tiles
    assert (small[::2, ::2] == small[1::2, 1::2]).all()
    drawn = draw(network_of(load(path_of(tmp_path, 1)), torch.device("cpu")), config.data, count=16, seed=3)
    assert (large == np.round(drawn[0, 0].numpy() * (255 / 16))).all()


def test_without_metrics_there_is_no_training_curve(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shutil.copy(path_of(folder, 1), tmp_path)
    assert "training.png" not in write_all(path_of(tmp_path, 1), tmp_path / "made", seed=0)


def test_without_matplotlib_it_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SetupError, match=r"figures needs an extra: pip install 'pixel-orch\[figures\]'"):
        write_all(path_of(folder, 1), folder / "made", seed=0)


@pytest.mark.slow
def test_an_image_is_shown_at_a_whole_multiple_of_its_resolution(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    image = np.random.default_rng(0).integers(0, 16, (3, 16, 16)).astype(np.uint8)
    chances = np.full((6, 3, 16), 1 / 16)
    plots.predictions(tmp_path / "a.png", image, [(row, row) for row in range(6)], chances, caption="A caption.")
    with Image.open(tmp_path / "a.png") as opened:
        pixels = np.asarray(opened.convert("RGB"))
    scale = plots.IMAGE // 16
    shown = pixels[plots.TOP :, plots.LEFT :][: 16 * scale, : 16 * scale].reshape(16, scale, 16, scale, 3)
    expected = image_files.bright(image[None], K=16)[0][:, None, :, None]
    below_the_marks = shown[7:]  # the chosen pixels are above
    assert (below_the_marks == expected[7:]).all()


@pytest.mark.slow
def test_all_panels_have_one_scale(tmp_path: Path) -> None:
    """A bar of a tenth of the probability has a tenth of the height, in whichever panel it is."""
    pytest.importorskip("matplotlib")
    chances = np.zeros((6, 1, 10))
    chances[0, 0, 4] = 1.0
    chances[1:] = 0.1
    image = np.full((1, 8, 8), 9, dtype=np.uint8)
    plots.predictions(tmp_path / "a.png", image, [(0, column) for column in range(6)], chances, caption="A caption.")
    with Image.open(tmp_path / "a.png") as opened:
        pixels = np.asarray(opened.convert("RGB"))
    ink = (pixels == [int(plots.INK[at : at + 2], 16) for at in (1, 3, 5)]).all(axis=2)
    first = plots.LEFT + 8 * (plots.IMAGE // 8) + plots.LEFT + 20
    heights = []
    for panel in range(6):
        row, column = divmod(panel, 3)
        left, top = (first + column * (plots.PANEL_W + plots.GAP_W), plots.TOP + row * (plots.PANEL_H + plots.GAP_H))
        middle = left + round(plots.PANEL_W * (4 - -1) / 11)  # of the bar of level 4
        heights.append(int(ink[top : top + plots.PANEL_H, middle].sum()))
    assert heights[0] > 0.9 * plots.PANEL_H
    assert heights[1:] == pytest.approx([heights[0] / 10] * 5, abs=1)


def test_a_predictive_distribution_does_not_depend_on_what_comes_after(folder: Path) -> None:
    net = network_of(load(path_of(folder, 1)), torch.device("cpu"))
    image = load_data("digits").test[3]
    places = chosen_pixels(SMALL.data)
    chances = predictive(net, image, places)
    assert chances.shape == (6, 1, 17)
    assert chances.sum(axis=2) == pytest.approx(1)
    for i, (row, column) in enumerate(places):
        changed = image.copy()
        changed.reshape(1, -1)[:, row * 8 + column :] = 0
        assert (predictive(net, changed, [(row, column)])[0] == chances[i]).all()


def test_lines_that_are_no_measurements_are_passed_over(folder: Path, tmp_path: Path) -> None:
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == [1, 2, 3, 4, 4]
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_a_caption_names_network_and_data() -> None:
    assert (
        described(TrainConfig(model="row-lstm", layers=3)) == "Row LSTM (3 layers, h = 16) on digits (8x8, 17 levels)"
    )
    pair = TrainConfig(dataset="photos-16", layers=1, multiscale=8)
    assert described(pair) == "PixelCNN (1 layer, h = 16, 16x16 from 8x8) on photos-16 (16x16, 16 levels a colour)"


# The paper


def test_the_papers_figures_are_beside_the_data_sets_that_it_reports_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = json.loads(report(path_of(folder, 1), split="test", style="json", device="cpu"))
    assert ours["paper"] is None
    assert "the paper" not in report(path_of(folder, 1), split="test", style="table", device="cpu")
    monkeypatch.setattr("model.evaluation.evaluate.TABLES", {"digits": TABLES["cifar10"]})
    table = report(path_of(folder, 1), split="test", style="table", device="cpu")
    assert "the paper's results on CIFAR-10, test, bits/dim:" in table
    assert "  Diagonal BiLSTM            3.00  (train 2.93)" in table
    ours = json.loads(report(path_of(folder, 1), split="test", style="json", device="cpu"))
    assert ours["paper"]["Row LSTM"] == 3.07


def test_the_papers_best_is_last() -> None:
    for table in TABLES.values():
        values = [result.value for result in table.results]
        assert values == sorted(values, reverse=True)


# Devices


def test_the_cpu_has_a_name(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: AMD EPYC 7763 64-Core Processor\nprocessor\t: 1\n")
    assert cpu_name(info) == "AMD EPYC 7763 64-Core Processor"
    info.write_text("processor\t: 0\nBogoMIPS\t: 100\n")
    assert cpu_name(info)
    assert cpu_name(tmp_path / "none")
    assert device_name(torch.device("cpu")) == cpu_name()


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((3, 7), ["sm_37", "sm_50", "sm_60"], True),  # K80 on torch 2.0.1
        ((3, 7), ["sm_50", "sm_60", "sm_90"], False),  # K80 on a newer one
        ((8, 6), ["sm_50", "sm_80"], True),  # A10G: 8.0's code runs on 8.6
        ((8, 0), ["sm_86"], False),
        ((10, 0), ["sm_90", "compute_90"], True),  # compiled when it is loaded
        ((12, 0), ["sm_90a", "sm_120"], True),
        ((9, 0), [], False),
        ((9, 0), ["gfx90a"], False),
    ],
)
def test_a_gpu_needs_kernels_of_its_kind(capability: tuple[int, int], built_for: list[str], runs: bool) -> None:
    assert has_kernels(capability, built_for) is runs
