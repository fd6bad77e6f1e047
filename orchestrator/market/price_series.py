"""A price over time: changes in, the price in force at a moment, means over a window.

A price is in force until the next change, so a mean weights each price by how long it was in force:

    price
      |        ____
      |_______|    |________      mean = (price x seconds) / seconds
      ^start                 ^end

EC2 gives the changes within the window and the last one before it, page by page, in no strict order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

DAY_S = 86400.0
MOST_USD_H, MOST_DIGITS = 100_000, 40  # an event with a higher price is not read


@dataclass(frozen=True, order=True)
class PricePoint:
    """From `at` (unix seconds) on, the price is `usd_h` dollars an hour, until the next change."""

    at: float
    usd_h: Decimal


@dataclass(frozen=True)
class Window:
    """The price of one pool over a stretch of time."""

    now_usd_h: Decimal
    mean_usd_h: Decimal  # weighted by time
    low_usd_h: Decimal
    high_usd_h: Decimal
    volatility: float  # standard deviation over mean, both weighted by time
    changes: int
    known_from: float  # unix seconds: later than the start of the window if no older price is known


def price_of(text: str) -> Decimal:
    """Return the price in a text of somebody else's.

    Raises:
        ValueError: it is no number of dollars an hour that any machine costs.
    """
    try:
        usd_h = Decimal(text)
    except (InvalidOperation, TypeError, ValueError):
        raise ValueError(f"{str(text)[:40]!r} is no price") from None
    if not (usd_h.is_finite() and 0 <= usd_h <= MOST_USD_H and len(usd_h.as_tuple().digits) <= MOST_DIGITS):
        raise ValueError(f"{str(text)[:40]!r} is no price of an instance-hour")
    return usd_h


def price_at(changes: Iterable[PricePoint], at: float) -> Decimal | None:
    """Return the price in force at `at` (unix seconds), None before the first change."""
    in_force = max((change for change in changes if change.at <= at), key=lambda change: change.at, default=None)
    return None if in_force is None else in_force.usd_h


def pieces(
    changes: Iterable[PricePoint], start: float | Decimal, end: float | Decimal
) -> Iterator[tuple[Decimal, Decimal]]:
    """Yield (seconds, price) from the first known moment in [start, end] on, whatever the order of the changes.

    Of two changes at one moment, the one that was given last counts.
    """
    start_s, end_s = Decimal(str(start)), Decimal(str(end))
    latest = {Decimal(str(change.at)): change.usd_h for change in changes}
    ordered = sorted((at, usd_h) for at, usd_h in latest.items() if at <= end_s)
    ends = [at for at, _ in ordered[1:]] + [end_s]
    for (at, usd_h), until in zip(ordered, ends, strict=False):  # without a change there is nothing to yield
        seconds = until - max(at, start_s)
        if seconds > 0:
            yield seconds, usd_h


def window(changes: Sequence[PricePoint], start: float, end: float) -> Window | None:
    """Return the price between `start` and `end` (unix seconds), or None if no price is known."""
    known = list(pieces(changes, start, end))
    if not known:
        return None
    total_s = sum((seconds for seconds, _ in known), Decimal(0))
    mean = sum((price * seconds for seconds, price in known), Decimal(0)) / total_s
    variance = sum(float(seconds) * float(price - mean) ** 2 for seconds, price in known) / float(total_s)
    prices = [price for _, price in known]
    return Window(
        now_usd_h=prices[-1],
        mean_usd_h=mean,
        low_usd_h=min(prices),
        high_usd_h=max(prices),
        volatility=math.sqrt(variance) / float(mean) if mean else 0.0,
        changes=len({change.at for change in changes if start < change.at <= end}),
        known_from=end - float(total_s),
    )
