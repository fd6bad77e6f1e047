"""Contents of a program's outputs on their way: from a machine, each compared by its digest, and to the next one.

The form of the stream is in `infra/instance/outputs/frames.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from infra.instance.outputs.frames import HEADER, PIECE_BYTES, BadFramesError, FrameReader, write_file
from orchestrator.errors import HostError
from orchestrator.runs.output_tree import TreeFile, TreeState

READ_BYTES = 1 << 20


class TreeReceiver:
    """Writes what arrives into a folder, each content under its SHA-256.

    Args:
        files: that are asked for, of the kind "file", no digest twice.
        folder: where they go.
        had: by name, where the first `after_bytes` of a file are.
    """

    def __init__(self, files: Sequence[TreeFile], folder: Path, had: Mapping[str, Path]) -> None:
        self._files = files
        self._folder = folder
        self._offsets = [self._begin(file, had.get(file.name)) for file in files]
        self.asked = [[file.name, file.sha256, at] for file, at in zip(files, self._offsets, strict=True)]
        self.missing_bytes = sum(f.size_bytes - at for f, at in zip(files, self._offsets, strict=True))
        self._here: set[str] = set()
        self._at = 0
        self._file: BinaryIO | None = None
        self._size = 0
        self._reader = FrameReader(self._data, self._zeros, self._end)

    @property
    def here(self) -> frozenset[str]:
        """The digests of the contents that have arrived."""
        return frozenset(self._here)

    def _part(self, file: TreeFile) -> Path:
        return self._folder / f"{file.sha256}.part"

    def _begin(self, file: TreeFile, base: Path | None) -> int:
        """Return how many bytes of a file are here: of an earlier try, or of its base."""
        part = self._part(file)
        size = part.stat().st_size if part.exists() else 0
        if size > file.size_bytes:
            part.unlink()
            size = 0
        if size < file.after_bytes and base is not None:
            with suppress(OSError), base.open("rb") as source, part.open("wb") as target:
                left = file.after_bytes
                while left and (piece := source.read(min(READ_BYTES, left))):
                    target.write(piece)
                    left -= len(piece)
                size = file.after_bytes - left
        return size

    def __enter__(self) -> TreeReceiver:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def feed(self, received: bytes) -> None:
        """Take what came next.

        Raises:
            HostError: it is not what was asked for.
            OSError: it cannot be written.
        """
        try:
            self._reader.feed(received)
        except BadFramesError as error:
            raise HostError(f"the outputs that arrive make no sense: {error}") from None

    def _open(self, adds: int) -> BinaryIO:
        if self._at >= len(self._files):
            raise HostError("more outputs arrive than were asked for")
        file = self._files[self._at]
        if self._file is None:
            self._file = self._part(file).open("ab")
            self._size = self._offsets[self._at]
        self._size += adds
        if self._size > file.size_bytes:
            raise HostError(f"{file.path[:80]!r} arrives larger than it was announced")
        return self._file

    def _data(self, piece: bytes) -> None:
        self._open(len(piece)).write(piece)

    def _zeros(self, count: int) -> None:
        file = self._open(count)
        file.truncate(self._size)
        file.seek(self._size)

    def _end(self, number: int, is_whole: bool) -> None:
        if number != self._at:
            raise HostError("the outputs arrive in another order than they were asked for")
        self._open(0).close()
        self._file = None
        file, part = self._files[self._at], self._part(self._files[self._at])
        self._at += 1
        if is_whole and part.stat().st_size == file.size_bytes and _sha256_of(part) == file.sha256:
            os.replace(part, self._folder / file.sha256)
            self._here.add(file.sha256)
        else:
            part.unlink()  # it was replaced on the machine, or its beginning here is another one


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def most_stream_bytes(size_bytes: int, files: int) -> int:
    """Return how long a stream of so much content can be."""
    return size_bytes + HEADER.size * (2 * (size_bytes // PIECE_BYTES + 1) + 4 * files)


def feed_state(state: TreeState, contents: Callable[[TreeFile], Path], write: Callable[[bytes], object]) -> None:
    """Write a state as `agent.py restore` reads it.

    Raises:
        OSError: a content cannot be read here.
    """
    entries = []
    for file in state.files.values():
        entry = asdict(file)
        entry["size"] = entry.pop("size_bytes")
        entry.pop("after_bytes")
        entries.append(entry)
    listed = json.dumps({"state": state.number, "files": entries}).encode()
    write(len(listed).to_bytes(8, "big") + listed)
    for number, file in enumerate(file for file in state.files.values() if file.kind == "file"):
        with contents(file).open("rb") as content:
            write_file(write, content, file.size_bytes, number)
