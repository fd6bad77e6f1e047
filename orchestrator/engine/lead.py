"""Leads one run to its end in this process, or starts a process in the background that does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.clock import OF_THIS_PROCESS, TOLERATED_S, SteadyTime, SystemClock
from orchestrator.engine.build import engine_for
from orchestrator.engine.engine import Engine
from orchestrator.engine.journal import Watcher
from orchestrator.engine.signals import is_main_thread, stop_signals
from orchestrator.errors import MOST_LAST_WORDS, PixelOrchError
from orchestrator.formatting import one_line
from orchestrator.host.connect import forget_ssh_config
from orchestrator.plan.launch_preparation import PreparedRun
from orchestrator.runs.events import ClockDiffers, Event, StateChanged
from orchestrator.runs.lock import Holder, RunBusyError
from orchestrator.runs.state import Attempt
from orchestrator.runs.store import RunStore

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
    with removed_if_unborn(run), run.lock or store.lock(shared=not is_main) as lock:
        if run.verb in ("attach", "stop") and store.state().is_final:
            return None  # another command has ended it since it was looked at
        if run.verb in ("attach", "stop"):
            store.request_stop(None)  # of the time before
        lock.sign(shared=not is_main)
        keep_time_order(store, OF_THIS_PROCESS)
        engine = engine_for(run, clock=SystemClock(), watchers=watchers)
        _say_clock(engine)
        pass_on_request(engine)  # of `down`, between the birth and now
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
    """Remove a new run that fails before anything was requested for it; a run without a leader would stay PENDING.

    One that was to be resumed is STOPPED again.
    """
    try:
        yield
    except RunBusyError:
        raise  # another process leads it
    except BaseException as error:
        if run.verb == "launch" and run.store.state().state == "PENDING":
            run.store.delete_unborn()
        elif run.verb == "resume" and run.store.state().state == "PENDING":
            reason = f"it was not resumed: {getattr(error, 'reason', '') or type(error).__name__}"
            run.store.append(StateChanged(at=SystemClock().now(), state="STOPPED", reason=reason))
        raise


def lead_in_background(run: PreparedRun) -> int | None:
    """Start a process that leads the run and outlives this one; return its id once it leads.

    The run's lock passes to it without a gap. None: it has led the run to its end already.

    Raises:
        PixelOrchError: it ended before it led the run; the run's `engine.log` says why.
    """
    store = run.store
    log_path = store.folder / ENGINE_LOG
    with removed_if_unborn(run), run.lock or store.lock() as lock, log_path.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.engine.background", store.run, run.verb, str(lock.descriptor)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock.descriptor],
            env={**os.environ, "PIXEL_ORCH_HOME": str(store.home), "PYTHONPATH": str(Path(__file__).parents[2])},
            cwd="/",
        )
    try:
        while not _is_led_by(store, child.pid):
            if child.poll() is not None:
                _check_ended(run, child.returncode)
                return None
            time.sleep(0.05)
    except BaseException:  # Ctrl-C: nobody was told that it goes on
        child.terminate()
        raise
    return child.pid


def _is_led_by(store: RunStore, pid: int) -> bool:
    holder = Holder.of(store.folder)
    return holder.pid == pid and not holder.is_starting


def _check_ended(run: PreparedRun, code: int) -> None:
    """Raise PixelOrchError unless the process in the background, which is gone, has led the run to its end."""
    store = run.store
    if store.state().is_final:
        return
    log_path = store.folder / ENGINE_LOG
    lines = log_path.read_text(errors="replace").split("\n")[-2:] if log_path.is_file() else []
    last = one_line(" ".join(lines).strip())[-MOST_LAST_WORDS:]
    what = f"the process in the background ended with {code} before it led the run"
    reason = f"{what}: {last or 'it printed nothing'}; see {log_path}"
    if store.state().state == "PENDING":  # the folder stays, for its log
        with suppress(RunBusyError), store.owned():
            state = store.requested_stop() or "FAILED"  # `down` has ended it
            store.append(StateChanged(at=SystemClock().now(), state=state, reason=reason))
    raise PixelOrchError(f"{store.run}: {reason}")


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
