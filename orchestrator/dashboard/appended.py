"""Reads a file that grows: each look reads what was appended since the one before, up to a number of bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from orchestrator.runs.files import open_regular

PIECE_BYTES = 4 << 20  # of one look; more than the longest line, so that each look gets on
PROOF_BYTES = 64  # before the place that was reached: if they differ, the file was written anew
Mark = tuple[int, int, int, int]
NO_LINE = b"?\n"  # what stands for a line that is too long: unreadable


def mark_of(path: Path | str) -> Mark | None:
    """Return what changes with a file (inode, size, mtime and ctime in ns), None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True)
class Piece:
    """What one look has read.

    begins: the file is another one, or was written anew: what was read before does not count.
    lines: whole lines.
    rest: what follows them, without its end; the next look reads it again.
    """

    begins: bool = False
    lines: bytes = b""
    rest: bytes = b""


class Appended:
    """A file of lines, read once.

    Args:
        path: it may be missing, and may come later.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.is_read = False  # whether the last look has come to its end
        self._mark: Mark | None = None
        self._begin()

    def _begin(self) -> None:
        self.offset = 0
        self._inode = -1
        self._proof = b""
        self._is_long = False  # the line at `offset` is longer than what is read of one

    def look(self, most_bytes: int = PIECE_BYTES) -> Piece:
        """Return what was appended. Without a change of the file it is not opened.

        Raises:
            OSError: it is there and cannot be read, or is no regular file.
        """
        mark = mark_of(self.path)
        if mark == self._mark and self.is_read:
            return Piece()
        if mark is None:
            had = self.offset > 0
            self._begin()
            self._mark, self.size, self.is_read = None, 0, True
            return Piece(begins=had)
        with open_regular(self.path) as file:
            status = os.fstat(file.fileno())
            begins = self._is_another(file.fileno(), status)
            if begins:
                self._begin()
            self._inode, self.size = status.st_ino, status.st_size
            data = os.pread(file.fileno(), most_bytes, self.offset)
        self._mark, self.is_read = mark, len(data) < most_bytes
        return self._split(data, begins, is_full=len(data) == most_bytes)

    def _is_another(self, descriptor: int, status: os.stat_result) -> bool:
        if not self.offset:
            return False
        if status.st_ino != self._inode or status.st_size < self.offset:
            return True
        return os.pread(descriptor, len(self._proof), self.offset - len(self._proof)) != self._proof

    def _split(self, data: bytes, begins: bool, *, is_full: bool) -> Piece:
        head, found, rest = data.rpartition(b"\n")
        if not found and not is_full:
            return Piece(begins=begins, rest=b"" if self._is_long else rest)
        taken = data if not found else head + b"\n"
        self.offset += len(taken)
        self._proof = (self._proof + taken)[-PROOF_BYTES:]
        lines = taken
        if self._is_long:
            lines = lines.partition(b"\n")[2] if found else b""
        elif not found:
            lines = NO_LINE
        self._is_long = not found
        return Piece(begins=begins, lines=lines, rest=rest)

    def took_rest(self, rest: bytes) -> None:
        """Count the last line as read although its end is missing: it is whole, as its reader has found."""
        self.offset += len(rest)
        self._proof = (self._proof + rest)[-PROOF_BYTES:]
