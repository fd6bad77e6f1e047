"""Progress of a long task: amount done, rate and time left."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
QUIET_S = 10.0  # between two lines in a pipe or a file
MOVES_S = 0.2  # between two updates on a terminal


def amount(bytes_: float) -> str:
    """Format a number of bytes in powers of ten: `1.2 GB`."""
    for size, unit in UNITS:
        if bytes_ >= size:
            return f"{bytes_ / size:.1f} {unit}"
    return f"{bytes_:.0f} B"


class Meter:
    """Shows progress: on a terminal in one line that is updated in place, else in a line every ten seconds.

    Args:
        what: name of the task.
        total: amount of work; None if it is not known.
        unit: "B" for bytes, else a plural noun.
        stream: stderr by default, because stdout is for results.
        clock: returns seconds.
    """

    def __init__(
        self,
        what: str,
        total: float | None,
        unit: str = "images",
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, 0.0
        self._stream, self._clock = stream or sys.stderr, clock
        self._began_s = self._shown_s = clock()
        self._first = 0.0  # done before this process
        self._drawn = False
        self._moves = self._stream.isatty()

    def skip(self, count: float) -> None:
        """Count work that an earlier run did; it does not count towards the rate."""
        self.done += count
        self._first += count

    def add(self, count: float) -> None:
        """Count work as done."""
        self.done += count
        now = self._clock()
        if now - self._shown_s >= (MOVES_S if self._moves else QUIET_S):
            self._shown_s = now
            self._draw(self.line(now))

    def line(self, now: float) -> str:
        """Format the amount done, the rate and the time left."""
        rate = (self.done - self._first) / max(1e-9, now - self._began_s)
        words = [f"{self.what}: {self._amount(self.done)}"]
        if self.total:
            words[0] += f" of {self._amount(self.total)} ({min(1.0, self.done / self.total):.0%})"
        words.append(f"{self._amount(rate)}/s")
        if self.total and rate > 0:
            left_s = round(max(0.0, self.total - self.done) / rate)
            words.append(f"{left_s // 3600}:{left_s // 60 % 60:02}:{left_s % 60:02} left")
        return "  ".join(words)

    def close(self) -> None:
        """Clear the line that is updated in place."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False

    def _draw(self, line: str) -> None:
        if self._moves:
            self._stream.write("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1])
            self._drawn = True
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def _amount(self, count: float) -> str:
        return amount(count) if self.unit == "B" else f"{count:,.0f} {self.unit}"
