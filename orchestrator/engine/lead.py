"""Leads one run to its end in this process, or starts a process in the background that does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.clock import OF_THIS_PROCESS, TOLERATED_S, SteadyTime, SystemClock
from orchestrator.engine.build import engine_for
from orchestrator.engine.engine import Engine
from orchestrator.engine.journal import Watcher
from orchestrator.engine.signals import is_main_thread, stop_signals
from orchestrator.errors import PixelOrchError
from orchestrator.host.connect import forget_ssh_config
from orchestrator.plan.launch_preparation import PreparedRun
from orchestrator.runs.events import ClockDiffers, Event, StateChanged
from orchestrator.runs.state import Attempt
from orchestrator.runs.store import RunBusyError, RunStore

READ_REQUESTS_EVERY_S = 0.5
MOST_AHEAD_S = 86400.0  # of an event that was written before this machine's clock was set back
ENGINE_LOG = "engine.log"  # in the run's folder: the output of a process in the background


def lead(
    run: PreparedRun, *, watchers: tuple[Watcher, ...] = (), say: Callable[[str], None] = lambda text: None
) -> PixelOrchError | None:
    """Lead a run to its end; return the error by which it ended, None if all its steps are done.

    In the main thread a first SIGINT, SIGTERM or SIGHUP stops the run, a second one terminates its machine at once. In
    another thread, which no signal reaches, `pixel-orch stop` and `down` ask through the run's folder.

    Args:
        run: what to lead.
        watchers: are told what happens.
        say: is given a line when the run is asked to stop.

    Raises:
        RunBusyError: another process leads the run.
    """
    store, is_main = run.store, is_main_thread()
    with removed_if_unborn(run), store.owned(shared=not is_main):
        keep_time_order(store, OF_THIS_PROCESS)
        engine = engine_for(run, clock=SystemClock(), watchers=watchers)
        _say_clock(engine)
        store.request_stop(None)
        if run.verb == "stop":
            engine.journal.watchers = (*engine.journal.watchers, _StopAtOnce(engine))
        failure: PixelOrchError | None = None
        with _stopped_by_signals(engine, say) if is_main else _stopped_by_requests(engine):
            try:
                engine.run(run.verb, os.getpid())
            except PixelOrchError as error:
                failure = error
    forget_ssh_config(store)
    return failure


def keep_time_order(store: RunStore, process_time: SteadyTime) -> None:
    """Let no event of this process be earlier than those before it, unless AWS has said what the time is.

    Somebody may have set this machine's clock back. A clock that was ahead by more than a day was simply wrong.
    """
    newest_at = max((event.at for event in store.events()), default=0.0)
    if newest_at < process_time.now() + MOST_AHEAD_S:
        process_time.advance_to(newest_at)


def _say_clock(engine: Engine) -> None:
    """Write down that this machine's clock is wrong, or that events are from the future."""
    now = engine.clock.now()
    ahead_s = max((event.at - now for event in engine.store.events()), default=0.0)
    if OF_THIS_PROCESS.ahead_s:
        engine.journal.emit(ClockDiffers(at=now, ahead_s=OF_THIS_PROCESS.ahead_s, of="aws"))
    elif ahead_s > TOLERATED_S:
        engine.journal.emit(ClockDiffers(at=now, ahead_s=ahead_s, of="events"))


@contextmanager
def removed_if_unborn(run: PreparedRun) -> Iterator[None]:
    """Remove a new run that fails before anything was requested for it; a run without a leader would stay PENDING."""
    try:
        yield
    except RunBusyError:
        raise  # another process leads it
    except BaseException:
        if _is_unborn(run):
            run.store.delete_unborn()
        raise


def _is_unborn(run: PreparedRun) -> bool:
    return run.verb == "launch" and run.store.state().state == "PENDING"


def lead_in_background(run: PreparedRun) -> int:
    """Start a process that leads the run and outlives this one; return its id once it holds the run's lock.

    Raises:
        PixelOrchError: it ended before; the run's `engine.log` says why.
    """
    store = run.store
    log_path = store.folder / ENGINE_LOG
    with removed_if_unborn(run), log_path.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.engine.background", store.run, run.verb],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PIXEL_ORCH_HOME": str(store.home), "PYTHONPATH": str(Path(__file__).parents[2])},
            cwd="/",
        )
    while store.owner_pid() != child.pid:
        if child.poll() is None:
            time.sleep(0.05)
            continue
        if store.state().is_final:
            break
        reason = f"the process in the background ended with {child.returncode} before it led the run; see {log_path}"
        if _is_unborn(run):  # the folder stays, for its log
            store.append(StateChanged(at=SystemClock().now(), state="FAILED", reason=reason))
        raise PixelOrchError(f"{store.run}: {reason}")
    return child.pid


class _StopAtOnce:
    """A `Watcher` that requests a stop as soon as the trainer is heard, or before anything new is rented."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def event(self, event: Event) -> None:
        """Request the stop where there is no trainer to wait for."""
        if isinstance(event, StateChanged) and event.state in ("PROVISIONING", "RECOVERING"):
            self.engine.request_stop("pixel-orch stop", "STOPPED")

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Request the stop."""
        self.engine.request_stop("pixel-orch stop", "STOPPED")


@contextmanager
def _stopped_by_signals(engine: Engine, say: Callable[[str], None]) -> Iterator[None]:
    """First signal: checkpoint, pull, terminate. Second: terminate at once. No signal leaves an instance behind."""

    def handle(name: str, count: int) -> None:
        if count > 1:
            raise KeyboardInterrupt
        say("Stopping: checkpoint, pull, terminate. (Again: terminate at once.)")
        state = engine.store.stop_state()
        engine.request_stop("pixel-orch stop" if state == "STOPPED" else name, state)

    with stop_signals(handle):
        yield


@contextmanager
def _stopped_by_requests(engine: Engine) -> Iterator[None]:
    """Pass on what `stop` and `down` ask for through the run's folder."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(READ_REQUESTS_EVERY_S):
            pass_on_request(engine)

    thread = threading.Thread(target=watch, name=f"requests-{engine.store.run}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def pass_on_request(engine: Engine) -> None:
    """Request the stop that another command has asked for, if one has."""
    state = engine.store.requested_stop()
    if state is not None:
        engine.request_stop("pixel-orch stop" if state == "STOPPED" else "pixel-orch down", state)
