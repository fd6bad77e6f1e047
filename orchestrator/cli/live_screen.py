"""Draws the live view of a run in a terminal with rich, which is imported only where a view is drawn.

Lines that are printed meanwhile scroll above it. Nothing of a machine reaches the terminal but as spelled text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

from orchestrator.cli.live_panel import Row
from orchestrator.formatting import cut, one_line, visible

if TYPE_CHECKING:
    from rich.text import Text

    from orchestrator.cli.console import Screen

REFRESHES_PER_S = 1  # `benchmarks/live_view.py` has what the view costs
LABEL = 8
MOST_BAR, LEAST_BAR = 24, 6
STYLES = {
    "notice": "bold yellow",
    "quiet": "dim",
    "RUNNING": "bold green",
    "SUCCEEDED": "bold green",
    "FAILED": "bold red",
    "RECOVERING": "bold yellow",
    "STOPPING": "bold yellow",
}


class _Deaf:
    """A stream whose terminal may be closed at any time: the run is still led to its end."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


Show = Callable[["Text"], None]
"""Prints a text with colours above the view; does nothing where there is none."""


@contextmanager
def live_view(screen: Screen, rows: Callable[[bool], list[Row]]) -> Iterator[Show]:
    """Show rows below all that is printed, once a second, until the block ends; they vanish then.

    Does nothing where the screen is no terminal, or is to be plain. Yields what prints a picture above them.

    Args:
        screen: where to draw.
        rows: returns what to draw; is told whether the terminal has letters beyond ASCII. It is called in a thread.
    """
    if not screen.is_terminal:
        yield lambda text: None
        return
    from rich.text import Text

    is_unicode = "utf" in (getattr(screen.stream, "encoding", "") or "utf-8").lower()

    def drawn(width: int) -> Text:
        return Text("\n").join(line_of(row, width, is_unicode=is_unicode) for row in rows(is_unicode))

    with _drawn(screen, drawn) as show:
        yield show if is_unicode else lambda text: None


@contextmanager
def live_text(screen: Screen, text: Callable[[int], str]) -> Iterator[None]:
    """Show a text, again and again, until the block ends.

    Args:
        screen: a terminal.
        text: returns it for a terminal of so many columns. It is called in a thread.
    """
    from orchestrator.cli.colour import coloured

    with _drawn(screen, lambda width: coloured(text(width))):
        yield


@contextmanager
def _drawn(screen: Screen, drawn: Callable[[int], Text]) -> Iterator[Show]:
    """Draw below what is printed, until the block ends; what raises is drawn as one line, and does not end it."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(file=cast("TextIO", _Deaf(screen.stream)), highlight=False, markup=False, emoji=False)

    def draw() -> Text:
        try:
            return drawn(console.width)
        except Exception as error:  # noqa: BLE001 (a thread of rich's would print a traceback, and draw no more)
            return Text(cut(one_line(f"cannot be shown: {type(error).__name__}: {error}"), console.width - 1))

    def above(text: str) -> None:
        console.print(Text(text), soft_wrap=True)

    live = Live(get_renderable=draw, console=console, refresh_per_second=REFRESHES_PER_S, transient=True,
                redirect_stdout=False, redirect_stderr=False)  # fmt: skip
    with screen.printing(above):
        live.start(refresh=True)
        try:
            yield lambda text: None if console.no_color else console.print(text)
        finally:
            live.stop()


def line_of(row: Row, width: int, *, is_unicode: bool = True) -> Text:
    """Return a row as one line of a terminal that is so wide; the bar shrinks first, and goes when there is no room."""
    from rich.text import Text

    most = max(width - 1, 10)  # the last column stays free: some terminals break the line there
    line = Text(no_wrap=True)
    label = f"{visible(row.label)[: LABEL - 1]:<{LABEL}}" if most >= 30 else ""
    line.append(label, style="dim")
    style = STYLES.get(row.style, "")
    text, tail = visible(row.text, keeps_lines=False), visible(row.tail, keeps_lines=False)
    room = most - len(label) - len(text) - len(tail) - 4
    if row.done is not None and room >= LEAST_BAR:
        line.append(f"{text}  ", style=style)
        _append_bar(line, row, min(MOST_BAR, room), is_unicode=is_unicode)
        line.append(f"  {tail}" if tail else "")
        return line
    words = f"{text}  {tail}" if tail else text
    line.append(cut(words, most - len(label)), style=style)
    return line


def _append_bar(line: Text, row: Row, width: int, *, is_unicode: bool) -> None:
    filled = round(width * (row.done or 0.0))
    full, empty = ("━", "─") if is_unicode else ("#", ".")
    line.append(full * filled, style="yellow" if row.style == "notice" else "green")
    line.append(empty * (width - filled), style="dim")
