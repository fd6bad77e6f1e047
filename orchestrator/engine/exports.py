"""Writes a run into the trackers of `--export`: now and then while it trains, and at its end.

Each export is a process of its own (`export/elsewhere.py`), and a thread waits for it: a tracker that hangs holds up no
machine. At the end the machine is gone before the last export begins.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from orchestrator.engine.journal import Journal
from orchestrator.export.elsewhere import TIMEOUT_S, export_elsewhere
from orchestrator.export.trackers import Exported
from orchestrator.runs.events import CheckpointPulled, Event, StateChanged
from orchestrator.runs.output_events import OutputsPulled
from orchestrator.runs.program_events import ExportFinished, ExportStarted
from orchestrator.runs.state import Attempt
from orchestrator.runs.store import RunStore

EVERY_S = 300.0  # between two exports while it trains: each takes some seconds of a core here
SLACK_S = 30.0  # at the end, beyond the time that the processes are given

Export = Callable[[RunStore, str], Exported]
"""Writes a run into a tracker; raises nothing."""


Start = Callable[[str, Callable[[], None]], threading.Thread]
"""Starts a thread of this name that calls a function."""


def start_thread(name: str, target: Callable[[], None]) -> threading.Thread:
    """Start a thread that does not keep the process alive."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


class Exporter:
    """A `Watcher` that exports.

    Args:
        journal: of the run.
        trackers: their names.
        export: what exports.
        start: what starts threads.
    """

    def __init__(
        self,
        journal: Journal,
        trackers: tuple[str, ...],
        export: Export = export_elsewhere,
        start: Start = start_thread,
    ) -> None:
        self.journal = journal
        self.trackers = trackers
        self._export = export
        self._start = start
        self._thread: threading.Thread | None = None
        self._told_at = -math.inf
        self._results: list[Exported] = []

    def event(self, event: Event) -> None:
        """Export after a download, and at the end."""
        if isinstance(event, CheckpointPulled | OutputsPulled):
            self._export_now_and_then(event.at)
        elif isinstance(event, StateChanged) and self.journal.state().is_final and self.journal.state().attempts:
            self._export_at_the_end()

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Do nothing: what is downloaded is exported."""

    def _export_now_and_then(self, now: float) -> None:
        is_busy = self._thread is not None and self._thread.is_alive()
        if is_busy or now - self._told_at < EVERY_S:
            return
        self._told_at = now
        self._begin()

    def _begin(self) -> None:
        self._thread = self._start(f"export-{self.journal.store.run}", self._run)

    def _run(self) -> None:
        self._results = [self._export(self.journal.store, tracker) for tracker in self.trackers]

    def _export_at_the_end(self) -> None:
        """Wait for the last export, and say what came of it: the process may end right after it."""
        now = self.journal.clock.now()
        self.journal.tell(ExportStarted(at=now, trackers=", ".join(self.trackers)))
        try:
            self._wait()
            self._results = []
            self._begin()
            self._wait()
        except KeyboardInterrupt:  # the run is over: a second Ctrl-C ends the waiting, and nothing else
            self._results = []
        known = {result.tracker: result for result in self._results}
        for tracker in self.trackers:
            found = known.get(tracker, Exported(tracker, problem="it was not waited for"))
            self.journal.tell(
                ExportFinished(
                    at=self.journal.clock.now(),
                    run=self.journal.store.run,
                    tracker=tracker,
                    place=found.place,
                    problem=found.problem,
                )
            )

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join(len(self.trackers) * TIMEOUT_S + SLACK_S)
