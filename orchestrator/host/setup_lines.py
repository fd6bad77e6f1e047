"""What the programs of a set-up say of themselves, line by line, while they run."""

from __future__ import annotations

import re
from collections.abc import Callable

MOST_LINE_BYTES = 400  # the rest of a line is cut off

_OWN_LINE = re.compile(rb"(?:bootstrap|data|setup): (.+)")


class SetupLines:
    """Keeps the newest line that `bootstrap.sh`, `data.sh` or `user_setup.py` has said.

    It has the phase and the last output of a program.

    The first two run at once, each read by a thread of its own.
    """

    def __init__(self) -> None:
        self._newest = ""

    def listener(self) -> Callable[[bytes], None]:
        """Return what takes the standard error of one program, piece by piece."""
        rest = b""

        def hear(piece: bytes) -> None:
            nonlocal rest
            *lines, rest = (rest + piece).split(b"\n")
            rest = rest[:MOST_LINE_BYTES]
            for line in lines:
                found = _OWN_LINE.fullmatch(line[:MOST_LINE_BYTES])
                if found:
                    self._newest = found[1].decode(errors="replace")

        return hear

    def newest(self) -> str:
        """Return the newest line, once; "" where none is new."""
        line, self._newest = self._newest, ""
        return line
