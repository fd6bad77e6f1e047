"""When spot capacity was there and when it was not: as the requests and instances of earlier runs have seen it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from orchestrator.errors import PixelOrchError
from orchestrator.runs.events import AttemptLost, Event, InstanceEnded, InstanceStarted, LaunchFailed, LossReason
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore

STEP_S = 600.0  # of a running instance: it shows once in so long that there is capacity
MOST_RUNS = 20  # the newest ones of the home that asked for one of the same types in one of the same regions
MOST_AGE_S = 30 * 86400.0
NO_CAPACITY = ("InsufficientInstanceCapacity", "UnfulfillableCapacity", "SpotMaxPriceTooLow")


def of_earlier_runs(home: Path, spec: RunSpec, now: float) -> list[tuple[float, bool]]:
    """Return (unix seconds, whether there was capacity) in the order of time; what cannot be read is left out."""
    found: list[tuple[float, bool]] = []
    stores = [store for store in RunStore.folders(home) if store.run != spec.run and store.folder.exists()]
    stores.sort(key=lambda store: store.folder.stat().st_mtime)
    for store in stores[-MOST_RUNS:]:
        with suppress(PixelOrchError, OSError, ValueError):
            other = store.spec()
            is_alike = set(other.instances) & set(spec.instances) and set(other.regions) & set(spec.regions)
            if other.cloud == spec.cloud and is_alike:
                found += seen_in(store.events())
    return sorted(one for one in found if now - MOST_AGE_S <= one[0] <= now)


def seen_in(events: list[Event]) -> list[tuple[float, bool]]:
    """Return what the events of one run show of spot capacity."""
    found: list[tuple[float, bool]] = []
    since: dict[int, float] = {}  # by attempt: a spot instance that runs
    for event in events:
        if isinstance(event, LaunchFailed) and event.code in NO_CAPACITY:
            found.append((event.at, False))
        elif isinstance(event, InstanceStarted) and event.market == "spot":
            since[event.attempt] = event.at
            found.append((event.at, True))
        elif isinstance(event, (AttemptLost, InstanceEnded)) and event.attempt in since:
            began_at = since.pop(event.attempt)
            found += [(began_at + step * STEP_S, True) for step in range(1, int((event.at - began_at) / STEP_S) + 1)]
            if isinstance(event, AttemptLost) and event.cause == LossReason.INTERRUPTED:
                found.append((event.at, False))
    return found
