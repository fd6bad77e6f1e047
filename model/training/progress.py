"""Progress of a training on stdout: one line updated in place on a terminal, plain lines in a pipe or a file."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

BAR = 24  # characters


class Progress:
    """Shows the progress of a training.

    Args:
        steps: total steps of the training.
        first: the step that this process starts from.
        stream: stdout by default.
        shown: whether anything is printed; not on ranks other than 0.
    """

    def __init__(self, steps: int, *, first: int, stream: TextIO | None = None, shown: bool = True) -> None:
        self.shown = shown
        self.stream = stream or sys.stdout
        self.steps, self.first, self.began_s = steps, first, time.monotonic()
        self.moves = self.stream.isatty()
        self._drawn = False

    def say(self, text: str) -> None:
        """Print a permanent line."""
        if not self.shown:
            return
        self._clear()
        print(text, file=self.stream, flush=True)

    def step(self, step: int, *, nats: float, bits_per_dim: float, images_per_s: float) -> None:
        """Show the newest measurement; on a terminal it replaces the previous one."""
        if not self.shown:
            return
        figures = f"nats {nats:.2f}  bits/dim {bits_per_dim:.3f}  {images_per_s:,.0f} images/s"
        if not self.moves:
            print(f"step {step}/{self.steps}  {figures}", file=self.stream, flush=True)
            return
        full = round(BAR * step / self.steps)
        line = f"[{'#' * full}{'.' * (BAR - full)}] {step}/{self.steps}  {figures}  {self._left(step)}"
        self._clear()
        self.stream.write(line[: shutil.get_terminal_size().columns - 1])
        self.stream.flush()
        self._drawn = True

    def close(self) -> None:
        """End the line that is updated in place."""
        if self._drawn:
            self.stream.write("\n")
            self.stream.flush()
            self._drawn = False

    def _left(self, step: int) -> str:
        """Estimate the remaining time from the rate of this process so far."""
        if step <= self.first:
            return ""
        seconds = round((time.monotonic() - self.began_s) / (step - self.first) * (self.steps - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"

    def _clear(self) -> None:
        if self._drawn:
            self.stream.write("\r\x1b[K")
            self._drawn = False
