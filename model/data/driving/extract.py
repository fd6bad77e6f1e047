"""The first stage of a preparation: extracts frames and signals from bags into parts.

One process extracts one part and can resume after an interruption at any byte. A bag file with a valid index is split
into stretches, which several processes extract in parallel. A bag in an archive or without an index is one part. The
frames do not depend on the split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from model.data.driving import frames
from model.data.driving.bag import MAGIC, Bag, Chunk, Connection, Message, not_a_bag, read_index
from model.data.driving.frames import Recipe
from model.data.driving.messages import field as value_of
from model.data.driving.messages import layout, needed
from model.data.driving.part import SLOT_NS, THINNED, Part, read_state
from model.data.formats.stream import GZIP, CutError, FileStream, Hashed, Stream, open_stream
from model.data.formats.tar import MemberStream, members
from model.errors import DataError

CAMERAS = ("left", "center", "right")
SWAPPED = "2016-10-25"  # bags of this day have the left and centre camera exchanged (as in Udacity's reader)

# By message type: the name of the signal, and the fields to extract.
SIGNAL_TYPES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "dbw_mkz_msgs/SteeringReport": ("steering", ("steering_wheel_angle", "speed")),
    "dbw_mkz_msgs/BrakeReport": ("brake", ("pedal_input",)),
    "dbw_mkz_msgs/ThrottleReport": ("throttle", ("pedal_input",)),
    "dbw_mkz_msgs/GearReport": ("gear", ("state.gear",)),
    "sensor_msgs/NavSatFix": ("gps", ("latitude", "longitude")),
    "geometry_msgs/TwistStamped": ("velocity", ("twist.linear.x", "twist.linear.y", "twist.linear.z")),
}
IMAGES = ("sensor_msgs/Image", "sensor_msgs/CompressedImage")
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Selection:
    """The cameras and signals to extract from a bag."""

    recipe: Recipe
    cameras: tuple[str, ...]
    stride: int = 1
    commit_bytes: int = 256 << 20  # read between two commits; a killed process loses at most as much


@dataclass(frozen=True)
class Stretch:
    """A bag file, or a contiguous range of one."""

    path: Path
    folder: Path  # of its part
    start: int = 0
    end: int | None = None  # None: the end of the bag
    connections: dict[int, Connection] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)  # number of images of each camera before the stretch


@dataclass(frozen=True)
class Archive:
    """A tar or tar.gz of bags. Each run reads it from the first byte, since gzip has no random access."""

    path: Path
    folder: Path
    algorithm: str | None = None  # hash algorithm; None: no hash


def stretches(path: Path, folder: Path, *, stretch_bytes: int) -> list[Stretch]:
    """Split a bag into stretches. A bag without a valid index is one stretch.

    Raises:
        DataError: the file is not a bag.
    """
    index = read_index(path)
    if index is None or not index.offsets:
        return [Stretch(path, folder / "000")]
    cameras = {number: _camera(one, path.name) for number, one in index.connections.items() if one.type in IMAGES}
    found: list[Stretch] = []
    seen = dict.fromkeys(CAMERAS, 0)
    begin, before = 0, dict(seen)
    for at, offset in enumerate(index.offsets):
        if at and offset - begin >= stretch_bytes:
            found.append(Stretch(path, folder / f"{len(found):03d}", begin, offset, index.connections, before))
            begin, before = offset, dict(seen)
        for number, count in index.counts[at].items():
            if number in cameras:
                seen[cameras[number]] += count
    found.append(Stretch(path, folder / f"{len(found):03d}", begin, None, index.connections, before))
    return found


def extract(stretch: Stretch, selection: Selection, progress: Progress = lambda _: None) -> None:
    """Extract a stretch, or the rest of it after an interruption.

    Raises:
        DataError: the file is not a bag, or the disk is full.
    """
    size = selection.recipe.size
    try:
        with Part(stretch.folder, size * size * 3) as part:
            if part.state.done:
                return
            start = max(part.state.next_offset, stretch.start, 0)
            progress(part.state.next_offset - stretch.start if part.state.next_offset else 0)
            if not part.state.next_offset:
                part.state.seen = dict(stretch.seen)
            stream = FileStream(stretch.path, start, progress)
            try:
                known = {**stretch.connections, **part.state.known()}
                _extract(stream, part, selection, known=known, end=stretch.end)
            finally:
                stream.close()
    except OSError as error:
        raise _cannot(stretch.path, stretch.folder, error) from None


def extract_archive(
    archive: Archive, selection: Selection, progress: Progress = lambda _: None
) -> tuple[str, int, str] | None:
    """Extract all bags of an archive, or the rest of them after an interruption.

    Returns:
        Hash algorithm, size in bytes and hash of the archive; None if it has no algorithm or is cut off.

    Raises:
        DataError: the archive has no bag, or the disk is full.
    """
    hashed = Hashed(archive.algorithm) if archive.algorithm else None
    size = selection.recipe.size
    bags = 0
    try:
        tar = open_stream(archive.path, hashed=hashed, progress=progress)
        try:
            for number, member in enumerate(members(tar)):
                stream = MemberStream(member)
                first = stream.read(len(MAGIC))
                if first != MAGIC:
                    if member.name.endswith(".bag"):
                        raise not_a_bag(stream.name, first)
                    continue
                bags += 1
                with Part(archive.folder / f"{number:03d}", size * size * 3) as part:
                    if not part.state.done:
                        skip = max(0, part.state.next_offset - len(MAGIC))
                        if stream.skip(skip) == skip:
                            _extract(stream, part, selection, known=part.state.known(), begun=True)
                if stream.damage:
                    raise stream.damage
            while hashed is not None and tar.read(1 << 20):
                pass  # the published hash includes the padding after the end of the tar
        except CutError as error:
            with Part(archive.folder / "cut", size * size * 3) as part:  # the bags before the cut are kept
                part.state.notes.clear()
                part.state.note("cut off", str(error))
                part.commit(0, {}, done=True)
            return None
        if not bags:
            raise DataError(f"{archive.path} has no bag in it; check --source")
    except OSError as error:
        raise _cannot(archive.path, archive.folder, error) from None
    return (hashed.algorithm, hashed.bytes, hashed.hexdigest) if hashed is not None else None


def extract_all(todo: list[Stretch], selection: Selection, *, jobs: int, progress: Progress) -> None:
    """Extract all stretches, several in parallel.

    Raises:
        DataError: the error of the first stretch that failed.
    """
    if jobs == 1 or len(todo) == 1:
        for stretch in todo:
            extract(stretch, selection, progress)
        return
    context = get_context("spawn")  # a fork would not copy the threads of the caller
    total = context.Value("q", 0)
    reported = 0
    with ProcessPoolExecutor(jobs, context, initializer=_share, initargs=(total,)) as pool:
        running: set[Future[None]] = {pool.submit(_extract_shared, stretch, selection) for stretch in todo}
        while running:
            done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            progress(total.value - reported)
            reported = total.value
            for one in done:
                try:
                    one.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise


_shared: Any = None


def _share(total: Any) -> None:
    global _shared  # noqa: PLW0603 - the initializer of a pool can only set a global
    _shared = total


def _extract_shared(stretch: Stretch, selection: Selection) -> None:
    def progress(count: int) -> None:
        with _shared.get_lock():
            _shared.value += count

    extract(stretch, selection, progress)


def _extract(
    stream: Stream,
    part: Part,
    selection: Selection,
    *,
    known: dict[int, Connection],
    end: int | None = None,
    begun: bool = False,
) -> None:
    """Extract frames and signals from the chunks of a bag, and commit at intervals."""
    bag = Bag(stream, known, part.state.note)
    if stream.offset == 0 and not begun:
        bag.begin()
    extractor = _Extractor(bag, part, selection)
    committed = stream.offset
    for chunk in bag.chunks(end):
        extractor.extract(chunk)
        if chunk.next_offset - committed >= selection.commit_bytes:
            part.commit(chunk.next_offset, bag.connections)
            committed = chunk.next_offset
    part.commit(stream.offset, bag.connections, done=True)


class _Extractor:
    def __init__(self, bag: Bag, part: Part, selection: Selection) -> None:
        self.bag, self.part, self.selection = bag, part, selection
        self._cameras: dict[int, str] = {}

    def extract(self, chunk: Chunk) -> None:
        for message in self.bag.messages(chunk, self._wanted):
            try:
                if message.connection.type in IMAGES:
                    self._frame(message)
                else:
                    self._signal(message)
            except DataError as error:
                where = f"{self.bag.name}: byte {chunk.offset}: {message.connection.topic}: {error}"
                self.part.state.note("message", f"{where}; left out")

    def _wanted(self, connection: Connection) -> bool:
        if connection.type not in IMAGES:
            return connection.type in SIGNAL_TYPES
        if connection.id not in self._cameras:
            self._cameras[connection.id] = _camera(connection, self.bag.name)
        return self._cameras[connection.id] in self.selection.cameras

    def _frame(self, message: Message) -> None:
        camera, seen = self._cameras[message.connection.id], self.part.state.seen
        number = seen.get(camera, 0)
        seen[camera] = number + 1
        if number % self.selection.stride:
            return
        fields = layout(message.connection.type, message.connection.definition).read(message.data)
        stamp_ns = needed(fields, "header.stamp", int)
        if not stamp_ns:
            raise DataError("the image has no stamp")
        if message.connection.type == "sensor_msgs/Image":
            made = frames.from_raw(fields, self.selection.recipe)
        else:
            made = frames.from_compressed(needed(fields, "data", memoryview), self.selection.recipe)
        self.part.frame(stamp_ns, CAMERAS.index(camera), made)

    def _signal(self, message: Message) -> None:
        connection = message.connection
        name, paths = SIGNAL_TYPES[connection.type]
        fields = layout(connection.type, connection.definition).read(message.data)
        stamp_ns = value_of(fields, "header.stamp", 0)
        if not stamp_ns:
            return
        needed(fields, "header.stamp", int)
        if name == "gps":
            status = value_of(fields, "status.status", 0)
            if isinstance(status, int) and status < 0:
                return  # the receiver has no fix
            name = "gps" if connection.topic.startswith("/vehicle/") else "fix"
        if name in THINNED:
            slots, key, slot = self.part.state.slots, str(connection.id), stamp_ns // SLOT_NS
            if slots.get(key) == slot:
                return
            slots[key] = slot
        found = (value_of(fields, path) for path in paths)
        values = tuple(float(value) if isinstance(value, (int, float)) else math.nan for value in found)
        if name == "velocity":
            values = (sum(value * value for value in values) ** 0.5,)
        self.part.signal(name, stamp_ns, values)


def _camera(connection: Connection, bag: str) -> str:
    """Return the camera of a topic; the default is the centre."""
    first = connection.topic.strip("/").split("/")[0]
    named = next((camera for camera in CAMERAS if camera in first), "center")
    if SWAPPED in bag and named != "right":
        return {"left": "center", "center": "left"}[named]
    return named


def is_archive(path: Path) -> bool:
    """Return whether a file is a tar or gzip file, by its first bytes."""
    with path.open("rb") as file:
        first = file.read(262)
    return first[:2] == GZIP or first[257:262] == b"ustar"


def part_folders(root: Path) -> Iterator[Path]:
    """Yield the folders of the parts below a folder, in order."""
    for state in sorted(root.rglob("state.json")):
        yield state.parent


def notes_of(root: Path) -> list[str]:
    """Return the damage notes of all parts."""
    lines = []
    for folder in part_folders(root):
        for count, first in read_state(folder).notes.values():
            lines += first
            if count > len(first):
                lines.append(f"and {count - len(first)} more like this: {first[-1]}")
    return lines


def _cannot(path: Path, folder: Path, error: OSError) -> DataError:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"cannot write to {folder}: the disk is full; what is done is kept, run it again to continue")
    where = error.filename or path
    return DataError(f"cannot read or write {where}: {error.strerror or error}; run it again to continue")
