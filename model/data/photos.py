"""Patches of scikit-learn's two photographs (china.jpg and flower.jpg, 640x427): small colour images.

Each photograph is cut by columns into three parts that share no pixel. The left part is for training, the middle one
for validation, the right one for test. Patches of one part overlap.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import DataError

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
Patches = NDArray[np.uint8]  # (N, 3, side, side)


@dataclass(frozen=True)
class Recipe:
    """The settings that define the patches of a data set."""

    side: int  # pixels of a patch
    shrink: int  # side in pixels of the blocks that the photographs are first averaged over
    levels: int  # values of a channel
    strides: tuple[int, int, int]  # pixels between neighbouring patches: training, validation, test
    ends: tuple[int, int]  # columns of the shrunk photograph at which the training and the validation part end


RECIPES = {
    "photos-16": Recipe(side=16, shrink=2, levels=16, strides=(4, 8, 8), ends=(256, 288)),
    "photos-64": Recipe(side=64, shrink=1, levels=256, strides=(16, 16, 16), ends=(512, 576)),
}


def load(name: str) -> tuple[Patches, Patches, Patches]:
    """Return (train, valid, test) of one of `RECIPES`.

    Raises:
        DataError: scikit-learn is not installed, or a photograph is damaged.
    """
    recipe = RECIPES[name]
    shrunk = [shrunk_levels(pixels, recipe) for pixels in photographs()]  # (H, W, 3) each
    left, right = recipe.ends
    spans = (slice(0, left), slice(left, right), slice(right, None))
    train, valid, test = (
        np.concatenate([_cut(photograph[:, span], recipe.side, stride) for photograph in shrunk])
        for span, stride in zip(spans, recipe.strides, strict=True)
    )
    return train, valid, test


def shrunk_levels(pixels: Patches, recipe: Recipe) -> Patches:
    """Shrink a photograph (H, W, 3) by averaging, and quantise it to K levels."""
    H, W, step = pixels.shape[0], pixels.shape[1], recipe.shrink
    whole = pixels[: H - H % step, : W - W % step].astype(np.float64)
    shrunk = whole.reshape(H // step, step, W // step, step, 3).mean(axis=(1, 3))
    made: Patches = np.floor(shrunk * recipe.levels / 256).astype(np.uint8)
    return made


def _cut(part: Patches, side: int, stride: int) -> Patches:
    """Cut a part (H, W, 3) into overlapping patches, row by row: (N, 3, side, side)."""
    windows = np.lib.stride_tricks.sliding_window_view(part, (side, side), axis=(0, 1))[::stride, ::stride]
    return np.ascontiguousarray(windows.reshape(-1, 3, side, side))


def photographs() -> list[Patches]:
    """Read the photographs of scikit-learn, (H, W, 3) each.

    Raises:
        DataError: scikit-learn is not installed, or a photograph is damaged.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the photographs need scikit-learn: pip install 'pixel-orch[train]'")
    from PIL import Image, UnidentifiedImageError

    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "images"
    found = []
    for name in PHOTOGRAPHS:
        try:
            with Image.open(folder / name) as image:
                found.append(np.asarray(image.convert("RGB")))
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise DataError(f"cannot read scikit-learn's {name} ({error}); reinstall scikit-learn") from None
    return found
