"""Loads a data set by its name or its folder: a built-in one into memory, a prepared one as shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.config import DATASETS, REGISTRY, DatasetFacts
from model.config.datasets import MANIFEST, folder_of
from model.data import digits, photos
from model.data import manifest as manifests
from model.data.loader import drawn
from model.data.manifest import Column, Manifest
from model.data.shards import ShardFiles
from model.errors import DataError

Split = Literal["train", "valid", "test"]
Levels = NDArray[np.uint8]  # (N, C, H, W), values 0..K-1
Values = NDArray[np.float32]  # (N, V)
FIXED_DRAW = 2**32 - 1  # the epoch number that seeds the one fixed draw of dynamic validation and test images


@dataclass(frozen=True)
class Conditioning:
    """The columns that a network is conditioned on, with the mean and standard deviation of their training values.

    A data set that is prepared again can have other statistics, which would turn the same angle into another input.
    A checkpoint therefore stores these.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Dataset:
    """The three splits of one data set in memory. The splits share no image."""

    name: str
    train: Levels
    valid: Levels
    test: Levels

    @property
    def facts(self) -> DatasetFacts:
        """The sizes from `model.config`. `load` checks the images against them."""
        return DATASETS[self.name]

    @property
    def id(self) -> str:
        """An identifier of the images."""
        return self.name

    def split(self, name: Split) -> Levels:
        """Return the images of one split."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    def eval_split(self, name: Split) -> Split:
        """Return the split to evaluate: the one given, since all three exist."""
        return name

    def count(self, name: Split) -> int:
        """Return the number of images of one split."""
        return len(self.split(name))

    def batches(
        self, name: Split, size: int, most: int = 0, *, first: int = 0, check_stop: Callable[[], None] = lambda: None
    ) -> Iterator[Levels]:
        """Yield a split in batches, starting with image `first`; at most `most` images if that is not 0."""
        images = self.split(name)[first : first + most if most else None]
        for start in range(0, len(images), size):
            yield images[start : start + size]


class Prepared:
    """A data set that `pixel-orch data prepare` wrote to a folder.

    Args:
        name: the data set's name in the settings.
        folder: the folder that holds the shards and the manifest.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.manifest: Manifest = manifests.read(folder)
        self._files: dict[str, ShardFiles] = {}

    @property
    def facts(self) -> DatasetFacts:
        """The sizes of its images and splits."""
        return self.manifest.facts

    @property
    def id(self) -> str:
        """An identifier of the images."""
        return self.manifest.id

    @property
    def dynamic(self) -> bool:
        """Whether the shards hold gray images from which binary ones are drawn."""
        return self.manifest.binarise == "dynamic"

    @property
    def columns(self) -> list[Column]:
        """The columns of values that accompany each image."""
        return self.manifest.columns

    def eval_split(self, name: Split) -> Split:
        """Return the split to evaluate: the other one of validation and test where the given one is empty."""
        other: Split = "test" if name == "valid" else "valid"
        if self.manifest.splits.get(name):
            return name
        if name != "train" and self.manifest.splits.get(other):
            return other
        raise DataError(f"{self.name} has neither validation nor test images; prepare it again with --holdout")

    def files(self, name: Split) -> ShardFiles:
        """Open the shards of a split."""
        if name not in self._files:
            self._files[name] = ShardFiles(self.folder, self.manifest, name)
        return self._files[name]

    def count(self, name: Split) -> int:
        """Return the number of images of one split."""
        return len(self.files(name))

    def batches(
        self, name: Split, size: int, most: int = 0, *, first: int = 0, check_stop: Callable[[], None] = lambda: None
    ) -> Iterator[Levels]:
        """Yield a split in batches, as `Dataset.batches` does. Dynamic data yield their fixed draw.

        Args:
            name: the split.
            size: images in a batch.
            most: the largest number of images to yield; 0 means no limit.
            first: index of the first image.
            check_stop: called repeatedly during a wait for a shard; an exception from it ends the wait.
        """
        files = self.files(name)
        image = self.manifest.image
        last = min(len(files), first + most) if most else len(files)
        for start in range(first, last, size):
            images = np.empty((min(size, last - start), image.height, image.width, image.channels), np.uint8)
            files.read_range(start, start + len(images), images, check_stop)
            if self.dynamic:
                images = np.stack([drawn(gray, 0, FIXED_DRAW, start + at) for at, gray in enumerate(images)])
            yield np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    def split(self, name: Split) -> Levels:
        """Read a whole split."""
        return np.concatenate(list(self.batches(name, 1024)))

    def rows(
        self, name: Split, first: int, last: int, check_stop: Callable[[], None] = lambda: None
    ) -> NDArray[np.void]:
        """Read the column values of the images first..last-1."""
        return self.files(name).rows(np.arange(first, last), check_stop)


def load(name: str) -> Dataset | Prepared:
    """Load a data set by its name or its folder.

    Raises:
        DataError: the data set does not exist, is not prepared, is not installed or is damaged.
    """
    if name == "digits":
        data = Dataset(name, *digits.load())
    elif name in photos.RECIPES:
        data = Dataset(name, *photos.load(name))
    else:
        return _prepared(name)
    facts = data.facts
    for split, count in (("train", facts.train), ("valid", facts.valid), ("test", facts.test)):
        images = data.split(split)  # type: ignore[arg-type]  # mypy widens the literals of a tuple
        if images.shape != (count, facts.channels, facts.height, facts.width) or images.max(initial=0) >= facts.levels:
            raise DataError(
                f"{name}: the {split} split is not {count} images of the expected size; reinstall scikit-learn"
            )
    return data


def _prepared(name: str) -> Prepared:
    folder = folder_of(name)
    if not (folder / MANIFEST).exists():
        if name in REGISTRY:
            raise DataError(f"{name} is not prepared (there is no {folder}); run: pixel-orch data prepare {name}")
        if folder.is_dir():
            raise DataError(f"{folder} is not a prepared data set (no {MANIFEST}); see: pixel-orch data prepare --help")
        raise DataError(f"no data set {name!r}; known: {', '.join(REGISTRY)}")
    return Prepared(name, folder)


def known(rows: NDArray[np.void], conditioning: Conditioning) -> Values:
    """Turn columns into the conditioning input: standardised values, each with a flag for whether it is known.

    Args:
        rows: (N,), one field for each column.
        conditioning: the columns with their means and standard deviations.

    Returns:
        (N, 2 * names): the values (0 where one is missing), then the flags (1 known, 0 missing).
    """
    raw = np.stack([rows[name].astype(np.float64) for name in conditioning.names], axis=1)  # (N, V)
    present = ~np.isnan(raw)
    scaled = np.where(present, (raw - np.array(conditioning.mean)) / np.array(conditioning.std), 0.0)
    return np.concatenate([scaled, present], axis=1).astype(np.float32)
