"""Scikit-learn's digits: 1,797 real 8x8 images of handwritten digits with 17 grey levels (UCI, Alpaydin, Kaynak)."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import DataError

IMAGES, SIDE, TEST, VALID = 1797, 8, 360, 180


def load() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Return (train, valid, test), each (N, 1, 8, 8) of levels 0..16.

    A fixed permutation defines the splits: the first 360 images are the test set, the next 180 the validation set, the
    rest the training set.

    Raises:
        DataError: scikit-learn is not installed, or its file is damaged.
    """
    images = _pixels().astype(np.uint8).reshape(-1, 1, SIDE, SIDE)  # (1797, 1, 8, 8)
    if len(images) != IMAGES:
        raise DataError(f"scikit-learn's digits have {len(images)} images, not {IMAGES}; reinstall scikit-learn")
    images = images[np.random.default_rng(0).permutation(IMAGES)]
    return images[TEST + VALID :], images[TEST : TEST + VALID], images[:TEST]


def _pixels() -> NDArray[np.float64]:
    """Read the pixels, (N, 64), from scikit-learn's data file, since an import of scikit-learn takes seconds."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the data set digits needs scikit-learn: pip install 'pixel-orch[train]'")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        if not path.exists():  # scikit-learn does not guarantee this path
            from sklearn.datasets import load_digits

            return np.asarray(load_digits().data, dtype=np.float64)
        with gzip.open(path, "rt", encoding="ascii") as file:
            return np.loadtxt(file, delimiter=",", dtype=np.float64)[:, :-1]  # the last column is the label
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(f"cannot read scikit-learn's digits ({error}); reinstall scikit-learn") from None
