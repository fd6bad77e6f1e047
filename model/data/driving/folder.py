"""Reads the folders of images and tables that rwightman's udacity-driving-reader writes (its README, Apache-2.0).

camera.csv (timestamp,width,height,frame_id,filename) lists the frames; steering.csv, gps.csv, brake.csv, throttle.csv
and gear.csv hold the signals. A folder without these has steering, speed and position in interpolated.csv.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from model.config.data_flags import CAMERAS
from model.data.driving import frames
from model.data.driving.extract import Selection
from model.data.driving.part import Part
from model.errors import DataError

TABLES = {
    "steering": ("steering.csv", ("angle", "speed")),
    "gps": ("gps.csv", ("lat", "long")),
    "brake": ("brake.csv", ("brake_input",)),
    "throttle": ("throttle.csv", ("throttle_input",)),
    "gear": ("gear.csv", ("gear_state",)),
}
COMMIT = 500  # frames between two commits


def is_dump(folder: Path) -> bool:
    """Return whether a folder has this layout."""
    return (folder / "camera.csv").is_file() or (folder / "interpolated.csv").is_file()


def is_read(name: str) -> bool:
    """Return whether a file is a table or an image, by its name."""
    return name.lower().endswith((".csv", ".jpg", ".jpeg", ".png"))


def extract(source: Path, place: Path, selection: Selection) -> None:
    """Extract frames and signals from a folder into a part; resume after an interruption.

    Raises:
        DataError: a table is damaged, or a file cannot be read or written.
    """
    size = selection.recipe.size
    try:
        with Part(place / "000", size * size * 3) as part:
            if part.state.done:
                return
            part.state.bag = source.name
            if not part.state.next_offset:
                _signals(source, part)
            table = source / ("camera.csv" if (source / "camera.csv").is_file() else "interpolated.csv")
            for number, (line, row) in enumerate(_rows(table)):
                if number < part.state.next_offset:
                    continue
                topic = row.get("frame_id") or row.get("filename", "").rpartition("/")[0] or "center"
                camera = selection.cameras.of_topic(topic, source.name)
                if part.state.count(topic) % selection.stride == 0 and camera is not None:
                    try:
                        stamp_ns = int(row["timestamp"])
                        content = _inside(source, row["filename"]).read_bytes()
                        part.frame(
                            stamp_ns,
                            CAMERAS.index(camera),
                            topic,
                            frames.from_compressed(memoryview(content), selection.recipe),
                        )
                    except (OSError, ValueError, KeyError) as error:  # a DataError is a ValueError
                        reason = getattr(error, "strerror", None) or error
                        part.state.note("frame", f"{table}: line {line}: {reason}; left out")
                if (number + 1) % COMMIT == 0:
                    part.commit(number + 1, {})
            part.commit(1, {}, done=True)
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror or error}; run it again to continue") from None


def _signals(source: Path, part: Part) -> None:
    found = 0
    for name, (file, columns) in TABLES.items():
        if (source / file).is_file():
            found += 1
            for line, row in _rows(source / file):
                _sample(part, name, row, columns, where=f"{source / file}: line {line}")
    if not found and (source / "interpolated.csv").is_file():
        for line, row in _rows(source / "interpolated.csv"):
            for name, columns in (("steering", ("angle", "speed")), ("gps", ("lat", "long"))):
                _sample(part, name, row, columns, where=f"{source / 'interpolated.csv'}: line {line}")


def _sample(part: Part, name: str, row: dict[str, str], columns: tuple[str, ...], *, where: str) -> None:
    try:
        values = tuple(float(row[column]) for column in columns)
        part.signal(name, int(row["timestamp"]), values)
    except (ValueError, KeyError) as error:
        reason = error if isinstance(error, DataError) else "a field is not a number"
        part.state.note("table", f"{where}: {reason}; left out")


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table with their line numbers. The first line gives the names of the fields."""
    with table.open(encoding="utf-8", newline="") as file:
        try:
            for row in (reader := csv.DictReader(file)):
                yield reader.line_num, {key.strip(): (value or "").strip() for key, value in row.items() if key}
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{table} is damaged: {error}; write it again") from None


def _inside(source: Path, name: str) -> Path:
    path = source / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"the file name {name!r} points outside the folder")
    return path
