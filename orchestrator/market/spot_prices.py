"""What the spot market of each type and zone asks: rows for `prices` and `compare`; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from orchestrator.errors import SpecError
from orchestrator.market import catalog
from orchestrator.market.gpus import any_types_with
from orchestrator.market.offers import is_market_signal
from orchestrator.market.pools import Pool
from orchestrator.market.price_series import PricePoint, window

MOST_DAYS = 90  # EC2 keeps no more (API reference, DescribeSpotPriceHistory)
DEFAULT_DAYS = 7

Source = Literal["live", "cached", "recorded", "embedded"]
"""EC2 now, EC2 earlier, bundled with its date, or the embedded cloud (seeded around recorded levels)."""


@dataclass(frozen=True)
class MarketRow:
    """The spot price of one type in one zone (a recorded one: in one region)."""

    instance_type: str
    region: str
    zone: str  # "" where only the range over a region's zones is recorded
    source: Source
    as_of: float  # unix seconds: time of the answer; for a recorded price its day
    now_usd_h: Decimal | None
    mean_usd_h: Decimal | None
    low_usd_h: Decimal | None
    high_usd_h: Decimal | None
    volatility: float | None
    changes: int | None
    on_demand_usd_h: Decimal | None
    note: str = ""  # why it is not ranked, "" if it is

    @property
    def rank_usd_h(self) -> Decimal | None:
        """The price for the ranking: the present one, of a recorded range the lowest; None if it is no market price."""
        if self.note:
            return None
        return self.now_usd_h if self.now_usd_h is not None else self.low_usd_h


def doubt(price_usd_h: Decimal | None, on_demand_usd_h: Decimal | None) -> str:
    """Return why a spot price is no market price, "" if it is one."""
    if price_usd_h is None:
        return "no spot price"
    on_demand = None if on_demand_usd_h is None else float(on_demand_usd_h)
    if is_market_signal(float(price_usd_h), on_demand):
        return ""
    if price_usd_h == on_demand_usd_h:
        return "equals on-demand: no market"
    return "a tenth of on-demand: a placeholder" if price_usd_h > 0 else "not above zero"


def pool_row(
    pool: Pool,
    changes: Sequence[PricePoint],
    *,
    start: float,
    end: float,
    on_demand_usd_h: Decimal | None,
    source: Source,
    as_of: float,
) -> MarketRow:
    """Return the row of one pool from its history."""
    seen = window(changes, start, end)
    return MarketRow(
        instance_type=pool.instance_type,
        region=pool.region,
        zone=pool.zone,
        source=source,
        as_of=as_of,
        now_usd_h=seen.now_usd_h if seen else None,
        mean_usd_h=seen.mean_usd_h if seen else None,
        low_usd_h=seen.low_usd_h if seen else None,
        high_usd_h=seen.high_usd_h if seen else None,
        volatility=seen.volatility if seen else None,
        changes=seen.changes if seen else None,
        on_demand_usd_h=on_demand_usd_h,
        note=doubt(seen.now_usd_h if seen else None, on_demand_usd_h),
    )


def missing_row(
    instance_type: str,
    region: str,
    *,
    source: Source,
    as_of: float,
    note: str,
    on_demand_usd_h: Decimal | None = None,
) -> MarketRow:
    """Return the row of a type that has no spot price in a region; `note` says why."""
    return MarketRow(
        instance_type, region, "", source, as_of, None, None, None, None, None, None, on_demand_usd_h, note
    )


def recorded_rows(instance_types: Sequence[str], regions: Sequence[str], as_of: float) -> list[MarketRow]:
    """Return the recorded prices of the catalog: for each region the range over its zones."""
    rows = []
    for name in instance_types:
        known = catalog.find(name)
        for region in regions:
            on_demand = known.on_demand_usd_h.get(region)
            on_demand_usd_h = None if on_demand is None else Decimal(str(on_demand))
            seen = known.spot_usd_h_seen.get(region)
            if not seen:
                note = "no spot price recorded" if on_demand is not None else "not recorded in this region"
                rows.append(
                    missing_row(
                        name, region, source="recorded", as_of=as_of, note=note, on_demand_usd_h=on_demand_usd_h
                    )
                )
                continue
            low, high = Decimal(str(min(seen))), Decimal(str(max(seen)))
            note = doubt(low, on_demand_usd_h)
            rows.append(
                MarketRow(name, region, "", "recorded", as_of, None, None, low, high, None, None, on_demand_usd_h, note)
            )
    return rows


def recorded_regions(instance_types: Sequence[str]) -> list[str]:
    """Return the regions of which the catalog recorded a price for any of these types."""
    found = {
        region
        for name in instance_types
        for region in (*catalog.find(name).spot_usd_h_seen, *catalog.find(name).on_demand_usd_h)
    }
    return [region for region in catalog.regions() if region in found]


def ranked(rows: Iterable[MarketRow]) -> list[MarketRow]:
    """Return the rows, by type as they came, cheapest first; those without a market price last."""
    rows = list(rows)
    order = {name: place for place, name in enumerate(dict.fromkeys(row.instance_type for row in rows))}

    def key(row: MarketRow) -> tuple[int, bool, Decimal, str, str]:
        price = row.rank_usd_h
        return order[row.instance_type], price is None, price or Decimal(0), row.region, row.zone

    return sorted(rows, key=key)


def lowest(rows: Iterable[MarketRow]) -> dict[str, MarketRow]:
    """Return for each type the row with the lowest price over all zones and regions, among market prices."""
    best: dict[str, MarketRow] = {}
    for row in ranked(rows):
        if row.rank_usd_h is not None:
            best.setdefault(row.instance_type, row)
    return best


def cheapest_zones(rows: Iterable[MarketRow]) -> list[MarketRow]:
    """Return one row for each type and region: its cheapest zone."""
    best: dict[tuple[str, str], MarketRow] = {}
    for row in ranked(rows):
        best.setdefault((row.instance_type, row.region), row)
    return list(best.values())


def saves(row: MarketRow) -> float | None:
    """Return the share of the on-demand price that spot saves: 0.7 is 70 %."""
    price = row.mean_usd_h if row.mean_usd_h is not None else row.rank_usd_h
    if row.note or price is None or not row.on_demand_usd_h:
        return None
    return float(1 - price / row.on_demand_usd_h)


def as_json(row: MarketRow) -> dict[str, object]:
    """Return a row for `-o json`; prices are numbers in dollars an hour."""
    prices: Mapping[str, Decimal | None] = {
        "now_usd_h": row.now_usd_h,
        "mean_usd_h": row.mean_usd_h,
        "low_usd_h": row.low_usd_h,
        "high_usd_h": row.high_usd_h,
        "on_demand_usd_h": row.on_demand_usd_h,
    }
    return {
        "instance_type": row.instance_type,
        "region": row.region,
        "zone": row.zone or None,
        "source": row.source,
        **{key: None if price is None else float(price) for key, price in prices.items()},
        "volatility": row.volatility,
        "changes": row.changes,
        "saves": saves(row),
        "note": row.note,
    }


def chosen_types(text: str | None, gpu: str | None = None) -> tuple[str, ...]:
    """Return the types of `a,b,c`, or those with a GPU (`T4:4`), by default one of each GPU that AWS still rents.

    Raises:
        SpecError: one is unknown, or both are given.
    """
    if gpu is not None:
        if text is not None:
            raise SpecError("--instance and --gpu both name types; give one of them")
        return any_types_with(gpu)
    if text is None:
        return tuple(known.name for known in catalog.one_of_each_gpu())
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise SpecError(f"--instance: {text!r} names no instance type; for example --instance g4dn.xlarge,g5.xlarge")
    return tuple(dict.fromkeys(catalog.find(name).name for name in names))


EVERY_REGION = "all"


def chosen_regions(asked: Sequence[str]) -> tuple[str, ...]:
    """Return the regions asked for; `all` are those of the catalog; by default those with a recorded price."""
    if not asked:
        return tuple(recorded_regions([known.name for known in catalog.all_types()]))
    if EVERY_REGION in asked:
        return catalog.regions()
    return tuple(dict.fromkeys(catalog.check_region(name) for name in asked))


def check_days(days: int, *, flag: str) -> None:
    """Raise SpecError for a number of days that EC2 keeps no prices of."""
    if not 1 <= days <= MOST_DAYS:
        raise SpecError(f"{flag}: {days} is not from 1 to {MOST_DAYS}; EC2 keeps {MOST_DAYS} days of prices")
