"""What a person sees: tables as wide as the terminal, a line for each event, one live line in a terminal.

A pipe gets plain lines.
"""

from __future__ import annotations

import codecs
import io
import math
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import TextIO

from orchestrator import events as ev
from orchestrator.billing import total_usd
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


def counted(count: int, what: str) -> str:
    """Return a number of things: 1 run, 2 runs."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def columns(stream: TextIO) -> int | None:
    """Return how wide the terminal behind a stream is; None where there is none."""
    if not stream.isatty():
        return None
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    try:
        return os.get_terminal_size(stream.fileno()).columns or WIDTH
    except (OSError, ValueError):
        return WIDTH


def prose_width(stream: TextIO | None = None) -> int:
    """Return at which column our sentences end: at 80, or where the terminal does."""
    return min(columns(stream or sys.stdout) or WIDTH, WIDTH)


def wrapped(text: str, width: int, indent: str = "") -> str:
    """Break lines that are too long between words, never in one; a path stays whole."""
    return "\n".join(
        line
        if len(line) <= width
        else textwrap.fill(
            line, max(width, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        for line in text.splitlines()
    )


def say_error(text: str) -> None:
    """Print to standard error: broken between words in a terminal, as it is elsewhere."""
    width = columns(sys.stderr)
    print(wrapped(text, width, indent="  ") if width else text, file=sys.stderr)


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: str = "",
    *,
    width: float | None = None,
    whole: Sequence[str] = ("RUN",),
    drop: Sequence[str] = (),
) -> str:
    """Return aligned columns, two blanks between them.

    Args:
        head: names of the columns.
        rows: their cells.
        right: columns that are set to the right.
        width: what there is room for; None: the terminal's width, and no limit in a pipe.
        whole: columns that are never cut: what they hold is to be copied.
        drop: columns that are left out, and named below, in this order, before any other is cut.
    """
    if width is None:
        width = columns(sys.stdout) or math.inf
    cells = [list(head), *[list(row) for row in rows]]
    widths = {name: max(len(row[i]) for row in cells) for i, name in enumerate(head)}
    dropped = []
    for name in drop:
        if _needed(widths) > width and name in widths:
            dropped.append(name)
            del widths[name]
    while _needed(widths) > width:
        able = [name for name in widths if name not in whole and widths[name] > 8]
        able = [name for name in able if name not in right] or able  # words before figures
        if not able:
            break
        widths[max(able, key=lambda name: widths[name])] -= 1
    lines = []
    for row in cells:
        set_cells = [
            _cut(cell, widths[name]).rjust(widths[name])
            if name in right
            else _cut(cell, widths[name]).ljust(widths[name])
            for cell, name in zip(row, head, strict=True)
            if name in widths
        ]
        lines.append("  ".join(set_cells).rstrip())
    if dropped:
        lines.append(wrapped(f"(no room for {', '.join(dropped)}: in a wider terminal, or -o json)", int(width)))
    return "\n".join(lines)


def _needed(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + 2 * (len(widths) - 1)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


PLAIN_LETTERS = {"…": "...", "\u2013": "-", "\u2014": "-", "\u00d7": "x"}


def make_safe(stream: TextIO) -> None:
    """Let a stream of a narrow encoding write what it has no letter for as ASCII, rather than fail."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if "utf" not in encoding.lower() and isinstance(stream, io.TextIOWrapper):
        codecs.register_error("pixel-orch", _spelled)
        stream.reconfigure(errors="pixel-orch")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN_LETTERS.get(letter, "?") for letter in missing), error.end


class Screen:
    """Where the lines go. On a terminal the last line may be live: it is written again in place.

    A terminal that can do no more than print (`TERM=dumb`) gets plain lines, as a pipe does.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.time) -> None:
        self.stream = stream or sys.stdout
        self.is_terminal = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self._live = ""
        self._clock = clock
        make_safe(self.stream)

    @property
    def width(self) -> int | None:
        """The columns there are now: a terminal may be made wider or narrower at any time. None: no terminal."""
        return columns(self.stream)

    def line(self, text: str, at: float | None = None) -> None:
        """Print one line with the time of day before it: of now, or of when it happened; with the day, if another."""
        now = self._clock()
        moment = time.localtime(now if at is None else at)
        is_today = moment[:3] == time.localtime(now)[:3]
        stamp = time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S", moment)
        text = f"{stamp} {text}"
        self.plain(wrapped(text, self.width, indent=" " * 11) if self.width else text)

    def plain(self, text: str) -> None:
        """Print as it is; what is too long for the terminal is broken between words."""
        width = self.width
        self._write(self._erase() + (wrapped(text, width) if width else text) + "\n")
        self._live = ""

    def live(self, text: str) -> None:
        """Replace the live line; nothing happens where there is no terminal."""
        if self.is_terminal:
            text = _cut(text, (self.width or WIDTH) - 1)
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
        past: what has happened to the run before: it is in the bill too.
    """

    def __init__(self, screen: Screen, steps: int | None, clock: Clock, past: Iterable[ev.Event] = ()) -> None:
        self.screen = screen
        self.steps = steps
        self.clock = clock
        self._told_at = -math.inf
        self._events = list(past)
        self._state: ev.RunState | None = None

    def tick(self, attempt: ev.Attempt, step: int, images_per_s: float | None) -> None:
        """Show how far it is: live in a terminal, every ten seconds in a pipe."""
        if attempt.first_step_at is None:
            return
        now = self.clock.now()
        if self.screen.is_terminal:
            self.screen.live(self._live_words(step, images_per_s))
        elif now - self._told_at >= PLAIN_PROGRESS_EVERY_S:
            self.screen.line(self._progress(step, images_per_s, bar=20))
            self._told_at = now

    def look(self) -> None:
        """Show, in a terminal, how far a run is that another process leads: as far as its events say."""
        running = [a for a in self._run().open_attempts() if a.first_step_at is not None]
        if running and self.screen.is_terminal:
            speeds = [e.images_per_s for e in self._events[-200:] if isinstance(e, ev.Progress)]
            self.tick(running[-1], running[-1].last_step, speeds[-1] if speeds else None)

    def _run(self) -> ev.RunState:
        if self._state is None:
            self._state = ev.fold(self._events)
        return self._state

    def _live_words(self, step: int, images_per_s: float | None) -> str:
        """Return the live line: where there is little room, the bar gives way, then the speed."""
        room = (self.screen.width or WIDTH) - 1
        for indent, bar, speed in ((9, 20, images_per_s), (9, 10, images_per_s), (0, 10, images_per_s),
                                   (0, 0, images_per_s), (0, 0, None)):  # fmt: skip
            text = " " * indent + self._progress(step, speed, bar=bar)
            if len(text) <= room:
                break
        return text

    def _progress(self, step: int, images_per_s: float | None, *, bar: int) -> str:
        text = f"step {step}"
        if self.steps:
            text += f"/{self.steps}"
        if self.steps and bar:
            done = round(bar * min(step / self.steps, 1))
            text += f" [{'#' * done}{'.' * (bar - done)}]"
        if images_per_s:
            text += f"  {number(images_per_s)} images/s"
        billed = total_usd(self._run().attempts, self.clock.now())
        return text + f"  ~${money(billed)} so far"

    def event(self, event: ev.Event) -> None:
        """Print the line of an event, if people want to know of it, with the time at which it happened."""
        self._events.append(event)
        self._state = None
        text = event_words(event, event.at)
        for line in text.splitlines():
            self.screen.line(line, event.at)
        if isinstance(event, ev.CapacityAwaited):
            self.screen.live(f"{' ' * 9}waiting for capacity; nothing is billed; Ctrl-C gives up")


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
        case ev.CapacityAwaited():
            pools = "1 pool" if event.pools == 1 else f"{event.pools} pools"
            again_at = time.strftime("%H:%M:%S", time.localtime(event.again_at))
            return f"  no capacity in {pools}; asking again at {again_at}"
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
        case ev.DiskFull():
            left_s = max(0.0, event.gives_up_at - now)
            return (
                f"THE DISK OF THIS MACHINE IS FULL ({event.folder}): nothing can come home; the training goes on. "
                f"Free some space within {span(left_s)}"
            )
        case ev.CredentialsExpiring():
            left_min = max(0.0, event.ends_at - now) / 60
            return (
                f"AWS CREDENTIALS EXPIRE in {left_min:.0f} min: log in again (aws sso login).\n"
                "  The training goes on. Without new ones we cannot end the instance;\n"
                "  then it ends itself by its own limits."
            )
        case ev.CheckpointPulled():
            return f"  {event.name} is home ({event.size_bytes / 1e6:.2f} MB, sha256 {event.sha256[:8]})"
        case ev.RestPulled():
            is_one = event.files == 1
            home = f"  {counted(event.files, 'other file')} {'is' if is_one else 'are'} home"
            home += f" ({event.size_bytes / 1e6:.2f} MB, in outputs/)"
            return f"{home}; left there: {event.left}" if event.left else home
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
