"""What has been taken out of one bag, or a stretch of it, so far: files that grow, a state that is replaced at once.

After a kill the files are cut back to what the last state says, and reading goes on at its place in the bag.
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
FRAME = np.dtype([("stamp_ns", "<i8"), ("camera", "|u1")])
# What is kept of each signal beside its stamp; all of them as float64.
SIGNALS: Mapping[str, tuple[str, ...]] = {
    "steering": ("steering_angle", "speed"),
    "brake": ("brake",),
    "throttle": ("throttle",),
    "gear": ("gear",),
    "gps": ("latitude", "longitude"),
    "fix": ("latitude", "longitude"),  # the second receiver, with 400 fixes a second
    "velocity": ("speed",),
}
THINNED = ("fix", "velocity")  # signals that come hundreds of times a second
SLOT_NS = 50_000_000  # of those, one sample in so long is kept
LATEST_NS = 1 << 62  # the year 2116, ten more than a stamp of ROS can say: differences of two stamps fit into an int64
LARGEST = float(np.finfo(np.float32).max)
NOTES = 5  # lines kept of each kind of damage


def signal_type(name: str) -> np.dtype[Any]:
    """Give the type of a row of a signal."""
    return np.dtype([("stamp_ns", "<i8"), *((column, "<f8") for column in SIGNALS[name])])


@dataclass
class State:
    """The state of a part."""

    next_offset: int = 0  # in the bag
    done: bool = False
    sizes: dict[str, int] = field(default_factory=dict)  # bytes of each file
    seen: dict[str, int] = field(default_factory=dict)  # images of each camera so far, for the stride
    slots: dict[str, int] = field(default_factory=dict)  # by connection: the last in which a sample was kept
    notes: dict[str, tuple[int, list[str]]] = field(default_factory=dict)  # by kind: how many, and the first lines
    connections: list[dict[str, Any]] = field(default_factory=list)

    def note(self, kind: str, line: str) -> None:
        """Note damage: the first lines of each kind, and their number."""
        count, lines = self.notes.get(kind, (0, []))
        self.notes[kind] = (count + 1, [*lines, line] if len(lines) < NOTES else list(lines))

    def known(self) -> dict[int, Connection]:
        """Return the connections found so far: the bag holds each only once."""
        return {one["id"]: Connection(**one) for one in self.connections}


class Part:
    """A folder that holds a part.

    Args:
        folder: made if it is not there.
        frame_bytes: of one frame.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path, frame_bytes: int) -> None:
        self.folder, self.frame_bytes = folder, frame_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self.state = read_state(folder)
        self._files: dict[str, Any] = {}
        for path in folder.iterdir():
            if path.name != STATE and path.name not in self.state.sizes:
                path.unlink()

    def frame(self, stamp_ns: int, camera: int, pixels: NDArray[np.uint8]) -> None:
        """Append a frame.

        Raises:
            DataError: a stamp that no drive has; nothing of it is appended.
        """
        row = np.array([(_stamp(stamp_ns), camera)], FRAME).tobytes()
        self._append(FRAMES, np.ascontiguousarray(pixels).tobytes())
        self._append("frames.idx", row)

    def signal(self, name: str, stamp_ns: int, values: tuple[float, ...]) -> None:
        """Append a sample of telemetry; a value outside the range of float32 becomes NaN.

        Raises:
            DataError: a stamp that no drive has.
        """
        numbers = (value if -LARGEST <= value <= LARGEST else math.nan for value in values)
        self._append(f"{name}.rows", np.array([(_stamp(stamp_ns), *numbers)], signal_type(name)).tobytes())

    def commit(self, next_offset: int, connections: Mapping[int, Connection], *, done: bool = False) -> None:
        """Commit the appended rows.

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
        raise DataError(f"a stamp of {str(stamp_ns)[:24]} ns, outside the range of a clock")
    return stamp_ns


def read_state(folder: Path) -> State:
    """Read the state of a part; a new one if there is none."""
    try:
        content = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return State()
    content["notes"] = {kind: (count, lines) for kind, (count, lines) in content["notes"].items()}
    return State(**content)


def read_rows(folder: Path, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read the committed rows of a file."""
    size = read_state(folder).sizes.get(name, 0)
    if not size:
        return np.empty(0, dtype)
    with (folder / name).open("rb") as file:
        return np.frombuffer(file.read(size), dtype)
