"""Does the same on all machines of a group at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

LOOK_S = 0.2  # a signal handler of the leading thread runs between two waits


class SideBySide(Protocol):
    """Runs tasks, each to its end, and returns what they gave or raised, in their order."""

    def __call__(self, tasks: Sequence[Callable[[], T]]) -> list[T | Exception]:
        """Run them."""
        ...


def in_threads(tasks: Sequence[Callable[[], T]]) -> list[T | Exception]:
    """Run each task in a thread of its own, the first one in the calling thread's place if it is alone.

    An exception in the calling thread, from a signal handler, leaves the threads to end by themselves: what they do
    looks every second whether the run is to stop.
    """
    if len(tasks) == 1:
        return one_by_one(tasks)
    results: list[T | Exception] = [RuntimeError("not run")] * len(tasks)

    def run(place: int) -> None:
        results[place] = _result(tasks[place])

    threads = [
        threading.Thread(target=run, args=(place,), name=f"member-{place}", daemon=True) for place in range(len(tasks))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(LOOK_S)
    return results


def one_by_one(tasks: Sequence[Callable[[], T]]) -> list[T | Exception]:
    """Run the tasks one after the other in the calling thread: for virtual time, which has one thread."""
    return [_result(task) for task in tasks]


def _result(task: Callable[[], T]) -> T | Exception:
    try:
        return task()
    except Exception as error:  # noqa: BLE001  (whoever asked for all decides what one failure means)
        return error


class Task(Protocol):
    """Something that is done beside the leading thread."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        ...

    def result(self) -> Any:
        """Return what it gave, or raise what it raised. Only once it is over."""
        ...


class InThread:
    """Runs a task in a thread of its own.

    Args:
        task: what is done; it looks every second whether the run is to stop.
    """

    def __init__(self, task: Callable[[], Any]) -> None:
        self._outcome: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._outcome.append(_result(task)), daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def result(self) -> Any:
        """Return what it gave, or raise what it raised."""
        outcome = self._outcome[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class AtOnce:
    """Runs a task in the calling thread, for virtual time."""

    is_over = True

    def __init__(self, task: Callable[[], Any]) -> None:
        self._outcome = _result(task)

    def result(self) -> Any:
        """Return what it gave, or raise what it raised."""
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


@dataclass(frozen=True)
class Beside:
    """How the machines of a group are worked on: at the same time in threads, or in virtual time one by one."""

    all_of: SideBySide = in_threads
    start: Callable[[Callable[[], Any]], Task] = InThread
