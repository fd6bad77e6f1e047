"""How a run is told to stop: by a signal, by another thread, or by a limit."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.clock import Clock
from orchestrator.errors import PixelOrchError
from orchestrator.market.budget import Limit, Reached
from orchestrator.runs.events import State

STOP_SEEN_WITHIN_S = 15.0


class Cancelled(PixelOrchError):  # noqa: N818  (being told to stop is no error)
    """A person pressed Ctrl-C, closed the terminal, or ran `stop` or `down`."""

    exit_code = 130


class MoveOn(PixelOrchError):  # noqa: N818  (the machine is well; the run goes on elsewhere)
    """The time that a run may spend on bringing up a machine is over: another one is needed to be done in time."""


class StopRequest:
    """Whether, why and in which state the run is to end. Any thread may ask; the leading thread looks.

    Args:
        clock: the time.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.reason = ""  # "" without a request
        self.state: State = "CANCELLED"  # STOPPED if the run is to be resumable
        self.is_urgent = False  # end the machine without waiting for the trainer's checkpoint
        self.limit: Limit | None = None  # that the run has reached
        self.move_on_at = math.inf  # unix seconds: then what is waited for is given up, and the run goes on elsewhere
        self._may_interrupt = False  # a signal handler may raise into what the leading thread does now
        self._thread = threading.get_ident()

    def lead_from_this_thread(self) -> None:
        """Make the calling thread the one that a signal handler may interrupt."""
        self._thread = threading.get_ident()

    def request(self, reason: str, state: State = "CANCELLED", *, is_urgent: bool = False) -> None:
        """Ask for a stop: checkpoint, pull, terminate; the run ends in `state`.

        Safe from another thread, and in a signal handler, where it raises if the leading thread only waits.

        Raises:
            Cancelled: called in the leading thread while that may be interrupted.
        """
        self.is_urgent = self.is_urgent or is_urgent
        if not self.reason:
            self.reason, self.state = reason, state
        if self._may_interrupt and threading.get_ident() == self._thread:
            self._may_interrupt = False
            raise Cancelled(reason)

    def request_by_limit(self, reached: Reached) -> None:
        """Stop because a limit of the run is reached; it ends as STOPPED."""
        self.reason, self.state, self.limit = reached.text, "STOPPED", reached.limit

    def check(self) -> None:
        """Raise Cancelled if a stop was asked for, MoveOn if the time for what is waited for is over."""
        if self.reason:
            raise Cancelled(self.reason)
        if self.clock.now() >= self.move_on_at:
            self.move_on_at = math.inf
            raise MoveOn("no time is left for this machine to begin")

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Mark work that may be broken off at any point, because the machine that it is about will be ended anyway.

        Raises:
            Cancelled: a stop was asked for before, or is asked for meanwhile.
        """
        self.check()
        self._may_interrupt = True
        try:
            yield
        finally:
            self._may_interrupt = False

    def sleep(self, seconds: float) -> None:
        """Wait. A stop ends the wait: at once from a signal, within a slice from another thread.

        Raises:
            Cancelled: a stop was asked for.
        """
        until = self.clock.now() + seconds
        with self.interruptible():
            while (left_s := until - self.clock.now()) > 0:
                self.clock.sleep(min(left_s, STOP_SEEN_WITHIN_S))
                self.check()
