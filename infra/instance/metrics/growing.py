"""Reads what a growing file gets, from a place on; notices that it was written anew."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

MARK_BYTES = 64  # before the place that is reached: if they differ, the file is another one
PIECE_BYTES = 1 << 20
LONGEST_LINE_BYTES = 1 << 20  # as the owner takes it


class Growing:
    """A file that another program writes.

    Args:
        path: of the file, which need not exist yet.
        from_end: whether what it holds now is old.
    """

    def __init__(self, path: str, *, from_end: bool = False) -> None:
        self.path = path
        self.offset = 0
        self.times_anew = 0  # how often it was replaced or written from its beginning
        self._mark = b""
        self._seen: tuple[int, ...] = ()
        self._is_read = False  # nothing was left at the last look
        if from_end:
            self._skip_to_end()

    def _skip_to_end(self) -> None:
        file = _opened(self.path)
        if file is None:
            return
        try:
            self.offset = os.fstat(file).st_size
            start = max(0, self.offset - MARK_BYTES)
            self._mark = os.pread(file, self.offset - start, start)
        except OSError:
            self.offset = 0
        finally:
            os.close(file)

    def look(self, most_bytes: int = PIECE_BYTES) -> bytes:
        """Return what comes after the place that is reached, b"" if nothing does; the place does not change."""
        try:
            status = os.stat(self.path)
        except OSError:
            return b""
        seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        if seen == self._seen and self._is_read:
            return b""
        file = _opened(self.path)
        if file is None:
            return b""
        try:
            start = self.offset - len(self._mark)
            data = os.pread(file, len(self._mark) + most_bytes, start)
            if not data.startswith(self._mark) or status.st_size < self.offset:
                self.offset, self._mark = 0, b""
                self.times_anew += 1
                data = os.pread(file, most_bytes, 0)
            data = data[len(self._mark) :]
        except OSError:
            return b""
        finally:
            os.close(file)
        self._seen, self._is_read = seen, len(data) < most_bytes
        return data

    def advance(self, data: bytes) -> None:
        """Move on behind `data`, the beginning of what `look` returned."""
        if data:
            self.offset += len(data)
            self._mark = (self._mark + data)[-MARK_BYTES:]
            self._is_read = False

    def size(self) -> int:
        """Return the size of the file as it is now."""
        try:
            return os.stat(self.path).st_size
        except OSError:
            return 0

    def skip(self, count: int) -> None:
        """Move on by so many bytes that need not be read."""
        self.offset += count
        self._mark = b""
        self._is_read = False


def whole_file(path: str, most_bytes: int) -> bytes:
    """Return the content of a plain file.

    Raises:
        OSError: it is none, or cannot be read.
    """
    file = _opened(path)
    if file is None:
        raise OSError("it is no file")
    with os.fdopen(file, "rb") as opened:
        return opened.read(most_bytes)


def _opened(path: str) -> int | None:
    """Open a plain file; a pipe is not waited for, and a device not read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    return None


class Lines:
    """The whole lines of a growing file.

    Args:
        file: whose lines they are.
        ends: the bytes that end a line; a progress bar ends its line by CR.
    """

    def __init__(self, file: Growing, ends: bytes = b"\n") -> None:
        self.file = file
        self.ends = ends
        self.skipped = 0  # lines that are too long
        self._is_in_long = False
        self._anew = file.times_anew

    def new(self, most_bytes: int, *, is_last: bool = False) -> Iterator[bytes]:
        """Yield the lines that are new, without their ends and without empty ones.

        Args:
            most_bytes: that are read at most; the rest comes with the next call.
            is_last: whether a last line without an end is whole.
        """
        while most_bytes > 0:
            data = self.file.look(min(most_bytes, PIECE_BYTES) if most_bytes >= PIECE_BYTES else PIECE_BYTES)
            if self._anew != self.file.times_anew:
                self._anew, self._is_in_long = self.file.times_anew, False
            end = max(data.rfind(bytes([one])) for one in self.ends) + 1
            if end == 0 and len(data) >= LONGEST_LINE_BYTES:
                self.skipped += not self._is_in_long
                self._is_in_long = True
                self.file.advance(data)
                most_bytes -= len(data)
                continue
            if is_last and end < len(data) < PIECE_BYTES:
                end = len(data)
            if end == 0:
                return
            taken = data[:end]
            self.file.advance(taken)
            most_bytes -= end
            yield from self._split(taken)

    def _split(self, data: bytes) -> Iterator[bytes]:
        for other in self.ends[1:]:
            data = data.replace(bytes([other]), self.ends[:1])
        parts = data.split(self.ends[:1])
        for place, line in enumerate(parts):
            if place == 0 and self._is_in_long:
                self._is_in_long = len(parts) == 1
                continue
            if line and not line.isspace():
                yield line.strip(b"\r")
