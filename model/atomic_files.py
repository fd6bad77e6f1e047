"""Atomic file writes: a file under its final name is complete, also after a kill or a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def write_file(path: Path, content: bytes | memoryview, head: bytes = b"") -> None:
    """Write a file atomically: to a temporary file, synced to disk, then renamed.

    Raises:
        OSError: the disk is full or the folder does not exist.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(head)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Sync the folder to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
