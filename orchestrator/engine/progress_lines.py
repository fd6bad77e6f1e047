"""Tells what happens to a run in lines of text: for a log, or for a program that calls the API."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from orchestrator.clock import Clock
from orchestrator.formatting import number, visible
from orchestrator.report.event_text import event_words
from orchestrator.runs.events import Event
from orchestrator.runs.state import Attempt

PROGRESS_EVERY_S = 10.0


class ProgressLines:
    """A `Watcher` that gives a line to `say` for each event, and one for the progress every ten seconds.

    Args:
        say: is given each line, with the time of day before it.
        steps: how many there are to do, None if only the trainer knows.
        clock: the time.
    """

    def __init__(self, say: Callable[[str], None], steps: int | None, clock: Clock) -> None:
        self._say = say
        self._steps = steps
        self._clock = clock
        self._told_at = -math.inf

    def event(self, event: Event) -> None:
        """Tell of an event, if people want to know of it."""
        for line in event_words(event, event.at).splitlines():
            self._line(line, event.at)

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Tell how far the trainer is."""
        now = self._clock.now()
        if attempt.first_step_at is None or now - self._told_at < PROGRESS_EVERY_S:
            return
        self._told_at = now
        of = f"/{self._steps}" if self._steps else ""
        speed = f"  {number(images_per_s)} images/s" if images_per_s else ""
        self._line(f"step {step}{of}{speed}", now)

    def _line(self, text: str, at: float) -> None:
        self._say(f"{time.strftime('%H:%M:%S', time.localtime(at))} {visible(text)}")
