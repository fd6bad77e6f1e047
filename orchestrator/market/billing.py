"""What AWS bills for each attempt, from the events alone; pure.

The instance: per second, 60 s at least; nothing for a spot instance that AWS interrupts within its first hour, all
seconds of one that we end. AWS's own texts name two rules for the spot price of a second:

`hour-start`  the price in force at the start of each instance-hour, which is the default ("you will continue to pay
              the Spot price that's in effect at the beginning of each instance-hour", AWS, November 2017)
`in-effect`   the price in effect at each second ("You pay the Spot price that's in effect, billed to the nearest
              second", AWS whitepaper "Leveraging Amazon EC2 Spot Instances at Scale")

The volume: GB-months of gp3, per second of the month that it is, 60 s at least; also while the instance is free. The
public IPv4 address: per hour, prorated. Data out: at list price; the account's first 100 GB a month are free,
so this part is an estimate on the high side.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/billing-for-interrupted-spot-instances.html
https://aws.amazon.com/ebs/pricing/
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from decimal import ROUND_CEILING, Decimal
from typing import Literal, get_args

from orchestrator.errors import SpecError
from orchestrator.market import catalog
from orchestrator.market.price_series import PricePoint, pieces
from orchestrator.runs.state import Attempt

SpotRule = Literal["hour-start", "in-effect"]
SPOT_RULES: tuple[str, ...] = get_args(SpotRule)
DEFAULT_RULE: SpotRule = "hour-start"
LEAST_BILLED_S = Decimal(60)
HOUR_S = Decimal(3600)
DAY_S = Decimal(86400)
GB = Decimal(10**9)
NOTHING = Decimal(0)


@dataclass(frozen=True)
class Billed:
    """The bill of one attempt, in its parts.

    `is_estimate` is true while the instance runs, and if a price is unknown. Data out is always an estimate.
    """

    instance_usd: Decimal
    volume_usd: Decimal
    address_usd: Decimal
    data_out_usd: Decimal
    on_demand_usd: Decimal | None  # the same with an on-demand instance; None: its price is unknown
    seconds: Decimal  # billed for the instance, not elapsed
    is_free: bool  # the instance is free; its volume and address never are
    is_estimate: bool

    @property
    def usd(self) -> Decimal:
        """The sum of the parts."""
        return self.instance_usd + self.other_usd

    @property
    def other_usd(self) -> Decimal:
        """The charges beside the instance."""
        return self.volume_usd + self.address_usd + self.data_out_usd


NEVER_RAN = Billed(
    instance_usd=NOTHING,
    volume_usd=NOTHING,
    address_usd=NOTHING,
    data_out_usd=NOTHING,
    on_demand_usd=NOTHING,
    seconds=NOTHING,
    is_free=True,
    is_estimate=False,
)
"""Of an instance that went from `pending` to `terminated`: AWS bills the running state only."""


def is_free(attempt: Attempt) -> bool:
    """Return whether AWS interrupted a spot instance within its first hour, which is free."""
    if attempt.market != "spot" or attempt.ended_at is None:
        return False
    return attempt.is_interrupted and attempt.ended_at - attempt.started_at < float(HOUR_S)


def bill(attempt: Attempt, now: float, rule: SpotRule = DEFAULT_RULE) -> Billed:
    """Return what an attempt is billed up to its end or, as an estimate, up to `now` (unix seconds).

    AWS bills an instance from its launch to its end. Where it was in several generations of a group, each of its
    attempts has the share by which the bill grew meanwhile, so that their sum is the instance's bill.
    """
    whole = attempt.whole
    if whole.never_ran:
        return NEVER_RAN
    ended_at = attempt.ended_at if attempt.ended_at is not None else now
    share = _up_to(whole, ended_at, rule)
    if attempt.kept_from is not None:
        share = _less(share, _up_to(whole, attempt.started_at, rule))
    data_out_usd = _data_out_usd(attempt)
    on_demand_usd = None if share.on_demand_usd is None else share.on_demand_usd + data_out_usd
    return replace(share, data_out_usd=data_out_usd, on_demand_usd=on_demand_usd)


def _up_to(attempt: Attempt, until: float, rule: SpotRule) -> Billed:
    """Return what the instance is billed from its launch to a moment of its life, without data out."""
    billed_s = max(_elapsed_s(attempt, until), LEAST_BILLED_S)
    volume_usd, address_usd, is_known = _beside(attempt, billed_s)
    other_usd = volume_usd + address_usd
    free = is_free(attempt)
    instance_usd, has_all_prices = (NOTHING, True) if free else _instance(attempt, billed_s, rule)
    on_demand = on_demand_usd_h(attempt)
    return Billed(
        instance_usd=instance_usd,
        volume_usd=volume_usd,
        address_usd=address_usd,
        data_out_usd=NOTHING,
        on_demand_usd=None if on_demand is None else on_demand * billed_s / HOUR_S + other_usd,
        seconds=NOTHING if free else billed_s,
        is_free=free,
        is_estimate=attempt.ended_at is None or not (has_all_prices and is_known),
    )


def _less(later: Billed, earlier: Billed) -> Billed:
    """Return by how much a bill grew between two moments of one instance's life."""
    on_demand_usd = None
    if later.on_demand_usd is not None and earlier.on_demand_usd is not None:
        on_demand_usd = later.on_demand_usd - earlier.on_demand_usd
    return replace(
        later,
        instance_usd=later.instance_usd - earlier.instance_usd,
        volume_usd=later.volume_usd - earlier.volume_usd,
        address_usd=later.address_usd - earlier.address_usd,
        on_demand_usd=on_demand_usd,
        seconds=later.seconds - earlier.seconds,
    )


def total_usd(attempts: Iterable[Attempt], now: float, rule: SpotRule = DEFAULT_RULE) -> Decimal:
    """Return the sum over the attempts."""
    return sum((bill(attempt, now, rule).usd for attempt in attempts), NOTHING)


def on_demand_usd_h(attempt: Attempt) -> Decimal | None:
    """Return the on-demand price of the attempt's type in its region; None if it is not known."""
    if attempt.market == "on-demand":
        return _decimal(attempt.price_usd_h)
    try:
        price = catalog.find(attempt.instance_type).on_demand_usd_h.get(attempt.region)
    except SpecError:
        return None  # of a newer version's catalog
    return None if price is None else _decimal(price)


def other_usd_h(region: str, disk_gib: float, public_addresses: int) -> Decimal:
    """Return the highest hourly charges beside the instance: those of the shortest month, without data out."""
    found = catalog.charges(region)
    if found is None:
        return NOTHING
    volume = found.gp3_usd_gb_month * _decimal(disk_gib) * HOUR_S / (DAY_S * 28)
    return volume + found.public_ipv4_usd_h * public_addresses


def _decimal(value: float) -> Decimal:
    return Decimal(str(value))


def _elapsed_s(attempt: Attempt, until: float) -> Decimal:
    """Return the seconds from start to that moment, rounded up; 0 if a clock went back."""
    elapsed_s = _decimal(until) - _decimal(attempt.started_at)
    return max(elapsed_s, NOTHING).to_integral_value(ROUND_CEILING)


def _instance(attempt: Attempt, billed_s: Decimal, rule: SpotRule) -> tuple[Decimal, bool]:
    """Return (dollars, whether every price was known)."""
    if attempt.market != "spot":
        return _decimal(attempt.price_usd_h) * billed_s / HOUR_S, True
    spans = _by_hour(attempt, billed_s) if rule == "hour-start" else _by_change(attempt, billed_s)
    usd, is_known = NOTHING, True
    for seconds, price in spans:
        is_known = is_known and price is not None
        usd += _decimal(attempt.price_usd_h if price is None else price) * seconds / HOUR_S
    return usd, is_known


def _by_hour(attempt: Attempt, billed_s: Decimal) -> Iterator[tuple[Decimal, float | None]]:
    """Yield (seconds, price at the start of their instance-hour)."""
    hour, left_s, last = 0, billed_s, max(attempt.prices_usd_h, default=-1)
    while left_s > 0:
        if hour > last:  # no later price is known: a clock that is years off does not count its hours
            yield left_s, None
            return
        seconds = min(left_s, HOUR_S)
        yield seconds, attempt.prices_usd_h.get(hour)
        left_s -= seconds
        hour += 1


def _by_change(attempt: Attempt, billed_s: Decimal) -> Iterator[tuple[Decimal, float | None]]:
    """Yield (seconds, price in effect during them)."""
    start = _decimal(attempt.started_at)
    changes = [PricePoint(at, _decimal(usd_h)) for at, usd_h in attempt.price_changes.items()]
    known = list(pieces(changes, start, start + billed_s))
    unknown_s = billed_s - sum((seconds for seconds, _ in known), NOTHING)
    if unknown_s > 0:
        yield unknown_s, None
    for seconds, price in known:
        yield seconds, float(price)


def _data_out_usd(attempt: Attempt) -> Decimal:
    """Return the charge for what was received from the instance in this attempt; nothing where no price is known."""
    found = catalog.charges(attempt.region)
    return NOTHING if found is None else found.data_out_usd_gb * attempt.pulled_bytes / GB


def _beside(attempt: Attempt, billed_s: Decimal) -> tuple[Decimal, Decimal, bool]:
    """Return (volume, address, whether the region's prices are known)."""
    found = catalog.charges(attempt.region)
    if found is None:
        return NOTHING, NOTHING, not (attempt.disk_gib or attempt.public_addresses or attempt.pulled_bytes)
    months = sum((seconds / month_s for seconds, month_s in _by_month(attempt.started_at, billed_s)), NOTHING)
    volume = found.gp3_usd_gb_month * _decimal(attempt.disk_gib) * months if attempt.disk_gib else NOTHING
    address = found.public_ipv4_usd_h * attempt.public_addresses * billed_s / HOUR_S
    return volume, address, True


def _by_month(start: float, seconds: Decimal) -> Iterator[tuple[Decimal, Decimal]]:
    """Yield (seconds, length of their month in seconds, UTC): the length of a GB-month depends on the month."""
    moment, end = _decimal(start), _decimal(start) + seconds
    while moment < end:
        date = datetime.fromtimestamp(float(moment), tz=timezone.utc)
        days = calendar.monthrange(date.year, date.month)[1]
        first = Decimal(calendar.timegm((date.year, date.month, 1, 0, 0, 0)))
        until = min(end, first + days * DAY_S)
        yield until - moment, days * DAY_S
        moment = until
