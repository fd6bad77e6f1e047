"""How often a program saves, by the times of its files."""

from __future__ import annotations

from typing import Any

TOGETHER_S = 5.0  # files of one save are written one after the other
SHARE = 0.2  # of the interval so far: a save of many files may take longer
MOST = 10_000


class Saves:
    """The moments at which files were saved, since the trainer's start.

    Args:
        before: the times of the files that were there already (unix seconds).
    """

    def __init__(self, before: list[float]) -> None:
        self._old = set(before)
        self._moments: list[float] = []

    def note(self, saved_at: list[float]) -> None:
        """Take over the times of all files that look like saves."""
        for moment in sorted(set(saved_at) - self._old):
            self._old.add(moment)
            if len(self._moments) >= MOST:
                return
            if self._moments and abs(moment - self._moments[-1]) <= max(TOGETHER_S, SHARE * self._every_s()):
                continue
            self._moments.append(moment)

    def _every_s(self) -> float:
        count = len(self._moments) - 1
        return max(0.0, self._moments[-1] - self._moments[0]) / count if count > 0 else 0.0

    def facts(self) -> dict[str, Any]:
        """Return how many saves were seen, and the mean seconds between two of them; 0 with fewer than two."""
        return {"count": len(self._moments), "every_s": round(self._every_s(), 1)}
