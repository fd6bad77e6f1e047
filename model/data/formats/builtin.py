"""Provides the built-in data sets as sources."""

from __future__ import annotations

import numpy as np

from model.data import dataset
from model.data.manifest import SPLITS, Image
from model.data.source import Arrays, InMemory


def of_name(name: str) -> InMemory:
    """Return a data set of `model.data.load` as a source.

    Raises:
        DataError: the data set is not available.
    """
    data = dataset.load(name)
    facts = data.facts
    parts = [
        Arrays(split, np.ascontiguousarray(data.split(split).transpose(0, 2, 3, 1)))  # type: ignore[arg-type]
        for split in SPLITS
    ]
    return InMemory(Image(facts.height, facts.width, facts.channels, facts.levels), parts, {})
