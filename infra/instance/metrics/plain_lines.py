"""Reads measurements from plain lines of a log: `epoch 3/20 loss 0.51`, `Train Epoch: 1 [640/60000 (1%)]  Loss: 2.3`.

A line counts if it has the number of an epoch or a step, or follows a heading that has it, and a value whose name is
one that trainings use. Where a program prints several lines in an epoch, the epoch counts as done when the next one
begins, or when it has printed as many lines as the one before.
"""

from __future__ import annotations

import re
from typing import Any

from infra.instance.metrics.progress_bars import ESCAPES
from infra.instance.metrics.values import MOST_KEYS, clean, measurement, number_in, whole

LONGEST_LINE = 1000  # characters that are read
PLACE = re.compile(
    r"(?<![\w./-])(?:(?:train|training|global)[ _])?(epoch|step|iter(?:ation)?)[ :=#]{0,3}[\[(]? ?(\d{1,12})"
    r"(?: ?(?:/|of) ?(\d{1,12}))?(?![\w.])",
    re.IGNORECASE,
)
TUTORIAL = re.compile(r"\[(\d{1,9}), {1,9}\d{1,9}\] loss: ")  # PyTorch's: epoch and batch
PHASE = re.compile(r"\W{0,8}(train|training|val|valid|validation|test|eval)\b(?! epoch)", re.IGNORECASE)
HEADING = re.compile(r"[\W_]{0,10}epoch\b", re.IGNORECASE)
PART = re.compile(r"\[ {0,8}\d{1,12} ?/ ?\d{1,12}\b|\b(?:batch|it)\b[ :=#\[(]{0,3}\d", re.IGNORECASE)
VALUE = re.compile(
    r"(?<![\w./@-])((?:(?:train|training|val|valid|validation|test|eval|avg|average|mean)[ .])?[A-Za-z][\w@/.-]{0,40})"
    r" {0,6}[=:]?\s{0,6}(?:\d{1,12} ?/ ?\d{1,12} \((?=[\d.]{1,10} ?%))?"  # 9842/10000 (98%)
    r"([-+]?(?:\d{1,3}(?:,\d{3}){1,4}(?:\.\d{1,20})?|\d{1,15}\.?\d{0,20}|\.\d{1,20})(?:[eE][-+]?\d{1,3})?|nan|inf|-inf)"
    r"(?![\w/:-]|\.\d| ?/ ?\d)",
    re.IGNORECASE,
)
NAMES = re.compile(
    r"(?:^|[_/ .@-])(?:loss|acc|accuracy|perplexity|ppl|bpd|nll|reward|return|f1|auc|bleu|rouge|m?iou|dice|psnr|fid|"
    r"mse|mae|rmse|elbo|precision|recall|top[15]|prec)\d{0,3}(?:$|[_/ .@-])",
    re.IGNORECASE,
)
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class PlainLines:
    """What the plain lines of a log measure."""

    def __init__(self) -> None:
        self._new: list[dict[str, Any]] = []
        self._epoch: int | None = None
        self._lines = self._lines_before = 0  # of this epoch, and of the one before it
        self._values: dict[str, float] = {}  # of this epoch
        self._is_done = False  # this epoch has been told
        self._totals: dict[str, int] = {}  # how many there are to do: `epoch 3/20`
        self._unit = "step"  # of the newest measurement

    @property
    def total(self) -> int:
        """How many steps, or epochs, there are to do, as the lines say it; 0 where they do not."""
        return self._totals.get(self._unit, 0)

    def take(self, line: str, at: float, bar_step: int | None = None) -> None:
        """Read a line.

        Args:
            line: without its end.
            at: unix seconds.
            bar_step: where the training's progress bar is, if it draws one: the values belong to that step.
        """
        line = ESCAPES.sub("", line[:LONGEST_LINE])
        places, totals = _places(line)
        values = _values(line) if places or self._epoch is not None else {}
        if "epoch" in places and (values or HEADING.match(line)):
            self._begin(places["epoch"], at, is_told=bar_step is None)
            if "epoch" in totals:
                self._totals["epoch"] = totals["epoch"]
        if not values:
            return
        if self._epoch is not None:
            totals.pop("step", None)  # of one epoch
        self._totals.update(totals)
        if bar_step is not None:
            epoch = {} if self._epoch is None else {"epoch": float(self._epoch)}
            self._add({"step": bar_step, **epoch, **values}, at)
        elif "epoch" not in places and "step" in places:
            self._add({"step": places["step"], **values}, at)
        elif self._epoch is not None:
            is_part = "epoch" not in places or "step" in places or PART.search(PLACE.sub("", line)) is not None
            is_part = is_part or TUTORIAL.match(line) is not None
            self._take_of_epoch(values, at, is_part=is_part)

    def _begin(self, epoch: int, at: float, *, is_told: bool) -> None:
        if epoch == self._epoch:
            return
        if self._epoch is not None and epoch == self._epoch + 1 and self._lines and not self._is_done and is_told:
            self._add({"epoch": self._epoch, **self._values}, at)
        self._epoch, self._lines_before, self._lines = epoch, self._lines, 0
        self._values, self._is_done = {}, False

    def _take_of_epoch(self, values: dict[str, float], at: float, *, is_part: bool) -> None:
        self._lines += 1
        self._values.update(values)
        if not is_part or self._lines == self._lines_before:
            self._is_done = True
            self._add({"epoch": self._epoch, **(values if not is_part else self._values)}, at)
            return
        made = measurement({"epoch": self._epoch, **values}, at)
        if made is not None:
            del made["step"], made["unit"]  # the epoch is not over
            self._new.append(made)

    def _add(self, values: dict[str, Any], at: float) -> None:
        made = measurement(values, at)
        if made is not None:
            self._unit = made.get("unit", "step")
            self._new.append(made)

    def new(self) -> list[dict[str, Any]]:
        """Return the measurements since the last call."""
        new, self._new = self._new, []
        return new


def _places(line: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return the first epoch and the first step in a line, and how many of each there are to do, where it says so."""
    found: dict[str, int] = {}
    totals: dict[str, int] = {}
    for name, text, of in PLACE.findall(line):
        number = whole(float(text))
        unit = "epoch" if name.lower() == "epoch" else "step"
        if number is None or unit in found:
            continue
        found[unit] = number
        if of and int(of) >= max(number, 1):
            totals[unit] = int(of)
    tutorial = TUTORIAL.match(line)
    return found or ({"epoch": int(tutorial.group(1))} if tutorial else {}), totals


def _values(line: str) -> dict[str, float]:
    """Return the values that a training would measure, and with them the learning rate.

    A line that begins with `train` or `val` is about that: its `Acc` is `train Acc`.
    """
    phase = PHASE.match(line)
    found: dict[str, float] = {}
    rate = None
    for name, text in VALUE.findall(line):
        value = number_in(text)
        if value is None or len(found) >= MOST_KEYS:
            continue
        if name.lower() in ("lr", "learning_rate"):
            rate = value
        elif NAMES.search(CAMEL.sub("_", name)):
            is_named = phase is None or PHASE.match(name.replace("_", " "))
            whole_name = name if is_named else "%s %s" % (phase.group(1).lower(), name)  # type: ignore[union-attr]
            found.setdefault(clean(whole_name), value)
    if found and rate is not None:
        found["lr"] = rate
    return found
