"""Spot and on-demand prices from EC2, the cache, or the bundled record; each figure says which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.clock import iso
from orchestrator.cloud.connect import embedded_endpoint
from orchestrator.cloud.price_cache import Entry, PriceCache
from orchestrator.errors import AccessError, CloudError
from orchestrator.formatting import span
from orchestrator.market import catalog
from orchestrator.market.pools import Pool
from orchestrator.market.price_series import DAY_S
from orchestrator.market.spot_prices import (
    DEFAULT_DAYS,
    MarketRow,
    Source,
    as_json,
    lowest,
    missing_row,
    pool_row,
    recorded_rows,
)
from orchestrator.runs.home import make_home

if TYPE_CHECKING:
    from orchestrator.cloud.aws.prices import PriceSource


@dataclass(frozen=True)
class Quoted:
    """Rows, and notes for people."""

    rows: tuple[MarketRow, ...]
    notes: tuple[str, ...]


def recorded_at() -> float:
    """Return the day of the bundled record (unix seconds)."""
    return datetime.fromisoformat(catalog.recorded_on()).replace(tzinfo=timezone.utc).timestamp()


def quote(
    home: Path,
    cloud: str,
    names: Sequence[str],
    regions: Sequence[str],
    now: float,
    *,
    days: int = DEFAULT_DAYS,
    is_offline: bool = False,
    refresh: bool = False,
    profile: str | None = None,
    while_asking: AbstractContextManager[None] | None = None,
) -> Quoted:
    """Return the prices: from a fresh cache, else from EC2, else from an old cache, else the recorded ones.

    `while_asking` is entered while EC2 is asked: a caller shows there that this takes a while.

    Raises:
        SpecError: the embedded cloud does not start.
    """
    start = now - days * DAY_S
    cache = PriceCache(home, cloud)
    wanted = [(name, region) for region in regions for name in names]
    stale = [pair for pair in wanted if refresh or not _is_fresh(cache, pair, now, start)]
    notes: list[str] = []
    problems: dict[str, str] = {}
    asked: set[tuple[str, str]] = set()
    if stale and not is_offline:
        try:
            problems = _ask(
                home,
                cloud,
                cache,
                stale,
                start=start,
                now=now,
                profile=profile,
                while_asking=while_asking or nullcontext(),
            )
            asked = set(stale)
        except AccessError as error:
            notes.append(f"Not asked: {error}")
        except CloudError as error:
            notes.append(f"No answer: {error}")
    notes += [f"{region}: {problem}" for region, problem in problems.items()]
    kind: Source = "embedded" if cloud == "local" else "cached"
    rows = []
    for pair in wanted:
        source: Source = "live" if kind == "cached" and pair in asked and pair[1] not in problems else kind
        rows += _rows_of(cache.get(*pair), pair, start, source, has_failed=pair[1] in problems)
    return Quoted(tuple(rows), tuple(notes))


def _is_fresh(cache: PriceCache, pair: tuple[str, str], now: float, start: float) -> bool:
    entry = cache.get(*pair)
    return entry is not None and entry.is_fresh(now, start)


def _ask(
    home: Path,
    cloud: str,
    cache: PriceCache,
    stale: Sequence[tuple[str, str]],
    *,
    start: float,
    now: float,
    profile: str | None,
    while_asking: AbstractContextManager[None],
) -> dict[str, str]:
    """Ask EC2 for missing and old prices, cache them, and return the problems by region."""
    names = tuple(dict.fromkeys(name for name, _ in stale))
    regions = tuple(dict.fromkeys(region for _, region in stale))
    with while_asking, open_source(cloud, home, profile) as source:
        quotes = source.ask(names, regions, start, now)
    for name in names:
        for region in regions:
            if region in quotes.problems:
                continue
            zones = {
                pool.zone: tuple(sorted(changes))
                for pool, changes in quotes.spot.items()
                if (pool.instance_type, pool.region) == (name, region)
            }
            on_demand = quotes.on_demand_usd_h.get((name, region)) if "price list" not in quotes.problems else None
            cache.put(name, region, Entry(now, start, now, on_demand, zones))
    with suppress(OSError):  # a home that cannot be written: the answer is no worse for it
        cache.save()
    return quotes.problems


@contextmanager
def open_source(cloud: str, home: Path, profile: str | None = None) -> Iterator[PriceSource]:
    """Open the source of prices: AWS, or the embedded cloud, which is started and stopped for it if needed."""
    from orchestrator.cloud.aws.prices import PriceSource

    if cloud == "aws":
        yield PriceSource(profile=profile)
        return
    make_home(home)
    with embedded_endpoint(home) as endpoint:
        yield PriceSource(endpoint=endpoint, calls_per_s=1000.0)


def _rows_of(
    entry: Entry | None, pair: tuple[str, str], start: float, source: Source, *, has_failed: bool
) -> list[MarketRow]:
    """Return the rows of one type in one region, from the best that there is."""
    name, region = pair
    if entry is None:
        rows = recorded_rows([name], [region], recorded_at())
        if has_failed and rows[0].note:
            note = "no answer, and nothing recorded"
            return [missing_row(name, region, source="recorded", as_of=recorded_at(), note=note)]
        return rows
    on_demand = entry.on_demand_usd_h or _recorded_on_demand(name, region)
    if not entry.zones:
        return [
            missing_row(
                name,
                region,
                source=source,
                as_of=entry.asked_at,
                note="no spot market in this region",
                on_demand_usd_h=entry.on_demand_usd_h,
            )
        ]
    return [
        pool_row(
            Pool(name, zone, region),
            changes,
            start=max(start, entry.start),
            end=entry.end,
            on_demand_usd_h=on_demand,
            source=source,
            as_of=entry.asked_at,
        )
        for zone, changes in sorted(entry.zones.items())
    ]


def _recorded_on_demand(name: str, region: str) -> Decimal | None:
    price = catalog.find(name).on_demand_usd_h.get(region)
    return None if price is None else Decimal(str(price))


def age_words(rows: Sequence[MarketRow], now: float, days: int | None = None) -> list[str]:
    """Return one line for each source among the rows, with its date."""
    lines = []
    window = f", over {days} days" if days else ""
    live = [row for row in rows if row.source == "live"]
    cached = [row for row in rows if row.source == "cached"]
    recorded = [row for row in rows if row.source == "recorded"]
    if any(row.source == "embedded" for row in rows):
        lines.append(f"embedded: the embedded cloud's price history{window}, seeded around recorded levels")
    if live:
        lines.append(f"live: EC2's price history{window}, asked {iso(live[0].as_of)[:16]}Z")
    if cached:
        oldest = min(row.as_of for row in cached)
        old = " (expired: no newer answer)" if now - oldest > 2 * 3600 else ""
        lines.append(f"cached: EC2's price history{window}, asked {span(now - oldest)} ago{old}")
    if recorded:
        lines.append(
            f"recorded: the lowest zone's in public catalogs of 2022 (g2, p2) and late 2025, written down "
            f"{catalog.recorded_on()}"
        )
    return lines


def quoted_json(shown: Sequence[MarketRow], quoted: Quoted, now: float, days: int) -> dict[str, Any]:
    """Return prices for `-o json`: the rows that are shown, and the lowest of all."""
    best = lowest(quoted.rows)
    return {
        "asked_at": iso(now),
        "days": days,
        "prices": [{**as_json(row), "as_of": iso(row.as_of)} for row in shown],
        "lowest": {name: as_json(row) for name, row in best.items()},
        "notes": list(quoted.notes),
    }
