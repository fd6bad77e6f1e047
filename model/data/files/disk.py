"""The disk space of a preparation: the check for free space, and the parts kept between two runs."""

from __future__ import annotations

import shutil
from pathlib import Path

from model.errors import DataError
from model.meter import amount

VERSION = 1  # of the preparation: raised when the same files give other bytes

PARTS = ".parts"  # folder of the parts of bags kept between two runs

SPARE_BYTES = 200 * 10**6  # left free on the disk


def space(folder: Path, wanted: int) -> None:
    """Check that the disk has enough free space before the preparation starts.

    Args:
        folder: where to; what an interrupted run left there need not be written again.
        wanted: bytes of the whole.

    Raises:
        DataError: there is too little free space.
    """
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    free, missing = shutil.disk_usage(there).free, wanted - _kept(folder)
    if missing > 0 and free < missing + SPARE_BYTES:
        needs = f"{amount(missing)}{' more' if missing < wanted else ''} and {amount(SPARE_BYTES)} to spare"
        raise DataError(f"{folder} needs {needs}, its disk has {amount(free)} free; give another --out")


def _kept(folder: Path) -> int:
    """Weigh shards and parts: this run goes on with them, or removes them, so their room is its own either way."""
    parts = (path for path in (folder / PARTS).rglob("*") if path.is_file())
    shards = (path for path in folder.glob("shard-*.npy") if not path.name.endswith(".columns.npy"))
    return sum(path.stat().st_size for path in (*parts, *shards))
