"""Finds files in a folder and in the archives in it, by their unpacked content, one after the other."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from model.data.files.clutter import LeftOut
from model.data.files.fingerprint import files_below
from model.data.formats.archives import files_of, first_bytes, inner_stream, is_tar, is_zip, refuse_others
from model.data.formats.stream import BLOCK, GZIP, BlockStream, Stream, file_blocks, gunzip, peeked
from model.data.formats.tar import members

DEEPEST = 4  # archives in archives
COPY = re.compile(r"( \(\d+\)| - copy(?: \(\d+\))?| copy(?: \d+)?)$")  # what browsers and systems add to a name
Wanted = Callable[[str, int | None], bool]  # of the name without .gz, and the size in bytes where it is known
Progress = Callable[[int], None]


@dataclass
class Leaf:
    """A file that is no archive. Its content can be read until the next leaf is requested."""

    place: Path  # the file on the disk that holds it
    inner: str  # its name in the archive, with the names of archives in archives before it; "" for the file itself
    size: int | None  # bytes, unpacked; None where only its end tells
    blocks: Iterator[bytes]  # the content, unpacked

    @property
    def name(self) -> str:
        """Its bare name, without `.gz` and without what a browser adds to a second copy."""
        return bare_name(self.inner or self.place.name)

    @property
    def label(self) -> str:
        """The name for messages."""
        return f"{self.place.name}:{self.inner}" if self.inner else self.place.name


def bare_name(name: str) -> str:
    """Return the last part of a name without `.gz` and without the ` (1)` of a second copy, in lower case."""
    last = name.replace("\\", "/").rpartition("/")[2].lower().removesuffix(".gz")
    stem, dot, suffix = last.partition(".")
    return COPY.sub("", stem) + dot + COPY.sub("", suffix)


def leaves(
    source: Path,
    wanted: Wanted,
    left_out: LeftOut,
    *,
    archives: bool,
    progress: Progress = lambda _: None,
    enough: Callable[[], bool] = lambda: False,
) -> Iterator[Leaf]:
    """Yield the wanted files of a source: of a folder those on the disk, or with `archives` those in its archives.

    Args:
        source: a folder or a file.
        wanted: returns whether a file may be one of those looked for. Others are not read.
        left_out: counts the files that are no data; those of a folder only without `archives`.
        archives: whether archives are read, instead of the files on the disk.
        progress: called with the number of stored bytes of each read.
        enough: returns whether no further file on the disk has to be opened.

    Raises:
        DataError: a file cannot be read, or an archive is damaged.
    """
    if source.is_file():
        paths = [source]
    else:
        skipped = LeftOut() if archives else left_out
        paths = sorted((source / name for name in files_below(source, skipped)), key=lambda path: len(path.parts))
    for path in paths:
        if enough():
            return
        first = first_bytes(path)
        if path == source:
            refuse_others(path.name, first)
        packed = is_zip(first) or is_tar(first) or (first[:2] == GZIP and _holds_tar(path))
        if packed and archives:
            yield from _in_archive(path, wanted, left_out, progress)
        elif not packed and not archives:
            size = unpacked_size(path, first)
            if wanted(bare_name(path.name), size):
                blocks = file_blocks(path, progress)
                yield Leaf(path, "", size, gunzip(blocks, path.name) if first[:2] == GZIP else blocks)


def _in_archive(path: Path, wanted: Wanted, left_out: LeftOut, progress: Progress) -> Iterator[Leaf]:
    for member in files_of(path, left_out, progress=progress):
        if _packed_name(member.name) or wanted(bare_name(member.name), member.size):
            leaf = Leaf(path, member.name, member.size, _blocks(inner_stream(member)))
            yield from _unpacked(leaf, wanted, left_out, DEEPEST)


def _unpacked(leaf: Leaf, wanted: Wanted, left_out: LeftOut, deepest: int) -> Iterator[Leaf]:
    """Yield a file in an archive, or the files of a gzip or tar in it."""
    head, blocks = peeked(leaf.blocks)
    size = leaf.size
    if head[:2] == GZIP:
        size = None
        head, blocks = peeked(gunzip(blocks, leaf.label))
    if is_tar(head) and deepest:
        for member in members(BlockStream(blocks, leaf.label)):
            if not left_out.takes(member.name):
                inner = Leaf(leaf.place, f"{leaf.inner}:{member.name}", member.size, _blocks(inner_stream(member)))
                yield from _unpacked(inner, wanted, left_out, deepest - 1)
    elif wanted(bare_name(leaf.inner.rpartition(":")[2]), size):
        yield Leaf(leaf.place, leaf.inner, size, blocks)


def _packed_name(name: str) -> bool:
    return name.lower().endswith((".gz", ".tgz", ".tar"))


def _blocks(stream: Stream) -> Iterator[bytes]:
    while block := stream.read(BLOCK):
        yield block


def _holds_tar(path: Path) -> bool:
    try:
        head, _ = peeked(gunzip(file_blocks(path), path.name))
    except ValueError:  # a CutError: whoever reads the file says so
        return False
    return is_tar(head)


def unpacked_size(path: Path, first: bytes) -> int | None:
    """Return the size of a file; of a gzip the size that its last four bytes give."""
    size = path.stat().st_size
    if first[:2] != GZIP or size < 18:
        return size
    with path.open("rb") as file:
        file.seek(size - 4)
        return int(struct.unpack("<I", file.read(4))[0])
