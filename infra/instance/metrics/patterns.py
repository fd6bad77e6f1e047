"""Reads figures from a log by the user's own patterns: `loss=loss[=: ]+([0-9.eE+-]+)`."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import Any

from infra.instance.metrics.values import EPOCHS, STEPS, clean, measurement, number_in

LONGEST_LINE = 4096  # characters in which a pattern is looked for
SEARCH_S = 0.25  # for one line; a pattern may take longer than the age of the universe
MOST_LATE = 3  # lines; then the pattern is not used any more


class LateError(Exception):
    """A pattern takes too long."""


def _late(_number: int, _frame: object) -> None:
    raise LateError


class Patterns:
    """The user's patterns. `step` and `epoch` are those of the values that follow.

    Args:
        patterns: a regular expression with one group by the name of its value.
    """

    def __init__(self, patterns: Mapping[str, str]) -> None:
        self.compiled: dict[str, re.Pattern[str]] = {}
        self.problem = ""
        for name, text in patterns.items():
            try:
                self.compiled[name] = re.compile(text)
            except (re.error, OverflowError, RecursionError) as error:
                self.problem = "the pattern of %s does not compile: %s" % (clean(name), error)
        self.unmatched = set(self.compiled)
        self._late = dict.fromkeys(self.compiled, 0)
        self._at: dict[str, float] = {}  # the newest step and epoch
        self._new: list[dict[str, Any]] = []
        places = (*STEPS[:1], *EPOCHS[:1])
        self._only_places = bool(self.compiled) and all(name in places for name in self.compiled)
        if self.compiled:
            signal.signal(signal.SIGALRM, _late)  # the matcher looks for signals now and then

    def take(self, line: str, at: float) -> None:
        """Look for the patterns in a line."""
        found: dict[str, float] = {}
        for name in list(self.compiled):
            try:
                value = self._search(name, line[:LONGEST_LINE])
            except LateError:
                self._give_up(name)
                continue
            if value is not None:
                found[name] = value
                self.unmatched.discard(name)
        places: dict[str, float] = {name: found.pop(name) for name in ("step", "epoch") if name in found}
        self._at.update(places)
        if found or (places and self._only_places):
            made = measurement({**found, **self._at}, at)
            if made is not None:
                self._new.append(made)

    def _search(self, name: str, line: str) -> float | None:
        signal.setitimer(signal.ITIMER_REAL, SEARCH_S)
        try:
            found = self.compiled[name].search(line)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if found is None or not found.re.groups:
            return None
        return number_in(found.group(1) or "")

    def _give_up(self, name: str) -> None:
        self._late[name] += 1
        if self._late[name] >= MOST_LATE:
            del self.compiled[name]
            self.unmatched.discard(name)
            self.problem = "the pattern of %s takes too long, and is not used any more" % clean(name)

    def new(self) -> list[dict[str, Any]]:
        """Return the measurements since the last call."""
        new, self._new = self._new, []
        return new
