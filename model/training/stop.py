"""The stop request by signal. The handlers are installed before torch is imported, because that takes seconds."""

from __future__ import annotations

import signal
from types import FrameType


class Stopped(Exception):  # noqa: N818 - an event, not an error
    """A stop request ended the work before it was complete."""


class StopFlag:
    """Records the first SIGTERM or SIGINT; the training loop reads it where it can stop without losing steps."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def install(self) -> None:
        """Install the handlers of SIGTERM and SIGINT in this process."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._remember)

    def __bool__(self) -> bool:
        return self.signum is not None

    @property
    def exit_code(self) -> int:
        """The exit code that a shell reports for the signal: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + (self.signum or 0)

    def check(self) -> None:
        """Raise `Stopped` if a stop was requested: for work that can be repeated, such as a validation."""
        if self:
            raise Stopped

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signum
