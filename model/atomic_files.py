"""Atomic file writes: a file under its final name is complete, also after a kill or a power cut."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_file(path: Path, content: bytes | memoryview, head: bytes = b"") -> None:
    """Write a file atomically: to a temporary file, synced to disk, then renamed.

    Raises:
        OSError: the disk is full or the folder does not exist; it names `path`.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}.tmp")
    with naming(path, needed=len(head) + memoryview(content).nbytes):
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


@contextmanager
def naming(path: Path, *, needed: int | None = None) -> Iterator[None]:
    """Give each OSError of a write the path; where there is no room, also how much is needed and free.

    A write, a flush and a close raise errors that name no file.

    Args:
        path: the file that is written.
        needed: bytes that are written, if that is known.

    Raises:
        OSError: with `filename` and a `strerror` of one line.
    """
    try:
        yield
    except OSError as error:
        if error.filename == str(path) and (error.strerror or "").endswith(" free)"):
            raise
        why = error.strerror or str(error) or type(error).__name__
        if error.errno in NO_ROOM:
            wants = [f"{_megabytes(needed)} needed"] if needed is not None else []
            why += f" ({', '.join([*wants, f'{_megabytes(_free(path))} free'])})"
        raise OSError(error.errno or errno.EIO, why, str(path)) from None


def _free(path: Path) -> int:
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return 0


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"


def sync_folder(folder: Path) -> None:
    """Sync the folder to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
