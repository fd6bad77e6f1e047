"""The samples that a training drew after its validations, as an animation: `figures --animate`.

It reads pictures and measurements only: neither torch nor the network is needed. The folder is that of a training, or
that of a run which the orchestrator brought home.
"""

from __future__ import annotations

import re
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model import animation
from model.captions import captioned
from model.config import TrainConfig
from model.config.checkpoint_header import peek
from model.errors import SetupError
from model.evaluation.measured import described, home_of, is_figure, metrics_files, read_metrics, validations
from model.image_files import Pixels

NAME = re.compile(r"samples-([0-9]{1,12})\.png")
CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,12})\.pt")
MOST_SIDE = 4096  # pixels of a grid; a larger picture is none of a training
MOST_GRIDS = 120
MOST_REASONS = 3  # in an error line
FASTEST_MS, SLOWEST_MS, TOTAL_MS = 100, 700, 8000


@dataclass(frozen=True)
class Grid:
    """The samples of one step."""

    step: int
    pixels: Pixels  # (height, width, 3)


def write(place: Path, path: Path) -> str:
    """Write the sample grids of a training as an animation, each with its step and its validation.

    Args:
        place: the folder of a training or of a run, or a checkpoint in it.
        path: the GIF or PNG to write.

    Returns:
        A line that describes the result, and one for each grid that is left out.

    Raises:
        SetupError: there are fewer than two grids that can be read, or the file cannot be written.
    """
    animation.check_file(path)
    if not place.exists():
        raise SetupError(f"there is no {place}; give a checkpoint, or the folder of a training or of a run")
    folder = home_of(place)
    grids, left_out = readable(folder)
    if len(grids) < 2:
        also = f" ({'; '.join(left_out[:MOST_REASONS])})" if left_out else ""
        raise SetupError(
            f"{folder} has {len(grids) or 'no'} sample grid{'' if grids else 's'} that can be read, an animation needs "
            f"2{also}; give the folder of a training or of a run, with its samples-STEP.png"
        )
    scores = validations([line for file in metrics_files(folder) for line in read_metrics(file)])
    config = config_in(folder)
    whose = f"a {described(config)}" if config else "a network"
    caption = f"Samples of {whose} as it trains, from the same noise each time, and its validations."
    frames = [captioned(grid.pixels, caption, below=score_lines(grid.step, scores)) for grid in grids]
    frame_ms = min(SLOWEST_MS, max(FASTEST_MS, TOTAL_MS // len(frames) // 10 * 10))
    try:
        is_exact = animation.write(path, frames, frame_ms=frame_ms)
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror or error}; give another --animate") from None
    rounded = "" if is_exact else "; its colours are rounded to 255, a .png has them all"
    first, last = grids[0].step, grids[-1].step
    line = f"samples of {len(frames)} steps, {first:,} to {last:,}, in {path}{rounded}"
    return "\n".join([line, *(f"left out: {reason}" for reason in left_out)])


def readable(folder: Path) -> tuple[list[Grid], list[str]]:
    """Read the sample grids of a folder. Of many, some are read: the first, the newest, and steps spread between them.

    Returns:
        The grids by step, all of the size of the newest one; and why others are left out.
    """
    listed, left_out = _listed(folder), []
    newest = None
    while listed and newest is None:
        newest, reason = _read(*listed.pop())
        left_out += [reason] if reason else []
    if newest is None:
        return [], left_out
    most = min(MOST_GRIDS, animation.most_frames(newest.pixels.shape))
    spread = np.linspace(0, len(listed) - 1, min(most - 1, len(listed))).round().astype(int)
    grids = []
    for step, path in (listed[i] for i in spread):
        grid, reason = _read(step, path)
        if grid is not None and grid.pixels.shape == newest.pixels.shape:
            grids.append(grid)
        elif grid is not None:
            size, other = (f"{one.pixels.shape[1]}x{one.pixels.shape[0]}" for one in (grid, newest))
            left_out.append(f"{path.name} is {size} pixels, the newest grid {other}")
        else:
            left_out.append(reason)
    return [*grids, newest], left_out


def score_lines(step: int, scores: dict[int, dict[str, Any]]) -> list[str]:
    """Return the two lines of a step: always two, so that nothing moves from frame to frame."""
    score = scores.get(step, {})
    bits, nats, epoch = (score.get(key) for key in ("bits_per_dim", "nats", "epoch"))
    where = f"step {step:,}" + (f", epoch {epoch:.1f}" if is_figure(epoch) else "")
    if not is_figure(bits) or not is_figure(nats):
        return [where, "not validated"]
    return [where, f"{bits:.3f} bits/dim, {nats:.2f} nats per image"]


def config_in(folder: Path) -> TrainConfig | None:
    """Return the settings in the newest checkpoint of a folder that can be read, None if there is none."""
    found = []
    for path in (*folder.glob("checkpoint-*.pt"), *folder.glob("checkpoints/checkpoint-*.pt")):
        match = CHECKPOINT.fullmatch(path.name)
        if match and path.is_file():
            found.append((int(match[1]), path))
    for _, path in sorted(found, reverse=True):
        try:
            config = TrainConfig(**peek(path).config)
            described(config)  # raises if the sizes of its data are unknown here
        except ValueError:  # pydantic's, and SetupError
            continue
        return config
    return None


def _listed(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of the files that are named as sample grids, by step; links are none."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = NAME.fullmatch(path.name)
        if match and match[1] == str(int(match[1])) and stat.S_ISREG(path.lstat().st_mode):
            found.append((int(match[1]), path))
    return sorted(found)


def _read(step: int, path: Path) -> tuple[Grid | None, str]:
    """Read a grid; return it, or None and the reason: it is not a whole PNG, or larger than what a training draws."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about a large picture before it is measured here
            with Image.open(path, formats=("PNG",)) as image:
                if max(image.size) > MOST_SIDE:
                    return None, f"{path.name} is {image.size[0]}x{image.size[1]} pixels: not a sample grid"
                image.load()
                return Grid(step, np.asarray(image.convert("RGB"))), ""
    except Exception:  # noqa: BLE001 - a damaged PNG raises any of Pillow's, zlib's and struct's errors
        return None, f"{path.name} is damaged or incomplete"
