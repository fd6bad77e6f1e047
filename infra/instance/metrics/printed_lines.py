"""Reads values from what training scripts print: `Epoch [3/30], Loss: 0.53`, `iter 100: loss 1.23, time 30ms`.

A line counts if it names a known value, such as a loss, with a number. It belongs to the epoch or the step in it, or,
if it begins with a value, to the newest one. Whole epochs are counted where the first such line names an epoch: scripts
that print both mostly count their steps anew in each epoch.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from infra.instance.metrics.values import clean, measurement, number_in

LONGEST_LINE = 2000  # characters; what is longer is no line for people
MOST_PAIRS = 32
KNOWN = frozenset(
    ("loss", "losses", "acc", "accuracy", "perplexity", "ppl", "nll", "bpc", "bpb", "bpd", "mse", "mae", "rmse", "f1",
     "auc", "auroc", "map", "bleu", "rouge", "iou", "miou", "dice", "psnr", "ssim", "fid", "reward", "return", "elbo",
     "wer", "cer", "lr")
)  # fmt: skip
NOT_ALONE = frozenset(("lr",))  # it is printed with the settings too
FIGURE = (
    r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3}){1,4}(?:\.[0-9]{1,20})?|[0-9]{1,15}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})"
    r"(?:[eE][-+]?[0-9]{1,3})?|nan|inf"
)
ASIDE = "train|training|val|valid|validation|test|eval|avg|average|mean|total|running|epoch|best|learning"
PAIR = re.compile(
    r"(?<![\w.])((?:(?:%s)[ _-])?(?:(?:%s)[ _-])?[A-Za-z][\w@/-]{0,40})(?: ?[:=]\s{0,8}|\s{1,8})"
    r"(?:(%s)(?![\w/]|\.[0-9])(?!\s?/)|[0-9]{1,12} ?/ ?[0-9]{1,12} ?\(([0-9.]{1,10}) ?%%\))" % (ASIDE, ASIDE, FIGURE),
    re.IGNORECASE,
)
PHASE = re.compile(r"\W{0,8}(train|training|val|valid|validation|test|eval)\b", re.IGNORECASE)
EPOCH = re.compile(
    r"(?<![\w-])(?:epoch|ep)\b[ \t:=#]{0,8}[\[(]?\s{0,6}([0-9]{1,9})(?![\w.])"
    r"|^\[ {0,6}([0-9]{1,9}), {0,6}[0-9]{1,9}\] loss",  # of PyTorch's tutorial
    re.IGNORECASE,
)
STEP = re.compile(
    r"(?<![\w-])(?:global[ _])?(?:step|iter|iteration|update)\b[ \t:=#]{0,8}[\[(]?\s{0,6}([0-9]{1,12})(?![\w.])",
    re.IGNORECASE,
)
LONGEST_TITLE = 16  # letters before the first value of a line without a place: `Test set: Average loss: 0.05`
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


class PrintedLines:
    """The values of lines that are printed for people."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}  # the newest epoch and step
        self._counted = ""  # "epoch" or "step", once there was a value
        self._new: list[dict[str, Any]] = []

    def take(self, line: str, at: float) -> None:
        """Read a line."""
        if len(line) > LONGEST_LINE or not any(letter.isdigit() for letter in line):
            return
        named = self._note_places(line)
        found, title = values_in(line)
        if not set(found) - NOT_ALONE:
            return
        is_below = len(title) <= LONGEST_TITLE and not any(letter.isdigit() for letter in title)
        if not (named or is_below) or not self._places:
            return
        if not self._counted:
            self._counted = "epoch" if "epoch" in (named or self._places) else "step"
        if self._counted in self._places:
            made = measurement({**found, self._counted: self._places[self._counted]}, at)
            if made is not None:
                self._new.append(made)

    def _note_places(self, line: str) -> list[str]:
        """Note the epoch and the step that a line names; return which it names."""
        places = {"epoch": EPOCH.search(line), "step": STEP.search(line)}
        for name, found in places.items():
            if found is not None:
                self._places[name] = int(found.group(1) or found.group(2))
        return [name for name, found in places.items() if found is not None]

    def new(self) -> list[dict[str, Any]]:
        """Return the measurements since the last call."""
        new, self._new = self._new, []
        return new


def values_in(line: str) -> tuple[dict[str, float], str]:
    """Return the known values of a line, and what stands before the first of them.

    A line that begins with `train` or `val` is about that: its `Acc` is `train_Acc`.
    """
    found: dict[str, float] = {}
    title = line
    phase = PHASE.match(line)
    for pair in itertools.islice(PAIR.finditer(line), MOST_PAIRS):
        value = number_in(pair.group(2) or pair.group(3))
        if value is None or not is_known(pair.group(1)):
            continue
        title = line[: pair.start()] if not found else title
        name = clean(re.sub(r"[ -]", "_", pair.group(1)))
        if phase and not PHASE.match(name.replace("_", " ")):
            name = "%s_%s" % (phase.group(1), name)
        found.setdefault(name, value)
    return found, title


def is_known(name: str) -> bool:
    """Return whether a part of a name is that of a known value: `train_loss`, `val accuracy`, `Acc@1`."""
    return any(word.lower() in KNOWN for word in WORDS.findall(name))
