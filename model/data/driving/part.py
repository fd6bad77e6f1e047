"""A part: the frames and signals extracted so far from one bag or stretch.

A part consists of files that are appended to and a state file that is replaced atomically. After an interruption the
files are truncated to the sizes in the state, and extraction resumes at the offset in the state.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.atomic_files import write_file
from model.data.driving.bag import Connection
from model.errors import DataError

STATE = "state.json"
FRAMES = "frames.u8"
FRAME = np.dtype([("stamp_ns", "<i8"), ("camera", "|u1"), ("topic", "<u2")])  # topic: its place in State.topics
# The fields of each signal besides its stamp, all float64.
SIGNALS: Mapping[str, tuple[str, ...]] = {
    "steering": ("steering_angle", "speed"),
    "brake": ("brake",),
    "throttle": ("throttle",),
    "gear": ("gear",),
    "gps": ("latitude", "longitude"),
    "fix": ("latitude", "longitude"),  # the second receiver: 400 fixes per second
    "velocity": ("speed",),
}
THINNED = ("fix", "velocity")  # signals with hundreds of samples per second
SLOT_NS = 50_000_000  # a thinned signal keeps one sample in each interval of this length
LATEST_NS = 1 << 62  # the year 2116, beyond any ROS stamp; the difference of two stamps fits into an int64
LARGEST = float(np.finfo(np.float32).max)
NOTES = 5  # lines kept for each kind of damage


def signal_type(name: str) -> np.dtype[Any]:
    """Return the numpy type of a row of a signal."""
    return np.dtype([("stamp_ns", "<i8"), *((column, "<f8") for column in SIGNALS[name])])


@dataclass
class State:
    """The progress of a part, as in its state file."""

    next_offset: int = 0  # in the bag (or row in the table) at which extraction resumes
    done: bool = False
    sizes: dict[str, int] = field(default_factory=dict)  # bytes of each file
    bag: str = ""  # the name of the bag
    seen: dict[str, int] = field(
        default_factory=dict
    )  # number of images of each topic in the bag so far, for the stride
    topics: dict[str, int] = field(default_factory=dict)  # number of images of each topic in this part, in any order
    slots: dict[str, int] = field(default_factory=dict)  # by connection: the interval of the last sample kept
    notes: dict[str, tuple[int, list[str]]] = field(default_factory=dict)  # by kind: count of notes, first lines
    connections: list[dict[str, Any]] = field(default_factory=list)

    def note(self, kind: str, line: str) -> None:
        """Count a damage by its kind, and keep the first lines of each kind."""
        count, lines = self.notes.get(kind, (0, []))
        self.notes[kind] = (count + 1, [*lines, line] if len(lines) < NOTES else list(lines))

    def count(self, topic: str) -> int:
        """Count an image of a topic; return how many came before it in the bag."""
        self.topics[topic] = self.topics.get(topic, 0) + 1
        before = self.seen.get(topic, 0)
        self.seen[topic] = before + 1
        return before

    def known(self) -> dict[int, Connection]:
        """Return the connections found so far. A bag holds each only once."""
        return {one["id"]: Connection(**one) for one in self.connections}


class Part:
    """The folder of a part, open for appending.

    Args:
        folder: the folder; created if it does not exist.
        frame_bytes: bytes of one frame.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, frame_bytes: int) -> None:
        self.folder, self.frame_bytes = folder, frame_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self.state = read_state(folder)
        self._files: dict[str, Any] = {}
        for path in folder.iterdir():
            if path.name != STATE and path.name not in self.state.sizes:
                path.unlink()

    def frame(self, stamp_ns: int, camera: int, topic: str, pixels: NDArray[np.uint8]) -> None:
        """Append a frame of a topic that was counted.

        Raises:
            DataError: the stamp is out of range; nothing is appended.
        """
        row = np.array([(_stamp(stamp_ns), camera, list(self.state.topics).index(topic))], FRAME).tobytes()
        self._append(FRAMES, np.ascontiguousarray(pixels).tobytes())
        self._append("frames.idx", row)

    def signal(self, name: str, stamp_ns: int, values: tuple[float, ...]) -> None:
        """Append a sample of telemetry; a value outside the range of float32 becomes NaN.

        Raises:
            DataError: the stamp is out of range.
        """
        numbers = (value if -LARGEST <= value <= LARGEST else math.nan for value in values)
        self._append(f"{name}.rows", np.array([(_stamp(stamp_ns), *numbers)], signal_type(name)).tobytes())

    def commit(self, next_offset: int, connections: Mapping[int, Connection], *, done: bool = False) -> None:
        """Write the appended frames and samples to the disk, then replace the state.

        Raises:
            OSError: the disk is full.
        """
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            self.state.sizes[name] = file.tell()
        self.state.next_offset, self.state.done = next_offset, done
        self.state.connections = [asdict(one) for one in connections.values()]
        write_file(self.folder / STATE, json.dumps(asdict(self.state)).encode())

    def _append(self, name: str, content: bytes) -> None:
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = (self.folder / name).open("ab")
            file.truncate(self.state.sizes.get(name, 0))
            file.seek(0, os.SEEK_END)
        file.write(content)

    def __enter__(self) -> Part:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            try:
                file.close()
            except OSError:
                if error is None:
                    raise
        self._files.clear()


def _stamp(stamp_ns: int) -> int:
    if not 0 < stamp_ns < LATEST_NS:
        raise DataError(f"the stamp {str(stamp_ns)[:24]} ns is out of range")
    return stamp_ns


def read_state(folder: Path) -> State:
    """Read the state of a part; return an empty one if it has none."""
    try:
        content = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return State()
    content["notes"] = {kind: (count, lines) for kind, (count, lines) in content["notes"].items()}
    return State(**content)


def read_rows(folder: Path, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read the committed rows of a file of a part."""
    size = read_state(folder).sizes.get(name, 0)
    if not size:
        return np.empty(0, dtype)
    with (folder / name).open("rb") as file:
        return np.frombuffer(file.read(size), dtype)
