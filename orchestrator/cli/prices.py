"""`prices`: EC2's prices of instance types, live with credentials, recorded without.

Each figure names its source: live (asked now), cached (asked before), recorded (bundled, with its date).
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence

from orchestrator.cli.colour import say
from orchestrator.cli.console import busy
from orchestrator.clock import SystemClock
from orchestrator.cloud.quotes import Quoted, age_words, quote, quoted_json
from orchestrator.formatting import money, prose_width, table, wrapped
from orchestrator.market.spot_prices import (
    MarketRow,
    cheapest_zones,
    check_days,
    chosen_regions,
    chosen_types,
    lowest,
    ranked,
    saves,
)
from orchestrator.plan.validators import check_cloud
from orchestrator.runs.home import home_from_environment

DROPPED = ("VOL", "LOW", "MEAN", "SOURCE", "ON-DEM")  # where there is no room, in this order


def prices(args: argparse.Namespace) -> int:
    """Do `pixel-orch prices`."""
    home, now = home_from_environment(), SystemClock().now()
    cloud = check_cloud(args.cloud)
    check_days(args.days, flag="--days")
    names = chosen_types(args.instance, args.gpu)
    regions = chosen_regions(args.region or ())
    quoted = quote(
        home, cloud, names, regions, now, days=args.days, is_offline=args.offline, refresh=args.refresh,
        profile=args.profile, while_asking=busy(cloud),
    )  # fmt: skip
    shown = ranked(quoted.rows if args.all_zones else cheapest_zones(quoted.rows))
    if args.output == "json":
        print(json.dumps(quoted_json(shown, quoted, now, args.days)))
    else:
        say(_prices_text(shown, quoted, now, args.days), is_plain=args.plain)
    return 0


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
    parts = [_table(head, rows)] if rows else ["no spot price of these is known"]
    doubtful = [row for row in shown if row.note]
    if doubtful:
        parts += ["", "Not ranked:", *_doubts(doubtful)]
    best = lowest(quoted.rows)
    if best:
        widest = max(map(len, best))
        parts += ["", "Lowest over all zones and regions asked:"]
        parts += [
            wrapped(
                f"  {name:{widest}}  ${money(row.rank_usd_h)}/h in {row.zone or row.region} ({row.source})",
                prose_width(),
                indent="    ",
            )
            for name, row in best.items()
        ]
    lines = ("USD an hour, Linux. MEAN is weighted by time; VOL is deviation over MEAN.", *age_words(shown, now, days))
    parts += ["", *(textwrap.fill(line, prose_width()) for line in (*lines, *quoted.notes))]
    return "\n".join(parts)


def _table(head: list[str], rows: list[list[str]]) -> str:
    return table(head, rows, "NOW MEAN LOW VOL ON-DEM SAVES", whole=("TYPE", "ZONE"), drop=DROPPED)


def _doubts(rows: Sequence[MarketRow]) -> list[str]:
    """Return one line for each place and reason, with its types."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        groups.setdefault((row.zone or row.region, row.note), []).append(row.instance_type)
    return [
        textwrap.fill(
            f"{', '.join(names)} in {where}: {note}", prose_width(), initial_indent="  ", subsequent_indent="    "
        )
        for (where, note), names in groups.items()
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"
