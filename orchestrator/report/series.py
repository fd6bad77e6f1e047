"""Every number of a metrics file, whatever it is called: its curve, its last value, the steps per second and epoch.

For a program of the user's own. The bundled trainer's keys have figures of their own (`metrics.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orchestrator.runs.checked import MOST_STEP, UNIX_TIMES, is_figure, is_step

MOST_KEYS = 64
MOST_POINTS = 2000  # of a curve that are held; then neighbours are merged
MOST_FIGURE = 1e12
LEAST_SPAN_S = 1e-3
NO_VALUES = frozenset(("step", "time", "wall_s", "epoch", "unit", "event", "split", "steps_per_s"))
FIRST = (
    r"(valid|val|eval|test)[_/ -]?loss", r"(^|[_/ -])loss", r"(valid|val|eval|test).*acc", r"acc", r"bits_per_dim|nats",
    r"perplex|ppl", r"reward|return|score|f1|auc|bleu|iou", r"error|mse|mae", r"images_per_s", r"lr|learning_rate",
)  # fmt: skip
KNOWN = [re.compile(text, re.IGNORECASE) for text in FIRST]
Point = tuple[int, float]


def is_value(key: object, value: object) -> bool:
    """Return whether an entry of a line is a measured value, and not its step or time."""
    return isinstance(key, str) and key not in NO_VALUES and is_figure(value, -MOST_FIGURE, MOST_FIGURE)


def main_keys(keys: Iterable[str]) -> list[str]:
    """Return the keys in the order in which people look for them: losses, accuracies, others."""
    ranks = {key: next((rank for rank, one in enumerate(KNOWN) if one.search(key)), len(KNOWN)) for key in keys}
    return sorted(ranks, key=lambda key: (ranks[key], len(key), key))


class Curve:
    """One value over the steps, held in bounded memory."""

    def __init__(self) -> None:
        self.last: float = 0.0
        self._points: list[Point] = []
        self._size = 1  # measurements that a point is the mean of
        self._sum, self._count = 0.0, 0

    def add(self, step: int, value: float) -> None:
        """Add a measurement."""
        self.last = value
        self._sum += value
        self._count += 1
        if self._count < self._size:
            return
        self._points.append((step, self._sum / self._count))
        self._sum, self._count = 0.0, 0
        if len(self._points) >= MOST_POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=False)
            self._points = [(second[0], (first[1] + second[1]) / 2) for first, second in pairs]
            self._size *= 2

    @property
    def points(self) -> list[Point]:
        """(step, mean value) in the order of the file."""
        return self._points


class Series:
    """All values of one attempt.

    Args:
        skip_until_step: the end of the warm-up; the speed is that of the steps after it.
    """

    def __init__(self, skip_until_step: int = 0) -> None:
        self.skip_until_step = skip_until_step
        self._begin()

    def _begin(self) -> None:
        self.curves: dict[str, Curve] = {}
        self.steps = self.epochs = 0  # lines that count steps, or epochs only
        self._count = 0
        self._seconds = self._stepped = 0.0
        self._before: tuple[float, int] | None = None
        self._first: tuple[int, float] | None = None  # step and epoch
        self._last: tuple[int, float] | None = None
        self._told: float | None = None

    def tap(self, lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the lines, and take over what they say."""
        for line in lines:
            self.read(line)
            yield line

    def read(self, line: Mapping[str, Any]) -> None:
        """Take over one line."""
        if "event" in line:
            if line["event"] == "source":  # a better one was found: it begins again
                self._begin()
            return
        step, is_valid = line.get("step"), line.get("split") == "valid"
        self._count += 1
        at = step if is_step(step) else min(self._count, MOST_STEP)
        for key, value in line.items():
            if is_value(key, value):
                name = f"valid/{key}" if is_valid else key
                if name in self.curves or len(self.curves) < MOST_KEYS:
                    self.curves.setdefault(name, Curve()).add(at, float(value))
        if is_step(step) and not is_valid:
            self._read_step(step, line)

    def _read_step(self, step: int, line: Mapping[str, Any]) -> None:
        self.epochs += line.get("unit") == "epoch"
        self.steps += line.get("unit") != "epoch"
        epoch, time, told = line.get("epoch"), line.get("time"), line.get("steps_per_s")
        if is_figure(epoch):
            self._first = self._first or (step, epoch)
            self._last = (step, epoch)
        self._told = told if is_figure(told, 1e-12) else self._told
        if step <= self.skip_until_step or not is_figure(time, *UNIX_TIMES):
            return
        before, self._before = self._before, (time, step)
        if before is None:
            return
        seconds, steps = time - before[0], step - before[1]
        if seconds < 0 or steps < 0:
            return  # the clock was set back, or the program began again
        if seconds < LEAST_SPAN_S and not self._seconds:
            return  # written together with the first one: how long it took is not known
        self._seconds += seconds
        self._stepped += steps

    @property
    def unit(self) -> str:
        """What the steps are: "epoch" where nothing else is counted."""
        return "epoch" if self.epochs and not self.steps else "step"

    @property
    def steps_per_s(self) -> float | None:
        """Steps over the time between the measurements; where there is one measurement only, what it says itself."""
        if self._seconds > LEAST_SPAN_S and self._stepped > 0:
            return self._stepped / self._seconds
        return self._told

    @property
    def steps_per_epoch(self) -> float | None:
        """Steps of an epoch, None where no line has one."""
        if self.unit == "epoch":
            return 1.0
        if self._first is None or self._last is None or self._last[1] <= self._first[1]:
            return None
        steps = self._last[0] - self._first[0]
        return steps / (self._last[1] - self._first[1]) if steps > 0 else None

    @property
    def values(self) -> dict[str, float]:
        """The last value of each key."""
        return {key: self.curves[key].last for key in main_keys(self.curves)}
