"""Reads progress bars: those of tqdm, `120/500 [00:28<01:30, 4.20it/s, loss=0.53]`, and of Keras."""

from __future__ import annotations

import re
from typing import Any

from infra.instance.metrics.values import clean, number_in

ESCAPES = re.compile(r"\x1b\[[0-9;?]{0,20}[A-Za-z]")
BAR = re.compile(r"(?<![\w./-])(\d{1,12})/(\d{1,12}) ?\[([^\[\]]{0,400})\]")
RATE = re.compile(r"([0-9.]{1,15}) ?([A-Za-z]{1,20})/s\b")
PACE = re.compile(r"([0-9.]{1,15}) ?s/([A-Za-z]{1,20})\b")
KERAS = re.compile(r"(?<![\w./-])(\d{1,12})/(\d{1,12}) (.{1,2000})")
KERAS_PACE = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)(m|u|µ)?s/step\b")
KERAS_2 = re.compile(r"\[[=>.]{20,60}\] - ")  # its bar, which has no pace until it is full
PAIR = re.compile(r"([A-Za-z][\w/ .-]{0,60}?)\s?[=:]\s?([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?|nan|inf)(?![\w.])")
EPOCH = re.compile(r"\b[Ee]poch[ :=#]{0,3}\[?(\d{1,9})(?: ?(?:/|of) ?(\d{1,9}))?")
OTHER = re.compile(
    r"val|eval|test|predict|download|upload|load|extract|token|map\b|filter|sanity|infer|generat|fetch|unpack|prepar",
    re.IGNORECASE,
)
UNITS = frozenset(("b", "kb", "mb", "gb", "kib", "mib", "gib", "file", "files", "example", "examples", "doc", "docs"))
MOST_BARS = 100


class Bar:
    """How far one bar is over all its rounds: it begins again with each epoch.

    Args:
        before: how many were done in the epochs before it was seen.
        epoch: the one that it was first seen in.
    """

    def __init__(self, before: int, epoch: int | None) -> None:
        self.before, self.epoch = before, epoch
        self.at = 0

    def move(self, to: int, total: int, epoch: int | None) -> int:
        """Return how many were done in all, with the bar at `to`.

        A bar that is drawn only when it is full is at the same place in each epoch.
        """
        if to < self.at or (to == self.at >= total and epoch != self.epoch):
            self.before += total if self.at >= total or to == 0 else self.at
        self.at, self.epoch = to, epoch
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
        if found is None or not found.group(3).strip("=>."):  # that one is of Keras
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
        pairs = [found.groups() for found in PAIR.finditer(tail)]
        self._note(done, total, speed, pairs, at, is_epochs=unit in ("epoch", "epochs"))
        return True

    def _keras(self, line: str, at: float) -> bool:
        found = KERAS.search(line)
        if found is None:
            return False
        text = found.group(3)
        pace = KERAS_PACE.search(text)
        if pace is None and not KERAS_2.match(text):
            return False
        seconds = (number_in(pace.group(1)) or 0.0) if pace else 0.0
        seconds *= {"m": 1e-3, "u": 1e-6, "µ": 1e-6}.get((pace.group(2) if pace else "") or "", 1.0)
        parts = [PAIR.match(part.strip()) for part in text.split(" - ") if not part.startswith("ETA")]
        pairs = [part.groups() for part in parts if part is not None]
        speed = 1 / seconds if seconds else None
        self._note(int(found.group(1)), int(found.group(2)), speed, pairs, at, is_epochs=False)
        return True

    def _note(
        self, done: int, total: int, speed: float | None, pairs: list[tuple[Any, ...]], at: float, *, is_epochs: bool
    ) -> None:
        if not total > 0 or done > total or (total not in self._bars and len(self._bars) >= MOST_BARS):
            return
        if total not in self._bars:
            is_resumed = self._epochs and self._epoch is not None and not is_epochs
            before = max(0, (self._epoch or 0) - 1) * total if is_resumed else 0  # `Epoch 11/20` comes after ten
            self._bars[total] = Bar(before, self._epoch)
        steps = self._bars[total].move(done, total, self._epoch)
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
        for name, text in pairs[:32]:
            value = number_in(text)
            if value is not None:
                made.setdefault(clean(name.strip()), value)
        self._new, self._told = made, steps

    def add(self, measurements: list[dict[str, Any]]) -> None:
        """Take what lines between two states measure."""
        self._lines += measurements

    def new(self) -> list[dict[str, Any]]:
        """Return those lines, and the newest state of the training's bar if it has moved since the last call."""
        new, self._new = self._new, None
        lines, self._lines = self._lines, []
        return lines if new is None else [*lines, new]
