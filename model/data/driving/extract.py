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

from model.config.data_flags import CAMERAS
from model.data.digest import sha256_of
from model.data.driving import frames
from model.data.driving.bag import MAGIC, Bag, Chunk, Connection, Message, not_a_bag, read_index
from model.data.driving.cameras import Cameras
from model.data.driving.foreign import recording, refusal
from model.data.driving.frames import Recipe
from model.data.driving.messages import field as value_of
from model.data.driving.messages import layout, needed
from model.data.driving.part import SLOT_NS, THINNED, Part, read_state
from model.data.files.clutter import LeftOut
from model.data.formats.archives import files_of
from model.data.formats.stream import CutError, FileStream, Hashed, Stream
from model.data.formats.tar import MemberStream
from model.errors import DataError

LOOK_ON = 64 << 20  # bytes of a bag that are still read after two topics could be one camera, to count their frames

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
    cameras: Cameras
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
    seen: dict[str, int] = field(default_factory=dict)  # number of images of each topic before the stretch
    frames: dict[str, int] | None = None  # number of images of each topic in the stretch; None without an index


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
    topics = {number: one.topic for number, one in index.connections.items() if one.type in IMAGES}
    found: list[Stretch] = []
    begin, before = 0, dict.fromkeys(topics.values(), 0)
    seen = dict(before)

    def add(end: int | None) -> None:
        frames = {topic: seen[topic] - count for topic, count in before.items()}
        place = folder / f"{len(found):03d}"
        found.append(Stretch(path, place, begin, end, index.connections, before, frames))

    for at, offset in enumerate(index.offsets):
        if at and offset - begin >= stretch_bytes:
            add(offset)
            begin, before = offset, dict(seen)
        for number, count in index.counts[at].items():
            if number in topics:
                seen[topics[number]] += count
    add(None)
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
    archive: Archive, selection: Selection, left_out: LeftOut, progress: Progress = lambda _: None
) -> tuple[str, int, str] | None:
    """Extract all bags of an archive, or the rest of them after an interruption.

    Args:
        archive: the archive.
        selection: the cameras and signals to extract.
        left_out: counts the files that are no data.
        progress: called with the number of bytes of each read.

    Returns:
        Hash algorithm, size in bytes and hash of the archive; None if it has no algorithm or is cut off.

    Raises:
        DataError: the archive has no bag, or the disk is full.
    """
    hashed = Hashed(archive.algorithm) if archive.algorithm else None
    size = selection.recipe.size
    bags = 0
    foreign: tuple[str, str] | None = None
    try:
        try:
            for number, member in enumerate(files_of(archive.path, left_out, hashed=hashed, progress=progress)):
                stream = MemberStream(member)
                first = stream.read(len(MAGIC))
                if first != MAGIC:
                    first += stream.read(64)
                    what = recording(member.name, first)
                    if member.name.endswith(".bag") and what is None:
                        raise not_a_bag(stream.name, first)
                    foreign = foreign or ((member.name, what) if what else None)
                    continue
                bags += 1
                with Part(archive.folder / f"{number:03d}", size * size * 3) as part:
                    if not part.state.done:
                        skip = max(0, part.state.next_offset - len(MAGIC))
                        if stream.skip(skip) == skip:
                            _extract(stream, part, selection, known=part.state.known(), begun=True)
                if stream.damage:
                    raise stream.damage
        except CutError as error:
            with Part(archive.folder / "cut", size * size * 3) as part:  # the bags before the cut are kept
                part.state.notes.clear()
                part.state.note("cut off", str(error))
                part.commit(0, {}, done=True)
            return None
        if not bags and foreign:
            raise refusal(Path(foreign[0]), foreign[1], within=archive.path.name)
        if not bags:
            raise DataError(f"{archive.path} has no bag in it; check --source")
        if hashed is not None and not hashed.bytes:  # a zip is read from its end
            return hashed.algorithm, archive.path.stat().st_size, sha256_of(archive.path, hashed.algorithm)
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
    part.state.bag = bag.name
    committed = stream.offset
    for chunk in bag.chunks(end):
        extractor.extract(chunk)
        extractor.check(chunk.next_offset)
        if chunk.next_offset - committed >= selection.commit_bytes:
            part.commit(chunk.next_offset, bag.connections)
            committed = chunk.next_offset
    part.commit(stream.offset, bag.connections, done=True)


class _Extractor:
    def __init__(self, bag: Bag, part: Part, selection: Selection) -> None:
        self.bag, self.part, self.selection = bag, part, selection
        self._cameras: dict[int, str | None] = {}
        self._before: dict[int, int] = {}  # by connection: the images of its topic before the current one
        self._checked, self._doubt_at = 0, 0  # number of topics that were checked; offset of two that could be a camera

    def check(self, offset: int) -> None:
        """Give up some MB after two topics could be one camera: the counts then show which one is meant.

        Raises:
            DataError: several topics could be a camera.
        """
        topics = self.part.state.topics
        if self._doubt_at and offset - self._doubt_at < LOOK_ON:
            return
        if len(topics) != self._checked or self._doubt_at:
            try:
                found = {(self.bag.name, topic): count for topic, count in topics.items()}
                self.selection.cameras.check(found, complete=False)
            except DataError as error:
                if self._doubt_at:
                    raise DataError(f"{error} (counted in the first {offset >> 20} MB of {self.bag.name})") from None
                self._doubt_at = offset
            self._checked = len(topics)

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
            self._cameras[connection.id] = self.selection.cameras.of_topic(connection.topic, self.bag.name)
        self._before[connection.id] = self.part.state.count(connection.topic)
        return self._cameras[connection.id] is not None

    def _frame(self, message: Message) -> None:
        connection = message.connection
        camera = self._cameras[connection.id]
        if camera is None or self._before[connection.id] % self.selection.stride:
            return
        fields = layout(message.connection.type, message.connection.definition).read(message.data)
        stamp_ns = needed(fields, "header.stamp", int)
        if not stamp_ns:
            raise DataError("the image has no stamp")
        if message.connection.type == "sensor_msgs/Image":
            made = frames.from_raw(fields, self.selection.recipe)
        else:
            encoding = str(value_of(fields, "format", ""))
            made = frames.from_compressed(needed(fields, "data", memoryview), self.selection.recipe, encoding)
        self.part.frame(stamp_ns, CAMERAS.index(camera), connection.topic, made)

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
