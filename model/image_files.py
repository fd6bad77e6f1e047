"""Image files: written so that a person can look at them, and read as 8 bits a value or as levels, never clipped."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from model.errors import DataError, SetupError

SIDE = 64  # pixels that an image gets at least, so that 8x8 can be seen
GAP = 4  # pixels between two images
HIDDEN = (70, 90, 150)  # RGB of a pixel that is hidden: no grey has it
# What is meant by an image here. Pillow looks at the content, not at the name, and knows 40 formats more.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
SIXTEEN = ("PNG", "PPM")  # of these, mode I has 16 bits: neither format has more

Levels = NDArray[np.uint8]
Pixels = NDArray[np.uint8]  # (N, H, W, 3) or (N, H, W, 1), values 0..255


def write_grid(path: Path, levels: Levels, *, K: int, columns: int | None = None) -> None:
    """Write images as a grid, each pixel blown up to a square, to a PNG that is whole when it has its name.

    Args:
        path: where to.
        levels: (N, C, H, W) of values 0..K-1, C = 1 (gray) or 3 (RGB), N > 0.
        K: number of levels; K-1 is white.
        columns: of the grid; as square as can be if not given.

    Raises:
        OSError: it cannot be written.
    """
    save(path, grid(bright(levels, K=K), columns=columns))


def bright(levels: Levels, *, K: int) -> Pixels:
    """Turn levels (N, C, H, W) into pixels (N, H, W, C): K-1 becomes 255."""
    pixels: Pixels = np.round(levels.astype(np.float64) * (255 / (K - 1))).astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels


def covered(pixels: Pixels, hidden: NDArray[np.bool_]) -> Pixels:
    """Paint over what is hidden: pixels (N, H, W, C), hidden (H, W) -> (N, H, W, 3)."""
    painted: Pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3)).copy()
    painted[:, hidden] = HIDDEN
    return painted


def grid(pixels: Pixels, *, columns: int | None = None) -> Pixels:
    """Set images side by side, (N, H, W, C) -> (height, width, C)."""
    N, H, W, C = pixels.shape
    scale = max(1, math.ceil(SIDE / max(H, W)))
    large = pixels.repeat(scale, axis=1).repeat(scale, axis=2)  # (N, H*scale, W*scale, C)
    columns = columns or math.ceil(math.sqrt(N))
    h, w = H * scale + GAP, W * scale + GAP
    canvas = np.full((math.ceil(N / columns) * h + GAP, columns * w + GAP, C), 96, dtype=np.uint8)
    for i in range(N):
        top, left = GAP + i // columns * h, GAP + i % columns * w
        canvas[top : top + H * scale, left : left + W * scale] = large[i]
    return canvas


def save(path: Path, canvas: Pixels) -> None:
    """Write (height, width, C) to a PNG that is whole when it has its name.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}.tmp")
    try:
        Image.fromarray(canvas if canvas.shape[2] == 3 else canvas[:, :, 0]).save(temporary, format="PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, shape: tuple[int, int, int], *, K: int) -> Levels:
    """Read an image as levels of a data set: brightness 0..255 is rounded to the nearest of the K levels.

    Args:
        path: of a file.
        shape: (C, H, W) that the image must have, C = 1 (gray) or 3 (RGB).
        K: number of levels.

    Returns:
        Levels of that shape.

    Raises:
        SetupError: it is no image, or one of another size or mode.
    """
    C, H, W = shape
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            size, mode = image.size, image.mode
            pixels = np.asarray(image.convert("L") if mode == "1" else image)
    except UnidentifiedImageError:
        raise SetupError(f"{path} is no image; give a PNG, or test:INDEX for one of the data set") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise SetupError(f"cannot read the image {path}: {reason}; check the file") from None
    if size != (W, H):
        raise SetupError(f"{path} is {size[0]}x{size[1]} pixels, the network draws {W}x{H}; resize it")
    fit = ("L", "1") if C == 1 else ("RGB",)
    if mode not in fit:
        wanted = "gray (mode L)" if C == 1 else "colour (mode RGB)"
        raise SetupError(f"{path} has mode {mode}, the network draws {wanted}; convert it")
    levels = np.round(pixels.astype(np.float64) * ((K - 1) / 255)).astype(np.uint8)
    return levels[None] if C == 1 else levels.transpose(2, 0, 1)


def eight_bits(picture: Image.Image) -> Image.Image:
    """Keep the upper 8 of 16 bits, as of mono16; Pillow's own `convert` clips them, and all but black becomes white.

    Args:
        picture: as it was opened and loaded: later its format is not known any more.

    Raises:
        DataError: 32 bits or floats, of which nobody says what is white.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in SIXTEEN):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        kind = "32-bit integers" if picture.mode == "I" else "floats"
        raise DataError(f"an image of {kind} (mode {picture.mode}), of which nobody says what is white; convert it")
    return picture
