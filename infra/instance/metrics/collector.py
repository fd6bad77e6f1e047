"""Takes the measurements of the best source that has some, and writes them to one file for the owner."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from infra.instance.metrics.finding import Finder, look
from infra.instance.metrics.patterns import Patterns
from infra.instance.metrics.saves import Saves
from infra.instance.metrics.sources import Log, Source, sources_of
from infra.instance.metrics.values import clean, line_of
from infra.instance.trainer_files import write_json

METRICS, FACTS = "metrics.jsonl", "metrics.json"  # in the agent's folder
MOST_BYTES = 1 << 29  # of the file: the owner reads no more of one
MOST_LINE_BYTES = 1 << 20
MOST_HELD = 20_000  # measurements of a source that is not used yet
NO_SOURCE = 99
LOG_RANKS = 4  # the sources from this rank on read the log


class Collector:
    """Everything between the program's files and the one that the owner is sent.

    Args:
        root: the run's folder on the machine.
        patterns: the user's, by the names of their values.
    """

    def __init__(self, root: str, patterns: Mapping[str, str]) -> None:
        self.root = root
        self.folder = os.path.join(root, "agent")
        folders = (os.path.join(root, "out"), os.path.join(root, "code"))
        before = look(folders)
        self.finder = Finder(folders)
        self.saves = Saves(before.saved_at)
        self.patterns = Patterns(patterns)
        self.log = Log(root, self.patterns)
        self.sources = sources_of(before, self.log, root)
        self.chosen: Source | None = None
        self.problem = ""
        self._held: dict[int, list[dict[str, Any]]] = {}
        self._since: dict[int, float] = {}  # when a source first had something
        self._pending: list[bytes] = []  # what a full disk has refused
        self._written = self._too_long = 0
        self._facts: dict[str, Any] = {}

    def round(self, *, is_last: bool = False) -> int:
        """Look once at everything that may be new; return how much there was."""
        at, now = time.time(), time.monotonic()
        found = self.finder.look(is_last=is_last)
        self.saves.note(found.saved_at)
        count = -self.log.lines.file.offset
        if self._rank() >= LOG_RANKS or self.patterns.compiled:
            self.log.read(at, is_last=is_last)
        count += self.log.lines.file.offset
        for source in self.sources:
            if source.rank > self._rank():
                break
            new = source.new(at, found, is_last=is_last)
            count += len(new)
            if source is self.chosen:
                self._write(new)
            elif new:
                self._hold(source, new, now)
        self._choose(now, is_last=is_last)
        if is_last and self.patterns.unmatched and not self.problem:
            names = ", ".join(clean(name) for name in sorted(self.patterns.unmatched))
            self.problem = "no line of the log has matched the pattern of %s" % names
        self._tell()
        return count

    def _rank(self) -> int:
        return NO_SOURCE if self.chosen is None else self.chosen.rank

    def _hold(self, source: Source, new: list[dict[str, Any]], now: float) -> None:
        held = self._held.setdefault(source.rank, [])
        held += new
        del held[: max(0, len(held) - MOST_HELD)]
        self._since.setdefault(source.rank, now)

    def _choose(self, now: float, *, is_last: bool) -> None:
        """Use the best source that has something, once a better one was waited for."""
        for source in self.sources:
            if source.rank >= self._rank() or source.rank not in self._held:
                continue
            if not is_last and now - self._since[source.rank] < source.patience_s:
                continue
            if self.chosen is not None:
                self._write([{"event": "source", "source": source.words, "time": time.time()}])
            self.chosen = source
            self._write(self._held[source.rank])
            self._held = {rank: held for rank, held in self._held.items() if rank < source.rank}
            return

    def _write(self, measurements: list[dict[str, Any]]) -> None:
        """Append to the owner's file; what a full disk refuses is kept for the next round."""
        lines = [line_of(one) for one in measurements]
        fitting = [line for line in lines if len(line) <= MOST_LINE_BYTES]
        self._too_long += len(lines) - len(fitting)
        self._pending += fitting
        self.flush()

    def flush(self) -> None:
        """Write what waits, whole or not at all."""
        data = b"".join(self._pending)
        if not data:
            return
        if self._written + len(data) > MOST_BYTES:
            self.problem = "the metrics are longer than %d MiB; the rest is left out" % (MOST_BYTES >> 20)
            self._pending = []
            return
        path = os.path.join(self.folder, METRICS)
        try:
            with open(path, "ab", buffering=0) as file:
                size = file.tell()
                try:
                    done = file.write(data)
                    is_whole = done == len(data)
                except OSError:
                    is_whole = False
                if not is_whole:
                    os.truncate(path, size)
                    del self._pending[: max(0, len(self._pending) - MOST_HELD)]
                    return
        except OSError:
            return
        self._written += len(data)
        self._pending = []

    def _tell(self) -> None:
        """Write down the source and what is wrong, for `status`."""
        facts = {
            "source": self._source_words(),
            "problem": self.problem or self.patterns.problem,
            "skipped": self._too_long + sum(source.skipped for source in self.sources),
            "saves": self.saves.facts(),
            "total": 0 if self.chosen is None else self.chosen.total,
        }
        if facts != self._facts:
            try:
                write_json(os.path.join(self.folder, FACTS), facts)
                self._facts = facts
            except OSError:
                pass  # the disk is full; the next round tries again

    def _source_words(self) -> str:
        if self.chosen is None:
            return ""
        place = self.chosen.place
        if not place:
            return self.chosen.words
        relative = os.path.relpath(place, self.root)
        return "%s (%s)" % (self.chosen.words, relative.split(os.sep, 1)[-1][-120:])
