"""`benchmarks/mnist.py` on small files of MNIST's formats."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import mnist
from tests.support.data_files import write_amat, write_mnist


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "NETWORK", {"model": "pixelcnn", "layers": 2, "hidden": 2, "head": 2})
    monkeypatch.setattr(mnist, "TRAINING", {**mnist.TRAINING, "batch_size": 4})


@pytest.mark.parametrize("kind", ["mnist-static", "mnist-static-own"])
def test_it_trains_and_prints_the_score_beside_the_papers(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write = write_amat if kind == "mnist-static" else write_mnist
    folder = write(tmp_path / "files")
    assert mnist.main([str(folder), "--seconds", "0.05", "--unverified"]) == 0
    said = capsys.readouterr().out
    assert f"({kind}, NOT the published files: this is not MNIST's score), " in said
    assert ("40 / 10 / 10 images" if kind == "mnist-static" else "50 / 10 / 12 images") in said
    score = re.search(r"^test nats/image  ([\d.]+) \+- ", said, re.MULTILINE)
    assert score is not None
    assert 0 < float(score[1]) < 784
    assert re.search(r"Diagonal BiLSTM, 7 layers, h = 16 +79\.20", said)
    assert "This is a small PixelCNN (2 layers, h = 2)" in said
    assert ("Its draw is this project's, with seed 0" in said) == (kind == "mnist-static-own")


def test_without_the_files_it_says_where_to_get_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, what in ((tmp_path, "has no MNIST"), (tmp_path / "none", "is no folder")):
        assert mnist.main([str(folder)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"mnist.py: error: {folder} {what}; get binarized_mnist_train.amat, ")
        assert "/binarized_mnist or train-images-idx3-ubyte.gz, " in said
        assert said.endswith("/mnist and keep these names\n")
        assert said.count("\n") == 1


def test_files_that_are_not_the_published_ones_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mnist.main([str(write_mnist(tmp_path / "files"))]) == 2
    said = capsys.readouterr().err
    assert "train-images-idx3-ubyte.gz has 47,056 bytes, the published one 47,040,016; fetch it again" in said
    assert said.count("\n") == 1
