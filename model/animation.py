"""Animations as GIF or APNG, written with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from model.errors import SetupError
from model.image_files import HIDDEN, Pixels, check_writable, replacing

ENDINGS = (".gif", ".png")
MOST_FRAMES = 200
MOST_PIXELS = 48_000_000  # of all frames together, each of which takes up to 11 bytes of memory at once
LAST_MS = 2000  # how long the last frame is held
COLOURS = 255  # of a GIF; the 256th place stands for "as before", which makes a GIF several times smaller
MARK = (255, 140, 0)  # RGB of the pixel that is drawn next
OURS = (HIDDEN, MARK, (0, 0, 0), (255, 255, 255))  # colours that stay exact in any palette


def check_file(path: Path) -> None:
    """Check the name of an animation and its folder.

    Raises:
        SetupError: the ending is unknown, or the file cannot be written.
    """
    if path.suffix.lower() not in ENDINGS:
        raise SetupError(f"--animate {path}: an animation ends in {' or '.join(ENDINGS)}; give another name")
    check_writable(path, "--animate")


def most_frames(shape: Sequence[int]) -> int:
    """Return how many frames of a shape (height, width, C) an animation has at most: fewer of large ones."""
    return max(2, min(MOST_FRAMES, MOST_PIXELS // (shape[0] * shape[1])))


def write(path: Path, frames: Sequence[Pixels], *, frame_ms: int) -> bool:
    """Write an animation that loops and holds its last frame for two seconds, atomically.

    A `.gif` has at most 255 colours; where the frames have more, each becomes the nearest of a choice. A `.png` is an
    APNG: its colours are exact, and a program that shows no animations shows the last frame.

    Args:
        path: of the file; its ending chooses the format.
        frames: (height, width, 3) each, all of one size.
        frame_ms: time of each frame but the last, a multiple of 10.

    Returns:
        Whether all colours are exact.

    Raises:
        OSError: the file cannot be written.
    """
    times = [frame_ms] * (len(frames) - 1) + [LAST_MS]
    with replacing(path) as temporary:
        if path.suffix.lower() != ".gif":
            Image.fromarray(frames[-1]).convert("RGBA").save(
                temporary, format="PNG", save_all=True, append_images=_changes(frames), duration=times, loop=0,
                default_image=True, blend=PngImagePlugin.Blend.OP_OVER,
            )  # fmt: skip
            return True
        colours = _colours(frames)
        is_exact = len(colours) <= COLOURS
        first, *others = _indexed(frames, colours if is_exact else _chosen(frames))
        first.save(
            temporary, format="GIF", save_all=True, append_images=others, duration=times, loop=0,
            optimize=True, disposal=1,
        )  # fmt: skip
    return is_exact


def _changes(frames: Sequence[Pixels]) -> list[Image.Image]:
    """Return each frame with what is as before left transparent, which makes the file several times smaller."""
    images = []
    for number, frame in enumerate(frames):
        opaque = np.full((*frame.shape[:2], 1), 255, dtype=np.uint8)
        change = np.concatenate([frame, opaque], axis=2)
        if number:
            change[(frame == frames[number - 1]).all(axis=2)] = 0
        images.append(Image.fromarray(change))
    return images


def _packed(frame: Pixels) -> NDArray[np.int32]:
    """Return the colours of a frame as numbers below 2**24."""
    wide = frame.astype(np.int32)
    packed: NDArray[np.int32] = (wide[:, :, 0] << 16) | (wide[:, :, 1] << 8) | wide[:, :, 2]
    return packed


def _colours(frames: Sequence[Pixels]) -> NDArray[np.int64]:
    """Return the different colours of all frames, packed, in order."""
    seen = np.zeros(1 << 24, dtype=np.bool_)  # faster than sorting the pixels of each frame
    for frame in frames:
        seen[_packed(frame)] = True
    return np.flatnonzero(seen)


def _chosen(frames: Sequence[Pixels]) -> NDArray[np.int64]:
    """Choose 255 packed colours for frames that have more: those of the last frame, by median cut, and ours."""
    room = COLOURS - len(OURS)
    cut = Image.fromarray(frames[-1]).quantize(room, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    flat = np.array((cut.getpalette() or [])[: 3 * room], dtype=np.uint8).reshape(1, -1, 3)
    ours = np.array(OURS, dtype=np.uint8).reshape(1, -1, 3)
    return np.unique(_packed(np.concatenate([flat, ours], axis=1))).astype(np.int64)


def _indexed(frames: Sequence[Pixels], palette: NDArray[np.int64]) -> list[Image.Image]:
    """Return the frames as images with one palette; a colour that is not in it becomes the nearest one."""
    index = np.zeros(1 << 24, dtype=np.uint8)
    colours = _colours(frames)
    for start in range(0, len(colours), 4096):
        some = colours[start : start + 4096]
        away = _unpacked(some)[:, None] - _unpacked(palette)[None]  # (colours, palette, 3)
        index[some] = (away**2).sum(axis=2).argmin(axis=1)
    flat = _unpacked(palette).astype(np.uint8).tobytes()
    images = []
    for frame in frames:
        image = Image.fromarray(index[_packed(frame)])
        image.putpalette(flat)
        images.append(image)
    return images


def _unpacked(colours: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return packed colours as (N, 3)."""
    return np.stack([colours >> 16, (colours >> 8) & 255, colours & 255], axis=1)
