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
from model.config.data_recipe import DRIVING_SIZE, Options
from model.config.datasets import Registered
from model.data.driving import folder as folders
from model.data.driving import frames, telemetry
from model.data.driving.extract import (
    CAMERAS,
    Archive,
    Selection,
    Stretch,
    extract_all,
    extract_archive,
    is_archive,
    notes_of,
    part_folders,
    stretches,
)
from model.data.driving.frames import Recipe
from model.data.driving.part import FRAME, FRAMES, SIGNALS, SLOT_NS, THINNED, read_rows, signal_type
from model.data.files.disk import PARTS, VERSION, space
from model.data.files.fingerprint import lasting, of_ends, of_folder
from model.data.files.published import download
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
    cameras = _cameras(options.cameras)
    recipe = Recipe(options.size or DRIVING_SIZE, options.crop, options.levels)
    selection = Selection(recipe, cameras, options.stride, options.commit_bytes)
    if entry.drive_s:
        frame_count = entry.drive_s * HZ * len(cameras) // options.stride
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
            "cameras": list(selection.cameras),
            "telemetry": "linear in header.stamp, gear nearest; NaN beyond max_gap_ms (position: 1,100 ms)",
            "splits": "by time: of 20 stretches of a minute (or a 20th of a short drive) the 10th valid, the 20th test",
        }
        self.notes: list[str] = []
        self.expected: dict[str, int] = {}
        self.left_out: dict[str, int] = {}
        self._paths, self._stream, self._parts = paths, stream, folder / PARTS
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
            raise DataError(f"no frames of {', '.join(self.selection.cameras)} in {self._paths[0]}; {self._why()}")
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
        plan = {"version": VERSION, "asked": self.options.asked(self.entry), "sources": lasting(self._plan)}
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
            for number, path in enumerate(self._paths):
                place = self._parts / f"{number:03d}"
                if path.is_dir():
                    folders.extract(path, place, self.selection)
                elif is_archive(path):
                    self._archives.add(path.name)
                    hashed = extract_archive(Archive(path, place, self._algorithm(path)), self.selection, meter.add)
                    if hashed:
                        self._hashes[path.name] = hashed
                else:
                    todo += stretches(path, place, stretch_bytes=self.options.stretch_bytes)
            extract_all(todo, self.selection, jobs=self.options.jobs, progress=meter.add)
        finally:
            meter.close()
        self._verify()

    def _order(self) -> tuple[list[Path], NDArray[Any]]:
        """Sort the frames of all parts by stamp, then camera, and drop duplicates."""
        found = list(part_folders(self._parts))
        dtype = np.dtype([*FRAME.descr, ("part", "<i4"), ("place", "<i8")])
        pieces = []
        for number, folder in enumerate(found):
            index = read_rows(folder, "frames.idx", FRAME)
            piece = np.empty(len(index), dtype)
            piece["stamp_ns"], piece["camera"] = index["stamp_ns"], index["camera"]
            piece["part"], piece["place"] = number, np.arange(len(index))
            pieces.append(piece)
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

    def _why(self) -> str:
        notes = notes_of(self._parts)
        return notes[0] if notes else "choose other cameras with --cameras"

    def _algorithm(self, path: Path) -> str:
        known = next((file for file in self.entry.files if file.name == path.name), None)
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
        return [place]
    if folders.is_dump(place):
        return [place]
    found = sorted(path for path in place.rglob("*") if path.is_file() and _is_driving(path))
    dumps = sorted(path for path in place.iterdir() if path.is_dir() and folders.is_dump(path))
    if not found and not dumps:
        raise DataError(f"{place} has no bag, no archive of bags and no camera.csv in it; check --source")
    return [*found, *dumps]


def _is_driving(path: Path) -> bool:
    if path.suffix == ".bag":
        return True
    with path.open("rb") as file:
        first = file.read(13)
    return (
        first.startswith(b"#ROSBAG")
        or (first[:2] == GZIP and path.name.endswith((".tar.gz", ".tgz")))
        or (path.suffix == ".tar")
    )
