"""Leads a run in this terminal, or follows one that another process leads, and prints the summary at the end."""

from __future__ import annotations

import json
from collections.abc import Sequence

from orchestrator.cli.console import Screen, say_error
from orchestrator.cli.half_blocks import half_blocks
from orchestrator.cli.live_panel import RunPanel
from orchestrator.cli.live_screen import Show, live_view
from orchestrator.cli.run_view import RunView
from orchestrator.clock import SystemClock
from orchestrator.engine.journal import Watcher
from orchestrator.engine.lead import lead
from orchestrator.engine.stop import Cancelled
from orchestrator.errors import BudgetError, PixelOrchError
from orchestrator.formatting import WIDTH
from orchestrator.plan.launch_preparation import PreparedRun
from orchestrator.report.summary import samples_of, summary_json, summary_text
from orchestrator.runs.events import Event
from orchestrator.runs.state import Attempt, RunState
from orchestrator.runs.store import RunStore

FOLLOW_S = 0.5  # between two looks at the events that another process writes


def lead_in_terminal(
    run: PreparedRun, screen: Screen, *, output: str, extra: tuple[Watcher, ...] = (), has_summary: bool = True
) -> int:
    """Lead a run to its end with a live view; return the exit code.

    Args:
        run: what to lead.
        screen: where progress goes.
        output: "table" or "json": the form of the summary.
        extra: watchers beside the live view.
        has_summary: whether a summary is printed at the end.
    """
    clock, past = SystemClock(), run.store.events()
    view = RunView(screen, run.plan.spec.steps, clock, past)
    panel = panel_of(run.store, past)

    def say(text: str) -> None:
        panel.is_stopping = True
        screen.line(text)

    with live_view(screen, lambda is_unicode: panel.rows(clock.now(), is_unicode=is_unicode)) as show:
        watchers: tuple[Watcher, ...] = (_Shown(panel), view, _Pictures(run.store, screen, show), *extra)
        failure = lead(run, watchers=watchers, say=say)
    if failure is not None and not isinstance(failure, Cancelled):
        say_error(failure_text(run, failure))
    end = conclude(run.store, screen, output) if has_summary else 0
    return (failure.exit_code if failure is not None else 0) or end


def panel_of(store: RunStore, past: Sequence[Event]) -> RunPanel:
    """Return the live view of a run."""
    spec = store.spec()
    return RunPanel(
        spec.run, spec.steps, spec.limits.budget_usd, past, log_line=lambda number: store.log_tail(number, 1)
    )


class _Shown:
    """A `Watcher` that passes on what a live view shows."""

    def __init__(self, panel: RunPanel) -> None:
        self.panel = panel

    def event(self, event: Event) -> None:
        """Pass on an event."""
        self.panel.event(event)

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Pass on the newest progress."""
        self.panel.tick(attempt.newest, images_per_s)


class _Pictures:
    """A `Watcher` that shows the samples of the bundled trainer as they arrive, in a terminal that can."""

    def __init__(self, store: RunStore, screen: Screen, show: Show) -> None:
        self.store = store
        self.screen = screen
        self.show = show
        self._step = max((step for step, _ in samples_of(store)), default=-1)

    def event(self, event: Event) -> None:
        """Look for a new grid."""
        self._look(event.at)

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Look for a new grid."""
        self._look(None)

    def _look(self, at: float | None) -> None:
        found = samples_of(self.store) if self.screen.is_terminal else []
        if found and found[-1][0] > self._step:
            self._step, path = found[-1]
            picture = half_blocks(path, min((self.screen.width or WIDTH) - 2, WIDTH))
            if picture is not None:
                self.screen.line(f"  samples after step {self._step}:", at)
                self.show(picture)


def failure_text(run: PreparedRun, failure: PixelOrchError) -> str:
    """Return what is printed of a run that has ended before its last step."""
    if isinstance(failure, BudgetError):  # it was asked for: no error
        more = " --budget MORE" if failure.is_budget else ""
        resume = failure.next_step or f"pixel-orch launch --resume {run.store.run}{more}"
        return f"stopped: {failure.what}; go on with: {resume}"
    command = "launch" if run.verb == "resume" else run.verb
    return f"pixel-orch {command}: error: {failure}"


def follow(store: RunStore, screen: Screen) -> None:
    """Show the events of a run that another process leads, until it is over or that process has ended."""
    clock = SystemClock()
    view, panel = RunView(screen, store.spec().steps, clock), panel_of(store, ())
    told = 0
    with live_view(screen, lambda is_unicode: panel.rows(clock.now(), is_unicode=is_unicode)):
        while True:
            events = store.events()
            for event in events[told:]:
                panel.event(event)
                view.event(event)
            told = len(events)
            view.show_progress()
            if store.state().is_final or store.owner_pid() is None:
                return
            clock.sleep(FOLLOW_S)


def watch(store: RunStore, screen: Screen) -> None:
    """Show a run live in a terminal, without its events, until it is over or no process leads it."""
    clock = SystemClock()
    panel, told = panel_of(store, ()), 0
    with live_view(screen, lambda is_unicode: panel.rows(clock.now(), is_unicode=is_unicode)):
        while True:
            events = store.events()
            for event in events[told:]:
                panel.event(event)
            told = len(events)
            if store.state().is_final or store.owner_pid() is None:
                return
            clock.sleep(FOLLOW_S)


def conclude(store: RunStore, screen: Screen, output: str) -> int:
    """Print the summary of a run; return the exit code for its state."""
    now = SystemClock().now()
    state = store.state()
    if output == "json":
        print(json.dumps(summary_json(store, now)), flush=True)
    else:
        screen.plain(summary_text(store, now))
    return exit_code_of(state)


def exit_code_of(state: RunState) -> int:
    """Return the exit code for the state of a run that is over."""
    return 0 if state.state == "SUCCEEDED" else 130 if state.state == "CANCELLED" else 1
