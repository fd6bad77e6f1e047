"""Computes fingerprints of the source files of a data set without reading all bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from model.data.files.clutter import LeftOut, is_clutter_folder
from model.data.manifest import LIST
from model.errors import DataError

ENDS = "sha256_of_ends"  # key of the hash over the first and last MiB of a bag
Known = dict[str, Any]  # the description of a source in the manifest


def files_below(folder: Path, left_out: LeftOut) -> Iterator[str]:
    """Yield the names of the files below a folder, relative to it, with `/` between their parts; count the clutter.

    Args:
        folder: the folder. Links to files are followed, links to folders are not.
        left_out: counts the files that are no data.

    Raises:
        DataError: the folder cannot be read.
    """

    def fail(error: OSError) -> None:
        below = os.path.relpath(error.filename or folder, folder)
        if not any(is_clutter_folder(part) for part in below.split(os.sep)):  # the trash of a disk is its owner's
            raise error

    try:
        for root, _, names in os.walk(folder, onerror=fail):
            below = os.path.relpath(root, folder).replace(os.sep, "/")
            for name in sorted(names):
                whole = name if below == "." else f"{below}/{name}"
                if not left_out.takes(whole) and os.path.isfile(os.path.join(root, name)):
                    yield whole
    except OSError as error:
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror or error}; check the path") from None


def of_folder(folder: Path, reads: Callable[[str], bool]) -> Known:
    """Identify a folder by its number of files and a hash of their names, sizes and modification times.

    Args:
        folder: the folder. Names are relative to it, so it may be moved.
        reads: returns whether a preparation reads a file of this name.

    Raises:
        DataError: the folder cannot be read.
    """

    found = []
    try:
        for name in files_below(folder, LeftOut()):
            if reads(name.rpartition("/")[2]):
                known = os.stat(folder / name)
                found.append((name, known.st_size, known.st_mtime_ns))
    except OSError as error:
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror or error}; check the path") from None
    hasher = hashlib.sha256()
    for name, size, changed_ns in sorted(found):
        hasher.update(os.fsencode(name) + f"\0{size}\0{changed_ns}\n".encode())
    size = sum(size for _, size, _ in found)
    return {"name": folder.name, "folder": True, "files": len(found), "bytes": size, LIST: hasher.hexdigest()}


def of_ends(path: Path) -> Known:
    """Identify a bag by its size and a hash of its first and last MiB."""
    size = path.stat().st_size
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        hasher.update(file.read(1 << 20))
        file.seek(max(0, size - (1 << 20)))
        hasher.update(file.read(1 << 20))
    return {"name": path.name, "bytes": size, ENDS: hasher.hexdigest()}


def lasting(sources: list[Known]) -> list[Known]:
    """Return the sources without the names of folders, which do not affect the images."""
    return [{key: value for key, value in one.items() if key != "name" or "folder" not in one} for one in sources]


def same(recorded: Known, path: Path, reads: Callable[[str], bool], hashed: Callable[[Path, str], str]) -> bool:
    """Return whether a data set was prepared from this file or folder.

    Args:
        recorded: the description of the source in the manifest.
        path: the file or folder to compare.
        reads: as for `of_folder`.
        hashed: hashes a whole file; called only if size and partial hash do not decide.
    """
    if path.is_dir() or "folder" in recorded:
        known = LIST in recorded  # a manifest of an earlier version lacks it
        return path.is_dir() and "folder" in recorded and (not known or of_folder(path, reads)[LIST] == recorded[LIST])
    if path.stat().st_size != recorded.get("bytes"):
        return False
    if ENDS in recorded:
        return bool(of_ends(path)[ENDS] == recorded[ENDS])
    return all(hashed(path, name) == recorded[name] for name in ("sha256", "md5") if name in recorded)
