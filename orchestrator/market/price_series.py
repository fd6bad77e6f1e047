"""A price over time: changes in, the price in force at a moment, means over a window."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

DAY_S = 86400.0


@dataclass(frozen=True, order=True)
class Change:
    """From `at` (unix seconds) on, the pool's price is `usd_h`."""

    at: float
    usd_h: Decimal


@dataclass(frozen=True)
class Window:
    """What the price of one pool did over a stretch of time."""

    now_usd_h: Decimal
    mean_usd_h: Decimal  # weighted by time
    low_usd_h: Decimal
    high_usd_h: Decimal
    volatility: float  # standard deviation over mean, both weighted by time
    changes: int
    known_from: float  # unix seconds: later than the start of the window where nothing older was to be had


def pieces(changes: Iterable[Change], start: float, end: float) -> Iterator[tuple[float, Decimal]]:
    """Yield (seconds, price) from the first known moment in [start, end] on, whatever the order of the changes.

    Of two changes at one moment, the one that was given last counts.
    """
    latest = {change.at: change for change in changes if change.at <= end}
    ordered = sorted(latest.values(), key=lambda change: change.at)
    ends = [change.at for change in ordered[1:]] + [end]
    for change, until in zip(ordered, ends, strict=False):  # no change at all: nothing to yield
        seconds = until - max(change.at, start)
        if seconds > 0:
            yield seconds, change.usd_h


def window(changes: Sequence[Change], start: float, end: float) -> Window | None:
    """Return what the price did between `start` and `end` (unix seconds), or None if no price is known."""
    stood = list(pieces(changes, start, end))
    if not stood:
        return None
    total_s = sum((Decimal(str(seconds)) for seconds, _ in stood), Decimal(0))
    mean = sum((price * Decimal(str(seconds)) for seconds, price in stood), Decimal(0)) / total_s
    variance = sum(seconds * float(price - mean) ** 2 for seconds, price in stood) / float(total_s)
    prices = [price for _, price in stood]
    return Window(
        now_usd_h=prices[-1],
        mean_usd_h=mean,
        low_usd_h=min(prices),
        high_usd_h=max(prices),
        volatility=math.sqrt(variance) / float(mean) if mean else 0.0,
        changes=len({change.at for change in changes if start < change.at <= end}),
        known_from=end - sum(seconds for seconds, _ in stood),
    )
