"""`logs`: the trainer's output. A pipe gets its bytes; on a terminal control characters are spelled."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from orchestrator.cli.console import Screen, behind
from orchestrator.cli.pull import check_node
from orchestrator.clock import SystemClock
from orchestrator.formatting import uncoloured
from orchestrator.runs.files import open_regular
from orchestrator.runs.home import home_from_environment
from orchestrator.runs.store import RunStore

PIECE_BYTES = 1 << 20
LONGEST_LINE_BYTES = 1 << 16  # on a terminal; a longer one is broken


class Sink(Protocol):
    """Where a log goes."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of one attempt's log."""
        ...

    def end(self) -> None:
        """The log of an attempt has no more bytes now, and another's may follow."""
        ...


class Pipe:
    """Passes the bytes on as they are."""

    def feed(self, data: bytes) -> None:
        """Write them."""
        out = behind(sys.stdout).buffer
        out.write(data)
        out.flush()

    def end(self) -> None:
        """Do nothing."""


class Terminal:
    """Prints whole lines with control characters spelled. Of a line that rewrites itself by CR the newest state counts.

    Args:
        screen: where to print.
        is_live: whether a line that is not complete yet is shown as the live line.
    """

    def __init__(self, screen: Screen, *, is_live: bool) -> None:
        self.screen = screen
        self.is_live = is_live
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Print the lines that are complete."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._print(line)
        rest = rest[rest.rfind(b"\r", 0, -1) + 1 :]  # of a progress bar only the newest state is kept
        while len(rest) > LONGEST_LINE_BYTES:
            self._print(rest[:LONGEST_LINE_BYTES])
            rest = rest[LONGEST_LINE_BYTES:]
        self._rest = rest
        if rest and self.is_live:
            self.screen.live(_newest(rest))

    def end(self) -> None:
        """Print the line that is not complete."""
        if self._rest:
            self._print(self._rest)
        self._rest = b""

    def _print(self, line: bytes) -> None:
        self.screen.whole(_newest(line))


def _newest(line: bytes) -> str:
    """Return what a line that rewrites itself by CR shows last."""
    return uncoloured(line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace"))


def logs(args: argparse.Namespace) -> int:
    """Do `pixel-orch logs`: the trainer's output of all attempts, of a group that of one node; -f follows it."""
    store = RunStore.open(home_from_environment(), args.run)
    check_node(store, args.node)
    clock, screen = SystemClock(), Screen(sys.stdout)
    sink: Sink = Terminal(screen, is_live=args.follow) if screen.stream.isatty() else Pipe()
    sent: dict[Path, int] = {}
    newest: Path | None = None
    try:
        while True:
            is_over = store.state().is_final or store.owner_pid() is None
            for attempt in store.state().attempts:
                if attempt.rank != args.node:
                    continue
                path = store.log_path(attempt.number)
                for data in _pieces(path, sent.get(path, 0)):
                    if path != newest:
                        sink.end()
                        newest = path
                    sink.feed(data)
                    sent[path] = sent.get(path, 0) + len(data)
            if not args.follow or is_over:
                return 0
            clock.sleep(0.3)
    except KeyboardInterrupt:
        return 130
    finally:
        sink.end()


def _pieces(path: Path, offset: int) -> Iterator[bytes]:
    """Yield the bytes of a log from an offset on; none of one that is not there."""
    try:
        file = open_regular(path)
    except OSError:
        return
    with file:
        file.seek(offset)
        while data := file.read(PIECE_BYTES):
            yield data
