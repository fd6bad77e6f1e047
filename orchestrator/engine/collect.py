"""What a program wrote beside checkpoints, samples, metrics and log: it comes home when the trainer has ended."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.errors import HostError
from orchestrator.host.base import Host
from orchestrator.runs.events import RestPulled
from orchestrator.runs.outputs import RestFile

if TYPE_CHECKING:
    from orchestrator.engine.engine import Engine

LARGEST_BYTES, MOST_BYTES = 256 << 20, 1 << 30  # of a file, and in all: data out is billed, and our disk is finite
MOST_UNDER_NOTICE_BYTES = 32 << 20
BEST = "best.json"


def bring_rest(engine: Engine, host: Host, number: int, *, is_hurried: bool) -> None:
    """Bring it home, the small files first; say what is left behind, which ends with the machine.

    Args:
        engine: that leads the run.
        host: whose trainer has ended.
        number: of the attempt.
        is_hurried: whether the machine is about to be taken away.
    """
    with suppress(HostError, OSError):  # it is not worth a run: the checkpoints are home
        found = host.rest(engine.job.root)
        if not found:
            return
        wanted, left = chosen(found, MOST_UNDER_NOTICE_BYTES if is_hurried else MOST_BYTES)
        folder = engine.store.folder / "outputs"
        if wanted:
            host.fetch_rest(engine.job.root, wanted, folder)
        if engine.job.is_bundled and (folder / BEST).is_file():  # which of the checkpoints is the best: beside them
            shutil.copyfile(folder / BEST, engine.store.checkpoints / BEST)
        engine.emit(
            RestPulled(
                at=engine.clock.now(),
                attempt=number,
                files=len(wanted),
                size_bytes=sum(file.size_bytes for file in wanted),
                left=in_words(left),
            )
        )


def chosen(found: Sequence[RestFile], most_bytes: int) -> tuple[list[RestFile], list[RestFile]]:
    """Return (what comes home, what is left): the small ones first, as long as there is room. Pure."""
    wanted: list[RestFile] = []
    left: list[RestFile] = []
    room = most_bytes
    for file in sorted(found, key=lambda file: (file.size_bytes, file.name)):
        if file.size_bytes <= min(room, LARGEST_BYTES):
            wanted.append(file)
            room -= file.size_bytes
        else:
            left.append(file)
    return wanted, left


def in_words(left: Sequence[RestFile], most: int = 5) -> str:
    """Return names and sizes, "" for none. Pure."""
    told = [f"{file.name} ({file.size_bytes / 1e6:.1f} MB)" for file in left[-most:]]
    more = [f"and {len(left) - most} more"] if len(left) > most else []
    return ", ".join([*told, *more])
