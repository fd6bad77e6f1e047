"""`prices`: what EC2 asks for a machine, live where there are credentials, recorded where there are none.

A figure always says whose it is: live (asked now), cached (asked then), recorded (bundled, with its date).
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import catalog, world
from orchestrator.busy import busy
from orchestrator.clock import SystemClock, iso
from orchestrator.cloud import Pool
from orchestrator.errors import AccessError, CloudError, SpecError
from orchestrator.price_cache import Entry, PriceCache
from orchestrator.prices import (
    DAY_S,
    DEFAULT_DAYS,
    MOST_DAYS,
    MarketRow,
    Source,
    as_json,
    cheapest_zones,
    lowest,
    missing_row,
    pool_row,
    ranked,
    recorded_regions,
    recorded_rows,
    saves,
)
from orchestrator.store import home_from_environment, make_home
from orchestrator.terminal import money, span, table

if TYPE_CHECKING:
    from orchestrator.aws.prices import PriceSource

EVERY_REGION = "all"


@dataclass(frozen=True)
class Quoted:
    """Rows, and what a person must know beside them."""

    rows: tuple[MarketRow, ...]
    notes: tuple[str, ...]


def recorded_at() -> float:
    """Return the day of the bundled record (unix seconds)."""
    return datetime.fromisoformat(catalog.recorded_on()).replace(tzinfo=timezone.utc).timestamp()


# -- prices


def prices(args: argparse.Namespace) -> int:
    """Do `pixel-orch prices`."""
    home, now = home_from_environment(), SystemClock().now()
    cloud = args.cloud or "aws"
    if cloud not in ("aws", "local"):
        raise SpecError(f"--cloud: unknown cloud {cloud!r}; use aws, or local for the embedded cloud")
    if not 1 <= args.days <= MOST_DAYS:
        raise SpecError(f"--days: {args.days} is not from 1 to {MOST_DAYS}; EC2 keeps {MOST_DAYS} days of prices")
    names = chosen_types(args.instance)
    regions = _chosen_regions(cloud, args.region)
    quoted = quote(
        home, cloud, names, regions, now, days=args.days, is_offline=args.offline, refresh=args.refresh,
        profile=args.profile,
    )  # fmt: skip
    shown = ranked(quoted.rows if args.all_zones else cheapest_zones(quoted.rows))
    if args.output == "json":
        print(json.dumps(_prices_json(shown, quoted, now, args.days)))
    else:
        print(_prices_text(shown, quoted, now, args.days))
    return 0


def chosen_types(text: str | None) -> tuple[str, ...]:
    """Return the types of `a,b,c`, by default one of each GPU that AWS still rents.

    Raises:
        SpecError: one is unknown.
    """
    if text is None:
        return tuple(known.name for known in catalog.one_of_each_gpu())
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise SpecError(f"--instance: {text!r} names no instance type; for example --instance g4dn.xlarge,g5.xlarge")
    return tuple(dict.fromkeys(catalog.find(name).name for name in names))


def _chosen_regions(cloud: str, asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return the regions asked for; `all` are those of the catalog; by default those with a recorded price."""
    if not asked:
        return tuple(recorded_regions([known.name for known in catalog.all_types()]))
    if EVERY_REGION in asked:
        return catalog.regions()
    return tuple(dict.fromkeys(catalog.check_region(name) for name in asked))


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
) -> Quoted:
    """Return what is known of the prices: fresh from the cache, else asked, else the old cache, else recorded.

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
            problems = _ask(home, cloud, cache, stale, start=start, now=now, profile=profile)
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
) -> dict[str, str]:
    """Ask EC2 for what is missing or old, remember it, and return what went wrong, by region."""
    names = tuple(dict.fromkeys(name for name, _ in stale))
    regions = tuple(dict.fromkeys(region for _, region in stale))
    with busy(cloud), open_source(cloud, home, profile) as source:
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
    """Give whom to ask: AWS, or the embedded cloud, which is started for it and ended again if nobody else uses it."""
    from orchestrator.aws.prices import PriceSource

    if cloud == "aws":
        yield PriceSource(profile=profile)
        return
    make_home(home)
    with world.embedded_endpoint(home) as endpoint:
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


# -- prices, shown


def age_words(rows: Sequence[MarketRow], now: float, days: int | None = None) -> list[str]:
    """Return one line for each source among the rows: whose figures these are, and of when."""
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


def _prices_json(shown: Sequence[MarketRow], quoted: Quoted, now: float, days: int) -> dict[str, Any]:
    best = lowest(quoted.rows)
    return {
        "asked_at": iso(now),
        "days": days,
        "prices": [{**as_json(row), "as_of": iso(row.as_of)} for row in shown],
        "lowest": {name: as_json(row) for name, row in best.items()},
        "notes": list(quoted.notes),
    }


def _prices_text(shown: Sequence[MarketRow], quoted: Quoted, now: float, days: int) -> str:
    head = ["TYPE", "ZONE", "NOW", "MEAN", "LOW", "VOL", "ON-DEM", "SAVES", "SOURCE"]
    rows = [
        [
            row.instance_type,
            row.zone or row.region,
            *(money(p) for p in (row.now_usd_h, row.mean_usd_h, row.low_usd_h)),
            "-" if row.volatility is None else f"{100 * row.volatility:.1f}%",
            money(row.on_demand_usd_h),
            _share(saves(row)),
            row.source,
        ]
        for row in shown
        if not row.note
    ]
    parts = [table(head, rows, "NOW MEAN LOW VOL ON-DEM SAVES")] if rows else ["no spot price is known of these"]
    doubtful = [row for row in shown if row.note]
    if doubtful:
        parts += ["", "Not ranked:", *_doubts(doubtful)]
    best = lowest(quoted.rows)
    if best:
        widest = max(map(len, best))
        parts += ["", "Lowest over all zones and regions asked:"]
        parts += [
            f"  {name:{widest}}  ${money(row.rank_usd_h)}/h in {row.zone or row.region} ({row.source})"
            for name, row in best.items()
        ]
    parts += ["", "USD an hour, Linux. MEAN weighs by time; VOL: standard deviation over it."]
    parts += [textwrap.fill(line, 80) for line in (*age_words(shown, now, days), *quoted.notes)]
    return "\n".join(parts)


def _doubts(rows: Sequence[MarketRow]) -> list[str]:
    """Return one line for each place and reason, with the types that it holds for."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        groups.setdefault((row.zone or row.region, row.note), []).append(row.instance_type)
    return [
        textwrap.fill(f"{', '.join(names)} in {where}: {note}", 80, initial_indent="  ", subsequent_indent="    ")
        for (where, note), names in groups.items()
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"
