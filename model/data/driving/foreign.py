"""Names recordings of ROS 2 and MCAP files, which are not read, with the tool that converts them."""

from __future__ import annotations

import shlex
from pathlib import Path

from model.errors import DataError

MCAP = b"\x89MCAP0\r\n"
SQLITE = b"SQLite format 3\0"
ZSTD = b"\x28\xb5\x2f\xfd"
SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
METADATA, MARK = "metadata.yaml", b"rosbag2_bagfile_information"
HOW = "pip install rosbags, then: rosbags-convert --src {source} --dst {bag}"


def recording(name: str, first: bytes) -> str | None:
    """Return what a recording of another format is, by its name and first bytes; None if it is none.

    Args:
        name: the name of the file.
        first: its first bytes, 64 or more where there are so many.
    """
    if first.startswith(MCAP):
        profile = _profile(first)
        return f"an MCAP file{' of ROS 1' if profile == b'ros1' else ' of ROS 2' if profile == b'ros2' else ''}"
    if first.startswith(SQLITE):
        return "a ROS 2 bag (SQLite)"
    if first.startswith(ZSTD) and name.lower().endswith(SUFFIXES):
        return "a ROS 2 bag (compressed by zstd)"
    return None


def is_bag2(folder: Path) -> bool:
    """Return whether a folder is a bag of ROS 2: it has a `metadata.yaml` that says so."""
    try:
        with (folder / METADATA).open("rb") as file:
            return MARK in file.read(4096)
    except OSError:
        return False


def refusal(path: Path, what: str, *, within: str = "") -> DataError:
    """Return the error that names a recording and the tool that converts it.

    Args:
        path: the file or the folder of the bag.
        what: what it is, as `recording` returns it.
        within: the name of the archive that holds it, which has to be unpacked first.
    """
    name = f"{within}:{path}" if within else str(path)
    place = path.parent if path.is_file() and is_bag2(path.parent) else path
    bag = f"{(place.name if place.is_dir() else place.name.partition('.')[0]) or 'drive'}.bag"
    if "MCAP file of ROS 1" in what:
        how = "write its messages to a ROS 1 bag, such as with the Python packages mcap-ros1-support and rosbags"
    else:
        how = HOW.format(source=shlex.quote(str(place)), bag=shlex.quote(bag))
    unpack = "unpack the archive and " if within else ""
    return DataError(f"{name} is {what}, not a bag of ROS 1; {unpack}convert it: {how}")


def _profile(first: bytes) -> bytes:
    """Return the profile of an MCAP file: in its first record, after an operation code and a length of 8 bytes."""
    begin = len(MCAP) + 9
    length = int.from_bytes(first[begin : begin + 4], "little")
    return first[begin + 4 : begin + 4 + length] if length <= 32 else b""
