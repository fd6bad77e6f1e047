"""Turns the mosaic of a Bayer sensor into colours, and 16-bit values into 8-bit ones.

A Bayer sensor measures one colour at each pixel. The encodings of ROS name the colours of the first two rows:
`bayer_rggb8` has red, green in the first row and green, blue in the second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.uint8] | NDArray[np.uint16]
PATTERNS = ("rggb", "bggr", "gbrg", "grbg")
BAYER = {f"bayer_{pattern}{bits}": pattern for pattern in PATTERNS for bits in (8, 16)}
# By the encoding of 16 bits: the number of values of a pixel, and the places of red, green and blue in it.
SIXTEEN: dict[str, tuple[int, tuple[int, ...]]] = {
    "mono16": (1, (0,)),
    "16UC1": (1, (0,)),
    "rgb16": (3, (0, 1, 2)),
    "bgr16": (3, (2, 1, 0)),
    "16UC3": (3, (2, 1, 0)),
    "rgba16": (4, (0, 1, 2)),
    "bgra16": (4, (2, 1, 0)),
}


def demosaiced(mosaic: Values, pattern: str) -> NDArray[np.uint8]:
    """Return the colours of a Bayer mosaic, (H, W, 3) RGB of 8 bits, by linear interpolation.

    Args:
        mosaic: (H, W), of 8 or 16 bits; at least 2 x 2. Of 16 bits the upper 8 are kept.
        pattern: the colours of the first two rows, such as `rggb`.
    """
    height, width = mosaic.shape
    # Mirrored without the edge itself, so that each added pixel has the colour that its place in the pattern says.
    wide = np.pad(mosaic, 1, mode="reflect").astype(np.uint32)
    found = np.empty((height, width, 3), np.uint8)
    shift = 8 if mosaic.dtype == np.uint16 else 0
    for place, colour in enumerate("rgb"):
        rows, columns = np.indices((2, 2))
        own = np.array([one == colour for one in pattern]).reshape(2, 2)
        for row, column in zip(rows.ravel(), columns.ravel(), strict=True):
            part = _around(wide, own, int(row), int(column), (height, width))
            found[row::2, column::2, place] = np.minimum(part >> shift, 255)
    return found


def _around(
    wide: NDArray[np.uint32], own: NDArray[np.bool_], row: int, column: int, size: tuple[int, int]
) -> NDArray[np.uint32]:
    """Return one colour at each second pixel from (row, column) on: the mean of its nearest measurements."""
    if own[row, column]:
        offsets = [(0, 0)]
    else:
        beside = [(0, -1), (0, 1)] if own[row, 1 - column] else []
        above = [(-1, 0), (1, 0)] if own[1 - row, column] else []
        offsets = beside + above or [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    height, width = size
    parts = [
        wide[1 + row + down : 1 + height + down : 2, 1 + column + right : 1 + width + right : 2]
        for down, right in offsets
    ]
    total = np.sum(parts, axis=0, dtype=np.uint32)
    mean: NDArray[np.uint32] = (total + len(parts) // 2) // len(parts)
    return mean


def rows_of(data: memoryview, height: int, width: int, step: int, *, bits: int, big_endian: bool) -> Values:
    """Return the values of an image, (height, width), without the padding of its rows.

    Args:
        data: at least `height` rows of `step` bytes.
        height: rows.
        width: values in a row.
        step: bytes of a row with its padding.
        bits: 8 or 16 of a value.
        big_endian: the order of the two bytes of a 16-bit value.
    """
    content = np.frombuffer(data, np.uint8, step * height).reshape(height, step)
    if bits == 8:
        return content[:, :width]
    values = np.ascontiguousarray(content[:, : 2 * width]).view(">u2" if big_endian else "<u2")
    native: NDArray[np.uint16] = values.astype(np.uint16)
    return native
