"""The animation of images that are drawn: the frames of `sample --animate` and `complete --animate`.

The network draws pixel by pixel in raster order, in all images at once; a multi-scale network draws the small images
first, and then the large ones. The order is fixed, so that the frames need only the finished images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model import animation, image_files
from model.captions import captioned
from model.errors import SetupError
from model.image_files import HIDDEN, Levels, Pixels

TOTAL_MS = 7000  # time of an animation, as far as its frames are neither too fast nor too slow
FASTEST_MS, SLOWEST_MS = 40, 150
SIDE = 256  # pixels that the images of a row of the grid share


@dataclass(frozen=True)
class Stage:
    """Images of one size, which are drawn together."""

    pixels: Pixels  # (B, h, w, 3), finished
    order: NDArray[np.int64]  # index of each drawn pixel in row-major order, first to last
    factor: int  # side of a pixel of this stage, in pixels of the last stage

    @property
    def title(self) -> str:
        """Size of the images: `4x4`."""
        return f"{self.pixels.shape[1]}x{self.pixels.shape[2]}"


def check_files(out: Path | None, animate: Path | None) -> None:
    """Check the files that are to be written, before anything is drawn.

    Raises:
        SetupError: none is given, both are the same, or one cannot be written.
    """
    if out is None and animate is None:
        raise SetupError("nothing to write; give --out PNG, --animate FILE, or both")
    if out is not None:
        image_files.check_writable(out, "--out")
    if animate is not None:
        animation.check_file(animate)
        if out is not None and out.resolve() == animate.resolve():
            raise SetupError(f"--out and --animate are both {animate}; give two names")


def save_grid(out: Path, canvas: Pixels) -> None:
    """Write a grid to a PNG.

    Raises:
        SetupError: the file cannot be written.
    """
    try:
        image_files.save(out, canvas)
    except OSError as error:
        raise SetupError(f"cannot write {out}: {error.strerror or error}; give another --out") from None


def noise_words(seed: int, temperature: float) -> str:
    """Name the noise of an image: `seed 0`, `seed 0, temperature 0.9`."""
    return f"seed {seed}" + (f", temperature {temperature:g}" if temperature != 1 else "")


def stages_of(scales: Sequence[Levels], hidden: NDArray[np.bool_], *, K: int) -> list[Stage]:
    """Return the stages of the images of a network.

    Args:
        scales: finished levels (B, C, h, w), the small images of a multi-scale network first.
        hidden: True for the pixels that were drawn, (H, W) of the last scale.
        K: number of levels.
    """
    made = []
    for levels in scales:
        factor = hidden.shape[0] // levels.shape[2]
        grey_or_rgb = image_files.bright(levels, K=K)
        pixels = np.broadcast_to(grey_or_rgb, (*grey_or_rgb.shape[:3], 3))
        made.append(Stage(pixels, np.flatnonzero(hidden[::factor, ::factor]), factor))
    return made


def images_at(stages: Sequence[Stage], at: int, count: int) -> Pixels:
    """Return the images with some pixels drawn, (B, H, W, 3) of the last stage's size.

    A pixel that is not drawn shows the small image, or `HIDDEN` in the first stage. The next one is marked.

    Args:
        stages: of the images.
        at: index of the stage that is drawn.
        count: number of its pixels that are drawn.
    """
    stage = stages[at]
    shown = stage.pixels.copy()
    flat = shown.reshape(len(shown), -1, 3)  # a view
    left = stage.order[count:]
    if at:
        ratio = stages[at - 1].factor // stage.factor
        flat[:, left] = _enlarged(stages[at - 1].pixels, ratio).reshape(flat.shape)[:, left]
    else:
        flat[:, left] = HIDDEN
    flat[:, left[:1]] = animation.MARK
    return _enlarged(shown, stage.factor)


def schedule(stages: Sequence[Stage], *, most: int) -> list[tuple[int, int]]:
    """Return (stage, drawn pixels) of each frame: `most` frames or fewer, each with the same number of new pixels.

    The first frame has none drawn. The last frame has all of them.
    """
    sizes = [len(stage.order) for stage in stages]
    pace = max(1, math.ceil(sum(sizes) / most))
    while sum(math.ceil(size / pace) for size in sizes) + 1 > most and pace < max(sizes):
        pace += 1
    frames = [(at, count) for at, size in enumerate(sizes) for count in range(0, size, pace)]
    return [*frames, (len(sizes) - 1, sizes[-1])]


def write(
    path: Path,
    stages: Sequence[Stage],
    *,
    caption: str,
    arrange: Callable[[Pixels], Pixels],
) -> str:
    """Write the animation of images that are drawn.

    Args:
        path: of the GIF or PNG.
        stages: of the images.
        caption: what is seen; each frame also says how far it is.
        arrange: images (B, H, W, 3) -> a grid (height, width, 3).

    Returns:
        What was written: `65 frames in drawn.gif`.

    Raises:
        SetupError: the file cannot be written.
    """

    def frames(plan: Sequence[tuple[int, int]]) -> Iterator[Pixels]:
        for at, count in plan:
            drawn = f"{count:,} of {len(stages[at].order):,} pixels drawn"
            what = f"{stages[at].title} image: {drawn}" if len(stages) > 1 else drawn
            yield captioned(arrange(images_at(stages, at, count)), caption, below=[what])

    last = (len(stages) - 1, len(stages[-1].order))
    shape = next(frames([last])).shape
    plan = schedule(stages, most=animation.most_frames(shape))
    frame_ms = min(SLOWEST_MS, max(FASTEST_MS, TOTAL_MS // len(plan) // 10 * 10))
    try:
        is_exact = animation.write(path, list(frames(plan)), frame_ms=frame_ms)
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror or error}; give another --animate") from None
    rounded = "" if is_exact else "; its colours are rounded to 255, a .png has them all"
    return f"{len(plan)} frames in {path}{rounded}"


def grid_of(pixels: Pixels) -> Pixels:
    """Arrange samples as `sample` does; few images are larger than there."""
    columns = math.ceil(math.sqrt(len(pixels)))
    return image_files.grid(pixels, columns=columns, side=max(image_files.SIDE, SIDE // columns))


def _enlarged(pixels: Pixels, factor: int) -> Pixels:
    return pixels.repeat(factor, axis=1).repeat(factor, axis=2)
