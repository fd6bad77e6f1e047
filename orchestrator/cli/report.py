"""`report`: cost and speed of runs as a table, JSON, CSV, Markdown or one HTML page."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.colour import say
from orchestrator.clock import SystemClock
from orchestrator.cloud.price_cache import PriceCache
from orchestrator.cloud.quotes import age_words, quote
from orchestrator.errors import SpecError
from orchestrator.formatting import columns, counted, cut
from orchestrator.market.spot_prices import chosen_types, recorded_regions
from orchestrator.report import Report, Workload, as_csv, as_json, as_markdown, as_text, build
from orchestrator.report.records import Record, read_records
from orchestrator.report.summary import samples_of
from orchestrator.runs.files import read_bounded
from orchestrator.runs.home import home_from_environment
from orchestrator.runs.listing import BrokenRun
from orchestrator.runs.spec import EMBEDDED_TITLE
from orchestrator.runs.store import RunStore

if TYPE_CHECKING:
    from orchestrator.report.html.charts import History
    from orchestrator.report.html.page import Exhibits, Gallery

MOST_GALLERIES = 12  # runs whose samples and curves are shown
MOST_SAMPLES = 8  # grids of a run
MOST_SAMPLE_BYTES = 1 << 20
PNG = b"\x89PNG"


def report(args: argparse.Namespace) -> int:
    """Do `pixel-orch report`: measured cost and speed."""
    home, now = home_from_environment(), SystemClock().now()
    stores = [RunStore.open(home, run) for run in dict.fromkeys(args.runs)] if args.runs else RunStore.folders(home)
    records, broken = read_records(stores, now, args.billing_rule)
    built = report_of(records, home, now, args.billing_rule, broken)
    if args.html:
        write_html(Path(args.html), built, records, home)
        if args.output == "table" and not args.out:
            print(f"{counted(len(records), 'run')}: {args.html}")
            return 0
    text = {
        "json": lambda: json.dumps(as_json(built), allow_nan=False),
        "csv": lambda: as_csv(built),
        "markdown": lambda: as_markdown(built),
        "table": lambda: as_text(built, math.inf if args.out else columns(sys.stdout) or math.inf),
    }[args.output]()
    if args.out:
        _write_out(Path(args.out), text + "\n", flag="--out")
    else:
        say(text, is_plain=args.plain or args.output != "table")
    return 0


def report_of(records: list[Record], home: Path, now: float, rule: str, broken: Sequence[BrokenRun] = ()) -> Report:
    """Return the report over these runs, with cached or recorded prices."""
    workloads: dict[str, Workload] = {}
    for record in records:
        if record.workload.name and record.row.attempts:
            workloads.setdefault(record.workload.name, record.workload)
    own = {a.instance_type for record in records for a in record.row.attempts}
    names = tuple(dict.fromkeys([*chosen_types(None), *_known(own)]))
    quoted = quote(home, "aws", names, recorded_regions(names), now, is_offline=True)
    return build(
        [record.row for record in records],
        now,
        rule=rule,  # type: ignore[arg-type]  # argparse has checked it
        workloads=workloads,
        prices=quoted.rows,
        price_note="; ".join(age_words(quoted.rows, now)),
        broken=broken,
    )


def _known(names: set[str]) -> list[str]:
    from orchestrator.market import catalog

    return [known.name for known in catalog.all_types() if known.name in names]


def write_html(path: Path, built: Report, records: list[Record], home: Path) -> None:
    """Write the page.

    Raises:
        SpecError: the drawing library is missing, or the file cannot be written.
    """
    from orchestrator.report.html.page import as_html

    _write_out(path, as_html(built, exhibits_of(records, home, built.generated_at)), flag="--html")


def exhibits_of(records: list[Record], home: Path, now: float) -> Exhibits:
    """Return the curves, price histories and sample grids of the page."""
    from orchestrator.report.html.charts import Curve
    from orchestrator.report.html.page import Exhibits
    from orchestrator.report.html.value_charts import ValueCurves
    from orchestrator.report.metrics import joined, joined_curves

    curves, values = [], []
    for record in records[-4 * MOST_GALLERIES :]:
        parts = [(a.resumed_from, record.digests[a.number]) for a in record.state.attempts]
        train, valid = joined(parts)
        curves.append(Curve(record.row.run, train, valid))
        if record.row.is_own:
            values.append(ValueCurves(record.row.run, record.row.unit, joined_curves(parts)))
    drawn = [store for record in records if samples_of(store := RunStore(home, record.row.run))]
    galleries = tuple(_gallery(store) for store in drawn[-MOST_GALLERIES:])
    histories = tuple(_histories(records, home, now))
    return Exhibits(tuple(curves), tuple(values), histories, galleries, len(drawn))


def _gallery(store: RunStore) -> Gallery:
    from orchestrator.report.html.page import Gallery, Sample

    samples = []
    for step, path in _spread(samples_of(store), MOST_SAMPLES):
        with suppress(OSError):  # too large for a page, or gone meanwhile
            data = read_bounded(path, MOST_SAMPLE_BYTES)
            if data.startswith(PNG):
                samples.append(Sample(step, data))
    return Gallery(store.run, tuple(samples))


def _spread(items: list[tuple[int, Path]], most: int) -> list[tuple[int, Path]]:
    """Return at most `most` items, evenly spaced, with the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def _histories(records: list[Record], home: Path, now: float) -> list[History]:
    """Return the price histories of each type's cheapest zone and of the zones that were paid.

    They are the cached ones, else as the attempts saw them.
    """
    from orchestrator.report.html.charts import History

    own = list(dict.fromkeys(a.instance_type for record in reversed(records) for a in record.row.attempts))
    is_embedded = all(record.row.cloud == EMBEDDED_TITLE for record in records)
    cache, source = PriceCache(home, "local" if is_embedded else "aws"), "embedded" if is_embedded else "cached"
    found: dict[str, History] = {}
    used = {(attempt.instance_type, attempt.zone) for record in records for attempt in record.row.attempts}
    paid: list[History] = []
    for (name, _), entry in sorted(cache.entries.items()):
        for zone, changes in entry.zones.items():
            seen = found.get(name)
            if changes and (seen is None or float(changes[-1].usd_h) < seen.changes[-1][1]):
                points = tuple((change.at, float(change.usd_h)) for change in changes)
                found[name] = History(f"{name} {zone}", points, entry.end, source)
            if changes and (name, zone) in used:
                points = tuple((change.at, float(change.usd_h)) for change in changes)
                paid.append(History(f"{name} {zone}", points, entry.end, source))
    for record in records:
        for attempt in record.state.attempts:
            if attempt.price_changes and attempt.instance_type not in found:
                points = tuple(sorted(attempt.price_changes.items()))
                label = f"{cut(attempt.instance_type, 24)} {cut(attempt.zone, 24)}"
                end = attempt.ended_at if attempt.ended_at is not None else now
                source = "embedded" if record.row.cloud == EMBEDDED_TITLE else "seen by a run"
                found[attempt.instance_type] = History(label, points, end, source)
    cheapest = [found[name] for name in own if name in found] or list(found.values())
    return list({one.label: one for one in [*paid, *cheapest]}.values())


def _write_out(path: Path, text: str, *, flag: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{flag}: cannot write {path} ({error.strerror}); name another file") from None
