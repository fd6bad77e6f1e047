"""Reads measurements that a program prints: JSON objects, and the dicts of Hugging Face's Trainer."""

from __future__ import annotations

import re
from typing import Any

from infra.instance.metrics.values import LONGEST_KEY, measurement, measures, number_in, object_in

PAIR = re.compile(r"'([^'\\]{1,%d})': ?'?([-+0-9.eE]{1,40}|nan|inf|-inf)'?(?=[,}])" % LONGEST_KEY)
LONGEST_DICT = 8192  # characters
MOST_HELD = 10_000


class JsonLines:
    """JSON objects on the standard output that measure something."""

    def __init__(self) -> None:
        self._new: list[dict[str, Any]] = []

    def take(self, line: str, at: float) -> None:
        """Read a line."""
        values = object_in(line)
        made = None if values is None or "event" in values else measurement(values, at)
        if made is not None and measures(made):
            self._new.append(made)

    def new(self) -> list[dict[str, Any]]:
        """Return the measurements since the last call."""
        new, self._new = self._new, []
        return new


class TrainerLines:
    """The dicts that Hugging Face's Trainer prints: `{'loss': 0.52, 'learning_rate': 5e-05, 'epoch': 0.25}`.

    They hold no step. It is that of the progress bar, which is drawn again right after such a line.
    """

    def __init__(self) -> None:
        self._new: list[dict[str, Any]] = []
        self._waiting: dict[str, float] | None = None
        self._waiting_since = 0.0

    def take(self, line: str, at: float) -> bool:
        """Read a line; return whether it is such a dict."""
        start = line.find("{'")
        if start < 0 or not line.endswith("}") or len(line) - start > LONGEST_DICT:
            return False
        values = {name: value for name, text in PAIR.findall(line[start:]) if (value := number_in(text)) is not None}
        is_trainers = "epoch" in values and any(key == "loss" or key.startswith(("eval_", "train_")) for key in values)
        if not is_trainers and "step" not in values and "epoch" not in values:
            return False
        self.flush()
        self._waiting, self._waiting_since = values, at
        if not is_trainers:
            self.flush()
        return True

    def at_step(self, step: int) -> None:
        """Give the step to the dict that waits for one."""
        if self._waiting is not None:
            self._waiting.setdefault("step", step)
            self.flush()

    def flush(self) -> None:
        """Take the waiting dict as it is."""
        if self._waiting is not None:
            made = measurement(self._waiting, self._waiting_since)
            if made is not None and made.get("unit") == "epoch":  # others are parts of one
                del made["unit"], made["step"]
            self._new += [made] if made is not None else []
            self._waiting = None

    def new(self) -> list[dict[str, Any]]:
        """Return the measurements since the last call."""
        new, self._new = self._new, []
        return new
