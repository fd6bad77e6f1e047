"""How long a machine takes from its request to its first step: as this run, and runs before it, have measured it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import PixelOrchError
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.state import Attempt
from orchestrator.runs.store import RunStore

ASSUMED_S, ASSUMED_MOST_S = 300.0, 900.0  # on AWS, before anything is measured: boot, packages, data
EMBEDDED_S, EMBEDDED_MOST_S = 20.0, 60.0
END_S, EMBEDDED_END_S = 60.0, 5.0  # the last outputs are downloaded, and the machine ends
QUANTILE = 0.99
FEW = 20  # fewer measured ones have no such quantile: the longest of them counts, and half as much again
MORE = 1.5
MOST_RUNS = 20  # the newest ones of the home, of the same program


def measured(attempts: Iterable[Attempt]) -> list[float]:
    """Return the change-overs of attempts that have trained, in seconds; of a group one for each generation."""
    found = []
    for attempt in attempts:
        if attempt.rank:
            continue
        began_at = attempt.first_step_at if attempt.first_step_at is not None else attempt.trainer_started_at
        if began_at is not None and began_at > attempt.started_at:
            found.append(began_at - attempt.started_at)
    return found


def of_earlier_runs(home: Path, spec: RunSpec) -> list[float]:
    """Return the change-overs of the newest runs of the same program on the same cloud that can be read."""
    found: list[float] = []
    stores = [store for store in RunStore.folders(home) if store.run != spec.run]
    stores.sort(key=lambda store: store.folder.stat().st_mtime if store.folder.exists() else 0.0)
    for store in stores[-MOST_RUNS:]:
        with suppress(PixelOrchError, OSError, ValueError):
            other = store.spec()
            if (other.cloud, other.command, other.trainer is None) == (spec.cloud, spec.command, spec.trainer is None):
                found += measured(store.state().attempts)
    return found


def typical_s(samples: list[float], *, is_embedded: bool) -> float:
    """Return the mean of measured change-overs; without any, what is assumed."""
    if not samples:
        return EMBEDDED_S if is_embedded else ASSUMED_S
    return sum(samples) / len(samples)


def margin_s(samples: list[float], *, is_embedded: bool) -> float:
    """Return the time that is kept for a change-over to on-demand, and for the last outputs to come home.

    It is a high quantile of those that were measured. A few of them have none: the longest counts and half as much
    again, and not less than what is assumed of any machine.
    """
    ends_s = EMBEDDED_END_S if is_embedded else END_S
    if not samples:
        return (EMBEDDED_MOST_S if is_embedded else ASSUMED_MOST_S) + ends_s
    ordered = sorted(samples)
    if len(ordered) < FEW:
        return max(MORE * ordered[-1], EMBEDDED_S if is_embedded else ASSUMED_S) + ends_s
    return ordered[min(len(ordered) - 1, int(QUANTILE * len(ordered)))] + ends_s
