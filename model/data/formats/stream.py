"""Sequential byte streams from a file or a .gz, with their offsets: nothing is unpacked to the disk."""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Protocol

from model.errors import DataError

BLOCK = 1 << 20
PIECE = 128 << 10  # of packed bytes, unpacked at a time
AHEAD = 4  # blocks that are unpacked before they are asked for
GZIP = b"\x1f\x8b"


class CutError(DataError):
    """The bytes end early, or are damaged."""


class Stream(Protocol):
    """Bytes that are read once, in order."""

    name: str

    @property
    def offset(self) -> int:
        """Bytes read so far."""

    def read(self, count: int) -> bytes:
        """Return the next bytes; fewer than requested only at the end."""

    def skip(self, count: int) -> int:
        """Skip bytes; return how many were skipped."""


class FileStream:
    """A file, from a place on.

    Args:
        path: of the file.
        start: the first byte.
        tell: called with the number of bytes each time some are read or skipped.
    """

    def __init__(self, path: Path, start: int = 0, tell: Callable[[int], None] = lambda _: None) -> None:
        self.name, self._tell = path.name, tell
        self._file = path.open("rb", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size
        self._file.seek(start)
        self._offset = start

    @property
    def offset(self) -> int:
        """Bytes from the beginning of the file."""
        return self._offset

    def read(self, count: int) -> bytes:
        """Read; fewer than requested only at the end."""
        count = min(count, max(0, self._size - self._offset))  # memory is taken for what is asked for
        got = self._file.read(count)
        while len(got) < count and (more := self._file.read(count - len(got))):
            got += more
        self._offset += len(got)
        self._tell(len(got))
        return got

    def skip(self, count: int) -> int:
        """Seek, but not beyond the end."""
        count = max(0, min(count, self._size - self._offset))
        self._file.seek(count, os.SEEK_CUR)
        self._offset += count
        self._tell(count)
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class BlockStream:
    """An iterator of blocks as one stream."""

    def __init__(self, blocks: Iterator[bytes], name: str) -> None:
        self.name = name
        self._blocks, self._block, self._at, self._offset = blocks, memoryview(b""), 0, 0

    @property
    def offset(self) -> int:
        """Bytes read so far."""
        return self._offset

    def read(self, count: int) -> bytes:
        """Read; fewer than requested only at the end."""
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
        """Skip bytes by reading them."""
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
    """Hashes a file while it is read, so that 131 GB are read once."""

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


def open_stream(path: Path, *, hashed: Hashed | None = None, tell: Callable[[int], None] = lambda _: None) -> Stream:
    """Open a file for reading in order; a thread decompresses gzip, which its first bytes identify.

    Args:
        path: of the file.
        hashed: takes all bytes of the file as they lie on the disk; then a plain file is not seeked in either.
        tell: called with the number of those bytes that were read.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP
        if not packed and hashed is None:
            return FileStream(path, tell=tell)
        raw = _raw(path, hashed, tell)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the path") from None
    return BlockStream(_ahead(_gunzip(raw, path.name)) if packed else raw, path.name)


def read_all(path: Path, *, most: int) -> bytes:
    """Read a whole file, unpacked if it is gzip.

    Args:
        path: of the file.
        most: bytes that it may have, unpacked: a small gzip can hold any number of zeros.

    Raises:
        DataError: it cannot be read, is damaged, or is larger.
    """
    stream = open_stream(path)
    parts, size = [], 0
    while part := stream.read(16 * BLOCK):
        size += len(part)
        if size > most:
            raise DataError(f"{path.name} has more than {most:,} bytes, unpacked; it is not such a file")
        parts.append(part)
    return b"".join(parts)


def _raw(path: Path, hashed: Hashed | None, tell: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            if hashed is not None:
                hashed.update(block)
            tell(len(block))
            yield block


def _gunzip(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Unpack gzip, one member after the other, never more than a few blocks at a time."""
    read, left = 0, next(blocks, b"")
    while left:
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        while not unpacker.eof:
            if not left and not (left := next(blocks, b"")):
                raise CutError(f"{name} is cut off: it ends at byte {read} inside of its gzip data")
            before, piece = unpacker.copy(), left[:PIECE]
            try:
                out = unpacker.decompress(piece, BLOCK)
            except zlib.error as error:
                yield _up_to_the_damage(before, piece)
                reason = str(error).rpartition(": ")[2]
                raise CutError(f"{name} is damaged behind byte {read}: gzip says {reason}") from None
            rest = (unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail) + left[PIECE:]
            read += len(left) - len(rest)
            left = rest
            if out:
                yield out
        left, padding = _without_zeros(left, blocks)
        read += padding


def _without_zeros(left: bytes, blocks: Iterator[bytes]) -> tuple[bytes, int]:
    """Go on behind the padding that follows a member, which may be many blocks long; and say how long it is."""
    padding = 0
    while True:
        bare = left.lstrip(b"\0")
        padding += len(left) - len(bare)
        if bare or not (left := next(blocks, b"")):
            return bare, padding


def _up_to_the_damage(unpacker: zlib._Decompress, piece: bytes) -> bytes:
    """Decompress byte by byte up to the damage: the bytes before it are whole as far as gzip can detect."""
    found = bytearray()
    try:
        for at in range(len(piece)):
            found += unpacker.decompress(piece[at : at + 1])
    except zlib.error:
        pass
    return bytes(found)


def _ahead(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Produce the next blocks in a thread while the caller uses this one: zlib releases the interpreter lock."""
    made: Queue[bytes | Exception | None] = Queue(maxsize=AHEAD)
    given_up = threading.Event()

    def work() -> None:
        try:
            for block in blocks:
                made.put(block)
                if given_up.is_set():
                    return
            made.put(None)
        except Exception as error:  # noqa: BLE001 - it is raised where the blocks are wanted
            made.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (block := made.get()) is not None:
            if isinstance(block, Exception):
                raise block
            yield block
    finally:
        given_up.set()
        while thread.is_alive():  # it may wait for room
            while not made.empty():
                made.get_nowait()
            thread.join(0.01)
