"""Reads progress bars: those of tqdm, `120/500 [00:28<01:30, 4.20it/s, loss=0.53]`, and of Keras."""

from __future__ import annotations

import re
from typing import Any

from infra.instance.metrics.values import clean, number_in

ESCAPES = re.compile(r"\x1b\[[0-9;?]{0,20}[A-Za-z]")
BAR = re.compile(r"(?<![\w./-])(\d{1,12})/(\d{1,12}) ?\[([^\[\]]{0,400})\]")
RATE = re.compile(r"([0-9.]{1,15}) ?([A-Za-z]{1,20})/s\b")
PACE = re.compile(r"([0-9.]{1,15}) ?s/([A-Za-z]{1,20})\b")
KERAS = re.compile(r"(?<![\w./-])(\d{1,12})/(\d{1,12}) .{0,120}?(\d{1,6}(?:\.\d{1,6})?)(m|u|µ)?s/(step|epoch)(.*)")
PAIR = re.compile(r"([A-Za-z][\w/ .-]{0,60}?)\s?[=:]\s?([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?|nan|inf)(?![\w.])")
EPOCH = re.compile(r"\b[Ee]poch[ :=#]{0,3}\[?(\d{1,9})(?: ?(?:/|of) ?(\d{1,9}))?")
OTHER = re.compile(
    r"val|eval|test|predict|download|upload|load|extract|token|map\b|filter|sanity|infer|generat|fetch|unpack|prepar",
    re.IGNORECASE,
)
UNITS = frozenset(("b", "kb", "mb", "gb", "kib", "mib", "gib", "file", "files", "example", "examples", "doc", "docs"))
MOST_BARS = 100


class Bar:
    """How far one bar is over all its rounds: it begins again with each epoch."""

    def __init__(self) -> None:
        self.before = self.at = self.rounds = 0

    def move(self, to: int, total: int) -> int:
        """Return how many were done in all, with the bar at `to`."""
        if to < self.at:
            self.before += total if self.at >= total or to == 0 else self.at
            self.rounds += 1
        self.at = to
        return self.before + to


class ProgressBars:
    """What the bars of a log say. The training's is the one with the most steps that is of no other kind."""

    def __init__(self) -> None:
        self._bars: dict[int, Bar] = {}  # by their totals
        self._most = 0
        self._epoch: int | None = None
        self._epochs = 0  # how many there are to do: `Epoch 3/20`; 0 where no line says it
        self._is_of_epochs = False  # one move of the training's bar is an epoch
        self._told = 0
        self._new: dict[str, Any] | None = None
        self._lines: list[dict[str, Any]] = []  # what is printed between two states
        self.step: int | None = None  # of the newest state

    def take(self, line: str, at: float) -> bool:
        """Read one state of a bar, which is one line that CR ends; return whether it is one."""
        if "/" not in line:
            self._note_epoch(EPOCH.search(line) if "poch" in line else None)
            return False
        plain = ESCAPES.sub("", line)
        return self._tqdm(plain, at) or self._keras(plain, at) or self._epoch_line(plain)

    def _epoch_line(self, line: str) -> bool:
        self._note_epoch(EPOCH.match(line))
        return False

    def _note_epoch(self, found: re.Match[str] | None) -> None:
        if found is not None:
            self._epoch = int(found.group(1))
            self._epochs = int(found.group(2) or 0)

    @property
    def total(self) -> int:
        """How many steps there are to do, 0 where it is not known: a bar may be of one epoch, or of all."""
        return self._most if self._is_of_epochs else self._most * self._epochs

    def _tqdm(self, line: str, at: float) -> bool:
        found = BAR.search(line)
        if found is None:
            return False
        done, total, inside = int(found.group(1)), int(found.group(2)), found.group(3)
        title = line[: found.start()]
        rate, pace = RATE.search(inside), PACE.search(inside)
        unit = (rate or pace).group(2).lower() if rate or pace else ""  # type: ignore[union-attr]  # one is there
        if unit in UNITS or OTHER.search(title) or not (rate or pace or "?" in inside):
            return True
        speed = number_in(rate.group(1)) if rate else None
        if pace and not rate:
            seconds = number_in(pace.group(1))
            speed = 1 / seconds if seconds else None
        self._note_epoch(EPOCH.search(title))
        tail = inside[(rate or pace).end() :] if rate or pace else ""  # type: ignore[union-attr]
        self._note(done, total, speed, tail, at, is_epochs=unit in ("epoch", "epochs"))
        return True

    def _keras(self, line: str, at: float) -> bool:
        found = KERAS.search(line)
        if found is None:
            return False
        seconds = number_in(found.group(3)) or 0.0
        seconds *= {"m": 1e-3, "u": 1e-6, "µ": 1e-6}.get(found.group(4) or "", 1.0)
        is_epochs = found.group(5) == "epoch"
        speed = 1 / seconds if seconds else None
        self._note(int(found.group(1)), int(found.group(2)), speed, found.group(6), at, is_epochs=is_epochs)
        return True

    def _note(self, done: int, total: int, speed: float | None, tail: str, at: float, *, is_epochs: bool) -> None:
        if not total > 0 or done > total or (total not in self._bars and len(self._bars) >= MOST_BARS):
            return
        steps = self._bars.setdefault(total, Bar()).move(done, total)
        if total < self._most:
            return
        if total > self._most:
            self._most, self._told = total, 0
        self.step, self._is_of_epochs = steps, is_epochs
        if steps <= self._told:
            return
        made: dict[str, Any] = {"step": steps, "time": at}
        if is_epochs:
            made["unit"] = "epoch"
        elif self._epoch is not None:
            made["epoch"] = self._epoch
        if speed:
            made["steps_per_s"] = speed
        for pair in list(PAIR.finditer(tail))[:32]:
            value = number_in(pair.group(2))
            if value is not None:
                made.setdefault(clean(pair.group(1).strip()), value)
        self._new, self._told = made, steps

    def add(self, measurements: list[dict[str, Any]]) -> None:
        """Take what lines between two states measure."""
        self._lines += measurements

    def new(self) -> list[dict[str, Any]]:
        """Return those lines, and the newest state of the training's bar if it has moved since the last call."""
        new, self._new = self._new, None
        lines, self._lines = self._lines, []
        return lines if new is None else [*lines, new]
