"""The order of the training images: a pure function of seed, epoch and strategy, the same on every machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.errors import DataError

Indices = NDArray[np.int64]
BLOCK, POOL = 512, 16
BLOCKS = re.compile(r"blocks-([1-9]\d{0,5})x([1-9]\d{0,3})")
SHUFFLE_BLOCKS, SHUFFLE_POOL = 1, 2  # third seed number; the full shuffle seeds with two, so the streams differ


@dataclass(frozen=True)
class Strategy:
    """The shuffle strategy of an epoch.

    "full" permutes all images. "blocks-512x16" permutes blocks of 512 adjacent images, then permutes the images
    of each 16 consecutive blocks. A disk then reads megabytes in sequence; a full shuffle reads single images.
    """

    block: int = 0  # images of a block; 0: full shuffle
    pool: int = 0  # blocks whose images are mixed

    def __str__(self) -> str:
        return f"blocks-{self.block}x{self.pool}" if self.block else "full"


FULL = Strategy()


def parse(text: str) -> Strategy:
    """Parse a strategy's name from a checkpoint.

    Raises:
        DataError: no strategy has this name.
    """
    match = BLOCKS.fullmatch(text)
    if match:
        return Strategy(int(match[1]), int(match[2]))
    if text != "full":
        raise DataError(f"the checkpoint has the shuffle strategy {text!r}; this version supports full and blocks-NxM")
    return FULL


def choose(data_bytes: int, memory_bytes: int, *, complete: bool) -> Strategy:
    """Choose a strategy: blocks if the data exceed half of the memory or have not all arrived, else full."""
    return FULL if complete and 2 * data_bytes <= memory_bytes else Strategy(BLOCK, POOL)


class Order:
    """The order of the images over all epochs. Epochs follow one another without a gap; each has every image once.

    Args:
        seed: the seed of the run.
        shards: number of images of each shard.
        strategy: the shuffle strategy.
    """

    def __init__(self, seed: int, shards: Sequence[int], strategy: Strategy = FULL) -> None:
        self.seed, self.strategy, self.images = seed, strategy, sum(shards)
        self._shards = np.asarray(shards, np.int64)
        self._epoch: tuple[int, Indices, Indices] | None = None  # epoch, its blocks in order, their end positions
        self._pool: tuple[int, int, Indices, Indices] | None = None  # epoch, pool number, blocks, images in order
        self._blocks = self._cut()

    def at(self, position: int, count: int) -> tuple[Indices, Indices]:
        """Return the `count` images that follow the first `position` images of all epochs.

        Returns:
            The indices of the images and the epoch of each, both (count,).
        """
        picked, epochs = np.empty(count, np.int64), np.empty(count, np.int64)
        filled = 0
        while filled < count:
            epoch, start = divmod(position + filled, self.images)
            part = self._from(epoch, start)[: count - filled]
            picked[filled : filled + len(part)] = part
            epochs[filled : filled + len(part)] = epoch
            filled += len(part)
        return picked, epochs

    def ahead(self, position: int) -> list[tuple[int, int]]:
        """Return the image ranges of the pool at `position`: (first, one past the last).

        A full shuffle has no pool and returns no ranges.
        """
        if not self.strategy.block:
            return []
        epoch, start = divmod(position, self.images)
        self._from(epoch, start)
        blocks = self._pool[2] if self._pool else np.empty((0, 2), np.int64)
        return [(int(first), int(last)) for first, last in blocks]

    def pool_end(self, position: int) -> int:
        """Return the position at which the pool of `position` ends."""
        epoch, start = divmod(position, self.images)
        return position + len(self._from(epoch, start))

    def _from(self, epoch: int, start: int) -> Indices:
        """Return images of an epoch from `start` on: at least one, possibly not all."""
        if not self.strategy.block:
            if self._pool is None or self._pool[0] != epoch:
                permuted = np.random.default_rng([self.seed, epoch]).permutation(self.images)
                self._pool = (epoch, 0, np.empty((0, 2), np.int64), permuted)
            return self._pool[3][start:]
        if self._epoch is None or self._epoch[0] != epoch:
            blocks = self._ordered(epoch)
            self._epoch = (epoch, blocks, np.cumsum(blocks[:, 1] - blocks[:, 0]))
        _, blocks, ends = self._epoch
        number = int(np.searchsorted(ends, start, side="right")) // self.strategy.pool
        first = number * self.strategy.pool
        begin = int(ends[first - 1]) if first else 0
        if self._pool is None or self._pool[:2] != (epoch, number):
            pooled = blocks[first : first + self.strategy.pool]
            images = np.concatenate([np.arange(a, b) for a, b in pooled])
            mixed = np.random.default_rng([self.seed, epoch, SHUFFLE_POOL, number]).permutation(images)
            self._pool = (epoch, number, pooled, mixed)
        return self._pool[3][start - begin :]

    def _cut(self) -> Indices:
        """Cut the shards into blocks, (N, 2): first image and one past the last. No block spans two shards."""
        if not self.strategy.block:
            return np.empty((0, 2), np.int64)
        found, first = [], 0
        for count in self._shards:
            for start in range(0, int(count), self.strategy.block):
                found.append((first + start, first + min(start + self.strategy.block, int(count))))
            first += int(count)
        return np.array(found, np.int64)

    def _ordered(self, epoch: int) -> Indices:
        """Shuffle the blocks. The first epoch keeps the order of the shards, so training can start early."""
        generator = np.random.default_rng([self.seed, epoch, SHUFFLE_BLOCKS])
        if epoch:
            return self._blocks[generator.permutation(len(self._blocks))]
        ends = np.cumsum(self._shards)
        shard_of = np.searchsorted(ends, self._blocks[:, 0], side="right")
        return self._blocks[np.lexsort((generator.random(len(self._blocks)), shard_of))]


def slice_of(batch: int, rank: int, ranks: int) -> slice:
    """Return the slice of the global batch that a rank loads. The order of the images is independent of the ranks.

    Raises:
        DataError: the batch is not divisible by the number of ranks.
    """
    if not 0 <= rank < ranks or batch % ranks:
        raise DataError(f"a batch of {batch} is not divisible by {ranks} ranks (this is rank {rank})")
    share = batch // ranks
    return slice(rank * share, (rank + 1) * share)


def batch_indices(seed: int, position: int, batch_size: int, images: int) -> NDArray[np.int64]:
    """Return the images of the batch that follows the first `position` images of all epochs.

    Epochs follow one another without a gap, each in its own order. An epoch has each image once. A batch may
    hold the end of one epoch and the beginning of the next.

    Args:
        seed: the seed of the run.
        position: number of images before the batch, over all epochs.
        batch_size: images in the batch.
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
