"""The measurements of a run over its steps, as a tracker gets them: one value for each step, the last one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.report.metrics import objects_of
from orchestrator.report.series import MOST_KEYS, is_value
from orchestrator.runs.checked import MOST_STEP, UNIX_TIMES, is_figure, is_step
from orchestrator.runs.state import Attempt, RunState
from orchestrator.runs.store import RunStore

MOST_POINTS = 5000  # of a curve: a tracker draws no more, and takes a request for each thousand
SLACK = 2  # so many times as many are held while a file is read


@dataclass(frozen=True)
class Point:
    """One measured value."""

    step: int
    value: float
    at: float  # unix seconds


class Curve:
    """One value over the steps, measured points only; of a long one every second, fourth, eighth ... is kept."""

    def __init__(self) -> None:
        self._points: dict[int, tuple[float, float]] = {}  # value and time by step
        self._last: Point | None = None
        self._stride = 1  # of so many measurements one is kept
        self._count = 0

    def add(self, step: int, value: float, at: float) -> None:
        """Add a measurement; one of the same step is replaced.

        Args:
            step: of it.
            value: what was measured.
            at: unix seconds.
        """
        self._last = Point(step, value, at)
        if step not in self._points:
            self._count += 1
            if self._count % self._stride:
                return
        self._points[step] = value, at
        if len(self._points) >= SLACK * MOST_POINTS:
            self._points = dict(_halved(sorted(self._points.items())))
            self._stride *= 2

    def forget_after(self, step: int) -> None:
        """Forget what was measured after a step."""
        self._points = {key: measured for key, measured in self._points.items() if key <= step}
        if self._last is not None and self._last.step > step:
            self._last = None

    @property
    def points(self) -> tuple[Point, ...]:
        """At most `MOST_POINTS` of them by step, with the last one that was added."""
        kept = sorted(self._points.items())
        while len(kept) >= MOST_POINTS:
            kept = _halved(kept)
        found = {step: Point(step, value, at) for step, (value, at) in kept}
        if self._last is not None:
            found[self._last.step] = self._last
        return tuple(found[step] for step in sorted(found))


Kept = list[tuple[int, tuple[float, float]]]


def _halved(items: Kept) -> Kept:
    return items[1::2]


def points_of(store: RunStore, state: RunState, *, until: int | None = None) -> dict[str, tuple[Point, ...]]:
    """Return the points of each value by its name, as the program wrote it.

    Steps that a later attempt trained again replace those of the attempt that was lost.

    Args:
        store: of the run.
        state: of the run.
        until: the last step that is wanted; None for all.
    """
    curves: dict[str, Curve] = {}
    for attempt in state.attempts:
        if attempt.trainer_started_at is None or attempt.rank:
            continue  # it was lost before it trained, and took no step back; or the first machine of its group has them
        for curve in curves.values():
            curve.forget_after(attempt.resumed_from)
        for name, points in _of_attempt(store, attempt).items():
            if name in curves or len(curves) < MOST_KEYS:
                curve = curves.setdefault(name, Curve())
                for point in points:
                    curve.add(point.step, point.value, point.at)
    if until is not None:
        for curve in curves.values():
            curve.forget_after(until)
    return {name: curve.points for name, curve in curves.items() if curve.points}


def _of_attempt(store: RunStore, attempt: Attempt) -> Mapping[str, tuple[Point, ...]]:
    """Return the points of one attempt, by the rules of `report.series.Series`."""
    began_at = at = float(attempt.trainer_started_at or attempt.started_at)
    curves: dict[str, Curve] = {}
    count = 0
    for line in objects_of(store.metrics_path(attempt.number)):
        if "event" in line:
            if line["event"] == "source":  # a better one was found: it begins again
                curves, count = {}, 0
            continue
        count += 1
        step, time, wall_s = line.get("step"), line.get("time"), line.get("wall_s")
        number = step if is_step(step) else min(count, MOST_STEP)
        if is_figure(time, *UNIX_TIMES):
            at = float(time)
        elif is_figure(wall_s):
            at = began_at + wall_s
        for key, value in line.items():
            if is_value(key, value):
                name = f"valid/{key}" if line.get("split") == "valid" else key
                if name in curves or len(curves) < MOST_KEYS:
                    curves.setdefault(name, Curve()).add(number, float(value), at)
    return {name: curve.points for name, curve in curves.items()}
