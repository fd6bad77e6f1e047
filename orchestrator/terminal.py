"""What a person sees: tables within 80 columns, a line for each event, one live line in a terminal.

A pipe gets plain lines.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import TextIO

from orchestrator import events as ev
from orchestrator.clock import Clock

WIDTH = 80
PLAIN_PROGRESS_EVERY_S = 10.0


def money(usd: float | Decimal | None) -> str:
    """Return dollars with as many digits as say something: 12.30, 0.271, 0.00045."""
    if usd is None:
        return "-"
    value = float(usd)
    if value == 0:
        return "0"
    if value >= 10:
        return f"{value:.2f}"
    return f"{value:.{max(2, 2 - math.floor(math.log10(value)))}f}" if value < 1 else f"{value:.3f}"


def price(usd_h: float) -> str:
    """Return dollars per hour as EC2 writes them, to a hundredth of a cent."""
    return f"{usd_h:.4f}"


def number(value: float | None, digits: int | None = None) -> str:
    """Return a figure for people, "-" for none."""
    if value is None:
        return "-"
    if digits is not None:
        return f"{value:.{digits}f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def span(seconds: float) -> str:
    """Return a length of time: 8s, 3m12s, 2h05m."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> str:
    """Return aligned columns, two blanks between them.

    Columns named in `right` are set to the right; the widest gives way at 80.
    """
    cells = [list(head), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    while sum(widths) + 2 * (len(widths) - 1) > WIDTH and max(widths) > 8:
        widths[widths.index(max(widths))] -= 1
    lines = []
    for row in cells:
        set_cells = [
            _cut(cell, width).rjust(width) if name in right else _cut(cell, width).ljust(width)
            for cell, width, name in zip(row, widths, head, strict=True)
        ]
        lines.append("  ".join(set_cells).rstrip())
    return "\n".join(lines)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


class Screen:
    """Where the lines go. On a terminal the last line may be live: it is written again in place."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.time) -> None:
        self.stream = stream or sys.stdout
        self.is_terminal = self.stream.isatty()
        self._live = ""
        self._clock = clock

    def line(self, text: str) -> None:
        """Print one line with the time of day before it."""
        stamp = time.strftime("%H:%M:%S", time.localtime(self._clock()))
        self.plain(f"{stamp} {text}")

    def plain(self, text: str) -> None:
        """Print as it is."""
        self._write(self._erase() + text + "\n")
        self._live = ""

    def live(self, text: str) -> None:
        """Replace the live line; nothing happens where there is no terminal."""
        if self.is_terminal:
            text = _cut(text, WIDTH - 1)
            self._write(self._erase() + text)
            self._live = text

    def _erase(self) -> str:
        return "\r\x1b[K" if self._live else ""

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # the terminal was closed: the run is still to be brought to its end
            self.stream.write(text)
            self.stream.flush()


class RunView:
    """A `Watcher` that tells a person what happens to a run.

    Args:
        screen: where to.
        steps: how many there are to do, None if only the trainer knows.
        clock: the time.
    """

    def __init__(self, screen: Screen, steps: int | None, clock: Clock) -> None:
        self.screen = screen
        self.steps = steps
        self.clock = clock
        self._told_at = -math.inf
        self._pulled = 0

    def tick(self, attempt: ev.Attempt, step: int, images_per_s: float | None) -> None:
        """Show how far it is: live in a terminal, every ten seconds in a pipe."""
        if attempt.first_step_at is None:
            return
        text = self._progress(attempt, step, images_per_s)
        now = self.clock.now()
        if self.screen.is_terminal:
            self.screen.live("         " + text)
        elif now - self._told_at >= PLAIN_PROGRESS_EVERY_S:
            self.screen.line(text)
            self._told_at = now

    def _progress(self, attempt: ev.Attempt, step: int, images_per_s: float | None) -> str:
        text = f"step {step}"
        if self.steps:
            done = round(20 * min(step / self.steps, 1))
            text += f"/{self.steps} [{'#' * done}{'.' * (20 - done)}]"
        if images_per_s:
            text += f"  {number(images_per_s)} images/s"
        spent = (self.clock.now() - attempt.started_at) * attempt.price_usd_h / 3600
        return text + f"  ~${money(spent)} so far"

    def event(self, event: ev.Event) -> None:
        """Print the line of an event, if people want to know of it."""
        text = event_words(event, self.clock.now())
        if text:
            for line in text.splitlines():
                self.screen.line(line)


def event_words(event: ev.Event, now: float) -> str:  # noqa: PLR0911, PLR0912  (one case for each event is the clearest form)
    """Return what people are told of an event at `now`, "" if it is none of their concern."""
    match event:
        case ev.LaunchRequested():
            usd_h = price(event.price_usd_h)
            if event.zone == "any":
                return f"asking for any of {event.instance_type} ({event.market}) at up to ${usd_h}/h"
            return f"asking for {event.instance_type} ({event.market}) in {event.zone} at ${usd_h}/h"
        case ev.LaunchFailed():
            return f"  not there: {event.code} in {'all zones' if event.zone == 'any' else event.zone}"
        case ev.InstanceStarted():
            return f"  got {event.instance_id}, attempt {event.attempt}"
        case ev.HostReady():
            data = f", data {event.data_how or 'there'} after {event.data_s:.1f} s" if event.data_s else ""
            return f"  host is ready after {event.setup_s:.1f} s of set-up, code synced{data}"
        case ev.TrainerStarted():
            return f"  training from step {event.resumed_from + 1}" + (" (resumed)" if event.resumed_from else "")
        case ev.RebalanceRecommended():
            return f"  EC2 recommends to rebalance: {event.instance_id} may be interrupted"
        case ev.InterruptionNoticed():
            left_s = max(0.0, event.ends_at - now)
            return f"INTERRUPTION NOTICE: {left_s:.0f} s left for {event.instance_id}; saving"
        case ev.CredentialsExpiring():
            left_min = max(0.0, event.ends_at - now) / 60
            return (
                f"AWS CREDENTIALS EXPIRE in {left_min:.0f} min: log in again (aws sso login).\n"
                "  The training goes on. Without new ones we cannot end the instance;\n"
                "  then it ends itself by its own limits."
            )
        case ev.CheckpointPulled():
            return f"  {event.name} is home ({event.size_bytes / 1e6:.2f} MB, sha256 {event.sha256[:8]})"
        case ev.CheckpointStored():
            return f"  {event.name} is in S3"
        case ev.SecondHomeTroubled():
            return f"  S3 REFUSES: {event.reason}\n  The training goes on; checkpoints come home only."
        case ev.CheckpointRefused():
            return f"  {event.name} is damaged and not used: {event.reason}"
        case ev.TrainerExited():
            how = "stopped as asked" if event.asked else "finished" if event.exit_code == 0 else "failed"
            return f"  trainer {how} at step {event.last_step} (exit code {event.exit_code})"
        case ev.AttemptLost():
            return f"  attempt {event.attempt} is over: {event.reason}"
        case ev.TerminateRequested():
            return f"  ending {event.instance_id}"
        case ev.InstanceEnded():
            return f"  {event.instance_id} is gone (ended by {_WHO[event.ended_by]})"
        case ev.StateChanged(state="RECOVERING"):
            return "RECOVERING: on to the next pool"
        case _:
            return ""


_WHO = {"aws": "AWS", "pixel-orch": "us", "instance": "itself", "other": "somebody else"}
