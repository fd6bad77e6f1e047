"""How the contents of files travel in one stream: pieces, runs of zeros, and the end of each file.

A frame is a kind (one byte), a number (8 bytes, big endian), and for a piece as many bytes. A run of zeros is told by
its length, so that a sparse file of gigabytes is sent in no time. A file that is not there any more is said to be gone.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import BinaryIO

HEADER = struct.Struct(">cQ")
PIECE, ZEROS, END, GONE = b"D", b"Z", b"E", b"G"
PIECE_BYTES = 1 << 18
ALL_ZEROS = bytes(PIECE_BYTES)


def write_file(write: Callable[[bytes], object], file: BinaryIO, size_bytes: int, number: int) -> bool:
    """Write the next `size_bytes` of a file as frames; return False if it was shorter, which is told as gone.

    Args:
        write: takes bytes.
        file: open to read, at the first byte that is sent.
        size_bytes: how many are sent.
        number: of the file in its list.
    """
    zeros = 0
    while size_bytes:
        piece = file.read(min(PIECE_BYTES, size_bytes))
        if not piece:
            write(HEADER.pack(GONE, number))
            return False
        size_bytes -= len(piece)
        if piece == ALL_ZEROS[: len(piece)]:
            zeros += len(piece)
            continue
        if zeros:
            write(HEADER.pack(ZEROS, zeros))
            zeros = 0
        write(HEADER.pack(PIECE, len(piece)) + piece)
    if zeros:
        write(HEADER.pack(ZEROS, zeros))
    write(HEADER.pack(END, number))
    return True


def write_gone(write: Callable[[bytes], object], number: int) -> None:
    """Say that a file is not there any more."""
    write(HEADER.pack(GONE, number))


class BadFramesError(ValueError):
    """The stream is none that `write_file` writes."""


class FrameReader:
    """Takes a stream apart, however it is cut into pieces.

    Args:
        data: is given a piece of the present file.
        zeros: is given how many zeros come next in it.
        end: is given the number of a file, and whether it came whole; the next frame belongs to the next file.
    """

    def __init__(
        self, data: Callable[[bytes], object], zeros: Callable[[int], object], end: Callable[[int, bool], object]
    ) -> None:
        self._data = data
        self._zeros = zeros
        self._end = end
        self._header = b""
        self._left = 0  # bytes of the present piece

    def feed(self, received: bytes) -> None:
        """Take what came next.

        Raises:
            BadFramesError: it is no such stream.
        """
        view = memoryview(received)
        while view:
            if self._left:
                piece = view[: self._left]
                self._data(bytes(piece))
                self._left -= len(piece)
                view = view[len(piece) :]
                continue
            missing = HEADER.size - len(self._header)
            self._header += bytes(view[:missing])
            view = view[missing:]
            if len(self._header) == HEADER.size:
                self._begin(*HEADER.unpack(self._header))
                self._header = b""

    def _begin(self, kind: bytes, number: int) -> None:
        if kind == PIECE and number <= PIECE_BYTES:
            self._left = number
        elif kind == ZEROS:
            self._zeros(number)
        elif kind in (END, GONE):
            self._end(number, kind == END)
        else:
            raise BadFramesError(f"the stream of files is damaged: frame {kind!r} of {number}")
