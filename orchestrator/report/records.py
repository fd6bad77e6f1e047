"""Reads a run's folder into its row of the report: folds the events, digests the metrics once, names the workload."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.errors import SpecError
from orchestrator.market.billing import DEFAULT_RULE, SpotRule
from orchestrator.market.throughput import work_of
from orchestrator.report import RunRow, Workload, run_row
from orchestrator.report import metrics as digesting
from orchestrator.report.as_of import seen_at
from orchestrator.report.metrics import Digest
from orchestrator.report.slow_nodes import slow_nodes
from orchestrator.report.story import is_lost, story_of
from orchestrator.runs import bounded_json
from orchestrator.runs.files import read_bounded
from orchestrator.runs.generations import generations_of
from orchestrator.runs.listing import BrokenRun, parted, read_run
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.state import Attempt, RunState
from orchestrator.runs.store import RunStore

DIGEST = "digest.json"  # next to `metrics.jsonl`, once the attempt is over
DIGEST_FORMAT = (
    5  # 5 has the number of processes; 4 has every number of a user's own program; 3 counts values that make no sense
)
WORTH_A_PROCESS = 40  # runs; with fewer, starting processes costs more time than it saves


@dataclass(frozen=True)
class Record:
    """What the report reads of one run."""

    row: RunRow
    state: RunState
    digests: dict[int, Digest]
    workload: Workload


def record_of(store: RunStore, now: float, rule: SpotRule = DEFAULT_RULE) -> Record:
    """Read one run from its folder alone."""
    seen = seen_at(store.state(), now)
    state = seen.state
    spec = _spec(store)
    workload = workload_of(spec)
    digests = {attempt.number: _digest(store, attempt, is_own=workload.is_own) for attempt in state.attempts}
    row = run_row(state, digests, now, workload=workload, rule=rule)
    leads = [one.lead.number for one in generations_of(state)]
    attempts = tuple(
        replace(one, slow_nodes=slow_nodes(store.metrics_path(number), one.nodes)) if one.nodes > 1 else one
        for one, number in zip(row.attempts, leads, strict=True)
    )
    row = replace(row, attempts=attempts, slots=spec.group.slots if spec is not None else None)
    problems = (*store.defects(state), *seen.remarks, *row.problems)
    story = None
    if is_lost(state):  # its events are read once more
        story = story_of(state, store.events(), digests, now, [one.steps_lost for one in row.attempts])
    row = replace(row, is_estimate=row.is_estimate or seen.is_estimate, problems=problems, story=story)
    return Record(row, state, digests, workload)


def row_of(store: RunStore, now: float) -> RunRow:
    """Return the report's row of a run."""
    return record_of(store, now).row


def records_of(stores: Sequence[RunStore], now: float, rule: SpotRule = DEFAULT_RULE) -> list[Record]:
    """Read many runs; those that cannot be read are left out."""
    return read_records(stores, now, rule)[0]


def read_records(
    stores: Sequence[RunStore], now: float, rule: SpotRule = DEFAULT_RULE
) -> tuple[list[Record], list[BrokenRun]]:
    """Return (the records, the runs that cannot be read), in several processes if there are enough runs for it."""
    return parted(_records(stores, now, rule))


def _records(stores: Sequence[RunStore], now: float, rule: SpotRule) -> list[Record | BrokenRun]:
    workers = min(os.cpu_count() or 1, 8)
    if len(stores) < WORTH_A_PROCESS or workers == 1:
        return [_record_elsewhere((store.home, store.run, now, rule)) for store in stores]
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(workers) as pool:
        asked = [(store.home, store.run, now, rule) for store in stores]
        return list(pool.map(_record_elsewhere, asked, chunksize=max(1, len(stores) // (4 * workers))))


def _record_elsewhere(asked: tuple[Path, str, float, SpotRule]) -> Record | BrokenRun:
    home, run, now, rule = asked
    return read_run(RunStore(home, run), lambda store: record_of(store, now, rule))


def _spec(store: RunStore) -> RunSpec | None:
    with suppress(SpecError):
        return store.spec()
    return None  # damaged, or of another version: the row then follows from the events alone


def workload_of(spec: RunSpec | None) -> Workload:
    """Return what a run trains: a network of `model/`, or the user's own program."""
    if spec is None:
        return Workload("")
    if spec.trainer is None:
        return Workload(" ".join(spec.command)[:60] or "a program", is_own=True)
    config = spec.trainer
    name = (
        f"{config.model} {config.dataset}, {config.layers} layers, h {config.hidden}, head {config.head}, "
        f"batch {config.batch_size}"
    )
    try:
        return Workload(name, config.batch_size, float(config.data.train), work_of(config), config=config)
    except ValueError:  # the sizes depend on data that were prepared on another machine
        return Workload(name, config.batch_size)


def _digest(store: RunStore, attempt: Attempt, *, is_own: bool) -> Digest:
    """Digest an attempt's metrics; the digest of an attempt that is over is kept."""
    path = store.metrics_path(attempt.number)
    kept_path = path.with_name(DIGEST)
    try:
        status = path.stat()
    except OSError:
        return Digest()
    key = [DIGEST_FORMAT, is_own, status.st_size, status.st_mtime_ns]
    with suppress(OSError, ValueError):  # none, or damaged: it is made again
        kept = bounded_json.loads(read_bounded(kept_path, bounded_json.MOST_LINE_BYTES))
        if isinstance(kept, dict) and kept.get("key") == key:
            return digesting.from_json(kept.get("digest"))
    found = digesting.read(path, is_own=is_own)
    if attempt.is_over:
        with suppress(OSError):  # the home is read-only: the next report digests the metrics again
            text = json.dumps({"key": key, "digest": digesting.to_json(found)}, separators=(",", ":"))
            _write(kept_path, text.encode())
    return found


def _write(path: Path, data: bytes) -> None:
    """Write a file that may be lost in a crash: the rename prevents a partial read, and nothing is synced."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


__all__ = ["Record", "read_records", "record_of", "records_of", "row_of", "workload_of"]
