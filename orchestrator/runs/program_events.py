"""Events: what is found out about a program of the user's own while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.runs.events import Event


@dataclass(frozen=True, kw_only=True)
class MetricsFound(Event):
    """Where the measurements of a program come from, in words; `problem` is what hinders that."""

    kind: ClassVar[str] = "metrics_found"
    attempt: int
    source: str
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class WorkUnsaved(Event):
    """The program does not handle the signal to stop: an interruption loses `loses_s` seconds of it on average."""

    kind: ClassVar[str] = "work_unsaved"
    attempt: int
    signal: str
    saves: int  # that were seen so far
    every_s: float  # the mean between two of them; 0 with fewer than two
    loses_s: float


@dataclass(frozen=True, kw_only=True)
class NotificationLost(Event):
    """A message to the address of `--notify` did not arrive, and why. Told once, and not written down."""

    kind: ClassVar[str] = "notification_lost"
    reason: str


@dataclass(frozen=True, kw_only=True)
class ExportStarted(Event):
    """A run that is over is being written into trackers, in words. Told, and not written down."""

    kind: ClassVar[str] = "export_started"
    trackers: str


@dataclass(frozen=True, kw_only=True)
class ExportFinished(Event):
    """A run that is over was written into a tracker, or why it was not. Told, and not written down."""

    kind: ClassVar[str] = "export_finished"
    run: str
    tracker: str
    place: str  # where it is found there
    problem: str = ""
