"""Images as a PNG that a person can look at."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 64  # pixels that an image gets at least, so that 8x8 can be seen
GAP = 4  # pixels between two images


def write_grid(path: Path, levels: NDArray[np.uint8], *, K: int) -> None:
    """Write images as a grid, each pixel blown up to a square, to a PNG that is whole when it has its name.

    Args:
        path: where to.
        levels: (N, C, H, W) of values 0..K-1, C = 1 (gray) or 3 (RGB), N > 0.
        K: number of levels; K-1 is white.

    Raises:
        OSError: it cannot be written.
    """
    N, C, H, W = levels.shape
    scale = max(1, math.ceil(SIDE / max(H, W)))
    bright = np.round(levels.astype(np.float64) * (255 / (K - 1))).astype(np.uint8)
    large = bright.repeat(scale, axis=2).repeat(scale, axis=3)  # (N, C, H*scale, W*scale)
    columns = math.ceil(math.sqrt(N))
    rows = math.ceil(N / columns)
    h, w = H * scale + GAP, W * scale + GAP
    canvas = np.full((rows * h + GAP, columns * w + GAP, C), 96, dtype=np.uint8)
    for i in range(N):
        top, left = GAP + i // columns * h, GAP + i % columns * w
        canvas[top : top + H * scale, left : left + W * scale] = large[i].transpose(1, 2, 0)
    temporary = path.with_name(f".{path.name}-{os.getpid()}.tmp")
    try:
        Image.fromarray(canvas if C == 3 else canvas[:, :, 0]).save(temporary, format="PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
