"""What the newest measurements of a program say: its step, its speed, its loss; and where they come from."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from orchestrator.engine.journal import Journal
from orchestrator.formatting import one_line
from orchestrator.host.base import HostStatus, Job
from orchestrator.report.series import is_value, main_keys
from orchestrator.runs.checked import UNIX_TIMES, is_figure, is_step
from orchestrator.runs.program_events import MetricsFound, WorkUnsaved

MOST_SHOWN = 6  # values of one event
MOST_KEYS = 64
MOST_WORDS = 300  # characters of a source
MOST_SOURCES = 20  # that are written down for one attempt
WINDOW_S = 60.0  # over which a speed is computed
MOST_POINTS = 1000
LEAST_SPAN_S = 1e-3
LEAST_SAVES = 3  # before a mean of the time between them is told


class Measurements:
    """The newest values of one attempt, and the speed in steps, which most programs do not tell."""

    def __init__(self) -> None:
        self.unit: Literal["step", "epoch"] = "step"
        self._values: dict[str, float] = {}
        self._points: deque[tuple[float, int]] = deque(maxlen=MOST_POINTS)  # time of the machine, step

    def read(self, line: Mapping[str, Any]) -> None:
        """Take over what one line of the metrics says."""
        if "event" in line:
            if line["event"] == "source":
                self._values.clear()
                self._points.clear()
            return
        prefix = "valid/" if line.get("split") == "valid" else ""
        for key, value in line.items():
            if is_value(key, value) and (prefix + key in self._values or len(self._values) < MOST_KEYS):
                self._values[prefix + key] = float(value)
        step, time = line.get("step"), line.get("time")
        if prefix or not is_step(step):
            return
        self.unit = "epoch" if line.get("unit") == "epoch" else "step"
        if is_figure(time, *UNIX_TIMES):
            if self._points and (step < self._points[-1][1] or time < self._points[-1][0]):
                self._points.clear()
            self._points.append((time, step))

    @property
    def values(self) -> dict[str, Any]:
        """The newest values of the keys that people look for."""
        return {key: self._values[key] for key in main_keys(self._values)[:MOST_SHOWN]}

    @property
    def steps_per_s(self) -> float | None:
        """Steps per second over the last minute, by the time of the measurements."""
        while len(self._points) > 2 and self._points[-1][0] - self._points[1][0] > WINDOW_S:
            self._points.popleft()
        if not self._points:
            return None
        seconds = self._points[-1][0] - self._points[0][0]
        steps = self._points[-1][1] - self._points[0][1]
        return steps / seconds if seconds > LEAST_SPAN_S and steps > 0 else None


class ProgramFacts:
    """Writes down, once, what the agent finds out about a program: where its measurements are, what a stop would lose.

    Args:
        journal: where facts are written down.
        job: what runs.
        attempt: the number of the attempt.
    """

    def __init__(self, journal: Journal, job: Job, attempt: int) -> None:
        self.journal = journal
        self.job = job
        self.attempt = attempt
        told = [e for e in journal.events if isinstance(e, MetricsFound) and e.attempt == attempt]
        self._told = (told[-1].source, told[-1].problem) if told else ("", "")
        self._count = len(told)
        self._catches_stop: bool | None = None  # as it was while the program ran
        self.total = 0  # steps or epochs that there are to do, as the program's output says; 0: it does not
        self._told_of_work = any(isinstance(e, WorkUnsaved) for e in journal.events)

    def note(self, status: HostStatus, started_at: float | None) -> None:
        """Take over what a poll tells; `started_at` (unix seconds) is when the program began."""
        self.total = status.metrics_total or self.total
        found = (one_line(status.metrics_source)[:MOST_WORDS], one_line(status.metrics_trouble)[:MOST_WORDS])
        if found != self._told and any(found) and self._count < MOST_SOURCES:
            self._told, self._count = found, self._count + 1
            now = self.journal.clock.now()
            self.journal.emit(MetricsFound(at=now, attempt=self.attempt, source=found[0], problem=found[1]))
        self._note_work(status, started_at)

    def _note_work(self, status: HostStatus, started_at: float | None) -> None:
        """Say once how much a program without a handler loses: half of the mean time between two saves."""
        if status.catches_stop is not None:
            self._catches_stop = status.catches_stop
        if self._told_of_work or self._catches_stop is not False or self.job.is_bundled:
            return
        is_noticed = status.notice_ends_at is not None
        if status.saves < LEAST_SAVES and not is_noticed:
            return
        now = self.journal.clock.now()
        every_s = status.saves_every_s
        ran_s = 0.0 if started_at is None else max(0.0, now - started_at)
        loses_s = every_s / 2 if every_s else ran_s / 2 if status.saves else ran_s
        self._told_of_work = True
        self.journal.emit(
            WorkUnsaved(
                at=now,
                attempt=self.attempt,
                signal=self.job.stop_signal,
                saves=status.saves,
                every_s=every_s,
                loses_s=loses_s,
            )
        )
