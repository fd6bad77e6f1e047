"""The progress of a run in a notebook: one output that changes in place.

IPython is used where a kernel has imported it already, and is no dependency.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Mapping
from html import escape
from importlib import import_module
from typing import Any

from orchestrator.clock import Clock
from orchestrator.formatting import visible
from orchestrator.runs.events import Event
from orchestrator.runs.state import Attempt

SHOWN_LINES = 8
MOST_LINES = 500  # that are kept: the earlier ones can be opened
LINES_STYLE = "font-size:85%;margin:0.3em 0;white-space:pre-wrap"
LEAST_S = 0.5  # between two updates
COST = 10.0  # an update may take a tenth of the time: the card of a long run reads all of its metrics

Show = Callable[[str], Callable[[str], None]]
"""Shows HTML below the cell, and returns what replaces it."""


def notebook(modules: Mapping[str, Any] = sys.modules) -> Show | None:
    """Return what shows HTML in the notebook whose kernel this process is; None elsewhere, and in IPython's terminal.

    Args:
        modules: that are imported.
    """
    ipython = modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    if getattr(shell, "kernel", None) is None:
        return None
    display = import_module("IPython.display")

    def show(html: str) -> Callable[[str], None]:
        handle = display.display(display.HTML(html), display_id=True)
        return lambda text: handle.update(display.HTML(text))

    return show


class NotebookView:
    """A `Watcher` that keeps the card of a run and its newest lines up to date in one output.

    Args:
        show: as `notebook` returns it.
        card: returns the run as HTML, as of now.
        clock: the time.
    """

    def __init__(self, show: Show, card: Callable[[], str], clock: Clock) -> None:
        self._show = show
        self._card = card
        self._clock = clock
        self._lines: deque[str] = deque(maxlen=MOST_LINES)
        self._next_at = -math.inf
        self._replace: Callable[[str], None] | None = None
        self._is_broken = False

    def say(self, line: str) -> None:
        """Add a line; the oldest one goes."""
        self._lines.extend(visible(line).splitlines())
        self.refresh()

    def event(self, event: Event) -> None:
        """Show what has happened."""
        self.refresh()

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Show how far the trainer is."""
        self.refresh()

    def refresh(self, *, at_once: bool = False) -> None:
        """Show the run as of now, unless it was shown a moment ago.

        Args:
            at_once: also then.
        """
        began_at = self._clock.now()
        if self._is_broken or (began_at < self._next_at and not at_once):
            return
        try:
            html = self._card() + self._lines_html()
            if self._replace is None:
                self._replace = self._show(html)
            else:
                self._replace(html)
        except Exception:  # noqa: BLE001 (whatever a kernel or a front end does, it is no reason to end a run)
            self._is_broken = True
        now = self._clock.now()
        self._next_at = now + max(LEAST_S, COST * (now - began_at))

    def _lines_html(self) -> str:
        lines = [escape(line) for line in self._lines]
        earlier, newest = "\n".join(lines[:-SHOWN_LINES]), "\n".join(lines[-SHOWN_LINES:])
        opened = f"<details><summary>earlier</summary><pre style='{LINES_STYLE}'>{earlier}</pre></details>"
        return f"{opened if earlier else ''}<pre style='{LINES_STYLE}'>{newest}</pre>"
