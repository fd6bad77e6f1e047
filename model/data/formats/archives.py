"""Reads the files of a tar, a tar.gz or a zip in their order, without unpacking them to the disk."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from model.data.files.clutter import LeftOut
from model.data.formats.stream import BLOCK, GZIP, BlockStream, CutError, Hashed, Stream, open_stream
from model.data.formats.tar import Member, members
from model.errors import DataError

ZIP = b"PK\x03\x04"
EMPTY_ZIP = b"PK\x05\x06"
# Archives of other programs, by their first bytes, with the command that unpacks them.
OTHERS = {
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "7z x"),
    b"Rar!\x1a\x07": ("a RAR archive", "unrar x"),
    b"\xfd7zXZ\x00": ("compressed by xz", "tar xf or unxz"),
    b"BZh": ("compressed by bzip2", "tar xf or bunzip2"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unzstd"),
    b"\x04\x22\x4d\x18": ("compressed by lz4", "unlz4"),
}
OF_WINDOWS = 0  # APPNOTE 4.4.2: the member was made on a FAT file system
HEADER_BYTES = 512  # of a tar: what is shorter is none
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)


def first_bytes(path: Path, count: int = 512) -> bytes:
    """Read the first bytes of a file.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the path") from None


def is_zip(first: bytes) -> bool:
    """Return whether a file is a zip, by its first bytes."""
    return first.startswith((ZIP, EMPTY_ZIP))


def is_tar(first: bytes) -> bool:
    """Return whether a file is an uncompressed tar, by its first 262 bytes."""
    return first[257:262] == b"ustar"


def is_archive(path: Path) -> bool:
    """Return whether a file is a tar, a gzip or a zip file, by its first bytes."""
    first = first_bytes(path)
    return first[:2] == GZIP or is_tar(first) or is_zip(first)


def refuse_others(name: str, first: bytes) -> None:
    """Refuse an archive of a format that is not read.

    Raises:
        DataError: the first bytes are those of such a format; the message names the program that unpacks it.
    """
    for magic, (what, program) in OTHERS.items():
        if first.startswith(magic):
            raise DataError(f"{name} is {what}, which is not read; unpack it ({program}) and give what it holds")


def files_of(
    path: Path,
    left_out: LeftOut,
    *,
    hashed: Hashed | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Member]:
    """Yield the files of an archive in order, each to be read before the next; files that are no data are counted.

    Args:
        path: the archive.
        left_out: counts the files that are left out.
        hashed: receives all bytes of a tar or tar.gz as stored.
        progress: called with the number of stored bytes of each read.

    Raises:
        DataError: the file is no archive, or is damaged.
    """
    first = first_bytes(path)
    refuse_others(path.name, first)
    if len(first) < HEADER_BYTES and first[:2] != GZIP and not is_zip(first):
        raise DataError(f"{path.name} is no tar, tar.gz or zip; give an archive or a folder")
    stream = None if is_zip(first) else open_stream(path, hashed=hashed, progress=progress)
    for member in members(stream) if stream is not None else _zip_members(path, progress):
        if not left_out.takes(member.name):
            yield member
    while stream is not None and hashed is not None and stream.read(BLOCK):
        pass  # the published hash includes the padding after the end of the tar


def _zip_members(path: Path, progress: Callable[[int], None]) -> Iterator[Member]:
    """Yield the files of a zip in the order of its directory. The checksum of each is compared while it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if info.filename.startswith("/") or ".." in info.filename.replace("\\", "/").split("/"):
                    raise DataError(f"{path.name}: the name {info.filename!r} points outside the folder; not read")
                stream = BlockStream(_unzipped(archive, info, path.name), path.name)
                yield Member(_with_slashes(info), info.file_size, info.header_offset, stream)
                progress(info.compress_size)
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(f"{path.name} is damaged or is not a zip file: {_reason(error)}; fetch it again") from None


def _with_slashes(info: zipfile.ZipInfo) -> str:
    """Return the name of a member. Old programs of Windows write backslashes between the folders."""
    return info.filename.replace("\\", "/") if info.create_system == OF_WINDOWS else info.filename


def _unzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Iterator[bytes]:
    where = f"{name}: byte {info.header_offset}: {info.filename}"
    if info.flag_bits & 1:
        raise DataError(f"{where} has a password; unpack the archive and give its folder")
    try:
        with archive.open(info) as file:
            yield from _blocks(file)
    except UNREADABLE as error:
        raise CutError(f"{where} is damaged: {_reason(error)}") from None


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]


def inner_stream(member: Member) -> Stream:
    """Return the bytes of a member as a stream of its own, which ends where the member ends."""
    return BlockStream(_of_member(member), f"{member.tar.name}:{member.name}")


def _of_member(member: Member) -> Iterator[bytes]:
    while block := member.read(min(BLOCK, member.left)) if member.left else b"":
        yield block
