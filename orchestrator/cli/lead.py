"""Leads a run in this process: signals, live view, summary at the end."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from orchestrator.cli.console import Screen, say_error
from orchestrator.cli.run_view import RunView
from orchestrator.clock import SystemClock
from orchestrator.cloud.base import Cloud
from orchestrator.cloud.connect import cloud_of
from orchestrator.engine.build import engine_from
from orchestrator.engine.engine import Engine
from orchestrator.engine.journal import Watcher
from orchestrator.engine.stop import Cancelled
from orchestrator.errors import BudgetError, PixelOrchError
from orchestrator.host import sync
from orchestrator.host.connect import forget_ssh_config
from orchestrator.plan.job import tree_for
from orchestrator.plan.planner import make_plan
from orchestrator.plan.requests import Plan
from orchestrator.report.summary import summary_json, summary_text
from orchestrator.runs.events import Event, StateChanged
from orchestrator.runs.home import home_from_environment, home_id
from orchestrator.runs.state import Attempt
from orchestrator.runs.store import RunStore

if TYPE_CHECKING:
    from infra.local import EmbeddedCloud


def lead_detached(run: str, verb: str) -> int:
    """Lead a run in a process without a terminal; what would be printed goes to `engine.log`."""
    home = home_from_environment()
    store = RunStore.open(home, run)
    spec = store.spec()
    screen = Screen(sys.stdout)
    with cloud_of(spec, home) as cloud:
        plan = make_plan(spec, cloud, home_id(home), born_at=store.state().created_at)
        return _lead(store, plan, tree_for(spec), cloud, screen, output="table", verb=verb)


def _lead(
    store: RunStore,
    plan: Plan,
    tree: sync.Tree,
    cloud: Cloud,
    screen: Screen,
    *,
    output: str,
    verb: str,
    extra: tuple[Watcher, ...] = (),
) -> int:
    clock = SystemClock()
    view = RunView(screen, plan.spec.steps, clock, store.events())
    code = 0
    with store.owned():
        engine = engine_from(store, plan, tree, cloud, clock=clock, watchers=(view, *extra))
        store.ask_for(None)
        if verb == "stop":
            engine.journal.watchers = (*engine.journal.watchers, _StopAtOnce(engine))
        with _signals(engine, store, screen):
            try:
                engine.run(verb, os.getpid())
            except Cancelled as error:
                code = error.exit_code
            except BudgetError as error:
                code = error.exit_code
                say_error(_limit_words(store.run, error))
            except PixelOrchError as error:
                code = error.exit_code
                say_error(f"pixel-orch {'launch' if verb == 'resume' else verb}: error: {error}")
    forget_ssh_config(store)
    end = 0 if output in ("none", "quiet") else _conclude(store, screen, output)
    return code or end


def _limit_words(run: str, error: BudgetError) -> str:
    """Return what is said of a limit that was asked for: it is no error, and the run can go on."""
    what, _, how = str(error).partition("; go on with: ")
    more = " --budget MORE" if what.startswith("the budget") else ""
    return f"stopped: {what}; go on with: {how or f'pixel-orch launch --resume {run}{more}'}"


class _StopAtOnce:
    """A `Watcher` that asks for a stop as soon as the trainer is heard."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def event(self, event: Event) -> None:
        """Ask for it also where there is no trainer to be heard: before anything new is rented."""
        if isinstance(event, StateChanged) and event.state in ("PROVISIONING", "RECOVERING"):
            self.engine.request_stop("pixel-orch stop", "STOPPED")

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Ask for it."""
        self.engine.request_stop("pixel-orch stop", "STOPPED")


@contextmanager
def _signals(engine: Engine, store: RunStore, screen: Screen) -> Iterator[None]:
    """First signal: checkpoint, pull, terminate. Second: terminate at once. No signal leaves a machine behind."""
    count = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count == 1:
            screen.line("Stopping: checkpoint, pull, terminate. (Again: terminate at once.)")
            state = store.asked_for()
            engine.request_stop("pixel-orch stop" if state == "STOPPED" else signal.Signals(number).name, state)
        else:
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(store: RunStore, screen: Screen) -> None:
    """Show the events of a run that another process leads, until it is over or that process is gone."""
    clock = SystemClock()
    view = RunView(screen, store.spec().steps, clock)
    told = 0
    while True:
        events = store.events()
        for event in events[told:]:
            view.event(event)
        told = len(events)
        view.look()
        if store.state().is_final or store.owner_pid() is None:
            return
        clock.sleep(0.5)


def _conclude(store: RunStore, screen: Screen, output: str) -> int:
    now = SystemClock().now()
    state = store.state()
    if output == "json":
        print(json.dumps(summary_json(store, now)), flush=True)
    else:
        screen.plain(summary_text(store, now))
    return 0 if state.state == "SUCCEEDED" else 130 if state.state == "CANCELLED" else 1


class InterruptOnce:
    """A `Watcher` of the embedded cloud: interrupts the first attempt as EC2 would, once.

    Args:
        embedded: whom to ask.
        after_s: seconds from the first step on.
        steps: all steps; at half of them it interrupts even if `after_s` is not over.
        now: the time.
    """

    def __init__(self, embedded: EmbeddedCloud, after_s: float, steps: int | None, now: Any) -> None:
        self.embedded = embedded
        self.after_s = after_s
        self.steps = steps
        self.now = now
        self.is_done = False

    def event(self, event: object) -> None:
        """Look at nothing."""

    def tick(self, attempt: Any, step: int, images_per_s: float | None) -> None:
        """Interrupt, if it is time."""
        if self.is_done or attempt.first_step_at is None or attempt.number != 1:
            return
        at_half = self.steps is not None and step >= self.steps / 2
        if at_half or self.now() - attempt.first_step_at >= self.after_s:
            self.is_done = True
            self.embedded.interrupt(attempt.instance_id)
