"""Time that nobody can set, and the deadline at which the guard (`guard.sh`) powers the machine off.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import os
import time
from typing import Any


def steady() -> float:
    """Return seconds that nobody can set: since the boot, suspended ones included where the system counts them.

    The wall clock of an instance may be stepped while it trains, for example by chrony.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Changes:
    """When files were seen to change, by `steady`. Their own times are those of the wall clock."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[Any, float]] = {}  # by path: what identifies the content, and since when

    def age_s(self, path: str, since: float) -> float:
        """Return the seconds since the file was last seen to change; since `since` if there is no file."""
        try:
            status = os.stat(path)
        except OSError:
            return steady() - since
        mark = (status.st_mtime_ns, status.st_size, status.st_ino)
        if path not in self.seen or self.seen[path][0] != mark:
            self.seen[path] = (mark, steady())
        return steady() - self.seen[path][1]


def hold(seconds: float, limit: float = float("inf")) -> float:
    """Move the deadline of the guard (`guard.sh`) to `seconds` from now, at most to `limit` (seconds since the boot).

    Returns the deadline in seconds since the boot. On a machine without a guard it has no effect.
    """
    folder = os.environ.get("PIXEL_ORCH_RUN", "/run/pixel-orch")
    with open("/proc/uptime") as file:
        deadline = min(float(file.read().split()[0]) + seconds, limit)
    part = os.path.join(folder, "deadline.%d" % os.getpid())
    try:
        with open(part, "w") as file:
            file.write("%d\n" % deadline)
        os.replace(part, os.path.join(folder, "deadline"))
    except OSError:
        pass  # no guard, or /run is full: the old deadline holds until the next call
    return deadline


def longest() -> float:
    """Return the latest deadline during set-up in seconds since the boot: the time that the budget covers."""
    try:
        with open(os.path.join(os.environ.get("PIXEL_ORCH_RUN", "/run/pixel-orch"), "limit")) as file:
            return float(file.read())
    except (OSError, ValueError):
        return float("inf")
