"""Tells what happens to a run in lines of text: for a log, or for a program that calls the API."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

from orchestrator.clock import Clock
from orchestrator.formatting import number, span, visible
from orchestrator.report.event_text import progress_words
from orchestrator.report.group_text import EventLines
from orchestrator.runs.events import Event
from orchestrator.runs.state import Attempt

PROGRESS_EVERY_S = 10.0


class ProgressLines:
    """A `Watcher` that gives a line to `say` for each event, and one for the progress every ten seconds.

    Args:
        say: is given each line, with the time of day before it.
        steps: how many there are to do, None if only the trainer knows.
        clock: the time.
        past: earlier events of the run, which are not told.
    """

    def __init__(self, say: Callable[[str], None], steps: int | None, clock: Clock, past: Iterable[Event] = ()) -> None:
        self._say = say
        self._steps = steps
        self._clock = clock
        self._told_at = -math.inf
        self._lines = EventLines()
        for event in past:
            self._lines.note(event)

    def event(self, event: Event) -> None:
        """Tell of an event, if people want to know of it."""
        for line in self._lines.words(event, event.at).splitlines():
            self._line(line, event.at)

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Tell how far the trainer is."""
        now = self._clock.now()
        began_at = attempt.first_step_at if self._steps is not None else attempt.trainer_started_at
        if began_at is None or now - self._told_at < PROGRESS_EVERY_S:
            return
        self._told_at = now
        if attempt.first_step_at is None:
            self._line(f"running for {span(max(0.0, now - began_at))}", now)
            return
        newest = attempt.newest
        total = self._steps or (newest.total if newest else None)
        of = f"/{total}" if total else ""
        speed = f"  {number(images_per_s)} images/s" if images_per_s else progress_words(newest) if newest else ""
        self._line(f"{newest.unit if newest else 'step'} {step}{of}{speed}", now)

    def _line(self, text: str, at: float) -> None:
        self._say(f"{time.strftime('%H:%M:%S', time.localtime(at))} {visible(text)}")
