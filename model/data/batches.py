"""Which images a step trains on: a pure function, so that a resumed run sees what it would have seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def batch_indices(seed: int, position: int, batch_size: int, images: int) -> NDArray[np.int64]:
    """Pick the images of the batch that begins after `position` images have been seen.

    Epochs follow one another without a gap, each in an order of its own: an epoch has each image once, and a batch may
    hold the end of one epoch and the beginning of the next.

    Args:
        seed: of the run.
        position: images seen so far, over all epochs.
        batch_size: images wanted.
        images: images in the training set.

    Returns:
        Indices into the training set, shape (batch_size,).
    """
    parts: list[NDArray[np.int64]] = []
    missing = batch_size
    while missing > 0:
        epoch, start = divmod(position, images)
        part = np.random.default_rng([seed, epoch]).permutation(images)[start : start + missing]
        parts.append(part)
        position += len(part)
        missing -= len(part)
    return np.concatenate(parts)
