"""Checks that the disk has the free space that a preparation needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from model.errors import DataError
from model.meter import amount

VERSION = 1  # of the preparation of all kinds; raised when the same files give other bytes
# The same for one kind of files. It is in the plan of a run and in the manifest, and not in the id of a data set: what
# is read as before keeps its id. 1: images are turned upright; a camera is known by its topic.
READING = {"pictures": 1, "rosbag": 1}

PARTS = ".parts"  # folder of the extracted parts of bags, kept between two runs

SPARE_BYTES = 200 * 10**6  # left free on the disk


def space(folder: Path, wanted: int) -> None:
    """Check that the disk has enough free space before the preparation starts.

    Args:
        folder: the output folder; the files of an interrupted run in it count as written.
        wanted: bytes of the whole output.

    Raises:
        DataError: there is too little free space.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    free, missing = shutil.disk_usage(existing).free, wanted - _kept(folder)
    if missing > 0 and free < missing + SPARE_BYTES:
        needs = f"{amount(missing)}{' more' if missing < wanted else ''} and {amount(SPARE_BYTES)} to spare"
        raise DataError(f"{folder} needs {needs}, its disk has {amount(free)} free; give another --out")


def _kept(folder: Path) -> int:
    """Return the bytes of the shards and parts in a folder. This run reuses or removes them."""
    parts = (path for path in (folder / PARTS).rglob("*") if path.is_file())
    shards = (path for path in folder.glob("shard-*.npy") if not path.name.endswith(".columns.npy"))
    return sum(path.stat().st_size for path in (*parts, *shards))
