"""The registry of data sets: sizes, files, checksums, terms of use. The entries are in `datasets.json`.

No torch or numpy is imported: laptops without them check the settings.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from model.errors import DataError

Kind = Literal["builtin", "amat", "idx", "cifar", "png-tar", "npz-zip", "rosbag", "pictures"]
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class DatasetFacts:
    """The sizes of a data set, known without loading it."""

    height: int  # pixels
    width: int  # pixels
    channels: int  # colours of a pixel: 1 gray, 3 RGB
    levels: int  # values that a colour can take, K
    train: int  # images
    valid: int  # images
    test: int  # images

    @property
    def dims(self) -> int:
        """Number of values in an image, the divisor of bits/dim."""
        return self.channels * self.height * self.width

    @property
    def bytes(self) -> int:
        """Size of all images in bytes, one byte per value."""
        return self.dims * (self.train + self.valid + self.test)


def size_of(facts: DatasetFacts) -> str:
    """Format the size of a data set's images: `32x32x3 in 256 levels`."""
    return f"{facts.height}x{facts.width}x{facts.channels} in {facts.levels} levels"


@dataclass(frozen=True)
class SourceFile:
    """A published file. A checksum that is not published is None."""

    name: str
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    urls: tuple[str, ...] = ()
    infohash: str | None = None  # of the torrent that contains the file
    split: str | None = None
    contents: tuple[SourceFile, ...] = ()  # the files in it, unpacked; empty if it is not packed or they are unknown

    @property
    def magnet(self) -> str | None:
        """The magnet link for a BitTorrent client."""
        return f"magnet:?xt=urn:btih:{self.infohash}" if self.infohash else None


@dataclass(frozen=True)
class Registered:
    """An entry of the registry."""

    name: str
    title: str
    kind: Kind
    terms: str  # of use
    facts: DatasetFacts | None = None  # None if they depend on the recipe
    files: tuple[SourceFile, ...] = ()
    also: tuple[SourceFile, ...] = ()  # other packagings of the same images
    binarise: Literal["static", "dynamic", "threshold"] | None = None
    note: str = ""
    how: str = ""  # how to get the files if no server has them
    drive_s: int | None = None  # duration of a drive
    own: bool = False  # the user's own files

    @property
    def download_bytes(self) -> int | None:
        """Total size of the published files in bytes; None if it is unknown, 0 without files."""
        sizes = [file.bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def _read() -> dict[str, Registered]:
    path = Path(__file__).with_suffix(".json")
    found: dict[str, Registered] = {}
    for name, entry in json.loads(path.read_text(encoding="utf-8")).items():
        facts = entry.pop("facts", None)
        entry |= {key: tuple(_file(one) for one in entry.get(key, ())) for key in ("files", "also")}
        found[name] = Registered(name=name, facts=DatasetFacts(**facts) if facts else None, **entry)
    return found


def _file(entry: dict[str, Any]) -> SourceFile:
    contents = tuple(_file(one) for one in entry.get("contents", ()))
    return SourceFile(**{**entry, "urls": tuple(entry.get("urls", ())), "contents": contents})


REGISTRY: Mapping[str, Registered] = MappingProxyType(_read())
DATASETS: Mapping[str, DatasetFacts] = MappingProxyType(
    {name: entry.facts for name, entry in REGISTRY.items() if entry.facts is not None}
)


def data_root() -> Path:
    """Return the folder of the prepared data sets: PIXEL_ORCH_DATA, else `data` in PIXEL_ORCH_HOME (~/.pixel-orch)."""
    given = os.environ.get("PIXEL_ORCH_DATA")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("PIXEL_ORCH_HOME") or "~/.pixel-orch").expanduser() / "data"


def is_path(name: str) -> bool:
    """Return whether the name is the path of a folder instead of a registered name.

    A folder of the current folder needs no `./`, unless a data set has the same name.
    """
    return os.sep in name or name in (".", "..") or (name not in REGISTRY and bool(name) and os.path.isdir(name))


def folder_of(name: str) -> Path:
    """Return the folder of a prepared data set; it need not exist."""
    return Path(name).expanduser() if is_path(name) else data_root() / name


def check_name(name: str) -> str:
    """Return the name if it is a registered name or the path of a folder.

    Raises:
        ValueError: it is neither; the message gives the closest names.
    """
    if name in REGISTRY or (name.isprintable() and is_path(name)):
        return name
    near = difflib.get_close_matches(name, REGISTRY, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(REGISTRY)}"
    raise ValueError(f"not a data set; give a registered name such as digits, or the path of a prepared folder; {hint}")


def prepared_facts(name: str) -> DatasetFacts:
    """Read the sizes of a prepared data set from its manifest; `model.data` verifies the rest of the manifest.

    Raises:
        DataError: the data set is not prepared, or its manifest is damaged.
    """
    path = folder_of(name) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        image, splits = manifest["image"], manifest["splits"]
        sizes = {key: int(image[key]) for key in ("height", "width", "channels", "levels")}
        return DatasetFacts(**sizes, **{split: int(splits.get(split, 0)) for split in ("train", "valid", "test")})
    except FileNotFoundError:
        what = name if is_path(name) else f"the data set {name}"
        how = (
            "give a folder that `pixel-orch data prepare` wrote"
            if is_path(name)
            else f"run: pixel-orch data prepare {name}"
        )
        raise DataError(f"{what} is not prepared (no {path}); {how}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}); prepare the data set again") from None
