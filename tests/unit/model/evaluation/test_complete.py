"""Completing an image: what is given stays, what is hidden is drawn, and what does not fit is one line."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import image_files
from model.__main__ import main
from model.config import DATASETS, MODELS, DatasetFacts
from model.data import load as load_data
from model.errors import SetupError
from model.evaluation import complete
from model.training.checkpoint import path_of

torch.set_num_threads(1)

FACTS = DATASETS["digits"]
TILE = 64 + image_files.GAP


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two steps."""
    out = tmp_path_factory.mktemp("trained")
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    words = [word for setting in ("hidden=2", "layers=1", "head=3", "samples=0") for word in ("--set", setting)]
    assert main(["train", "--steps", "2", "--out", str(out), *words]) == 0
    for signum, handler in before.items():
        signal.signal(signum, handler)
    return path_of(out, 2)


def call(trained: Path, *words: str | Path) -> int:
    return main([words[0] if isinstance(words[0], str) else "", "--checkpoint", str(trained), *map(str, words[1:])])


def tile(path: Path, number: int) -> np.ndarray:
    """Cut a tile out of a picture of one row, as 8x8 pixels."""
    with Image.open(path) as image:
        pixels = np.asarray(image)
    left = image_files.GAP + number * TILE
    return pixels[image_files.GAP : image_files.GAP + 64 : 8, left : left + 64 : 8]


@pytest.mark.parametrize("network", MODELS)
def test_every_network_goes_from_training_to_a_completion(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    words = [word for setting in ("hidden=3", "layers=2", "head=3", "samples=2") for word in ("--set", setting)]
    assert main(["train", "--model", network, "--steps", "2", "--out", str(tmp_path), *words]) == 0
    for signum, handler in before.items():
        signal.signal(signum, handler)
    made = path_of(tmp_path, 2)
    assert (tmp_path / "samples-2.png").exists()
    assert call(made, "evaluate") == 0
    assert network in capsys.readouterr().out
    out = tmp_path / "c.png"
    assert call(made, "complete", "--image", "test:0", "--occlude", "bottom", "--out", out, "--count", "2") == 0
    assert out.exists()


@pytest.mark.parametrize("occlude", ["bottom", "top", "left", "right", "box:2,3,4,1"])
def test_the_picture_shows_original_occluded_and_completions(trained: Path, tmp_path: Path, occlude: str) -> None:
    out = tmp_path / "c.png"
    assert call(trained, "complete", "--image", "test:7", "--occlude", occlude, "--count", "3", "--out", out) == 0
    with Image.open(out) as image:
        assert image.size == (5 * TILE + image_files.GAP, TILE + image_files.GAP)
    hidden = complete.hidden_part(occlude, FACTS)
    original = np.round(load_data("digits").test[7, 0] * (255 / 16)).astype(np.uint8)
    assert (tile(out, 0)[..., 0] == original).all()
    assert (tile(out, 1)[hidden] == image_files.HIDDEN).all()
    for number in range(1, 5):  # what was given is untouched in all of them
        assert (tile(out, number)[~hidden] == original[~hidden][:, None]).all()
    assert (tile(out, 2) != tile(out, 3)).any()


def test_a_png_is_completed_as_the_image_it_was_made_of(trained: Path, tmp_path: Path) -> None:
    levels = load_data("digits").test[7]
    Image.fromarray(np.round(levels[0] * (255 / 16)).astype(np.uint8)).save(tmp_path / "image.png")
    for name, image in (("a.png", "test:7"), ("b.png", str(tmp_path / "image.png"))):
        words = ("--image", image, "--occlude", "bottom", "--out", tmp_path / name, "--seed", "5")
        assert call(trained, "complete", *words) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.fixture
def odd_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to a folder with images that do not fit."""
    monkeypatch.chdir(tmp_path)
    Image.new("L", (4, 8)).save("small.png")
    Image.new("RGB", (8, 8)).save("colour.png")
    Path("text.png").write_text("no image")
    Image.new("L", (8, 8)).save("whole.png")
    Path("torn.png").write_bytes(Path("whole.png").read_bytes()[:45])


@pytest.mark.parametrize(
    ("image", "occlude", "says"),
    [
        ("test:360", "top", "the test split of digits has images 0 to 359"),
        ("none.png", "top", "cannot read the image none.png: No such file"),
        ("small.png", "top", "is 4x8 pixels, but the network draws 8x8; resize the image"),
        ("colour.png", "top", "has mode RGB, but the network draws gray (mode L); convert the image"),
        ("text.png", "top", "is not an image; give a PNG, or test:INDEX"),
        ("torn.png", "top", "cannot read the image"),
        ("test:0", "middle", "--occlude 'middle' is not bottom, left, top, right or box:R,C,H,W"),
        ("test:0", "box:0,0,9,1", "is not inside 8 rows and 8 columns"),
        ("test:0", "box:0,0,0,1", "is not inside 8 rows and 8 columns"),
        ("test:0", "box:1,2,3", "is not bottom"),
    ],
)
@pytest.mark.usefixtures("odd_images")
def test_what_does_not_fit_is_one_line_and_exit_code_2(
    image: str, occlude: str, says: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(trained, "complete", "--image", image, "--occlude", occlude, "--out", "c.png") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert says in err
    assert not Path("c.png").exists()


def test_a_folder_that_is_not_there_is_one_line(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(trained, "complete", "--image", "test:0", "--occlude", "top", "--out", "none/c.png") == 2
    assert "cannot write none/c.png" in capsys.readouterr().err


def test_a_colour_image_is_read_as_its_levels(tmp_path: Path) -> None:
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (image_files.read(tmp_path / "a.png", (3, 2, 3), K=256) == pixels.transpose(2, 0, 1)).all()
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "b.png")
    with pytest.raises(SetupError, match=r"has mode RGBA, but the network draws colour \(mode RGB\)"):
        image_files.read(tmp_path / "b.png", (3, 2, 3), K=256)


def test_halves_of_an_odd_image_hide_every_pixel_once() -> None:
    facts = DatasetFacts(height=5, width=7, channels=1, levels=2, train=0, valid=0, test=0)
    for one, other in (("top", "bottom"), ("left", "right")):
        both = complete.hidden_part(one, facts).astype(int) + complete.hidden_part(other, facts)
        assert (both == 1).all()
