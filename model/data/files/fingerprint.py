"""Fingerprints of a data set's source files, without reading all of their bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.data.manifest import LIST
from model.errors import DataError

ENDS = "sha256_of_ends"  # of a bag
Known = dict[str, Any]  # what the manifest says of a source


def of_folder(folder: Path, reads: Callable[[str], bool]) -> Known:
    """Identify a folder by its number of files and a hash of the name, size and time of change of each.

    Args:
        folder: may be moved: names count from it on.
        reads: whether a file of this name is one that is read.

    Raises:
        DataError: it cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    found = []
    try:
        for root, _, names in os.walk(folder, onerror=fail):
            for name in names:
                path = os.path.join(root, name)
                if reads(name) and os.path.isfile(path):
                    known = os.stat(path)
                    found.append((os.path.relpath(path, folder), known.st_size, known.st_mtime_ns))
    except OSError as error:
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror or error}; check the path") from None
    hasher = hashlib.sha256()
    for name, size, changed_ns in sorted(found):
        hasher.update(os.fsencode(name) + f"\0{size}\0{changed_ns}\n".encode())
    size = sum(size for _, size, _ in found)
    return {"name": folder.name, "folder": True, "files": len(found), "bytes": size, LIST: hasher.hexdigest()}


def of_ends(path: Path) -> Known:
    """Identify a bag by its size and a hash of its first and last MiB, without reading 183 GB."""
    size = path.stat().st_size
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        hasher.update(file.read(1 << 20))
        file.seek(max(0, size - (1 << 20)))
        hasher.update(file.read(1 << 20))
    return {"name": path.name, "bytes": size, ENDS: hasher.hexdigest()}


def lasting(sources: list[Known]) -> list[Known]:
    """Drop the name of a folder, which does not change the images."""
    return [{key: value for key, value in one.items() if key != "name" or "folder" not in one} for one in sources]


def same(there: Known, path: Path, reads: Callable[[str], bool], hashed: Callable[[Path, str], str]) -> bool:
    """Return whether a data set was made from this file or folder, with as little reading as possible.

    Args:
        there: what the manifest says of it.
        path: of what is given now.
        reads: as for `of_folder`.
        hashed: hashes a whole file by an algorithm: only if nothing less tells.
    """
    if path.is_dir() or "folder" in there:
        known = LIST in there  # a manifest of an earlier version does not say
        return path.is_dir() and "folder" in there and (not known or of_folder(path, reads)[LIST] == there[LIST])
    if path.stat().st_size != there.get("bytes"):
        return False
    if ENDS in there:
        return bool(of_ends(path)[ENDS] == there[ENDS])
    return all(hashed(path, name) == there[name] for name in ("sha256", "md5") if name in there)
