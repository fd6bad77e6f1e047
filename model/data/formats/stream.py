"""Sequential byte streams from a file or a .gz, with offsets. Nothing is unpacked to the disk."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Protocol

from model.errors import DataError

BLOCK = 1 << 20
PIECE = 128 << 10  # compressed bytes to decompress at a time
AHEAD = 4  # blocks to decompress in advance
GZIP = b"\x1f\x8b"


class CutError(DataError):
    """The bytes end early or are damaged."""


class Stream(Protocol):
    """A sequence of bytes that is read once, in order."""

    name: str

    @property
    def offset(self) -> int:
        """Number of bytes read so far."""

    def read(self, count: int) -> bytes:
        """Return the next bytes; fewer than requested only at the end."""

    def skip(self, count: int) -> int:
        """Skip bytes; return how many were skipped."""


class FileStream:
    """A file, read from an offset on.

    Args:
        path: the file.
        start: offset of the first byte.
        progress: called with the number of bytes of each read or skip.
    """

    def __init__(self, path: Path, start: int = 0, progress: Callable[[int], None] = lambda _: None) -> None:
        self.name, self._progress = path.name, progress
        self._file = path.open("rb", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size
        self._file.seek(start)
        self._offset = start

    @property
    def offset(self) -> int:
        """Offset in the file of the next byte."""
        return self._offset

    def read(self, count: int) -> bytes:
        """Return the next bytes; fewer than requested only at the end."""
        count = min(count, max(0, self._size - self._offset))  # `read` allocates all requested bytes
        got = self._file.read(count)
        while len(got) < count and (more := self._file.read(count - len(got))):
            got += more
        self._offset += len(got)
        self._progress(len(got))
        return got

    def skip(self, count: int) -> int:
        """Seek forward, not beyond the end; return how many bytes were skipped."""
        count = max(0, min(count, self._size - self._offset))
        self._file.seek(count, os.SEEK_CUR)
        self._offset += count
        self._progress(count)
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class BlockStream:
    """A stream over an iterator of blocks."""

    def __init__(self, blocks: Iterator[bytes], name: str) -> None:
        self.name = name
        self._blocks, self._block, self._at, self._offset = blocks, memoryview(b""), 0, 0

    @property
    def offset(self) -> int:
        """Number of bytes read so far."""
        return self._offset

    def read(self, count: int) -> bytes:
        """Return the next bytes; fewer than requested only at the end."""
        parts: list[memoryview] = []
        missing = count
        while missing > 0:
            if self._at == len(self._block) and not self._next():
                break
            part = self._block[self._at : self._at + missing]
            self._at += len(part)
            missing -= len(part)
            parts.append(part)
        self._offset += count - missing
        return b"".join(parts)

    def skip(self, count: int) -> int:
        """Skip bytes by reading them; return how many were skipped."""
        missing = count
        while missing > 0:
            if self._at == len(self._block) and not self._next():
                break
            step = min(missing, len(self._block) - self._at)
            self._at += step
            missing -= step
        self._offset += count - missing
        return count - missing

    def _next(self) -> bool:
        self._block, self._at = memoryview(next(self._blocks, b"")), 0
        return len(self._block) > 0


class Hashed:
    """Hashes a file during reading, so a large file is read only once."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm, self.bytes = algorithm, 0
        self._hasher = hashlib.new(algorithm, usedforsecurity=False)

    def update(self, block: bytes) -> None:
        """Add the next bytes to the hash."""
        self._hasher.update(block)
        self.bytes += len(block)

    @property
    def hexdigest(self) -> str:
        """The hash of the bytes so far."""
        return self._hasher.hexdigest()


def open_stream(
    path: Path, *, hashed: Hashed | None = None, progress: Callable[[int], None] = lambda _: None
) -> Stream:
    """Open a file for sequential reading. A gzip file, known by its first bytes, is decompressed in a thread.

    Args:
        path: the file.
        hashed: receives all bytes of the file as stored. An uncompressed file is then read without seeks.
        progress: called with the number of stored bytes of each read.

    Raises:
        DataError: the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP
        if not packed and hashed is None:
            return FileStream(path, progress=progress)
        raw = _raw(path, hashed, progress)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the path") from None
    return BlockStream(_ahead(gunzip(raw, path.name)) if packed else raw, path.name)


def file_blocks(path: Path, progress: Callable[[int], None] = lambda _: None) -> Iterator[bytes]:
    """Yield the bytes of a file as stored, in blocks."""
    return _raw(path, None, progress)


def peeked(blocks: Iterator[bytes], count: int = 512) -> tuple[bytes, Iterator[bytes]]:
    """Return the first bytes of a sequence, at least `count` where there are so many, and the whole sequence."""
    head = b""
    while len(head) < count and (block := next(blocks, b"")):
        head += block
    return head, itertools.chain((head,) if head else (), blocks)


def read_all(path: Path, *, most: int) -> bytes:
    """Read a whole file; decompress it if it is gzip.

    Args:
        path: of the file.
        most: bytes that it may have, unpacked: a small gzip can hold any number of zeros.

    Raises:
        DataError: the file cannot be read, is damaged, or is larger.
    """
    stream = open_stream(path)
    parts, size = [], 0
    while part := stream.read(16 * BLOCK):
        size += len(part)
        if size > most:
            raise DataError(f"{path.name} has more than {most:,} bytes, unpacked; it is not such a file")
        parts.append(part)
    return b"".join(parts)


def _raw(path: Path, hashed: Hashed | None, progress: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            if hashed is not None:
                hashed.update(block)
            progress(len(block))
            yield block


def gunzip(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Decompress gzip members in order, with at most a few blocks in memory."""
    read, left = 0, next(blocks, b"")
    while left:
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        while not unpacker.eof:
            if not left and not (left := next(blocks, b"")):
                raise CutError(f"{name} is cut off: it ends at byte {read} inside its gzip data")
            before, piece = unpacker.copy(), left[:PIECE]
            try:
                out = unpacker.decompress(piece, BLOCK)
            except zlib.error as error:
                yield _up_to_the_damage(before, piece)
                reason = str(error).rpartition(": ")[2]
                raise CutError(f"{name} is damaged after byte {read}: gzip reports {reason}") from None
            rest = (unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail) + left[PIECE:]
            read += len(left) - len(rest)
            left = rest
            if out:
                yield out
        left, padding = _without_zeros(left, blocks)
        read += padding


def _without_zeros(left: bytes, blocks: Iterator[bytes]) -> tuple[bytes, int]:
    """Skip the zero padding after a member; return the bytes that follow and the length of the padding."""
    padding = 0
    while True:
        bare = left.lstrip(b"\0")
        padding += len(left) - len(bare)
        if bare or not (left := next(blocks, b"")):
            return bare, padding


def _up_to_the_damage(unpacker: zlib._Decompress, piece: bytes) -> bytes:
    """Decompress byte by byte up to the damage. gzip finds no damage in the bytes before it."""
    found = bytearray()
    try:
        for at in range(len(piece)):
            found += unpacker.decompress(piece[at : at + 1])
    except zlib.error:
        pass
    return bytes(found)


def _ahead(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Produce the next blocks in a thread while the caller uses one. zlib releases the interpreter lock."""
    made: Queue[bytes | Exception | None] = Queue(maxsize=AHEAD)
    closed = threading.Event()

    def work() -> None:
        try:
            for block in blocks:
                made.put(block)
                if closed.is_set():
                    return
            made.put(None)
        except Exception as error:  # noqa: BLE001 - the consumer raises it
            made.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (block := made.get()) is not None:
            if isinstance(block, Exception):
                raise block
            yield block
    finally:
        closed.set()
        while thread.is_alive():  # the thread may wait for space in the queue
            while not made.empty():
                made.get_nowait()
            thread.join(0.01)
