"""`manifest.json`: the description of a prepared data set, with its own digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from model.atomic_files import write_file
from model.config import DatasetFacts
from model.config.datasets import MANIFEST
from model.errors import DataError

FORMAT = 1
SPLITS = ("train", "valid", "test")
LIST = "sha256_of_list"  # key of the hash over the file list of a source folder
SHARD = re.compile(r"shard-\d{5}\.npy")


@dataclass(frozen=True)
class Image:
    """The size of every image of a data set."""

    height: int  # pixels
    width: int  # pixels
    channels: int  # 1: gray, 3: RGB
    levels: int  # K, the number of values of a channel

    @property
    def bytes(self) -> int:
        """Bytes of one image: one for each value."""
        return self.height * self.width * self.channels


@dataclass(frozen=True)
class Column:
    """A value that each image has, such as its label or the steering angle."""

    name: str
    dtype: str  # of numpy: "<f8", "|u1"
    unit: str = ""
    mean: float = 0.0  # over the training images that have the value
    std: float = 1.0
    low: float = 0.0
    high: float = 0.0
    missing: int = 0  # images of all splits without the value (NaN)


@dataclass(frozen=True)
class Shard:
    """One file of images, and the file of their column values if the data set has columns."""

    file: str
    split: str
    images: int
    sha256: str
    columns_sha256: str | None = None

    @property
    def columns_file(self) -> str:
        """The name of the file of column values."""
        return self.file.removesuffix(".npy") + ".columns.npy"


@dataclass(frozen=True)
class Manifest:
    """The description of a prepared data set."""

    name: str
    version: int  # of the preparation code: another version writes other bytes
    image: Image
    splits: dict[str, int]  # number of images
    recipe: dict[str, Any]
    sources: list[dict[str, Any]]
    shards: list[Shard]
    columns: list[Column] = field(default_factory=list)
    published: bool = False  # whether every source file had its published checksum
    binarise: str | None = None  # "dynamic": the shards are gray, and each use of an image draws it anew
    terms: str = ""
    notes: list[str] = field(default_factory=list)  # damaged or skipped input
    left_out: dict[str, int] = field(default_factory=dict)  # files that are no data, by kind: not part of the id
    reading: int = 0  # version of the code that reads this kind of file; 0: before 0.2.0. Not part of the id

    @property
    def facts(self) -> DatasetFacts:
        """The sizes in the form that the settings use."""
        sizes = asdict(self.image)
        return DatasetFacts(**sizes, **{split: self.splits.get(split, 0) for split in SPLITS})

    @property
    def id(self) -> str:
        """An identifier of 16 hexadecimal digits: equal for equal data sets in any folder."""
        timeless = [{key: value for key, value in one.items() if key != LIST} for one in self.sources]
        bare = replace(self, sources=timeless, left_out={}, reading=0)
        return hashlib.sha256(_text(bare).encode()).hexdigest()[:16]

    def of_split(self, split: str) -> list[Shard]:
        """Return the shards of a split in order."""
        return [shard for shard in self.shards if shard.split == split]


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest atomically. A folder with a manifest is a prepared data set.

    Raises:
        OSError: the disk is full or the folder does not exist.
    """
    text = json.dumps({**_plain(manifest), "digest": _digest(manifest)}, indent=1, allow_nan=False) + "\n"
    write_file(folder / MANIFEST, text.encode())


def read(folder: Path) -> Manifest:
    """Read the manifest of a folder and check its digest.

    Raises:
        DataError: the manifest is missing, is damaged or has a newer format.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder} is not a prepared data set (no {MANIFEST}); see: pixel-orch data list") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} ({_reason(error)}); prepare the data set again") from None
    try:
        if content["format"] > FORMAT:
            raise DataError(f"{path} has format {content['format']}, this version reads {FORMAT}; update pixel-orch")
        digest = content.pop("digest")
        del content["format"]
        manifest = Manifest(
            **{
                **content,
                "image": Image(**content["image"]),
                "shards": [Shard(**shard) for shard in content["shards"]],
                "columns": [Column(**column) for column in content["columns"]],
            }
        )
        valid = digest == _digest(manifest) and all(SHARD.fullmatch(shard.file) for shard in manifest.shards)
    except (KeyError, TypeError, AttributeError):
        valid = False
    if not valid:
        raise DataError(f"{path} does not match its own digest; prepare the data set again")
    return manifest


def _plain(manifest: Manifest) -> Mapping[str, Any]:
    """Return the manifest as plain values. The later fields are omitted where they are empty: 0.1.0 has none."""
    values = asdict(manifest)
    for name in ("left_out", "reading"):
        if not values[name]:
            del values[name]
    return {"format": FORMAT, **values}


def _text(manifest: Manifest) -> str:
    return json.dumps(_plain(manifest), sort_keys=True, allow_nan=False)


def _digest(manifest: Manifest) -> str:
    return hashlib.sha256(_text(manifest).encode()).hexdigest()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
