"""The curves of a run: every number of its metrics over the steps, in bounded memory however long the files are."""

from __future__ import annotations

from typing import Any

from orchestrator.dashboard.appended import PIECE_BYTES, Appended
from orchestrator.formatting import one_line
from orchestrator.report.metrics import parse, thinned
from orchestrator.report.series import Point, Series, is_value, main_keys
from orchestrator.runs.checked import is_figure
from orchestrator.runs.events import GpuSeen, Progress
from orchestrator.runs.state import Attempt
from orchestrator.runs.store import RunStore

MOST_POINTS = 400  # of a curve that is sent: a chart is a few hundred pixels wide
MOST_CURVES = 48
MOST_ATTEMPTS = 100  # the newest ones
LONGEST_KEY = 80


class AttemptCurves:
    """The numbers of one attempt.

    Args:
        file: its metrics.
    """

    def __init__(self, file: Appended) -> None:
        self.file = file
        self.series = Series()
        self.told = Series()  # what the events say, for an attempt without metrics

    def look(self, most_bytes: int) -> int:
        """Read at most so many bytes of what was appended; return how many were."""
        before = self.file.offset
        try:
            piece = self.file.look(most_bytes)
        except OSError:  # it is no regular file, or may not be read: the events tell some
            return 0
        if piece.begins:
            self.series, before = Series(), 0
        for line in parse(piece.lines)[0] if piece.lines else ():
            self.series.read(line)
        return self.file.offset - before if piece.lines else int(piece.begins)

    def points(self) -> dict[str, list[Point]]:
        """Return the curves: those of the file first, others as the events tell them."""
        found = {key: curve.points for key, curve in self.told.curves.items()}
        return found | {key: curve.points for key, curve in self.series.curves.items()}


class RunCurves:
    """The curves of a run over all its attempts.

    Args:
        store: the run.
    """

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self.version = 0
        self._attempts: dict[int, AttemptCurves] = {}
        self._sent: dict[str, Any] = {"version": -1}

    def begin(self) -> None:
        """Forget all: the events were written anew."""
        self._attempts.clear()
        self.version += 1

    def tell(self, event: Progress) -> None:
        """Take over what an event says of the training."""
        values = {key: value for key, value in event.values.items() if is_value(key, value)}
        if event.images_per_s:
            values["images_per_s"] = event.images_per_s
        if not values and event.steps_per_s:
            values["steps per second"] = event.steps_per_s
        self._of(event.attempt).told.read({**values, "step": event.step})
        self.version += bool(values)

    def tell_gpu(self, event: GpuSeen, step: int) -> None:
        """Take over what nvidia-smi says of the GPU while the attempt is at a step."""
        facts = event.facts
        memory = facts.get("memory_now_mib")
        figures = {
            "GPU use, %": facts.get("utilization_now_percent"),
            "GPU memory, GiB": memory / 1024 if is_figure(memory) else None,
            "GPU temperature, °C": facts.get("temperature_c"),
        }
        shown = {key: value for key, value in figures.items() if value is not None}
        self._of(event.attempt).told.read({**shown, "step": step})
        self.version += bool(shown)

    def _of(self, number: int) -> AttemptCurves:
        if number not in self._attempts:
            self._attempts[number] = AttemptCurves(Appended(self.store.metrics_path(number)))
            for old in sorted(self._attempts)[:-MOST_ATTEMPTS]:
                del self._attempts[old]
        return self._attempts[number]

    def look(self, attempts: list[Attempt]) -> bool:
        """Read what was appended, a few megabytes at most; return whether there is more to read."""
        left = PIECE_BYTES
        for attempt in attempts[-MOST_ATTEMPTS:]:
            one = self._of(attempt.number)
            read = one.look(max(left, PIECE_BYTES // 2))
            self.version += read > 0
            left -= read
            if left <= 0:
                return True
        return any(not one.file.is_read for one in self._attempts.values() if one.file.size)

    @property
    def share_read(self) -> float:
        """How much of the metrics is read, from 0 to 1."""
        whole = sum(one.file.size for one in self._attempts.values())
        return min(1.0, sum(one.file.offset for one in self._attempts.values()) / whole) if whole else 1.0

    def as_json(self, attempts: list[Attempt]) -> dict[str, Any]:
        """Return the curves: steps that a later attempt trained again replace those of the attempt before."""
        if self._sent["version"] == self.version:
            return self._sent
        found: dict[str, list[Point]] = {}
        count = 0
        for attempt in attempts[-MOST_ATTEMPTS:]:
            one = self._of(attempt.number)
            count = max(count, len(one.series.curves), len(one.told.curves))
            for key, points in one.points().items():
                kept = [point for point in found.get(key, []) if point[0] <= attempt.resumed_from]
                found[key] = thinned(kept + points, 4 * MOST_POINTS)  # type: ignore[assignment]
        shown = [key for key in main_keys(found) if found[key]][:MOST_CURVES]
        units = {one.series.unit for one in self._attempts.values() if one.series.curves}
        self._sent = {
            "version": self.version,
            "unit": "epoch" if units == {"epoch"} else "step",
            "curves": {one_line(key[:LONGEST_KEY]): _columns(found[key]) for key in shown},
            "left_out": max(0, len(found) - len(shown)),
        }
        return self._sent


def _columns(points: list[Point]) -> list[list[float]]:
    """Return (steps, values), each value with six digits."""
    few = thinned(points, MOST_POINTS)
    return [[step for step, _ in few], [float(f"{value:.6g}") for _, value in few]]
