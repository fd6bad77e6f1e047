"""Files on this disk: atomic writes, digests, JSON lines, and the processes that own them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.runs import bounded_json

RESERVED_BYTES = 64 << 20  # of a disk: events and logs are written there too


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data` so that a reader, or a crash, sees the old content or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")  # two threads may write it
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def check_room(folder: Path, size_bytes: int) -> None:
    """Refuse a download that does not fit on the disk of this folder, before its first byte is written.

    Raises:
        OSError: ENOSPC; with it less than `RESERVED_BYTES` would be free. A small file is always tried.
    """
    if size_bytes > max(shutil.disk_usage(folder).free - RESERVED_BYTES, RESERVED_BYTES):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))


def part_path(destination: Path, sha256: str) -> Path:
    """Return where a file is downloaded to before its rename; the process id in it keeps two downloads apart."""
    return destination.with_name(f".{destination.name}.{sha256[:12]}.{os.getpid()}.part")


def clear_parts(folder: Path) -> None:
    """Remove the unfinished downloads of processes that are gone."""
    for part in folder.glob(".*.part"):
        pid = part.name.split(".")[-2]
        if re.fullmatch("[1-9][0-9]{0,8}", pid) and not _is_alive(int(pid)):
            part.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def wait_until_gone(pid: int, limit_s: float = 20.0) -> None:
    """Wait until a process has ended; a zombie counts as ended."""
    give_up_at = time.monotonic() + limit_s
    while _is_alive(pid) and time.monotonic() < give_up_at:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            pass  # it has just ended, or there is no /proc here
        time.sleep(0.05)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read it. A FIFO is never waited for, and a device is never read.

    Raises:
        OSError: there is none, it may not be read, or it is no regular file; `strerror` says which.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'a device')}, not a file", str(path))
    return os.fdopen(descriptor, "rb")


_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Return the content of a small file.

    Raises:
        OSError: as `open_regular`, or it is larger than `most_bytes`.
    """
    with open_regular(path) as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {most_bytes:,} bytes", str(path))
    return data


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; a line that is torn, out of bounds, or no object is skipped."""
    with suppress(FileNotFoundError):
        yield from (value for value in read_json_lines(path) if value is not None)


def read_json_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the object of each line, None for a line that is out of bounds or no object; empty lines are passed over.

    A last line without an end that cannot be read is passed over too: it is being written, or a crash tore it.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        for line in _bounded_lines(file):
            if not line.isspace():
                try:
                    value = bounded_json.loads(line)
                except bounded_json.BadJsonError:
                    if not line.endswith(b"\n") and len(line) <= bounded_json.MOST_LINE_BYTES:
                        return
                    value = None
                yield value if isinstance(value, dict) else None


def _bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file; of a line that is too long only enough to be refused, so that it fills no memory."""
    most = bounded_json.MOST_LINE_BYTES + 2
    while line := file.readline(most):
        yield line
        while len(line) == most and not line.endswith(b"\n"):
            line = file.readline(most)
