"""The protocol of an image source, and helpers for sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.data.manifest import SPLITS, Column, Image
from model.errors import DataError

Pixels = NDArray[np.uint8]  # (N, H, W, C)
BLOCK_BYTES = 4 << 20
LABEL = Column("label", "|u1")


@dataclass(frozen=True)
class Block:
    """Consecutive images of a split, with their column values."""

    split: str
    images: Pixels
    rows: NDArray[Any] | None = None


class Source(Protocol):
    """A source of images in a fixed order."""

    image: Image
    columns: tuple[Column, ...]
    recipe: dict[str, Any]  # the settings that define the images, as plain values
    notes: list[str]  # damaged or skipped input; complete after the last block is read
    expected: dict[str, int]  # images of each split, where known in advance

    @property
    def left_out(self) -> Mapping[str, int]:
        """The number of files that are no data, by kind; complete after the last block is read."""

    def blocks(self, done: Mapping[str, int]) -> Iterator[Block]:
        """Yield the images of each split in order, without the first `done` of each.

        Raises:
            DataError: a file is damaged.
        """


@dataclass(frozen=True)
class Opened:
    """A source and the files that it reads."""

    source: Source
    files: Callable[[], list[dict[str, Any]]]  # called at the end: some files are hashed while they are read
    plan: list[dict[str, Any]]  # the part of the file descriptions that is known at the start
    published: Callable[[], bool]
    binarise: str | None = None
    close: Callable[[], None] = lambda: None  # called after the manifest is written
    left_out: Mapping[str, int] = field(default_factory=dict)  # files that are no data, found before the first block


@dataclass(frozen=True)
class Arrays:
    """A split in memory, as of MNIST and CIFAR-10."""

    split: str
    images: Pixels
    labels: NDArray[np.uint8] | None = None

    def blocks(self, done: int) -> Iterator[Block]:
        """Yield the split in blocks, without its first `done` images."""
        step = max(1, BLOCK_BYTES // max(1, self.images[0].size)) if len(self.images) else 1
        for start in range(done, len(self.images), step):
            rows = None if self.labels is None else label_rows(self.labels[start : start + step])
            yield Block(self.split, self.images[start : start + step], rows)


def row_dtype(columns: Sequence[Column]) -> np.dtype[Any]:
    """Return the numpy type of a row of columns."""
    return np.dtype([(column.name, column.dtype) for column in columns])


def label_rows(labels: NDArray[np.uint8]) -> NDArray[Any]:
    """Return labels as rows with one column."""
    return labels.view([(LABEL.name, LABEL.dtype)])


def quantised(images: Pixels, levels: int) -> Pixels:
    """Quantise 256 levels to K levels in equal steps."""
    return images if levels == 256 else (images.astype(np.uint16) * levels // 256).astype(np.uint8)


def check_labels(labels: NDArray[np.uint8], most: int, where: str, first_byte: int, step: int = 1) -> None:
    """Check that labels are 0..most.

    Raises:
        DataError: a label is out of range; the message gives its byte offset.
    """
    wrong = np.flatnonzero(labels > most)
    if len(wrong):
        byte = first_byte + int(wrong[0]) * step
        raise DataError(f"{where}: byte {byte}: label {labels[wrong[0]]} is outside 0 to {most}; the file is damaged")


class InMemory:
    """A source whose splits are arrays in memory.

    Args:
        image: the size of the images.
        parts: the splits, or parts of them, in order.
        recipe: the settings that define the images, as plain values.
    """

    left_out: Mapping[str, int] = MappingProxyType({})

    def __init__(self, image: Image, parts: list[Arrays], recipe: dict[str, Any]) -> None:
        self.image, self.parts, self.recipe = image, parts, recipe
        labelled = all(part.labels is not None for part in parts)
        self.columns: tuple[Column, ...] = (LABEL,) if labelled else ()
        self.notes: list[str] = []
        self.expected = {
            split: sum(len(part.images) for part in parts if part.split == split)
            for split in SPLITS
            if any(part.split == split for part in parts)
        }

    def blocks(self, done: Mapping[str, int]) -> Iterator[Block]:
        """Yield the blocks that are not done."""
        skip = dict(done)
        for part in self.parts:
            start = min(skip.get(part.split, 0), len(part.images))
            skip[part.split] = skip.get(part.split, 0) - start
            for block in part.blocks(start):
                yield block if self.columns else Block(block.split, block.images)
