"""Extra outputs: what a program wrote beside checkpoints, samples, metrics and log; downloaded after its end."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress

from orchestrator.engine.journal import Journal
from orchestrator.errors import HostError
from orchestrator.host.base import Host, Job
from orchestrator.runs.output_events import ExtraOutputsPulled
from orchestrator.runs.outputs import ExtraOutput

LARGEST_BYTES, MOST_BYTES = 256 << 20, 1 << 30  # of a file, and in all: data out is billed, and our disk is finite
MOST_UNDER_NOTICE_BYTES = 32 << 20
BEST = "best.json"


def pull_extra_outputs(journal: Journal, job: Job, host: Host, number: int, *, is_hurried: bool) -> None:
    """Download them, the small files first; write down what is left behind, which ends with the machine.

    Args:
        journal: of the run.
        job: what ran.
        host: whose trainer has ended.
        number: of the attempt.
        is_hurried: whether the machine is about to be taken away.
    """
    with suppress(HostError, OSError):  # they are not worth a run: the checkpoints are downloaded
        found = host.extra_outputs(job.root)
        if not found:
            return
        wanted, left = chosen(found, MOST_UNDER_NOTICE_BYTES if is_hurried else MOST_BYTES)
        folder = journal.store.outputs
        written = host.fetch_extra_outputs(job.root, wanted, folder) if wanted else []
        here = {file.name for file in written}
        left = [*left, *(file for file in wanted if file.name not in here)]
        if job.is_bundled and (folder / BEST).is_file():  # it names the best checkpoint, so it lies beside them
            shutil.copyfile(folder / BEST, journal.store.checkpoints / BEST)
        journal.emit(
            ExtraOutputsPulled(
                at=journal.clock.now(),
                attempt=number,
                files=len(written),
                size_bytes=sum(file.size_bytes for file in written),
                left=listed(left),
            )
        )


def chosen(found: Sequence[ExtraOutput], most_bytes: int) -> tuple[list[ExtraOutput], list[ExtraOutput]]:
    """Return (what is downloaded, what is left): the small ones first, as long as there is room. Pure."""
    wanted: list[ExtraOutput] = []
    left: list[ExtraOutput] = []
    room = most_bytes
    for file in sorted(found, key=lambda file: (file.size_bytes, file.name)):
        if file.size_bytes <= min(room, LARGEST_BYTES) and not file.problem:
            wanted.append(file)
            room -= file.size_bytes
        else:
            left.append(file)
    return wanted, left


def listed(left: Sequence[ExtraOutput], most: int = 5) -> str:
    """Return names and sizes, "" for none. Pure."""
    told = [f"{file.name} ({file.problem or f'{file.size_bytes / 1e6:.1f} MB'})" for file in left[-most:]]
    more = [f"and {len(left) - most} more"] if len(left) > most else []
    return ", ".join([*told, *more])
