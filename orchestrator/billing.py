"""Pure: what AWS bills for each attempt, from the events alone.

Rules, by name so that another can be set:

`hour-start` (the default): per second, at the spot price in force at the start of each instance-hour (AWS's text of
2017; a later paper says "the price in effect, billed by the second"), 60 s at least, nothing for a spot instance that
AWS interrupts within its first hour
(https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/billing-for-interrupted-spot-instances.html). Volumes and data
transfer are not in it yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from orchestrator.events import Attempt

LEAST_BILLED_S = Decimal(60)
HOUR_S = Decimal(3600)


@dataclass(frozen=True)
class Billed:
    """What one attempt cost.

    `is_estimate` is true while the instance runs, and where the price of an hour was not to be had.
    """

    usd: Decimal
    seconds: Decimal  # billed, not elapsed
    is_free: bool
    is_estimate: bool


def is_free(attempt: Attempt) -> bool:
    """Return whether AWS interrupted a spot instance within its first hour: then nothing is billed for it."""
    if attempt.market != "spot" or attempt.ended_at is None or attempt.ended_by != "aws":
        return False
    by_interruption = attempt.end_reason.startswith("Server.Spot") or attempt.noticed_ends_at is not None
    return by_interruption and attempt.ended_at - attempt.started_at < float(HOUR_S)


def bill(attempt: Attempt, now: float) -> Billed:
    """Return what an attempt is billed under the rule `hour-start`, up to its end or, as an estimate, up to `now`."""
    ended_at = attempt.ended_at if attempt.ended_at is not None else now
    elapsed_s = max(Decimal(str(ended_at)) - Decimal(str(attempt.started_at)), Decimal(0))
    if is_free(attempt):
        return Billed(Decimal(0), Decimal(0), is_free=True, is_estimate=False)
    left_s = billed_s = max(elapsed_s, LEAST_BILLED_S)
    usd, hour, is_estimate = Decimal(0), 0, attempt.ended_at is None
    while left_s > 0:
        seconds = min(left_s, HOUR_S)
        price = attempt.prices_usd_h.get(hour)
        if price is None:
            is_estimate = is_estimate or attempt.market == "spot"
            price = attempt.price_usd_h
        usd += Decimal(str(price)) * seconds / HOUR_S
        left_s -= seconds
        hour += 1
    return Billed(usd, billed_s, is_free=False, is_estimate=is_estimate)


def total_usd(attempts: Iterable[Attempt], now: float) -> Decimal:
    """Return the sum over the attempts."""
    return sum((bill(attempt, now).usd for attempt in attempts), Decimal(0))
