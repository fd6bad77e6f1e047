"""The live view of one run: a line for each event, progress in place."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from orchestrator.cli.console import Screen
from orchestrator.clock import Clock
from orchestrator.formatting import WIDTH, counted, figure, money, number, one_line, span
from orchestrator.market.billing import total_usd
from orchestrator.report.event_text import progress_words
from orchestrator.report.group_text import EventLines
from orchestrator.report.series import main_keys
from orchestrator.runs import events as ev
from orchestrator.runs.checked import is_figure
from orchestrator.runs.output_events import OutputsPulled
from orchestrator.runs.state import Attempt, RunState, fold

PLAIN_PROGRESS_EVERY_S = 10.0
SHOWN_BELOW = (ev.CheckpointPulled, ev.CheckpointStored, OutputsPulled)  # the live view shows the newest one
VALIDATION = re.compile(r"(valid|val|eval|test)", re.IGNORECASE)


class RunView:
    """A `Watcher` that shows a run in the terminal.

    Args:
        screen: where to print.
        steps: how many the run has, None if only the trainer knows.
        clock: the time.
        past: earlier events of the run: they count in the bill.
    """

    def __init__(self, screen: Screen, steps: int | None, clock: Clock, past: Iterable[ev.Event] = ()) -> None:
        self.screen = screen
        self.steps = steps
        self.clock = clock
        self._told_at = -math.inf
        self._validated: dict[str, float] = {}
        self._newest: ev.Progress | None = None
        self._events = list(past)
        self._lines = EventLines()
        for event in self._events:
            self._lines.note(event)
        self._state: RunState | None = None

    def _tell_validation(self, event: ev.Progress) -> None:
        """Print the values of a validation, once, where they do not scroll past with the log."""
        values = {
            key: value for key, value in event.values.items() if VALIDATION.match(key) and is_figure(value, -1e15)
        }
        if not self.screen.has_view or not values or values == self._validated:
            return
        self._validated = values
        shown = [(one_line(key).removeprefix("valid/")[:30], values[key]) for key in main_keys(values)[:3]]
        text = "  ".join(f"{key} {figure(value)}" for key, value in shown)
        self.screen.line(f"  validation: {text}", event.at)

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Show the progress: live in a terminal, every ten seconds in a pipe."""
        now, self._newest = self.clock.now(), attempt.newest
        if attempt.first_step_at is None:
            if self.steps is not None or attempt.trainer_started_at is None:
                return
            words = f"running for {span(max(0.0, now - attempt.trainer_started_at))}{self._billed()}"
        else:
            words = "" if self.screen.is_terminal else self._progress(step, images_per_s, bar=20)
        if self.screen.is_terminal:
            self.screen.live(f"{' ' * 9}{words}" if words else self._live_words(step, images_per_s))
        elif now - self._told_at >= PLAIN_PROGRESS_EVERY_S:
            self.screen.line(words)
            self._told_at = now

    def show_progress(self) -> None:
        """Show in a terminal, from its events, how far a run is that another process leads."""
        running = [a for a in self._run().open_attempts() if a.first_step_at is not None and a.rank == 0]
        if running and self.screen.is_terminal:
            speeds = [e.images_per_s for e in self._events[-200:] if isinstance(e, ev.Progress)]
            self.tick(running[-1], running[-1].last_step, speeds[-1] if speeds else None)

    def _run(self) -> RunState:
        if self._state is None:
            self._state = fold(self._events)
        return self._state

    def _live_words(self, step: int, images_per_s: float | None) -> str:
        """Return the live line; a narrow terminal gets a shorter bar, then none, then no speed."""
        room = (self.screen.width or WIDTH) - 1
        for indent, bar, speed in ((9, 20, images_per_s), (9, 10, images_per_s), (0, 10, images_per_s),
                                   (0, 0, images_per_s), (0, 0, None)):  # fmt: skip
            text = " " * indent + self._progress(step, speed, bar=bar)
            if len(text) <= room:
                break
        return text

    def _progress(self, step: int, images_per_s: float | None, *, bar: int) -> str:
        newest = self._newest
        text = f"{newest.unit if newest else 'step'} {step}"
        if self.steps:
            text += f"/{self.steps}"
        if self.steps and bar:
            done = round(bar * min(step / self.steps, 1))
            text += f" [{'#' * done}{'.' * (bar - done)}]"
        if images_per_s:
            text += f"  {number(images_per_s)} images/s"
        elif newest and bar:
            text += progress_words(newest)
        return text + self._billed()

    def _billed(self) -> str:
        return f"  ~${money(total_usd(self._run().attempts, self.clock.now()))} so far"

    def event(self, event: ev.Event) -> None:
        """Print the line of an event, if it has one, with the time at which it happened."""
        self._events.append(event)
        self._state = None
        text = self._lines.words(event, event.at)
        if isinstance(event, ev.Progress):
            self._tell_validation(event)
        if self.screen.has_view and isinstance(event, SHOWN_BELOW):
            return
        for line in text.splitlines():
            self.screen.line(line, event.at)
        if isinstance(event, ev.CapacityAwaited):
            waiting = len([one for one in self._run().open_attempts() if not one.is_lost])
            billed = f"{counted(waiting, 'machine')} billed meanwhile" if waiting else "nothing is billed"
            self.screen.live(f"{' ' * 9}waiting for capacity; {billed}; Ctrl-C stops")
