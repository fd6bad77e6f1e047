"""Reads every run of a home: one that cannot be read never hides the others. Each command that lists runs asks here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from orchestrator.runs.state import RunState
from orchestrator.runs.store import RunStore

T = TypeVar("T")
UNREADABLE = "UNREADABLE"
"""What stands in the place of a state."""


@dataclass(frozen=True)
class BrokenRun:
    """A run of which nothing can be said."""

    run: str
    why: str  # one line

    @property
    def text(self) -> str:
        """The line for people."""
        return f"{self.run}: cannot be read: {self.why}"

    def as_json(self) -> dict[str, str]:
        """Return the row of `-o json`."""
        return {"run": self.run, "state": UNREADABLE, "error": f"cannot be read: {self.why}"}


def read_run(store: RunStore, read: Callable[[RunStore], T]) -> T | BrokenRun:
    """Return what `read` makes of a run, or why it cannot be read."""
    trouble = store.trouble()
    if trouble:
        return BrokenRun(store.run, trouble)
    try:
        return read(store)
    except Exception as error:  # noqa: BLE001  (whatever is wrong with one folder must not hide the other runs)
        words = getattr(error, "strerror", None) or str(error) or "no reason given"
        return BrokenRun(store.run, f"{type(error).__name__}: {words.splitlines()[0][:200]}")


def parted(found: Iterable[T | BrokenRun]) -> tuple[list[T], list[BrokenRun]]:
    """Return (what was read, what could not be read), each in its order."""
    readable: list[T] = []
    broken: list[BrokenRun] = []
    for one in found:
        if isinstance(one, BrokenRun):
            broken.append(one)
        else:
            readable.append(one)
    return readable, broken


def readable_states(stores: Iterable[RunStore]) -> tuple[list[tuple[RunStore, RunState]], list[BrokenRun]]:
    """Return (each run with its state, the runs that cannot be read)."""
    return parted(read_run(store, lambda one: (one, one.state())) for store in stores)


def read_all(home: Path, read: Callable[[RunStore], T]) -> tuple[list[T], list[BrokenRun]]:
    """Return (what `read` makes of each run, the oldest first; the runs that cannot be read)."""
    return parted(read_run(store, read) for store in RunStore.folders(home))
