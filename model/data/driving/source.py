"""Driving data as a source: frames with telemetry from bags, archives of bags and rwightman's folders.

The first stage extracts all frames and signals from the bags (`extract`). The second stage sorts them by stamp and
aligns them. The result does not depend on the number of bags, on their boundaries or on the split into stretches.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from model.atomic_files import write_file
from model.config.data_flags import CAMERAS
from model.config.data_recipe import DRIVING_SIZE, Options
from model.config.datasets import Registered
from model.data.driving import folder as folders
from model.data.driving import frames, telemetry
from model.data.driving.cameras import Cameras, base_of, read_topics
from model.data.driving.extract import (
    Archive,
    Selection,
    Stretch,
    extract_all,
    extract_archive,
    notes_of,
    part_folders,
    stretches,
)
from model.data.driving.foreign import is_bag2, recording, refusal
from model.data.driving.frames import Recipe
from model.data.driving.part import FRAME, FRAMES, SIGNALS, SLOT_NS, THINNED, read_rows, read_state, signal_type
from model.data.files.clutter import LeftOut, is_clutter_folder
from model.data.files.disk import PARTS, READING, VERSION, space
from model.data.files.fingerprint import files_below, lasting, of_ends, of_folder
from model.data.files.published import download
from model.data.formats.archives import first_bytes, is_archive, is_zip, refuse_others
from model.data.formats.stream import GZIP
from model.data.manifest import SPLITS, Column, Image
from model.data.source import Block, Opened
from model.errors import DataError
from model.meter import Meter

BLOCK = 256  # frames in a block
HZ, CAMERA_COUNT = 20, 3  # of Udacity's car, for the estimate of disk space


def open_driving(entry: Registered, options: Options, folder: Path, *, stream: TextIO | None = None) -> Opened:
    """Open driving data as a source.

    Raises:
        DataError: no input is found, or it cannot be read.
    """
    frames.require_decoder()
    paths = paths_of(entry, options, stream)
    cameras = Cameras(_cameras(options.cameras), read_topics(options.topics))
    recipe = Recipe(options.size or DRIVING_SIZE, options.crop, options.levels)
    selection = Selection(recipe, cameras, options.stride, options.commit_bytes)
    if entry.drive_s:
        frame_count = entry.drive_s * HZ * len(cameras.wanted) // options.stride
        space(folder, 2 * frame_count * selection.recipe.size**2 * 3)  # parts and shards
    return Driving(entry, options, folder, paths=paths, selection=selection, stream=stream).opened()


class Driving:
    """The frames of a drive in the order of their stamps, each with its telemetry."""

    def __init__(
        self,
        entry: Registered,
        options: Options,
        folder: Path,
        *,
        paths: list[Path],
        selection: Selection,
        stream: TextIO | None,
    ) -> None:
        self.entry, self.options, self.selection = entry, options, selection
        size = selection.recipe.size
        self.image = Image(size, size, 3, options.levels)
        self.columns: tuple[Column, ...] = telemetry.COLUMNS
        self.recipe: dict[str, Any] = {
            **selection.recipe.words(),
            "cameras": list(selection.cameras.wanted),
            "telemetry": "linear in header.stamp, gear nearest; NaN beyond max_gap_ms (position: 1,100 ms)",
            "splits": "by time: of 20 stretches of a minute (or a 20th of a short drive) the 10th valid, the 20th test",
        }
        self.notes: list[str] = []
        self.expected: dict[str, int] = {}
        self._left_out = LeftOut()
        self._paths, self._stream, self._parts = paths, stream, folder / PARTS
        source = Path(options.source or "").expanduser()
        if options.source and source.is_dir():
            for _ in files_below(source, self._left_out):
                pass
        self._hashes: dict[str, tuple[str, int, str]] = {}
        self._archives: set[str] = set()
        self._plan = [of_folder(path, folders.is_read) if path.is_dir() else of_ends(path) for path in paths]
        for file in entry.files:
            found = next((known.get("bytes") for known in self._plan if known["name"] == file.name), None)
            if file.bytes and found and found != file.bytes and not options.unverified:
                sizes = f"{found:,} bytes, the published one {file.bytes:,}"
                raise DataError(
                    f"{file.name} has {sizes}; fetch it again, or pass --unverified to use its undamaged part"
                )

    @property
    def left_out(self) -> dict[str, int]:
        """The number of files that are no data, by kind."""
        return self._left_out.counts

    def opened(self) -> Opened:
        """Return the source with the functions that describe and close it."""
        return Opened(self, self._files, self._plan, self._published, close=self.close)

    def blocks(self, done: Mapping[str, int]) -> Iterator[Block]:
        """Extract the bags, then yield the frames. The parts of an earlier run are reused."""
        self._extract()
        folders_, order = self._order()
        signals = self._signals(folders_)
        rows = telemetry.align(order["stamp_ns"], order["camera"], signals, self.options.max_gap_ms)
        if self.options.min_speed:
            keep = rows["speed"] >= self.options.min_speed  # False for an unknown speed (NaN)
            self.notes.append(f"{int((~keep).sum()):,} frames below {self.options.min_speed:g} m/s were left out")
            order, rows = order[keep], rows[keep]
        if not len(order):
            raise DataError(
                f"no frames of {', '.join(self.selection.cameras.wanted)} in {self._paths[0]}; {self._why(folders_)}"
            )
        self.notes += notes_of(self._parts)
        splits, strays = telemetry.splits_of(order["stamp_ns"])
        if strays:
            self.notes.append(
                f"frames with a stamp more than nine days from all others: {strays:,}; in the training split"
            )
        self.expected = {split: int((splits == number).sum()) for number, split in enumerate(SPLITS)}
        yield from self._blocks(folders_, order, rows, splits, done)

    def close(self) -> None:
        """Remove the parts, whose frames are in the shards."""
        shutil.rmtree(self._parts, ignore_errors=True)

    def _extract(self) -> None:
        plan: dict[str, Any] = {"version": VERSION, "reading": READING["rosbag"], "sources": lasting(self._plan)}
        plan["asked"] = self.options.asked(self.entry)
        text = json.dumps(plan, sort_keys=True).encode()
        path = self._parts / "plan.json"
        if not path.exists() or path.read_bytes() != text:
            shutil.rmtree(self._parts, ignore_errors=True)
            try:
                self._parts.mkdir(parents=True)
                write_file(path, text)
            except OSError as error:
                raise DataError(
                    f"cannot write to {self._parts}: {error.strerror or error}; give another --out"
                ) from None
        total = sum(path.stat().st_size for path in self._paths if path.is_file())
        meter = Meter(f"reading {self.entry.name}", total, "B", stream=self._stream)
        try:
            todo: list[Stretch] = []
            others: list[tuple[Path, Path]] = []
            for number, path in enumerate(self._paths):
                place = self._parts / f"{number:03d}"
                if path.is_dir() or is_archive(path):
                    others.append((path, place))
                else:
                    todo += stretches(path, place, stretch_bytes=self.options.stretch_bytes)
            self._check_index(todo, complete=not others)
            for path, place in others:
                if path.is_dir():
                    folders.extract(path, place, self.selection)
                    continue
                self._archives.add(path.name)
                archive = Archive(path, place, self._algorithm(path))
                hashed = extract_archive(archive, self.selection, self._left_out, meter.add)
                if hashed:
                    self._hashes[path.name] = hashed
            extract_all(todo, self.selection, jobs=self.options.jobs, progress=meter.add)
        finally:
            meter.close()
        self._verify()

    def _check_index(self, todo: list[Stretch], *, complete: bool) -> None:
        """Check the topics by the indexes of the bags, before anything is read.

        Raises:
            DataError: several topics could be one camera, or the topic of --topic does not exist.
        """
        found: dict[tuple[str, str], int] = {}
        for stretch in todo:
            for topic, count in (stretch.frames or {}).items():
                key = (stretch.path.name, topic)
                found[key] = found.get(key, 0) + count
        indexed = all(stretch.frames is not None for stretch in todo)
        self.selection.cameras.check(found, complete=complete and indexed)

    def _topics(self, parts: list[Path]) -> dict[tuple[str, str], int]:
        """Return the number of images by (bag, topic)."""
        found: dict[tuple[str, str], int] = {}
        for folder in parts:
            state = read_state(folder)
            for topic, count in state.topics.items():
                found[state.bag, topic] = found.get((state.bag, topic), 0) + count
        return found

    def _other_transports(self, parts: list[Path]) -> list[list[int]]:
        """Return the topics of each part, by their place, that hold the frames of another topic once more.

        A camera may be recorded raw and compressed. Of these topics of one bag the one with the most frames is used.
        """
        states = [read_state(folder) for folder in parts]
        totals: dict[tuple[Path, str, str], dict[str, int]] = {}
        for folder, state in zip(parts, states, strict=True):
            for topic, count in state.topics.items():
                some = totals.setdefault((folder.parent, state.bag, base_of(topic)), {})
                some[topic] = some.get(topic, 0) + count
        given = {topic for _, topic in self.selection.cameras.given}
        best = {
            key: max(some, key=lambda topic: (topic.strip("/") in given, some[topic], -len(topic)))
            for key, some in totals.items()
        }
        return [
            [
                place
                for place, topic in enumerate(state.topics)
                if best[folder.parent, state.bag, base_of(topic)] != topic
            ]
            for folder, state in zip(parts, states, strict=True)
        ]

    def _order(self) -> tuple[list[Path], NDArray[Any]]:
        """Sort the frames of all parts by stamp, then camera, and drop duplicates."""
        found = list(part_folders(self._parts))
        self.selection.cameras.check(self._topics(found))
        others = self._other_transports(found)
        dtype = np.dtype([*FRAME.descr, ("part", "<i4"), ("place", "<i8")])
        pieces = []
        for number, folder in enumerate(found):
            index = read_rows(folder, "frames.idx", FRAME)
            piece = np.empty(len(index), dtype)
            piece["stamp_ns"], piece["camera"] = index["stamp_ns"], index["camera"]
            piece["topic"], piece["part"], piece["place"] = index["topic"], number, np.arange(len(index))
            pieces.append(piece[~np.isin(index["topic"], others[number])])
        order = np.concatenate(pieces) if pieces else np.empty(0, dtype)
        order = order[np.lexsort((order["place"], order["part"], order["camera"], order["stamp_ns"]))]
        new = np.ones(len(order), bool)
        new[1:] = (order["stamp_ns"][1:] != order["stamp_ns"][:-1]) | (order["camera"][1:] != order["camera"][:-1])
        duplicates = int((~new).sum())
        if duplicates:
            self.notes.append(f"{duplicates:,} frames had the camera and stamp of another frame; left out")
        return found, order[new]

    def _signals(self, parts: list[Path]) -> dict[str, NDArray[Any]]:
        found = {}
        for name in SIGNALS:
            pieces = [np.empty(0, signal_type(name))]
            for folder in parts:
                piece = read_rows(folder, f"{name}.rows", signal_type(name))
                # Two stretches may both keep a sample of the interval at their boundary.
                if name in THINNED and len(pieces[-1]):
                    piece = piece[piece["stamp_ns"] // SLOT_NS != pieces[-1]["stamp_ns"][-1] // SLOT_NS]
                pieces.append(piece)
            found[name] = telemetry.ordered(np.concatenate(pieces))
        return found

    def _blocks(
        self,
        parts: list[Path],
        order: NDArray[Any],
        rows: NDArray[Any],
        splits: NDArray[np.uint8],
        done: Mapping[str, int],
    ) -> Iterator[Block]:
        size = self.image.bytes
        files = [os.open(folder / FRAMES, os.O_RDONLY) if (folder / FRAMES).exists() else -1 for folder in parts]
        try:
            for number, split in enumerate(SPLITS):
                of_split = np.flatnonzero(splits == number)[done.get(split, 0) :]
                for start in range(0, len(of_split), BLOCK):
                    some = of_split[start : start + BLOCK]
                    images = np.empty((len(some), self.image.height, self.image.width, 3), np.uint8)
                    flat = images.reshape(-1).data
                    for at, index in enumerate(some):
                        where = order[index]
                        view = flat[at * size : (at + 1) * size]
                        if os.preadv(files[where["part"]], [view], int(where["place"]) * size) != size:
                            place = parts[where["part"]]
                            raise DataError(f"{place} was changed; remove {self._parts} and run it again")
                    yield Block(split, images, rows[some])
        finally:
            for file in files:
                if file >= 0:
                    os.close(file)

    def _why(self, parts: list[Path]) -> str:
        notes = notes_of(self._parts)
        if notes:
            return notes[0]
        frames: dict[str, int] = {}
        for (_, topic), count in self._topics(parts).items():
            frames[topic] = frames.get(topic, 0) + count
        return self.selection.cameras.missing(frames)

    def _algorithm(self, path: Path) -> str:
        size = path.stat().st_size
        known = next((file for file in self.entry.files if path.name == file.name or size == file.bytes), None)
        return "md5" if known is not None and known.md5 and not known.sha256 else "sha256"

    def _verify(self) -> None:
        """Compare the hashes of the archives, which were computed during reading, with the published checksums."""
        for file in self.entry.files:
            got = self._hashes.get(file.name)
            if self.options.unverified or file.name not in self._archives:
                continue
            if got is None:
                raise DataError(
                    f"{notes_of(self._parts)[-1]}; fetch it again, or pass --unverified to use its undamaged part"
                )
            if got[2] not in (file.sha256, file.md5):
                wanted = file.sha256 if got[0] == "sha256" else file.md5
                raise DataError(f"{file.name} is not the published file: its {got[0]} is {got[2]}, not {wanted}")

    def _files(self) -> list[dict[str, Any]]:
        found = []
        for known in self._plan:
            got = self._hashes.get(known["name"])
            found.append({**known, got[0]: got[2]} if got else known)
        return found

    def _published(self) -> bool:
        wanted = {value for file in self.entry.files for value in (file.sha256, file.md5) if value}
        return bool(self._hashes) and all(got[2] in wanted for got in self._hashes.values())


def _cameras(text: str) -> tuple[str, ...]:
    names = CAMERAS if text == "all" else tuple(text.split(","))
    unknown = [name for name in names if name not in CAMERAS]
    if unknown or len(set(names)) != len(names):
        raise DataError(f"--cameras {text}: give all, or some of {','.join(CAMERAS)}")
    return tuple(camera for camera in CAMERAS if camera in names)


def paths_of(entry: Registered, options: Options, stream: TextIO | None = None) -> list[Path]:
    """Find the bags, archives or folders of images to read.

    Raises:
        DataError: none is found, or a published file cannot be fetched.
    """
    if options.source is None or ("://" in options.source and not entry.own):
        folder = download(entry, options, stream)
        return [folder / file.name for file in entry.files]
    place = Path(options.source).expanduser()
    if not place.exists():
        raise DataError(f"{place} does not exist; check --source")
    if place.is_file():
        first = first_bytes(place)
        what = recording(place.name, first)
        if what is not None:
            raise refusal(place, what)
        refuse_others(place.name, first)
        return [place]
    if folders.is_dump(place):
        return [place]
    if is_bag2(place):
        raise refusal(place, "a ROS 2 bag")
    below = [place / name for name in files_below(place, LeftOut())]
    found = sorted(path for path in below if _is_driving(path))
    dumps = sorted(path for path in place.iterdir() if folders.is_dump(path) and not is_clutter_folder(path.name))
    if not found and not dumps:
        for path in below:
            what = recording(path.name, first_bytes(path))
            if what is not None:
                raise refusal(path, what)
        raise DataError(f"{place} has no bag, no archive of bags and no camera.csv in it; check --source")
    return [*found, *dumps]


def _is_driving(path: Path) -> bool:
    if path.suffix == ".bag":
        return True
    first = first_bytes(path)
    return (
        first.startswith(b"#ROSBAG")
        or (first[:2] == GZIP and path.name.endswith((".tar.gz", ".tgz")))
        or (path.suffix == ".tar")
        or (path.suffix == ".zip" and is_zip(first))
    )
