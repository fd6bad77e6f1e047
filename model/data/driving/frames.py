"""Turns a camera message into a small square frame.

The manifest records the recipe. Likelihoods are comparable only between data sets of the same recipe.
"""

from __future__ import annotations

import importlib.util
import io
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures
from PIL import UnidentifiedImageError

from model.data.driving.messages import field, needed
from model.data.driving.mosaic import BAYER, SIXTEEN, demosaiced, rows_of
from model.data.source import quantised
from model.errors import DataError
from model.image_files import eight_bits, turn_of, turned

# By encoding of sensor_msgs/Image: Pillow's raw mode, Pillow's mode, bytes of a pixel.
RAW = {
    "bgr8": ("BGR", "RGB", 3),
    "8UC3": ("BGR", "RGB", 3),
    "rgb8": ("RGB", "RGB", 3),
    "bgra8": ("BGRX", "RGB", 4),
    "rgba8": ("RGBX", "RGB", 4),
    "mono8": ("L", "L", 1),
    "8UC1": ("L", "L", 1),
}
JPEG, PNG = b"\xff\xd8", b"\x89PNG"
EXIF, HEAD = b"Exif\0\0", 1 << 16  # the mark of EXIF data, and the bytes of a JPEG that may have it
LARGEST = 1 << 14  # largest side in pixels


@dataclass(frozen=True)
class Recipe:
    """The settings that define a frame."""

    size: int  # side in pixels
    crop: str = "middle"  # "middle" or "bottom": that square; "whole": the whole picture, distorted to a square
    levels: int = 256

    def words(self) -> dict[str, Any]:
        """Return the settings for the manifest."""
        return {
            "crop": self.crop,
            "resize": "Pillow BOX",
            "jpeg": "decoded strictly at half size if that is twice the frame's or more (simplejpeg)",
        }


def require_decoder() -> None:
    """Check that the strict JPEG decoder is installed. Pillow decodes flipped bytes without an error.

    Raises:
        DataError: the package is not installed.
    """
    if importlib.util.find_spec("simplejpeg") is None:
        raise DataError("frames of bags need simplejpeg; run: pip install 'pixel-orch[data]'")


def from_raw(message: dict[str, Any], recipe: Recipe) -> NDArray[np.uint8]:
    """Make a frame of a sensor_msgs/Image, (size, size, 3).

    Raises:
        DataError: a field is missing, the encoding is not supported, or the data are too short for the image size.
    """
    height, width, step = (needed(message, name, int) for name in ("height", "width", "step"))
    encoding = needed(message, "encoding", str)
    data: Any = needed(message, "data", memoryview)
    values = 1 if encoding in BAYER else SIXTEEN[encoding][0] if encoding in SIXTEEN else 0
    if not values and encoding not in RAW:
        supported = ", ".join([*RAW, *SIXTEEN, *BAYER])
        raise DataError(f"the encoding {encoding[:20]!r} is not supported; supported: {supported}")
    bits = 16 if encoding in SIXTEEN or encoding.endswith("16") else 8
    depth = values * bits // 8 if values else RAW[encoding][2]
    least = 2 if encoding in BAYER else 1  # pixels of a side
    fits = least <= width <= LARGEST and least <= height <= LARGEST and step >= width * depth
    if not (fits and len(data) >= step * height):
        raise DataError(f"an image of {width}x{height}, {step} bytes a row, in {len(data)} bytes")
    if not values:
        raw, mode, _ = RAW[encoding]
        return _small(Pictures.frombuffer(mode, (width, height), data, "raw", raw, step, 1), recipe)
    rows = rows_of(data, height, width * values, step, bits=bits, big_endian=bool(field(message, "is_bigendian")))
    if encoding in BAYER:
        return _small(Pictures.fromarray(demosaiced(rows, BAYER[encoding])), recipe)
    colours = (rows.reshape(height, width, values)[..., list(SIXTEEN[encoding][1])] >> 8).astype(np.uint8)
    return _small(Pictures.fromarray(colours if colours.shape[2] == 3 else colours[..., 0]), recipe)


def from_compressed(data: memoryview, recipe: Recipe, encoding: str = "") -> NDArray[np.uint8]:
    """Make a frame of the bytes of a JPEG or PNG, (size, size, 3).

    Args:
        data: the bytes.
        recipe: the settings of the frame.
        encoding: `format` of the message. A Bayer image may have been compressed as the mosaic that it is.

    Raises:
        DataError: the image is damaged, or has 32-bit values.
    """
    first = bytes(data[:4])
    before, _, after = encoding.partition(";")
    pattern = BAYER.get(before.strip()) if not re.search("(bgr|rgb|mono)", after) else None
    if first.startswith(JPEG):
        return _small(_jpeg(data, recipe, pattern), recipe)
    if not first.startswith(PNG):
        raise DataError(f"the image is neither JPEG nor PNG (it begins with {first!r})")
    try:
        with Pictures.open(io.BytesIO(data), formats=("PNG",)) as picture:
            picture.load()
            whole = eight_bits(picture)
            if pattern and whole.mode == "L" and min(whole.size) > 1:
                return _small(Pictures.fromarray(demosaiced(np.asarray(whole), pattern)), recipe)
            return _small(turned(whole.convert("RGB"), turn_of(picture)), recipe)
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Pictures.DecompressionBombError):
        raise DataError("the PNG is damaged") from None


def _jpeg(data: memoryview, recipe: Recipe, pattern: str | None) -> Pictures.Image:
    import simplejpeg

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if max(height, width) > LARGEST:
            raise ValueError("too large")
        if pattern and colours.lower() == "gray" and min(height, width) > 1:
            mosaic = simplejpeg.decode_jpeg(data, "GRAY", strict=True)
            return Pictures.fromarray(demosaiced(mosaic[..., 0], pattern))
        bounds = {}
        side = min(height, width) if recipe.crop != "whole" else max(height, width)
        if side >= 4 * recipe.size:
            bounds = {"min_height": (height + 1) // 2, "min_width": (width + 1) // 2}
        pixels = simplejpeg.decode_jpeg(data, "RGB", strict=True, **bounds)
    except ValueError as error:
        raise DataError(f"the JPEG is damaged ({str(error).splitlines()[0][:60]})") from None
    return turned(Pictures.fromarray(pixels), _turn_of_jpeg(data))


def _turn_of_jpeg(data: memoryview) -> int:
    """Return the orientation of a JPEG. Those of ROS have no EXIF data; Pillow reads the header of the others."""
    if EXIF not in bytes(data[:HEAD]):
        return 1
    try:
        with Pictures.open(io.BytesIO(data), formats=("JPEG",)) as picture:
            return turn_of(picture)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Pictures.DecompressionBombError):
        return 1


def _small(picture: Pictures.Image, recipe: Recipe) -> NDArray[np.uint8]:
    width, height = picture.size
    box: tuple[float, float, float, float] = (0, 0, width, height)
    if recipe.crop != "whole":
        side = min(width, height)
        left = (width - side) / 2
        top = height - side if recipe.crop == "bottom" else (height - side) / 2
        box = (left, top, left + side, top + side)
    small = picture.resize((recipe.size, recipe.size), Pictures.Resampling.BOX, box=box)
    made = np.asarray(small if small.mode == "RGB" else small.convert("RGB"))
    return quantised(made, recipe.levels)
