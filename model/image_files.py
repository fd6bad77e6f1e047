"""Image files: grids of images as PNG, and reading a file as 8-bit values or as levels, without clipping."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from model.atomic_files import naming, write_file
from model.errors import DataError, SetupError

SIDE = 64  # smallest size of an image in a grid, in pixels: an 8x8 image is enlarged to it
GAP = 4  # pixels between two images
HIDDEN = (70, 90, 150)  # RGB of a hidden pixel, distinct from every grey
# The accepted formats. Pillow detects the format from the content, not from the name, and would accept 40 more.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIXTEEN = ("PNG", "PPM")  # formats in which Pillow's mode I holds 16 bits: neither has more

Levels = NDArray[np.uint8]
Pixels = NDArray[np.uint8]  # (N, H, W, 3) or (N, H, W, 1), values 0..255


def write_grid(path: Path, levels: Levels, *, K: int, columns: int | None = None) -> None:
    """Write images as a grid to a PNG, atomically; small images are enlarged by a whole factor.

    Args:
        path: of the PNG.
        levels: (N, C, H, W) of values 0..K-1, C = 1 (gray) or 3 (RGB), N > 0.
        K: number of levels; K-1 is white.
        columns: of the grid; by default the grid is as square as possible.

    Raises:
        OSError: the file cannot be written.
    """
    save(path, grid(bright(levels, K=K), columns=columns))


def bright(levels: Levels, *, K: int) -> Pixels:
    """Scale levels 0..K-1, (N, C, H, W), to pixels 0..255, (N, H, W, C)."""
    pixels: Pixels = np.round(levels.astype(np.float64) * (255 / (K - 1))).astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels


def covered(pixels: Pixels, hidden: NDArray[np.bool_]) -> Pixels:
    """Paint the hidden pixels in one colour: pixels (N, H, W, C), hidden (H, W) -> (N, H, W, 3)."""
    painted: Pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3)).copy()
    painted[:, hidden] = HIDDEN
    return painted


def grid(pixels: Pixels, *, columns: int | None = None, side: int = SIDE) -> Pixels:
    """Arrange images in a grid, (N, H, W, C) -> (height, width, C).

    Args:
        pixels: the images.
        columns: of the grid; by default the grid is as square as possible.
        side: smallest length of an image's longer side in the grid. An image is enlarged by the smallest whole factor
            that reaches it, and each of its pixels becomes a square.
    """
    N, H, W, C = pixels.shape
    scale = max(1, math.ceil(side / max(H, W)))
    large = pixels.repeat(scale, axis=1).repeat(scale, axis=2)  # (N, H*scale, W*scale, C)
    columns = columns or math.ceil(math.sqrt(N))
    h, w = H * scale + GAP, W * scale + GAP
    canvas = np.full((math.ceil(N / columns) * h + GAP, columns * w + GAP, C), 96, dtype=np.uint8)
    for i in range(N):
        top, left = GAP + i // columns * h, GAP + i % columns * w
        canvas[top : top + H * scale, left : left + W * scale] = large[i]
    return canvas


def save(path: Path, canvas: Pixels) -> None:
    """Write an image (height, width, C) to a PNG, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    whole = io.BytesIO()
    Image.fromarray(canvas if canvas.shape[2] == 3 else canvas[:, :, 0]).save(whole, format="PNG")
    write_file(path, whole.getvalue())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a temporary file that takes the place of `path` when it is written whole.

    Raises:
        OSError: the file cannot be written or renamed; it names `path`.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}.tmp")
    with naming(path):
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def check_writable(path: Path, flag: str) -> None:
    """Check that a file can be written, before the images for it are drawn: that may take minutes.

    Raises:
        SetupError: the folder does not exist or cannot be written, or the path is a folder.
    """
    folder = path.parent
    if path.is_dir():
        reason = "it is a folder"
    elif not folder.is_dir():
        reason = f"there is no folder {folder}"
    elif not os.access(folder, os.W_OK | os.X_OK):
        reason = f"the folder {folder} is not writable"
    else:
        return
    raise SetupError(f"cannot write {path}: {reason}; give another {flag}")


def read(path: Path, shape: tuple[int, int, int], *, K: int) -> Levels:
    """Read an image as levels: brightness 0..255 is rounded to the nearest of the K levels.

    Args:
        path: of the image file.
        shape: (C, H, W) that the image must have, C = 1 (gray) or 3 (RGB).
        K: number of levels.

    Returns:
        Levels of that shape.

    Raises:
        SetupError: the file is not a readable image, or has another size or mode.
    """
    C, H, W = shape
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            upright = turned(image, turn_of(image))
            size, mode = upright.size, upright.mode
            pixels = np.asarray(upright.convert("L") if mode == "1" else upright)
    except UnidentifiedImageError:
        raise SetupError(f"{path} is not an image; give a PNG, or test:INDEX for an image of the data set") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise SetupError(f"cannot read the image {path}: {reason}; check the file") from None
    if size != (W, H):
        raise SetupError(f"{path} is {size[0]}x{size[1]} pixels, but the network draws {W}x{H}; resize the image")
    fit = ("L", "1") if C == 1 else ("RGB",)
    if mode not in fit:
        wanted = "gray (mode L)" if C == 1 else "colour (mode RGB)"
        raise SetupError(f"{path} has mode {mode}, but the network draws {wanted}; convert the image")
    levels = np.round(pixels.astype(np.float64) * ((K - 1) / 255)).astype(np.uint8)
    return levels[None] if C == 1 else levels.transpose(2, 0, 1)


def eight_bits(picture: Image.Image) -> Image.Image:
    """Reduce a 16-bit image, such as mono16, to its upper 8 bits.

    Pillow's own `convert` clips 16-bit values, so that everything but black becomes white.

    Args:
        picture: opened and loaded, not yet processed: Pillow drops the format of a processed image.

    Raises:
        DataError: the image holds 32-bit integers or floats, whose white level is not defined.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in SIXTEEN):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        kind = "32-bit integers" if picture.mode == "I" else "floats"
        raise DataError(f"an image of {kind} (mode {picture.mode}) has no defined white level; convert it to 8 bits")
    return picture


def turn_of(picture: Image.Image) -> int:
    """Return the orientation that the EXIF or XMP data of an image give, 1 to 8; 1 where they give none.

    Cameras store the pixels as the sensor has them, and how the camera was held. Pillow turns only TIFF images itself.

    Args:
        picture: opened and loaded: a PNG may have its EXIF data after the pixels.
    """
    try:
        found = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF data raise any exception; the pixels are not affected
        return 1
    return found if isinstance(found, int) and found in TURNS else 1


def turned(picture: Image.Image, turn: int) -> Image.Image:
    """Return an image upright: `turn` is the orientation from `turn_of`."""
    return picture.transpose(TURNS[turn]) if turn in TURNS else picture
