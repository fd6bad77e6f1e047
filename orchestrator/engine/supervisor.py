"""`attach --all`: one process leads every run that no process leads, each in a thread of its own.

Each run has its own engine and its own lock, as with `attach RUN`; they share the connection to AWS
(`cloud/shared.py`). A run is stopped through a file in its folder: a signal would stop all of them.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from orchestrator.clock import OF_THIS_PROCESS, Clock
from orchestrator.cloud.base import Cloud
from orchestrator.cloud.connect import cloud_of
from orchestrator.cloud.shared import SharedCloud
from orchestrator.engine.build import engine_for
from orchestrator.engine.engine import Engine
from orchestrator.engine.lead import READ_REQUESTS_EVERY_S, keep_time_order, pass_on_request
from orchestrator.engine.signals import stop_signals
from orchestrator.engine.stop import Cancelled
from orchestrator.errors import BudgetError, PixelOrchError
from orchestrator.formatting import counted
from orchestrator.host.connect import forget_ssh_config
from orchestrator.plan.launch_preparation import prepare_existing_run
from orchestrator.runs.events import Event, StateChanged
from orchestrator.runs.lock import RunBusyError
from orchestrator.runs.state import Attempt
from orchestrator.runs.store import RunStore

SUMMARY_EVERY_S = 30.0
THREAD_STACK_BYTES = 1 << 20  # the default is 8 MiB of address space each

CloudKey = tuple[str, tuple[str, ...], str | None]


class Supervisor:
    """Leads many runs, each in a thread."""

    def __init__(self, home: Path, say: Callable[[str], None], clock: Clock) -> None:
        self.home = home
        self.say = say
        self.clock = clock
        self.engines: dict[str, Engine] = {}
        self.outcomes: dict[str, str] = {}
        self._lock = threading.Lock()
        self._clouds: dict[CloudKey, SharedCloud] = {}

    def lead(self, stores: list[RunStore]) -> dict[str, str]:
        """Lead these runs; return the state in which each of them ended."""
        threading.stack_size(THREAD_STACK_BYTES)
        with ExitStack() as stack:
            clouds = self._clouds
            for store in stores:
                keep_time_order(store, OF_THIS_PROCESS)
                spec = store.spec()
                key = (spec.cloud, spec.regions, spec.profile)
                if key not in clouds:
                    cloud = stack.enter_context(cloud_of(spec, self.home))
                    clouds[key] = SharedCloud(cloud, fresh_s=spec.recovery.poll_s)
            threads = []
            for store in stores:
                spec = store.spec()
                cloud_of_run = clouds[spec.cloud, spec.regions, spec.profile]
                thread = threading.Thread(target=self._lead_one, args=(store, cloud_of_run), name=store.run)
                threads.append(thread)
            with stop_signals(self._stop_all):
                for thread in threads:
                    thread.start()
                self._watch(threads)
        return self.outcomes

    def _lead_one(self, store: RunStore, cloud: Cloud) -> None:
        try:
            with store.owned(shared=True):
                if store.state().is_final:
                    raise Cancelled("another command has ended it meanwhile")
                store.request_stop(None)
                watchers = (_Line(store.run, self.say),)
                run = prepare_existing_run(store, cloud, "attach")
                engine = engine_for(run, clock=self.clock, watchers=watchers)
                with self._lock:
                    self.engines[store.run] = engine
                state = engine.run(run.verb, os.getpid()).state
        except (Cancelled, RunBusyError, BudgetError) as error:
            state = store.state().state
            self.say(f"{store.run}: {error}")
        except PixelOrchError as error:
            state = store.state().state
            self.say(f"{store.run}: error: {error}")
        except Exception as error:  # noqa: BLE001  (a failure of one run must not reach the others; its instance is terminated)
            state = store.state().state
            self.say(f"{store.run}: {type(error).__name__}: {error}")
        finally:
            forget_ssh_config(store)
        with self._lock:
            self.engines.pop(store.run, None)
            self.outcomes[store.run] = state

    def _watch(self, threads: list[threading.Thread]) -> None:
        """Pass on what `stop` and `down` ask for, and print a summary at times."""
        told_at = self.clock.now()
        while any(thread.is_alive() for thread in threads):
            self.clock.sleep(READ_REQUESTS_EVERY_S)
            with self._lock:
                engines = dict(self.engines)
            for engine in engines.values():
                pass_on_request(engine)
            if self.clock.now() - told_at >= SUMMARY_EVERY_S:
                told_at = self.clock.now()
                states = Counter(engine.state().state for engine in engines.values())
                over = Counter(self.outcomes.values())
                told = ", ".join(f"{count} {state}" for state, count in sorted((states + over).items()))
                calls: Counter[str] = sum((Counter(cloud.calls()) for cloud in self._clouds.values()), Counter())
                asked = ", ".join(f"{name} {count}" for name, count in sorted(calls.items()))
                self.say(f"{counted(len(threads), 'run')}: {told}; calls to EC2 so far: {asked}")

    def _stop_all(self, signal_name: str, count: int) -> None:
        """First signal: every run saves, downloads and terminates. Second: every instance is terminated at once."""
        if count == 1:
            self.say("Stopping all runs: checkpoint, pull, terminate. (Again: terminate at once.)")
        for engine in list(self.engines.values()):
            engine.request_stop(signal_name, is_urgent=count > 1)


class _Line:
    """A `Watcher` that prints a line when a run moves to another state."""

    def __init__(self, run: str, say: Callable[[str], None]) -> None:
        self.run = run
        self.say = say

    def event(self, event: Event) -> None:
        """Print it."""
        if isinstance(event, StateChanged):
            reason = event.reason.splitlines()[0] if event.reason else ""
            self.say(f"{self.run}: {event.state}" + (f" ({reason})" if reason else ""))

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Say nothing: the summary does."""
