"""Being asked to stop. Nothing heavy here: it is installed before torch is imported, which takes seconds."""

from __future__ import annotations

import signal
from types import FrameType


class Stopped(Exception):  # noqa: N818 - an event, not an error
    """The work was given up half-way, because a stop was asked for."""


class StopFlag:
    """Remembers the first SIGTERM or SIGINT; the loop reads it where it can stop without losing anything."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def install(self) -> None:
        """Take over SIGTERM and SIGINT for this process."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._remember)

    def __bool__(self) -> bool:
        return self.signum is not None

    @property
    def exit_code(self) -> int:
        """What a shell reports for that signal: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + (self.signum or 0)

    def check(self) -> None:
        """Raise `Stopped` if a stop was asked for: for work that can simply be dropped, such as a validation."""
        if self:
            raise Stopped

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signum
