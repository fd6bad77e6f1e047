"""Writes a grid of images with the column values of each image below it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from model import image_files
from model.config.data_flags import CAMERAS
from model.data.dataset import Prepared, Split, load
from model.data.manifest import Column
from model.errors import DataError

LINE = 12  # height of a line of text in pixels
SHOWN = 7  # largest number of columns shown
SIDE = 128  # least side in pixels of an image with text below it
SHORT = {"latitude": "lat", "longitude": "lon", "steering_angle": "steer", "camera": "cam"}


def write(name: str, out: Path, *, split: Split, count: int) -> int:
    """Write a picture of images that are spaced evenly over a split.

    Returns:
        The number of images.

    Raises:
        DataError: the split is empty, or the picture cannot be written.
    """
    data = load(name)
    facts = data.facts
    available = {"train": facts.train, "valid": facts.valid, "test": facts.test}[split]
    if not available:
        raise DataError(f"{name} has no {split} images; choose another --split")
    chosen = np.unique(np.linspace(0, available - 1, min(count, available)).round().astype(np.int64))
    levels = np.concatenate([next(data.batches(split, 1, most=1, first=int(index))) for index in chosen])
    pixels = image_files.bright(levels, K=facts.levels)
    captions: list[list[str]] = []
    if isinstance(data, Prepared) and data.columns:
        rows = data.files(split).rows(chosen)
        captions = [_caption(row, data.columns) for row in rows]
    canvas = _with_text(pixels, captions) if captions else image_files.grid(pixels)
    try:
        image_files.save(out, canvas)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}; give another --out") from None
    return len(chosen)


def _caption(row: NDArray[np.void], columns: list[Column]) -> list[str]:
    """Return the text of a row: a line for each column, a dash for a missing value."""
    lines = []
    for column in [column for column in columns if not column.name.endswith("gap_ms") and column.name != "stamp_ns"]:
        value = float(row[column.name])
        whole = np.dtype(column.dtype).kind in "ui" or column.unit == "enum"
        text = f"{value:.0f}" if whole else f"{value:.{5 if column.unit == 'deg' else 3}f}"
        if column.name == "camera":
            text = CAMERAS[int(value)]
        unit = "" if column.unit in ("", "enum") else f" {column.unit}"
        lines.append(f"{SHORT.get(column.name, column.name)} {'-' if np.isnan(value) else text + unit}")
    return lines[: SHOWN + 1]


def _with_text(pixels: NDArray[np.uint8], captions: list[list[str]]) -> NDArray[np.uint8]:
    N, H, W, _ = pixels.shape
    scale = max(1, -(-SIDE // max(H, W)))
    large = np.broadcast_to(pixels, (N, H, W, 3)).repeat(scale, axis=1).repeat(scale, axis=2)
    rows = max(len(lines) for lines in captions)
    cell = np.full((N, H * scale + rows * LINE + image_files.GAP, W * scale, 3), 24, np.uint8)
    cell[:, : H * scale] = large
    for at, lines in enumerate(captions):
        drawn = Image.fromarray(cell[at])
        pen = ImageDraw.Draw(drawn)
        for number, line in enumerate(lines):
            pen.text((2, H * scale + number * LINE + 1), line, fill=(235, 235, 235))
        cell[at] = np.asarray(drawn)
    return image_files.grid(cell, columns=min(N, max(1, int(np.ceil(np.sqrt(N) * 1.3)))))
