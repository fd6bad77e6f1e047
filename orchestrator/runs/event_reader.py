"""Reads events back: from a line of `events.jsonl` to the event, each value checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.runs import deadline_events, group_events, output_events, program_events
from orchestrator.runs.checked import WrongValueError, read
from orchestrator.runs.event_ranges import RANGES
from orchestrator.runs.events import CheckpointEvent, Event

EVENTS_OF_OTHER_FILES = (
    deadline_events,
    group_events,
    output_events,
    program_events,
)  # imported, so that their classes are known

KINDS: dict[str, type[Event]] = {
    cls.kind: cls for cls in (*Event.__subclasses__(), *CheckpointEvent.__subclasses__()) if cls.kind
}


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
