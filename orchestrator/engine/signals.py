"""Signals that ask a process to stop, received for as long as a `with` block lasts."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def is_main_thread() -> bool:
    """Whether this thread may install signal handlers: Python allows it in the main thread only."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def stop_signals(handle: Callable[[str, int], None]) -> Iterator[None]:
    """Call `handle` with a signal's name and how many have come, itself included; restore the handlers at the end.

    Outside of the main thread nothing is installed.
    """
    if not is_main_thread():
        yield
        return
    count = 0

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        handle(signal.Signals(number).name, count)

    before = {number: signal.signal(number, receive) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
