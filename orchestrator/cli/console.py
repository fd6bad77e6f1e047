"""What every command prints and asks with: lines, one live line in a terminal, errors, yes or no."""

from __future__ import annotations

import codecs
import io
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any, TextIO, cast

from orchestrator.clock import OF_THIS_PROCESS
from orchestrator.errors import SpecError
from orchestrator.formatting import WIDTH, columns, cut, one_line, shortened, visible, wrapped

if TYPE_CHECKING:
    from orchestrator.runs.listing import BrokenRun


COMMAND = re.compile(
    r"(?<![\w/.`'-])pixel-orch (?=(?:launch|attach|stop|status|logs|pull|ssh|down|cleanup|report|export|bench|"
    r"dashboard|prices|compare|simulate|plan|check|runs|setup|teardown|completion|train|evaluate|sample|complete|figures|"
    r"data)\b(?!:))"
)


@cache
def as_called() -> str:
    """Return the words by which this program was called, as a shell takes them again from the same folder."""
    called = Path(sys.argv[0])
    if called.name != "pixel-orch" or not called.is_file() or which("pixel-orch") == str(called.absolute()):
        return "pixel-orch"
    return shlex.quote(os.path.relpath(called) if called.is_relative_to(Path.cwd()) else str(called))


def typed(text: str, stream: TextIO) -> str:
    """Return a text for a terminal in which each command is as it must be typed: `.venv/bin/pixel-orch attach x`."""
    if "pixel-orch " not in text or not stream.isatty():
        return text
    return COMMAND.sub(lambda _: f"{as_called()} ", text)


class VisibleText:
    """The door to a terminal: a text stream that spells control characters, whatever is printed to it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text in which nothing acts on a terminal."""
        self.stream.write(visible(typed(text, self.stream)))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def behind(stream: TextIO) -> TextIO:
    """Return the stream itself, behind the door: for what clears a live line, or sends a file as it is."""
    return stream.stream if isinstance(stream, VisibleText) else stream


@contextmanager
def visible_output() -> Iterator[None]:
    """Let standard output and standard error spell control characters."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", VisibleText(behind(stream))) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def say_error(text: str) -> None:
    """Print to standard error, wrapped to the width of a terminal."""
    text, width = shortened(typed(text, sys.stderr)), columns(sys.stderr)
    print(wrapped(text, width, indent="  ") if width else visible(text), file=sys.stderr)


def say_broken(broken: Iterable[BrokenRun]) -> None:
    """Name on standard error the runs that are left out because they cannot be read."""
    for one in broken:
        say_error(f"{one.text}; left out")


def say_settings(sources: Sequence[object]) -> None:
    """Print to standard error which settings were read from which file, in one line; nothing without one."""
    if sources:
        print(f"settings: {'; '.join(map(str, sources))}", file=sys.stderr)


def require_terminal() -> None:
    """Raise SpecError if stdin is not a terminal, so that no question can be answered."""
    if not sys.stdin.isatty():
        raise SpecError("stdin is not a terminal; pass -y")


def confirm(question: str, *, default: bool) -> bool:
    """Ask yes or no; return the answer. Ctrl-C and the end of input mean no.

    Args:
        question: what to ask.
        default: what an empty answer means.

    Raises:
        SpecError: standard input is not a terminal.
    """
    require_terminal()
    try:
        answer = input(f"{visible(question)} [{'Y/n' if default else 'y/N'}] ").strip().lower()
    except (EOFError, KeyboardInterrupt):
        return False
    return answer in ("y", "yes") or (default and not answer)


PLAIN_LETTERS = {"…": "...", "\u2013": "-", "\u2014": "-", "\u00d7": "x"}


def make_safe(stream: TextIO) -> None:
    """Let a stream write characters that its encoding lacks as ASCII, rather than fail."""
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
    """Prints lines. On a terminal the last line may be live: it is rewritten in place.

    A dumb terminal (`TERM=dumb`), and one that is to be plain, gets plain lines, as a pipe does.

    Args:
        stream: where to print; None: standard output.
        clock: returns unix seconds.
        is_plain: whether nothing is rewritten in place (`--plain`).
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        clock: Callable[[], float] = OF_THIS_PROCESS.now,
        *,
        is_plain: bool = False,
    ) -> None:
        self.stream = behind(stream or sys.stdout)
        self.is_terminal = self.stream.isatty() and os.environ.get("TERM") != "dumb" and not is_plain
        self._live = ""
        self._above: Callable[[str], None] | None = None
        self._clock = clock
        make_safe(self.stream)

    @property
    def width(self) -> int | None:
        """The current width of the terminal, which may change at any time; None: no terminal."""
        return columns(self.stream)

    def line(self, text: str, at: float | None = None) -> None:
        """Print one line after the time of day, of now or of `at`; with the date, if that is not today."""
        now = self._clock()
        moment = time.localtime(now if at is None else at)
        is_today = moment[:3] == time.localtime(now)[:3]
        stamp = time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S", moment)
        text = f"{stamp} {typed(text, self.stream)}"
        self.plain(wrapped(text, self.width, indent=" " * 11) if self.width else text)

    def plain(self, text: str) -> None:
        """Print a text, wrapped to the width of a terminal."""
        width, text = self.width, typed(text, self.stream)
        self._print(wrapped(text, width) if width else visible(text))

    def whole(self, text: str) -> None:
        """Print one line as it is, control characters spelled; a terminal breaks it where it likes."""
        self._print(one_line(text.expandtabs()))

    @property
    def has_view(self) -> bool:
        """Whether something is drawn below the lines."""
        return self._above is not None

    @contextmanager
    def printing(self, above: Callable[[str], None]) -> Iterator[None]:
        """Let something else print the lines while it draws below them; there is no live line then."""
        self.live("")
        self._above = above
        try:
            yield
        finally:
            self._above = None

    def _print(self, text: str) -> None:
        if self._above is not None:
            self._above(text)
            return
        self._write(f"{self._erase()}{text}\n")
        self._live = ""

    def live(self, text: str) -> None:
        """Replace the live line; does nothing without a terminal, or where a view is drawn."""
        if self.is_terminal and self._above is None:
            text = cut(one_line(text), (self.width or WIDTH) - 1)
            self._write(self._erase() + text)
            self._live = text

    def _erase(self) -> str:
        return "\r\x1b[K" if self._live else ""

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # the terminal was closed: the run is still led to its end
            self.stream.write(text)
            self.stream.flush()


WORDS = {"local": "starting the embedded cloud ...", "aws": "asking AWS ..."}


@contextmanager
def busy(cloud: str, screen: Screen | None = None, *, if_interrupted: str = "") -> Iterator[None]:
    """Show in a terminal, and only there, that a command waits for an answer.

    Args:
        cloud: "aws" or "local".
        screen: where to print; None: standard error.
        if_interrupted: printed after Ctrl-C.
    """
    screen = screen or Screen(sys.stderr)
    screen.live(WORDS[cloud])
    try:
        yield
    except KeyboardInterrupt:
        screen.live("")
        if if_interrupted:
            screen.plain(if_interrupted)
        raise
    finally:
        screen.live("")
