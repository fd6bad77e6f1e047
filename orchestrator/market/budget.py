"""How much time and money a run may still use; pure. The engine and the agent on the instance both obey it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum

from orchestrator.market import catalog
from orchestrator.market.billing import LEAST_BILLED_S, other_usd_h, total_usd
from orchestrator.market.pools import Offer, pool_of
from orchestrator.runs.spec import Limits, RunSpec
from orchestrator.runs.state import Attempt

LARGE_DISK_GIB = 100  # an image may need a larger disk than was asked for; AWS's Deep Learning AMI takes 65


class Limit(Enum):
    """A limit that a run may be given."""

    BUDGET = "budget"
    DURATION = "duration"
    IDLE = "idle"


@dataclass(frozen=True)
class Reached:
    """A limit that is reached. `text` is for people."""

    limit: Limit
    text: str


def price_cap_usd_h(spec: RunSpec, offer: Offer) -> Decimal:
    """Return the most that an hour of this offer can cost, with its disk and its address, without data out.

    A spot price moves up to a cap: `--max-price`, and without it the on-demand price
    (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_SpotMarketOptions.html).
    """
    beside = other_usd_h(offer.pool.region, max(spec.disk_gib, LARGE_DISK_GIB), 0 if spec.is_private else 1)
    return _instance_cap_usd_h(spec, offer) + beside


def _instance_cap_usd_h(spec: RunSpec, offer: Offer) -> Decimal:
    price = Decimal(str(offer.price_usd_h))
    if offer.market != "spot":
        return price
    if spec.max_price_usd_h is not None:
        return spec.max_price_usd_h
    on_demand = catalog.find(offer.pool.instance_type).on_demand_usd_h.get(offer.pool.region)
    return max(price, Decimal(str(on_demand))) if on_demand is not None else price


def offer_of(attempt: Attempt) -> Offer:
    """Return the offer that an attempt was rented by."""
    return Offer(pool_of(attempt), attempt.market, attempt.price_usd_h, "")


def worst_case(spec: RunSpec, attempts: Sequence[Attempt], now: float) -> list[Attempt]:
    """Return the attempts at the highest price that is possible.

    An instance-hour whose price is unknown (no network, expired credentials) costs the cap; the first hour costs the
    price at the launch.
    """
    return [_worst_case(spec, attempt, now) for attempt in attempts]


def _worst_case(spec: RunSpec, attempt: Attempt, now: float) -> Attempt:
    ended_at = attempt.ended_at if attempt.ended_at is not None else now
    hours = range(1, 1 + int(max(0.0, ended_at - attempt.launched_at) // 3600))
    if attempt.market != "spot" or all(hour in attempt.prices_usd_h for hour in hours):
        return attempt
    cap = float(_instance_cap_usd_h(spec, offer_of(attempt)))
    return replace(attempt, prices_usd_h={**dict.fromkeys(hours, cap), **attempt.prices_usd_h})


def guaranteed_s(limits: Limits, attempts: Sequence[Attempt], cap_usd_h: Decimal, now: float) -> float | None:
    """Return the seconds that the rest of the budget pays for at the price cap; None without a budget."""
    if limits.budget_usd is None:
        return None
    left_usd = limits.budget_usd - total_usd(attempts, now)
    return max(0.0, float(left_usd / cap_usd_h * 3600))


def too_little_to_begin(limits: Limits, attempts: Sequence[Attempt], cap_usd_h: Decimal, now: float) -> str:
    """Return why no further instance may be rented, "" if one may: EC2 bills a minute at least."""
    buys_s = guaranteed_s(limits, attempts, cap_usd_h, now)
    if buys_s is None or buys_s >= float(LEAST_BILLED_S):
        return ""
    which = "another" if attempts else "a first"
    return f"the budget of ${limits.budget_usd} does not pay for {which} minute at up to ${cap_usd_h:.4f} an hour"


def reached(
    limits: Limits, attempts: Sequence[Attempt], *, led_since: float, heard_at: float, now: float
) -> Reached | None:
    """Return which limit is reached at `now`, None if none is.

    Args:
        limits: what was asked for.
        attempts: so far; a running one is billed up to `now`.
        led_since: when the run was launched or resumed (unix seconds).
        heard_at: when the trainer last wrote something.
        now: the moment in question; a caller that needs time to save gives one that lies ahead.
    """
    if limits.budget_usd is not None and total_usd(attempts, now) >= limits.budget_usd:
        return Reached(Limit.BUDGET, f"the budget of ${limits.budget_usd} is used up")
    if limits.max_duration_s is not None and now - led_since >= limits.max_duration_s:
        return Reached(Limit.DURATION, f"the duration of {limits.max_duration_s:.0f} s is over")
    if limits.idle_s is not None and now - heard_at >= limits.idle_s:
        return Reached(Limit.IDLE, f"the trainer has written nothing for {limits.idle_s:.0f} s")
    return None
