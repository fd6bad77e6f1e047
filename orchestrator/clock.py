"""Time, as a thing that can be handed over: the engine never asks the machine for it."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from and how one waits."""

    def now(self) -> float:
        """Return unix seconds, UTC."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait. A clock of the tests moves on at once."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Return unix seconds, UTC."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Block this thread for `seconds`."""
        time.sleep(seconds)


def iso(unix_s: float) -> str:
    """Write unix seconds as people and AWS do: `2026-11-23T20:33:31.250Z`."""
    stamp = datetime.fromtimestamp(unix_s, tz=timezone.utc)
    return stamp.strftime("%Y-%m-%dT%H:%M:%S.") + f"{stamp.microsecond // 1000:03d}Z"
