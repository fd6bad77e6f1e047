"""Finds the packages of downsampled ImageNet in a source: the tars of PNG files, and the zips of .npz files.

A package is known by its size and checksum under any name. A tar that was packed by gzip is known by its content, and
.npz files that were unpacked or packed again are known by theirs, where their checksums are published.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from model.config.datasets import Registered, SourceFile
from model.data.files.clutter import LeftOut
from model.data.files.contents import described
from model.data.files.fingerprint import files_below, of_folder
from model.data.files.leaves import bare_name, unpacked_size
from model.data.files.published import hashed
from model.data.formats.archives import UNREADABLE, first_bytes, is_zip, refuse_others
from model.data.formats.npz import BATCH
from model.data.formats.pictures import SUFFIXES
from model.data.formats.stream import BLOCK, GZIP, open_stream
from model.errors import DataError
from model.meter import Meter


@dataclass
class Packages:
    """The packages of a data set that a source holds."""

    files: list[tuple[str, Path]]  # (split, path) in order
    sources: list[dict[str, Any]]  # for the manifest
    published: bool
    left_out: LeftOut = field(default_factory=LeftOut)


def find_packages(entry: Registered, place: Path, *, unverified: bool, stream: TextIO | None = None) -> Packages:
    """Find the packages in a folder.

    Args:
        entry: the data set.
        place: the folder, or a file.
        unverified: whether packages other than the published ones are accepted; they count by their names.
        stream: the stream for progress output.

    Raises:
        DataError: a package is missing, or is not the published one and `unverified` is false.
    """
    left_out = LeftOut()
    if place.is_file():
        refuse_others(place.name, first_bytes(place))
        paths = [place]
    else:
        below = sorted(files_below(place, left_out), key=lambda name: (name.count("/"), name))
        paths = [place / name for name in below]
    known = {file.name: _known(file, paths, stream) for file in entry.files}
    if all(known.values()):
        files = [(file.split or "train", path) for file in entry.files if (path := known[file.name])]
        return Packages(files, [described(file) for file in entry.files], True, left_out)
    batches = _batches(entry, paths, stream) if entry.kind == "npz-zip" else None
    # A folder may hold those of both sizes: their names tell them apart.
    are_named = place.is_dir() and all(known[file.name] or _named(file, place, paths) for file in entry.files)
    if batches is not None and (batches.published or (unverified and not are_named)):
        return replace(batches, left_out=left_out)
    files, sources, published = [], [], True
    for file in entry.files:
        path = known[file.name] or _named(file, place, paths)
        if batches is not None and (path is None or (path == place and path.name != file.name)):
            raise DataError(
                f"{place} has no {file.name}, and its .npz files are not known as the published ones"
                f"{'' if file.contents else ', which have no published checksum'}; pass --unverified to use them"
            )
        if path is None:
            raise DataError(f"{place} has no {file.name}; pixel-orch data info {entry.name} lists the files to give")
        files.append((file.split or "train", path))
        if known[file.name]:
            sources.append(described(file))
            continue
        published = False
        if not unverified:
            raise DataError(_refusal(file, path, stream))
        if path.is_dir():
            sources.append(of_folder(path, lambda name: name.lower().endswith((*SUFFIXES, ".npz"))))
        else:
            sources.append({"name": path.name, "bytes": path.stat().st_size, "sha256": hashed(path, "sha256", stream)})
    return Packages(files, sources, published, left_out)


def _known(file: SourceFile, paths: list[Path], stream: TextIO | None) -> Path | None:
    """Return the file that is a published one by size and checksum, as it is or packed by gzip."""
    if file.sha256 is None or file.bytes is None:
        return None
    for path in paths:
        if path.stat().st_size == file.bytes:
            if hashed(path, "sha256", stream) == file.sha256:
                return path
        elif path.stat().st_size < file.bytes:
            first = first_bytes(path)
            packed = first[:2] == GZIP and unpacked_size(path, first) == file.bytes % 2**32
            if packed and _unpacked_digest(path, stream) == (file.bytes, file.sha256):
                return path
    return None


def _named(file: SourceFile, place: Path, paths: list[Path]) -> Path | None:
    """Return the file, or the folder that was unpacked from it, that has the name of a published one."""
    candidates = [place] if place.is_file() else [place / file.name]
    stem = file.name.rpartition(".")[0].lower()
    candidates += [path for path in paths if bare_name(path.name) == file.name.lower()]
    candidates += [folder for path in paths for folder in path.parents if folder.name.lower() == stem]
    return next((path for path in candidates if path.exists()), None)


def _refusal(file: SourceFile, path: Path, stream: TextIO | None) -> str:
    if path.is_dir():
        return f"{path} is a folder, whose files have no published checksum; pass --unverified to use it unchecked"
    size = path.stat().st_size
    if file.bytes not in (None, size):
        return f"{path} has {size:,} bytes, the published one {file.bytes:,}; fetch it again"
    got = hashed(path, "sha256", stream)
    return f"{path} is not the published file: its sha256 is {got}, not {file.sha256}; fetch it again"


def _unpacked_digest(path: Path, stream: TextIO | None) -> tuple[int, str] | None:
    meter = Meter(f"checking {path.name}", path.stat().st_size, "B", stream=stream)
    hasher, size = hashlib.sha256(), 0
    try:
        content = open_stream(path, progress=meter.add)
        while block := content.read(BLOCK):
            hasher.update(block)
            size += len(block)
    except DataError:
        return None
    finally:
        meter.close()
    return size, hasher.hexdigest()


def _batches(entry: Registered, paths: list[Path], stream: TextIO | None) -> Packages | None:
    """Return the .npz files on the disk and in zips of any name, if there are some of each split; else None."""
    wanted = {content.name: content.md5 for file in entry.files for content in file.contents}
    found: list[tuple[str, int, Path]] = []
    names: set[str] = set()
    published = bool(wanted)
    for path in paths:
        for name, number in _names(path):
            split = "train" if number else "valid"
            if name in names:
                continue
            names.add(name)
            found.append((split, number, path))
            published = published and wanted.get(name) == _digest(path, name, stream)
    if {split for split, _, _ in found} != {"train", "valid"}:
        return None
    published = published and names == set(wanted)
    files = list(dict.fromkeys((split, path) for split, _, path in sorted(found)))
    if published:
        return Packages(files, [described(file) for file in entry.files], True)
    places = list(dict.fromkeys(path for _, path in files))
    sources = [
        {"name": path.name, "bytes": path.stat().st_size, "sha256": hashed(path, "sha256", stream)} for path in places
    ]
    return Packages(files, sources, False)


def _names(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (bare name, number) of the batches in a zip, or of a .npz file itself; number 0 is the validation."""
    match = BATCH.fullmatch(bare_name(path.name))
    if match:
        yield match[0], int(match[1] or 0)
    elif is_zip(first_bytes(path)):
        try:
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if not LeftOut().takes(name)]
        except UNREADABLE:
            return
        for name in members:
            match = BATCH.fullmatch(name)
            if match:
                yield name.rpartition("/")[2], int(match[1] or 0)


def _digest(path: Path, name: str, stream: TextIO | None) -> str | None:
    if bare_name(path.name) == name:
        return hashed(path, "md5", stream)
    hasher = hashlib.md5(usedforsecurity=False)
    meter = Meter(f"checking {path.name}:{name}", None, "B", stream=stream)
    try:
        with zipfile.ZipFile(path) as archive:
            inner = next(one for one in archive.namelist() if one.rpartition("/")[2] == name)
            with archive.open(inner) as file:
                while block := file.read(BLOCK):
                    hasher.update(block)
                    meter.add(len(block))
    except UNREADABLE:
        return None
    finally:
        meter.close()
    return hasher.hexdigest()
