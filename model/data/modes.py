"""Pictures as Pillow opens them, brought to 8 bits a value, or refused: never clipped."""

from __future__ import annotations

import numpy as np
from PIL import Image as Pictures

from model.errors import DataError

# What is meant by an image here. Pillow looks at the content, not at the name, and knows 40 formats more.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
SIXTEEN = ("PNG", "PPM")  # of these, mode I has 16 bits: neither format has more


def eight_bits(picture: Pictures.Image) -> Pictures.Image:
    """Keep the upper 8 of 16 bits, as of mono16; Pillow's own `convert` clips them, and all but black becomes white.

    Args:
        picture: as it was opened and loaded: later its format is not known any more.

    Raises:
        DataError: 32 bits or floats, of which nobody says what is white.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in SIXTEEN):
        return Pictures.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        kind = "32-bit integers" if picture.mode == "I" else "floats"
        raise DataError(f"an image of {kind} (mode {picture.mode}), of which nobody says what is white; convert it")
    return picture
