"""`prices`: EC2's prices of instance types, live with credentials, recorded without.

Each figure names its source: live (asked now), cached (asked before), recorded (bundled, with its date).
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from typing import Any

from orchestrator.cli.console import busy
from orchestrator.clock import SystemClock, iso
from orchestrator.cloud.quotes import Quoted, quote
from orchestrator.errors import SpecError
from orchestrator.formatting import money, span, table
from orchestrator.market import catalog
from orchestrator.market.spot_prices import (
    MOST_DAYS,
    MarketRow,
    as_json,
    cheapest_zones,
    chosen_types,
    lowest,
    ranked,
    recorded_regions,
    saves,
)
from orchestrator.plan.validators import check_cloud
from orchestrator.runs.home import home_from_environment

EVERY_REGION = "all"


def prices(args: argparse.Namespace) -> int:
    """Do `pixel-orch prices`."""
    home, now = home_from_environment(), SystemClock().now()
    cloud = check_cloud(args.cloud)
    if not 1 <= args.days <= MOST_DAYS:
        raise SpecError(f"--days: {args.days} is not from 1 to {MOST_DAYS}; EC2 keeps {MOST_DAYS} days of prices")
    names = chosen_types(args.instance, args.gpu)
    regions = _chosen_regions(cloud, args.region)
    quoted = quote(
        home, cloud, names, regions, now, days=args.days, is_offline=args.offline, refresh=args.refresh,
        profile=args.profile, while_asking=busy(cloud),
    )  # fmt: skip
    shown = ranked(quoted.rows if args.all_zones else cheapest_zones(quoted.rows))
    if args.output == "json":
        print(json.dumps(_prices_json(shown, quoted, now, args.days)))
    else:
        print(_prices_text(shown, quoted, now, args.days))
    return 0


def _chosen_regions(cloud: str, asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return the regions asked for; `all` are those of the catalog; by default those with a recorded price."""
    if not asked:
        return tuple(recorded_regions([known.name for known in catalog.all_types()]))
    if EVERY_REGION in asked:
        return catalog.regions()
    return tuple(dict.fromkeys(catalog.check_region(name) for name in asked))


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
    parts = [table(head, rows, "NOW MEAN LOW VOL ON-DEM SAVES")] if rows else ["no spot price of these is known"]
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
    parts += ["", "USD an hour, Linux. MEAN is weighted by time; VOL is deviation over MEAN."]
    parts += [textwrap.fill(line, 80) for line in (*age_words(shown, now, days), *quoted.notes)]
    return "\n".join(parts)


def _doubts(rows: Sequence[MarketRow]) -> list[str]:
    """Return one line for each place and reason, with its types."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        groups.setdefault((row.zone or row.region, row.note), []).append(row.instance_type)
    return [
        textwrap.fill(f"{', '.join(names)} in {where}: {note}", 80, initial_indent="  ", subsequent_indent="    ")
        for (where, note), names in groups.items()
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"
