"""`report`: the terminal, JSON, CSV, Markdown, and one HTML file for those who would rather look than read."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from orchestrator.clock import SystemClock
from orchestrator.errors import SpecError
from orchestrator.prices import recorded_regions
from orchestrator.quoting import age_words, chosen_types, quote
from orchestrator.records import Record, records_of
from orchestrator.report import Report, Workload, as_csv, as_json, as_markdown, as_text, build
from orchestrator.store import RunStore, home_from_environment


def report(args: argparse.Namespace) -> int:
    """Do `pixel-orch report`: cost and performance, by measurement."""
    home, now = home_from_environment(), SystemClock().now()
    stores = [RunStore.open(home, run) for run in dict.fromkeys(args.runs)] if args.runs else RunStore.all(home)
    records = records_of(stores, now, args.billing_rule)
    built = report_of(records, home, now, args.billing_rule)
    if args.html:
        _write_html(Path(args.html), built, records, home)
        if args.output == "table" and not args.out:
            print(f"{len(records)} run{'s' * (len(records) != 1)}: {args.html}")
            return 0
    text = {
        "json": lambda: json.dumps(as_json(built), allow_nan=False),
        "csv": lambda: as_csv(built),
        "markdown": lambda: as_markdown(built),
        "table": lambda: as_text(built),
    }[args.output]()
    if args.out:
        _write_out(Path(args.out), text + "\n", flag="--out")
    else:
        print(text)
    return 0


def report_of(records: list[Record], home: Path, now: float, rule: str) -> Report:
    """Return the report over these runs, with the prices that are known without asking anybody."""
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
    )


def _known(names: set[str]) -> list[str]:
    from orchestrator import catalog

    return [known.name for known in catalog.all_types() if known.name in names]


def _write_html(path: Path, built: Report, records: list[Record], home: Path) -> None:
    from orchestrator.report.page import as_html

    _write_out(path, as_html(built, records, home), flag="--html")


def _write_out(path: Path, text: str, *, flag: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise SpecError(f"{flag}: cannot write {path} ({error.strerror}); name a file in a folder of yours") from None
