"""The places where measurements are found. Each gives what is new since the start of the trainer."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from infra.instance.metrics.finding import Found
from infra.instance.metrics.growing import Growing, Lines, whole_file
from infra.instance.metrics.log_lines import JsonLines, TrainerLines
from infra.instance.metrics.patterns import Patterns
from infra.instance.metrics.plain_lines import PlainLines
from infra.instance.metrics.progress_bars import ProgressBars
from infra.instance.metrics.tensorboard import EventFile, scalars
from infra.instance.metrics.values import MOST_STEP, clean, measurement, number_in, object_in

BYTES_A_ROUND = 4 << 20
MOST_JSON_BYTES = 32 << 20  # of a trainer_state.json or a metrics.csv
CHECKPOINT = re.compile(r"\bcheckpoint-\d+\b")
MOST_KNOWN = 500_000  # rows of files that are written anew each time


class Source:
    """Where measurements come from.

    Args:
        rank: the lowest one that has something is used.
        patience_s: how long a better one is waited for.
    """

    def __init__(self, rank: int, patience_s: float) -> None:
        self.rank = rank
        self.patience_s = patience_s
        self.place = ""  # of the file, below the run's folder

    def new(self, at: float, found: Found, *, is_last: bool) -> list[dict[str, Any]]:
        """Return the new measurements; `at` (unix seconds) is for those without a time."""
        raise NotImplementedError

    @property
    def words(self) -> str:
        """What it is, for people."""
        raise NotImplementedError

    @property
    def skipped(self) -> int:
        """How many lines or records could not be read."""
        return 0

    @property
    def total(self) -> int:
        """How many steps there are to do, or epochs where it tells those only; 0: it does not say."""
        return 0


class MetricsFile(Source):
    """`metrics.jsonl` in `out/` or in the working folder. Its lines are taken as they are."""

    def __init__(self, root: str) -> None:
        super().__init__(1, 0.0)
        paths = [os.path.join(root, folder, "metrics.jsonl") for folder in ("out", "code")]
        self._files = [Lines(Growing(path, from_end=True)) for path in paths]
        self._bad = 0

    words = property(lambda self: "metrics.jsonl")

    def new(self, at: float, found: Found, *, is_last: bool) -> list[dict[str, Any]]:
        """Return the new lines."""
        made: list[dict[str, Any]] = []
        for lines in self._files[: 1 if _is_same(self._files) else 2]:
            for line in lines.new(BYTES_A_ROUND, is_last=is_last):
                one = self._taken(line, at)
                made += [one] if one is not None else []
                self._bad += one is None
        return made

    def _taken(self, line: bytes, at: float) -> dict[str, Any] | None:
        values = object_in(line.decode("utf-8", "replace").strip())
        if values is None:
            return None
        step = values.get("step")
        if isinstance(values.get("event"), str) or (type(step) is int and 0 <= step <= MOST_STEP):
            values.setdefault("time", at)
            return values
        made = measurement(values, at)
        if made is not None and values.get("split") == "valid":
            made["split"] = "valid"
        return made

    @property
    def skipped(self) -> int:
        """How many lines are no objects, or too long."""
        return self._bad + sum(lines.skipped for lines in self._files)


def _is_same(files: list[Lines]) -> bool:
    try:
        return os.path.samefile(files[0].file.path, files[1].file.path)
    except OSError:
        return False


class TensorBoard(Source):
    """TensorBoard's event files, wherever the program writes them."""

    def __init__(self, before: Found) -> None:
        super().__init__(2, 2.0)
        self._files = {path: EventFile(Growing(path, from_end=True)) for path in before.paths["tensorboard"]}
        self._first = ""  # the folder of the first scalars; those of others are named by theirs

    @property
    def words(self) -> str:
        """What it is, for people."""
        return "TensorBoard's event files"

    def new(self, at: float, found: Found, *, is_last: bool) -> list[dict[str, Any]]:
        """Return the new scalars, those of one step together."""
        made: list[dict[str, Any]] = []
        for path in found.paths["tensorboard"]:
            if path not in self._files:
                self._files[path] = EventFile(Growing(path))
        for path, file in sorted(self._files.items()):
            for record in file.records(BYTES_A_ROUND):
                wall_time, step, values = scalars(record)
                if not values or step is None:
                    continue
                folder = os.path.dirname(path)
                if not self._first:
                    self._first, self.place = folder, path
                if folder != self._first:
                    values = {"%s/%s" % (os.path.basename(folder), tag): value for tag, value in values.items()}
                self._add(made, step, at if wall_time is None else wall_time, values)
        made.sort(key=lambda one: float(one["time"]))
        return made

    @staticmethod
    def _add(made: list[dict[str, Any]], step: int, time: float, values: dict[str, float]) -> None:
        one = measurement({**values, "step": step, "time": time}, time)
        if one is None:
            return
        if made and made[-1]["step"] == step and not (set(one) & set(made[-1])) - {"step", "time", "epoch"}:
            made[-1].update(one)
        else:
            made.append(one)

    @property
    def skipped(self) -> int:
        """How many records are damaged."""
        return sum(file.skipped for file in self._files.values())


class Known:
    """Rows of files that are written anew, and hold the old rows too; each row counts once."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._states: dict[str, tuple[int, ...]] = {}

    def changed(self, paths: list[str]) -> list[str]:
        """Return the files that have changed since the last call, the oldest first."""
        found = []
        for path in paths:
            try:
                status = os.stat(path)
            except OSError:
                continue
            state = (status.st_mtime_ns, status.st_size, status.st_ino)
            if self._states.get(path) != state and status.st_size <= MOST_JSON_BYTES:
                self._states[path] = state
                found.append((status.st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def is_new(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row was not there before."""
        mark = hash(tuple(sorted((key, repr(value)) for key, value in row.items())))
        if mark in self._seen or len(self._seen) >= MOST_KNOWN:
            return False
        self._seen.add(mark)
        return True


class LightningCsv(Source):
    """`metrics.csv`, as Lightning's CSVLogger writes it: a column `step` or `epoch`, and blanks."""

    def __init__(self, before: Found) -> None:
        super().__init__(3, 2.0)
        self._known = Known()
        self._bad = 0
        self._rows(before, 0.0)

    words = property(lambda self: "metrics.csv")

    def new(self, at: float, found: Found, *, is_last: bool) -> list[dict[str, Any]]:
        """Return the new rows."""
        return self._rows(found, at)

    def _rows(self, found: Found, at: float) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for path in self._known.changed(found.paths["csv"]):
            for row in self._read(path):
                one = measurement(row, at)
                if one is not None and ("step" in row or "epoch" in row) and self._known.is_new(row):
                    made.append(one)
                    self.place = path
        return made

    def _read(self, path: str) -> list[dict[str, float]]:
        """Return the whole rows of a file; a last one without an end waits."""
        try:
            text = whole_file(path, MOST_JSON_BYTES).decode("utf-8", "replace").replace("\0", "")
            lines = text[: text.rfind("\n") + 1].splitlines()
            rows = [row for row in csv.DictReader(lines) if row]
        except (OSError, csv.Error):
            self._bad += 1
            return []
        return [
            {clean(key): value for key, text in row.items() if (value := _number_of(key, text)) is not None}
            for row in rows
        ]

    @property
    def skipped(self) -> int:
        """How many files could not be read."""
        return self._bad


def _number_of(key: object, text: object) -> float | None:
    return number_in(text) if isinstance(key, str) and isinstance(text, str) and text else None


class HuggingFace(Source):
    """`trainer_state.json` of Hugging Face's Trainer, and the dicts that it prints."""

    def __init__(self, before: Found, lines: TrainerLines) -> None:
        super().__init__(4, 2.0)
        self._lines = lines
        self._known = Known()
        self._bad = 0
        self._last_step = -1
        self._total = 0
        self._rows(before, 0.0)

    words = property(lambda self: "Hugging Face's Trainer")

    def new(self, at: float, found: Found, *, is_last: bool) -> list[dict[str, Any]]:
        """Return the new dicts of the log, and what of the files is not among them."""
        if is_last:
            self._lines.flush()
        made = self._lines.new()
        self._last_step = max([self._last_step, *(one["step"] for one in made if "step" in one)])
        return made + [one for one in self._rows(found, at) if one["step"] > self._last_step]

    def _rows(self, found: Found, at: float) -> list[dict[str, Any]]:
        made = []
        for path in self._known.changed(found.paths["trainer_state"]):
            for row in self._history(path):
                one = measurement(row, at)
                if one is not None and "step" in one and "unit" not in one and self._known.is_new(row):
                    made.append(one)
                    self.place = CHECKPOINT.sub("checkpoint-*", path)  # each has one, and only a few of them stay
        return made

    def _history(self, path: str) -> list[dict[str, Any]]:
        try:
            state = json.loads(whole_file(path, MOST_JSON_BYTES))
            history, total = state.get("log_history"), state.get("max_steps")
        except (OSError, ValueError, AttributeError, RecursionError):
            self._bad += 1
            return []
        self._total = total if type(total) is int and 0 < total <= MOST_STEP else self._total
        return [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []

    @property
    def total(self) -> int:
        """How many steps there are to do, as the newest `trainer_state.json` says."""
        return self._total

    @property
    def skipped(self) -> int:
        """How many files could not be read."""
        return self._bad


class Printed(Source):
    """JSON objects, the user's patterns, bars, or plain lines in the log; `Log` reads it for all of them."""

    def __init__(
        self, rank: int, patience_s: float, words: str, lines: JsonLines | Patterns | ProgressBars | PlainLines
    ) -> None:
        super().__init__(rank, patience_s)
        self._words = words
        self._lines = lines

    @property
    def words(self) -> str:
        """What it is, for people."""
        return self._words

    @property
    def total(self) -> int:
        """How many steps or epochs bars and plain lines say that there are; 0: they do not say."""
        return min(self._lines.total, MOST_STEP) if isinstance(self._lines, (ProgressBars, PlainLines)) else 0

    def new(self, at: float, found: Found, *, is_last: bool) -> list[dict[str, Any]]:
        """Return what the lines since the last call measure."""
        return self._lines.new()


class Log:
    """The program's log, read once for all that look into it.

    Args:
        root: the run's folder.
        patterns: the user's.
    """

    def __init__(self, root: str, patterns: Patterns) -> None:
        self.lines = Lines(Growing(os.path.join(root, "out", "trainer.log"), from_end=True), b"\n\r")
        self.patterns = patterns
        self.json_lines = JsonLines()
        self.trainer_lines = TrainerLines()
        self.bars = ProgressBars()
        self.plain_lines = PlainLines()  # of a program without bars
        self.lines_between_bars = PlainLines()

    def read(self, at: float, *, is_last: bool) -> None:
        """Give each new line to those that read it."""
        for raw in self.lines.new(BYTES_A_ROUND, is_last=is_last):
            line = raw.decode("utf-8", "replace").strip()
            if self.patterns.compiled:
                self.patterns.take(line, at)
            if line.startswith("{") and line.endswith("}") and not line.startswith("{'"):
                self.json_lines.take(line, at)
            elif "{'" in line and self.trainer_lines.take(line, at):
                continue
            elif self.bars.take(line, at):
                if self.bars.step is not None:
                    self.trainer_lines.at_step(self.bars.step)
            else:
                self._take_plain(line, at)

    def _take_plain(self, line: str, at: float) -> None:
        """Give a plain line the step of the bar, where there is one; else it tells its own."""
        self.plain_lines.take(line, at)
        if self.bars.step is not None:
            self.lines_between_bars.take(line, at, self.bars.step)
            self.bars.add(self.lines_between_bars.new())


def sources_of(before: Found, log: Log, root: str) -> list[Source]:
    """Return all sources, the best first. A pattern is what the user asks for: it comes before what is found."""
    patterns = [Printed(0, 0.0, "the patterns of --metric", log.patterns)] if log.patterns.compiled else []
    return [
        *patterns,
        MetricsFile(root),
        TensorBoard(before),
        LightningCsv(before),
        HuggingFace(before, log.trainer_lines),
        Printed(5, 2.0, "JSON lines in the log", log.json_lines),
        Printed(6, 20.0, "progress bars in the log", log.bars),
        Printed(7, 10.0, "lines of the log", log.plain_lines),
    ]
