"""A data set in memory, and the way from its name to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.config import DATASETS, DatasetFacts
from model.data import digits, photos
from model.errors import DataError

Split = Literal["train", "valid", "test"]
Levels = NDArray[np.uint8]  # (N, C, H, W), values 0..K-1


@dataclass(frozen=True)
class Dataset:
    """Three splits of one data set, which share no image."""

    name: str
    train: Levels
    valid: Levels
    test: Levels

    @property
    def facts(self) -> DatasetFacts:
        """What `model.config` knows of it; `load` has compared the two."""
        return DATASETS[self.name]

    def split(self, name: Split) -> Levels:
        """Return one split by its name."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]


def load(name: str) -> Dataset:
    """Load a data set by its name.

    Raises:
        DataError: no such data set, it is not installed, or it is not the one that `model.config` describes.
    """
    if name == "digits":
        data = Dataset(name, *digits.load())
    elif name in photos.RECIPES:
        data = Dataset(name, *photos.load(name))
    else:
        raise DataError(f"no data set {name!r}; known: {', '.join(DATASETS)}")
    facts = data.facts
    for split, count in (("train", facts.train), ("valid", facts.valid), ("test", facts.test)):
        images = data.split(split)  # type: ignore[arg-type]  # mypy widens the literals of a tuple
        if images.shape != (count, facts.channels, facts.height, facts.width) or images.max(initial=0) >= facts.levels:
            raise DataError(
                f"the {split} images of {name} are not as expected ({count} wanted); reinstall scikit-learn"
            )
    return data
