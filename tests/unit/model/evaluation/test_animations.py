"""Animations: an image being drawn ends as the image that is drawn, and a training's samples are read as they are."""

from __future__ import annotations

import json
import math
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import animation, captions, image_files
from model.__main__ import main
from model.config import TrainConfig
from model.data import load as load_data
from model.errors import SetupError
from model.evaluation import drawing, over_training
from model.training import checkpoint as checkpoints
from model.training.checkpoint import find, path_of
from model.training.state import Training

pytestmark = pytest.mark.usefixtures("trainers_signals")
torch.set_num_threads(1)

SIZES = {"steps": 4, "hidden": 3, "layers": 1, "head": 3, "samples": 0, "device": "cpu"}
NETWORKS = {
    "gray": TrainConfig(**SIZES),
    "colour": TrainConfig(**SIZES, dataset="photos-16"),
    "multiscale": TrainConfig(**SIZES, multiscale=4),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a checkpoint of one step for each kind of images."""
    made = {}
    for name, config in NETWORKS.items():
        made[name] = tmp_path_factory.mktemp(name)
        training = Training(config, load_data(config.dataset), torch.device("cpu"))
        training.advance()
        checkpoints.save(made[name], training.checkpoint())
    return made


def frames_of(path: Path) -> list[tuple[np.ndarray, float]]:
    """Read the frames of an animation as (pixels, milliseconds), without the picture for programs that show none."""
    found = []
    with Image.open(path) as image:
        for number in range(image.info.get("default_image", False), image.n_frames):  # type: ignore[attr-defined]
            image.seek(number)
            found.append((np.asarray(image.convert("RGB")), float(image.info["duration"])))
    return found


def grey_or_rgb(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def images_in(canvas: np.ndarray, count: int, columns: int, side: int, *, scale: int) -> np.ndarray:
    """Cut the images out of a grid, (count, side, side, 3); each of their pixels is a square of one colour."""
    found = []
    for i in range(count):
        top, left = (image_files.GAP + place * (side * scale + image_files.GAP) for place in divmod(i, columns))
        image = canvas[top : top + side * scale, left : left + side * scale]
        assert (image == image[::scale, ::scale].repeat(scale, axis=0).repeat(scale, axis=1)).all()
        found.append(image[::scale, ::scale])
    return np.stack(found)


def call(*words: str | int | Path) -> int:
    return main([str(word) for word in words])


# An image being drawn


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "ending", "count"), [("gray", "gif", 9), ("colour", "png", 2), ("multiscale", "png", 3)]
)
def test_the_last_frame_is_the_grid_that_the_same_seed_gives(
    network: str, ending: str, count: int, folders: dict[str, Path], tmp_path: Path
) -> None:
    grid, drawn = tmp_path / "grid.png", tmp_path / f"drawn.{ending}"
    words = ["sample", "--checkpoint", folders[network], "--count", count, "--seed", "3"]
    assert call(*words, "--out", grid) == 0
    assert call(*words, "--animate", drawn) == 0
    frames, facts = frames_of(drawn), NETWORKS[network].data
    assert len({pixels.shape for pixels, _ in frames}) == 1
    columns = 3 if count == 9 else 2
    expected = images_in(grey_or_rgb(grid), count, columns, facts.height, scale=64 // facts.height)
    scale = math.ceil(256 // columns / facts.height)
    last, first = (images_in(frames[i][0], count, columns, facts.height, scale=scale) for i in (-1, 0))
    assert (last == expected).all()
    assert not (first == expected).all()
    assert frames[-1][1] == animation.LAST_MS
    assert 2 < len(frames) <= animation.MOST_FRAMES
    with Image.open(drawn) as image:
        assert image.info["loop"] == 0  # for ever


def test_a_program_that_shows_no_animations_shows_the_finished_images(folders: dict[str, Path], tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.png"
    assert call("sample", "--checkpoint", folders["gray"], "--count", "2", "--animate", drawn) == 0
    assert (grey_or_rgb(drawn) == frames_of(drawn)[-1][0]).all()


def test_a_completion_is_animated_beside_what_was_given(folders: dict[str, Path], tmp_path: Path) -> None:
    grid, drawn = tmp_path / "grid.png", tmp_path / "drawn.gif"
    words = ["complete", "--checkpoint", folders["multiscale"], "--image", "test:7", "--occlude", "bottom"]
    assert call(*words, "--count", "3", "--out", grid, "--animate", drawn) == 0
    frames, expected = frames_of(drawn), grey_or_rgb(grid)
    height, width = expected.shape[:2]
    assert (frames[-1][0][:height, :width] == expected).all()
    two = 2 * (64 + image_files.GAP)
    for pixels, _ in frames:  # original and occluded image
        assert (pixels[:height, :two] == expected[:, :two]).all()
    assert len(frames) == 2 * 4 + 4 * 8 + 1  # the hidden pixels of both scales, one at a time


def test_pixels_are_set_in_raster_order_and_the_next_one_is_marked() -> None:
    levels = np.arange(6, dtype=np.uint8).reshape(1, 1, 2, 3)
    stages = drawing.stages_of([levels], np.ones((2, 3), dtype=np.bool_), K=6)
    assert drawing.schedule(stages, most=100) == [(0, count) for count in range(7)]
    for count in range(7):
        pixels = drawing.images_at(stages, 0, count)[0].reshape(6, 3)
        assert (pixels[:count] == 51 * np.arange(count)[:, None]).all()
        if count < 6:
            assert tuple(pixels[count]) == animation.MARK
            assert (pixels[count + 1 :] == image_files.HIDDEN).all()


def test_the_large_image_takes_the_place_of_the_small_one() -> None:
    small = np.array([[[[0, 1]]]], dtype=np.uint8)
    large = np.array([[[[1, 1, 0, 0], [0, 1, 0, 1]]]], dtype=np.uint8)
    stages = drawing.stages_of([small, large], np.ones((2, 4), dtype=np.bool_), K=2)
    assert drawing.schedule(stages, most=100) == [(0, 0), (0, 1), *((1, count) for count in range(9))]
    first = drawing.images_at(stages, 0, 1)[0]  # (2, 4, 3): the small image, each pixel as 2x2
    assert (first[:, :2] == 0).all()
    assert (first[:, 2:] == animation.MARK).all()
    later = drawing.images_at(stages, 1, 3)[0]
    assert (later[0, :3, 0] == [255, 255, 0]).all()
    assert tuple(later[0, 3]) == animation.MARK
    assert (later[1] == np.array([0, 0, 255, 255])[:, None]).all()  # still the small image's


@pytest.mark.parametrize("most", [2, 3, 7, 200])
@pytest.mark.parametrize("sizes", [[(28, 28)], [(32, 32), (64, 64)], [(1, 1), (2, 2)]])
def test_the_number_of_frames_is_bounded(sizes: list[tuple[int, int]], most: int) -> None:
    scales = [np.zeros((1, 1, *size), dtype=np.uint8) for size in sizes]
    stages = drawing.stages_of(scales, np.ones(sizes[-1], dtype=np.bool_), K=2)
    plan = drawing.schedule(stages, most=most)
    assert len(plan) <= max(most, len(sizes) + 1)
    assert plan == sorted(set(plan))
    assert plan[0] == (0, 0)
    assert plan[-1] == (len(sizes) - 1, sizes[-1][0] * sizes[-1][1])


def test_a_small_image_of_which_nothing_is_hidden_takes_no_frame() -> None:
    hidden = np.zeros((4, 4), dtype=np.bool_)
    hidden[1, 1] = True
    scales = [np.zeros((1, 1, side, side), dtype=np.uint8) for side in (2, 4)]
    stages = drawing.stages_of(scales, hidden, K=2)
    assert drawing.schedule(stages, most=9) == [(1, 0), (1, 1)]


def test_large_frames_are_fewer() -> None:
    assert animation.most_frames((300, 276, 3)) == animation.MOST_FRAMES
    assert animation.most_frames((2000, 4000, 3)) == animation.MOST_PIXELS // 8_000_000


# The files


def colours(many: int) -> list[np.ndarray]:
    """Two frames of at least `many` colours."""
    numbers = np.arange(many)
    pixels = np.stack([numbers % 256, numbers // 256 * 16, numbers * 7 % 256], axis=1).astype(np.uint8)
    return [np.zeros((1, many, 3), dtype=np.uint8), pixels[None]]


@pytest.mark.parametrize(
    ("ending", "many", "is_exact"), [("gif", 255, True), ("gif", 256, False), ("gif", 1000, False), ("png", 1000, True)]
)
def test_what_is_written_is_read_again(ending: str, many: int, is_exact: bool, tmp_path: Path) -> None:
    path, frames = tmp_path / f"a.{ending}", colours(many)
    assert animation.write(path, frames, frame_ms=50) is is_exact
    read = frames_of(path)
    assert [duration for _, duration in read] == [50, animation.LAST_MS]
    assert (read[0][0] == 0).all()
    away = np.abs(read[1][0].astype(int) - frames[1]).max()
    assert away == 0 if is_exact else 0 < away < 64
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no temporary file is left


@pytest.mark.parametrize("ending", ["gif", "png"])
def test_what_does_not_change_takes_no_room(ending: str, tmp_path: Path) -> None:
    first = np.random.default_rng(0).integers(0, 2, (64, 64, 1)).repeat(3, axis=2).astype(np.uint8) * 255
    frames = []
    for number in range(20):  # two opposite corners change
        frame = first.copy()
        frame[0, 0] = frame[-1, -1] = number
        frames.append(frame)
    animation.write(tmp_path / f"few.{ending}", frames[:1], frame_ms=50)
    animation.write(tmp_path / f"many.{ending}", frames, frame_ms=50)
    few, many = ((tmp_path / f"{name}.{ending}").stat().st_size for name in ("few", "many"))
    assert many < 6 * few
    read = np.stack([pixels for pixels, _ in frames_of(tmp_path / f"many.{ending}")])
    assert (read == np.stack(frames)).all()


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(b"old")

    def half_written() -> None:
        with image_files.replacing(path) as temporary:
            temporary.write_bytes(b"ne")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        half_written()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_caption_is_below_and_as_wide_as_the_image() -> None:
    canvas = np.full((10, 400, 3), 7, dtype=np.uint8)
    made = captions.captioned(canvas, "many words " * 20, below=["step 1"])
    assert made.shape[1:] == (400, 3)
    assert (made[:10] == canvas).all()
    assert (made[10:] < 100).any()
    assert (made[:, -1][10:] == captions.PAPER).all()  # no letter is cut off at the edge
    assert captions.wrapped("aa bb", 1) == ["aa", "bb"]
    assert captions.wrapped("", 100) == []
    assert captions.wrapped("at step 4 of h = 16", 1) == ["at", "step 4", "of", "h = 16"]


# Samples over training


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of a short training that drew samples after each validation."""
    out = tmp_path / "out"
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    settings = ("hidden=2", "layers=1", "head=3", "samples=4", "validate_every=2", "validate_images=8", "device=cpu")
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["train", "--steps", "6", "--out", str(out), *words]) == 0
    for signum, handler in before.items():
        signal.signal(signum, handler)
    for step in (2, 4):  # a slow machine gives up samples in between
        if not (out / f"samples-{step}.png").exists():
            shutil.copy(out / "samples-6.png", out / f"samples-{step}.png")
    return out


def test_the_samples_of_a_training_are_its_frames(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained.parent / "grown.png"
    capsys.readouterr()
    assert call("figures", "--checkpoint", trained, "--animate", path) == 0
    assert capsys.readouterr().out == f"samples of 3 steps, 2 to 6, in {path}\n"
    frames = frames_of(path)
    shown = [grey_or_rgb(trained / f"samples-{step}.png") for step in (2, 4, 6)]
    height, width = shown[0].shape[:2]
    assert any((pixels[:height, :width] == shown[-1]).all() for pixels, _ in frames)
    assert (frames[-1][0][:height, :width] == shown[-1]).all()
    assert frames[-1][1] == animation.LAST_MS


def test_a_run_that_was_brought_home_is_animated_too(trained: Path) -> None:
    """Samples are beside the events, checkpoints and measurements in folders of their own."""
    run = trained.parent / "run"
    (run / "checkpoints").mkdir(parents=True)
    for number, step in ((1, 2), (2, 6)):
        (run / "attempts" / str(number)).mkdir(parents=True)
        shutil.copy(trained / f"samples-{step}.png", run)
    lines = (trained / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "attempts" / "1" / "metrics.jsonl").write_text("".join(line for line in lines if '"step": 2,' in line))
    (run / "attempts" / "2" / "metrics.jsonl").write_text("".join(line for line in lines if '"step": 6,' in line))
    shutil.copy(path_of(trained, 6), run / "checkpoints")
    assert over_training.write(run, run / "grown.gif") == f"samples of 2 steps, 2 to 6, in {run / 'grown.gif'}"
    one = next((run / "checkpoints").glob("checkpoint-*.pt"))  # as the summary of a run names it
    for place in (one, one.parent):
        assert over_training.write(place, run / "grown.gif").startswith("samples of 2 steps")
    config = over_training.config_in(run)
    assert config is not None
    assert config.hidden == 2
    assert find(run) == run / "checkpoints" / "checkpoint-6.pt"


def test_grids_that_are_damaged_or_of_another_size_are_left_out_with_a_line(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (trained / "samples-6.png").read_bytes()
    (trained / "samples-1.png").write_bytes(whole[: len(whole) // 2])
    (trained / "samples-3.png").write_bytes(b"")
    (trained / "samples-5.png").symlink_to(trained / "samples-6.png")
    (trained / "samples-05.png").write_bytes(whole)
    (trained / "samples-7.png").mkdir()
    Image.new("L", (30, 20)).save(trained / "samples-0.png")
    path = trained / "grown.gif"
    capsys.readouterr()
    assert call("figures", "--checkpoint", trained, "--animate", path) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"samples of 3 steps, 2 to 6, in {path}",
        "left out: samples-0.png is 30x20 pixels, the newest grid 140x140",
        "left out: samples-1.png is damaged or incomplete",
        "left out: samples-3.png is damaged or incomplete",
    ]


def test_one_grid_is_no_animation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (30, 20)).save(tmp_path / "samples-4.png")
    (tmp_path / "samples-8.png").write_bytes(b"torn")
    assert call("figures", "--checkpoint", tmp_path, "--animate", tmp_path / "a.gif") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "has 1 sample grid that can be read, an animation needs 2 (samples-8.png is damaged or incomplete)" in err
    assert not (tmp_path / "a.gif").exists()


def test_every_step_has_the_same_lines_whatever_was_measured() -> None:
    scores = {300: {"step": 300, "nats": 85.7, "bits_per_dim": 1.9318, "epoch": 8.04}, 600: {"step": 600, "nats": 1.0}}
    assert over_training.score_lines(300, scores) == ["step 300, epoch 8.0", "1.932 bits/dim, 85.70 nats per image"]
    assert over_training.score_lines(600, scores) == ["step 600", "not validated"]
    assert over_training.score_lines(900, scores) == ["step 900", "not validated"]


@pytest.mark.slow
def test_many_grids_are_thinned_out_and_the_first_and_last_stay(tmp_path: Path) -> None:
    for step in range(1, 140):
        Image.new("L", (8, 8), step).save(tmp_path / f"samples-{step}.png")
    line = over_training.write(tmp_path, tmp_path / "a.gif")
    assert line.startswith(f"samples of {over_training.MOST_GRIDS} steps, 1 to 139, in ")


def test_a_laptop_without_torch_animates_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        Image.new("L", (8, 8), step).save(tmp_path / f"samples-{step}.png")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert call("figures", "--checkpoint", tmp_path, "--animate", tmp_path / "a.gif") == 0
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert call("figures", "--checkpoint", tmp_path, "--animate", tmp_path / "a.gif") == 2
    assert "PIL not installed; install the extra: pip install 'pixel-orch[data]'" in capsys.readouterr().err


def test_without_pillow_it_names_the_extra(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert call("sample", "--checkpoint", folders["gray"], "--animate", "a.gif") == 2
    assert "PIL not installed; install the extra: pip install 'pixel-orch[train]'" in capsys.readouterr().err


def test_hostile_measurements_are_passed_over(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "split": "valid", "nats": "many", "bits_per_dim": 1},
        {"step": True, "split": "valid", "nats": 1.0, "bits_per_dim": 1},
        {"step": -4, "split": "valid", "nats": 1.0, "bits_per_dim": 1},
        {"step": 2, "split": "valid", "nats": 1.0, "bits_per_dim": {"a": 1}},
        {"step": 1, "split": "valid", "nats": 10**400, "bits_per_dim": 1.0},
        {"step": 2, "split": "valid", "nats": 5.0, "bits_per_dim": 1.0, "epoch": 10**400},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 3, "nats": NaN}\n' + "[" * 100_000)
    for step in (1, 2):
        Image.new("L", (8, 8), step).save(tmp_path / f"samples-{step}.png")
    assert "samples of 2 steps" in over_training.write(tmp_path, tmp_path / "a.gif")


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "a.gif").mkdir()
    with pytest.raises(SetupError, match=r"cannot write .*: it is a folder; give another --animate"):
        animation.check_file(tmp_path / "a.gif")
