"""Time, as a thing that can be handed over: the engine never asks the machine for it.

The clock of a laptop may be wrong, and may be set while a run goes on. So the wall clock is read once in a process.
From then on the time is that reading plus the seconds of CLOCK_BOOTTIME. These also count while the laptop sleeps, and
nobody can set them. The first answer of AWS corrects the reading: the events of all processes then have one clock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Protocol

EARLIEST_S, LATEST_S = 1_760_000_000.0, 7_258_118_400.0  # October 2025; the year 2200, behind which no event is read
TOLERATED_S = 5.0  # between this machine's clock and AWS's: a Date header has whole seconds, and took a while to arrive


class Clock(Protocol):
    """Where the time comes from and how one waits."""

    def now(self) -> float:
        """Return unix seconds, UTC."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait. A clock of the tests moves on at once."""
        ...


def boottime() -> float:
    """Return the seconds since this machine was started, those in suspend included where the system counts them.

    Without CLOCK_BOOTTIME (outside of Linux) a suspended machine's time may be missing.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class SteadyTime:
    """The wall clock as it was read once, plus the time since then; corrected once by a server's clock.

    Args:
        wall: gives unix seconds, as this machine believes.
        steady: gives seconds that nobody can set.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = boottime) -> None:
        self._steady = steady
        self._offset_s = wall() - steady()
        self._is_confirmed = False
        self._lock = threading.Lock()
        self.ahead_s = 0.0
        """How far this machine's clock is ahead of the server's (behind it, below zero); 0 if they agree."""

    def now(self) -> float:
        """Return unix seconds, UTC."""
        return self._steady() + self._offset_s

    def confirm(self, server_s: float) -> None:
        """Take over the time of a server (unix seconds), the first time only, if this machine's differs from it.

        Once is enough, and more would let the time jump within a process. A year in which this program cannot run is
        the answer of another server, such as a proxy's, whose own clock is wrong.
        """
        if not EARLIEST_S <= server_s <= LATEST_S:
            return
        with self._lock:
            if self._is_confirmed:
                return
            self._is_confirmed = True
            ahead_s = self.now() - server_s
            if abs(ahead_s) > TOLERATED_S:
                self.ahead_s = ahead_s
                self._offset_s -= ahead_s

    def advance_to(self, least_s: float) -> None:
        """Let the time be at least this, unless a server has said what it is.

        For events that a process before this one wrote: its clock was read before somebody set this machine's back.
        """
        with self._lock:
            if not self._is_confirmed:
                self._offset_s += max(0.0, least_s - self.now())


OF_THIS_PROCESS = SteadyTime()
"""The time of every `SystemClock`."""


class SystemClock:
    """The machine's own clock, steady within this process."""

    def now(self) -> float:
        """Return unix seconds, UTC."""
        return OF_THIS_PROCESS.now()

    def sleep(self, seconds: float) -> None:
        """Block this thread for `seconds`."""
        time.sleep(seconds)


def iso(unix_s: float) -> str:
    """Write unix seconds as people and AWS do: `2026-11-23T20:33:31.250Z`."""
    stamp = datetime.fromtimestamp(unix_s, tz=timezone.utc)
    return stamp.strftime("%Y-%m-%dT%H:%M:%S.") + f"{stamp.microsecond // 1000:03d}Z"
