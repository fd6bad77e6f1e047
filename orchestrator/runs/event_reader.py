"""Reads events back: from a line of `events.jsonl` to the event, each value checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.runs import output_events
from orchestrator.runs.checked import MOST_STEP, UNIX_TIMES, Range, WrongValueError, read
from orchestrator.runs.events import CheckpointEvent, Event
from orchestrator.runs.outputs import MOST_SIZE_BYTES

EVENTS_OF_OTHER_FILES = (output_events,)  # imported, so that their classes are known

KINDS: dict[str, type[Event]] = {
    cls.kind: cls for cls in (*Event.__subclasses__(), *CheckpointEvent.__subclasses__()) if cls.kind
}


RANGES: dict[str, Range] = {
    "at": UNIX_TIMES,
    "ended_at": UNIX_TIMES,
    "ends_at": UNIX_TIMES,
    "again_at": UNIX_TIMES,
    "gives_up_at": UNIX_TIMES,
    "since": UNIX_TIMES,
    "until": UNIX_TIMES,
    "attempt": (0, 10**6),  # 0: a checkpoint that was there before the first machine
    "step": (0, MOST_STEP),
    "last_step": (0, MOST_STEP),
    "resumed_from": (0, MOST_STEP),
    "hour": (0, 10**7),
    "price_usd_h": (0, 1e5),
    "images_per_s": (0, 1e12),
    "disk_gib": (0, 1e6),
    "public_addresses": (0, 1000),
    **dict.fromkeys(("setup_s", "data_s", "user_setup_s"), (0, 1e9)),
    "size_bytes": (0, MOST_SIZE_BYTES),
    "files": (0, 10**9),
    "all_files": (0, 10**9),
    "deleted": (0, 10**9),
    "number": (0, 2**40),
    "all_bytes": (0, MOST_SIZE_BYTES),
    "pools": (0, 10**6),
    "pid": (0, 2**32),
    "exit_code": (-(2**31), 2**32),
}
"""What the numbers of an event may be; outside of it the line is not read."""


def from_json(raw: Mapping[str, Any]) -> Event | None:
    """Return the event that `to_json` wrote; None for a kind that this version does not know.

    Raises:
        WrongValueError: a value is missing, of another type, or out of its range.
    """
    kind = raw.get("kind")
    cls = KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        return None
    event = read(cls, raw, RANGES)
    if isinstance(event, CheckpointEvent) and not is_below(event.name):
        raise WrongValueError("name: it is no relative path below the folder of the checkpoints")
    return event


def is_below(name: str) -> bool:
    """Return whether a name is a relative POSIX path that stays below its folder."""
    parts = name.split("/")
    return 0 < len(name) <= 1024 and "\0" not in name and not any(part in ("", ".", "..") for part in parts)
