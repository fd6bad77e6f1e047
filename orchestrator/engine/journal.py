"""The events of one run in this process: written down first, then passed to the watchers."""

from __future__ import annotations

import errno
import threading
from dataclasses import replace
from typing import Protocol

from orchestrator.clock import Clock
from orchestrator.runs.events import Event, State, StateChanged
from orchestrator.runs.state import Attempt, RunState, fold
from orchestrator.runs.store import RunStore

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Watcher(Protocol):
    """Who is told what happens: the terminal, a scripted interruption of the embedded cloud, a test."""

    def event(self, event: Event) -> None:
        """Take note of a fact that has just been written down."""
        ...

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Take note, after each poll of the host, of how far the trainer is."""
        ...


class Journal:
    """Writes events down, keeps their fold, and tells the watchers; from several threads for the machines of a group.

    Args:
        store: the run's folder.
        clock: the time.
        watchers: who is told.
    """

    def __init__(self, store: RunStore, clock: Clock, watchers: tuple[Watcher, ...] = ()) -> None:
        self.store = store
        self.clock = clock
        self.watchers = watchers
        self.events = self._stored()
        self.is_training = False  # a machine trains: a full disk here must not end it
        self._is_finishing = False
        self._unwritten: list[Event] = []  # events that the disk had no room for yet
        self._state: RunState | None = None
        self._lock = threading.RLock()

    def emit(self, event: Event) -> None:
        """Write an event down, then tell the watchers.

        Raises:
            OSError: it cannot be written. A full disk is no error while a machine trains, nor while machines are
                ended: the event is kept in memory and written with the next one.
        """
        with self._lock:
            self._unwritten.append(event)
            try:
                while self._unwritten:
                    self.store.append(self._unwritten[0])
                    del self._unwritten[0]
            except OSError as error:
                if not self._is_finishing and not (self.is_training and error.errno in NO_ROOM):
                    self._unwritten.clear()
                    raise
            self.events.append(event)
            self._state = None
            self.tell(event)

    def tell(self, event: Event) -> None:
        """Tell the watchers of an event without writing it down."""
        with self._lock:
            for watcher in self.watchers:
                watcher.event(event)

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Tell the watchers how far the trainer is."""
        with self._lock:
            for watcher in self.watchers:
                watcher.tick(attempt, step, images_per_s)

    def state(self) -> RunState:
        """Return the fold of the events so far."""
        with self._lock:
            if self._state is None:
                self._state = fold(self.events)
            return self._state

    def move(self, state: State, reason: str = "") -> None:
        """Move the run to another state, unless it is there already."""
        with self._lock:
            if self.state().state == state:
                return
            self.emit(StateChanged(at=self.clock.now(), state=state, reason=reason))

    def begin_finish(self) -> None:
        """Read the events again: a signal may have come between writing one and keeping it in memory.

        From now on no failed write stops the ending of machines.
        """
        self._is_finishing = True
        self.reload()

    def reload(self) -> None:
        """Read the events again, against the time as it is known now."""
        self.events, self._state = self._stored(), None

    def _stored(self) -> list[Event]:
        """Return the stored events; one from the future gets the time of now, so that nothing waits for it.

        A process before this one wrote it while this machine's clock was ahead.
        """
        now = self.clock.now()
        return [replace(event, at=now) if event.at > now else event for event in self.store.events()]
