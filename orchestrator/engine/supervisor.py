"""`attach --all`: one process that leads every run which nobody leads, a thread for each.

Each run has its own engine and its own lock, as with `attach RUN`; what they share is the connection to AWS
(`shared_cloud.py`). A run is stopped through a file in its folder, not by a signal, which would be for all of them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from orchestrator.clock import Clock
from orchestrator.cloud.base import Cloud
from orchestrator.cloud.connect import cloud_of
from orchestrator.cloud.shared import SharedCloud
from orchestrator.engine.build import engine_for
from orchestrator.engine.engine import Engine
from orchestrator.engine.stop import Cancelled
from orchestrator.errors import BudgetError, PixelOrchError
from orchestrator.formatting import counted
from orchestrator.host.connect import forget_ssh_config
from orchestrator.runs.events import Event, StateChanged
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.state import Attempt
from orchestrator.runs.store import RunBusyError, RunStore

SUMMARY_EVERY_S = 30.0
LOOK_FOR_WISHES_EVERY_S = 0.5
THREAD_STACK_BYTES = 1 << 20  # the default is 8 MiB of address space each

CloudKey = tuple[str, tuple[str, ...], str | None]


class Supervisor:
    """Leads many runs to their ends."""

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
                spec = store.spec()
                key = (spec.cloud, spec.regions, spec.profile)
                if key not in clouds:
                    cloud = stack.enter_context(cloud_of(spec, self.home))
                    clouds[key] = SharedCloud(cloud, fresh_s=spec.recovery.poll_s)
            threads = []
            for store in stores:
                spec = store.spec()
                cloud_of_run = clouds[spec.cloud, spec.regions, spec.profile]
                words = (store, spec, cloud_of_run)
                threads.append(threading.Thread(target=self._lead_one, args=words, name=store.run))
            with self._signals():
                for thread in threads:
                    thread.start()
                self._watch(threads)
        return self.outcomes

    def _lead_one(self, store: RunStore, spec: RunSpec, cloud: Cloud) -> None:
        try:
            with store.owned(shared=True):
                store.ask_for(None)
                watchers = (_Line(store.run, self.say),)
                engine = engine_for(store, spec, cloud, self.home, clock=self.clock, watchers=watchers)
                with self._lock:
                    self.engines[store.run] = engine
                state = engine.run("attach", os.getpid()).state
        except (Cancelled, RunBusyError, BudgetError) as error:
            state = store.state().state
            self.say(f"{store.run}: {error}")
        except PixelOrchError as error:
            state = store.state().state
            self.say(f"{store.run}: error: {error}")
        except Exception as error:  # noqa: BLE001  (one run's trouble must not reach the others; its machine is ended)
            state = store.state().state
            self.say(f"{store.run}: {type(error).__name__}: {error}")
        finally:
            forget_ssh_config(store)
        with self._lock:
            self.engines.pop(store.run, None)
            self.outcomes[store.run] = state

    def _watch(self, threads: list[threading.Thread]) -> None:
        """Pass on what `stop` and `down` ask for, and say now and then how things stand."""
        told_at = self.clock.now()
        while any(thread.is_alive() for thread in threads):
            self.clock.sleep(LOOK_FOR_WISHES_EVERY_S)
            with self._lock:
                engines = dict(self.engines)
            for engine in engines.values():
                wish = engine.store.wish()
                if wish is not None:
                    engine.request_stop("pixel-orch stop" if wish == "STOPPED" else "pixel-orch down", wish)
            if self.clock.now() - told_at >= SUMMARY_EVERY_S:
                told_at = self.clock.now()
                states = Counter(engine.state().state for engine in engines.values())
                over = Counter(self.outcomes.values())
                told = ", ".join(f"{count} {state}" for state, count in sorted((states + over).items()))
                calls: Counter[str] = sum((Counter(cloud.calls()) for cloud in self._clouds.values()), Counter())
                asked = ", ".join(f"{name} {count}" for name, count in sorted(calls.items()))
                self.say(f"{counted(len(threads), 'run')}: {told}; calls to EC2 so far: {asked}")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """First signal: every run saves, comes home and ends its machine. Second: every machine is ended at once."""
        count = 0

        def handle(number: int, frame: FrameType | None) -> None:
            nonlocal count
            count += 1
            if count == 1:
                self.say("Stopping all runs: checkpoint, pull, terminate. (Again: terminate at once.)")
            for engine in list(self.engines.values()):
                engine.request_stop(signal.Signals(number).name, is_urgent=count > 1)

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


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
