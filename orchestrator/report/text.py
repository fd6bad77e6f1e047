"""The report as a terminal table (80 columns) and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from orchestrator.clock import iso
from orchestrator.report.build import Report, RunRow, TypeRow
from orchestrator.terminal import money, number, price, table


def as_json(report: Report) -> dict[str, Any]:
    """Return the report for `-o json`. Field names carry their units; times are ISO 8601 in UTC."""
    raw = dataclasses.asdict(report)
    raw["generated_at"] = iso(report.generated_at)
    raw["notes"] = list(report.notes)
    for run in raw["runs"]:
        for attempt in run["attempts"]:
            attempt["started_at"] = iso(attempt["started_at"])
            attempt["ended_at"] = iso(attempt["ended_at"]) if attempt["ended_at"] else None
    return raw


def as_text(report: Report) -> str:
    """Return the report for a terminal of 80 columns."""
    if not report.runs:
        return "no runs yet; begin with: pixel-orch launch --cloud local --instance p2.xlarge --spot"
    parts = ["Runs", _runs(report.runs), "", "Instance types, as measured", _types(report.types)]
    parts += [
        "",
        "$/KSTEP (1,000 steps), $/EPOCH: price per hour over measured images/s, while\nit trains.",
        "$ TOTAL: billed, all attempts (~ is an estimate); an instance that AWS",
        "interrupts within its first hour is free.",
    ]
    parts += ["", *(_wrapped(note) for note in report.notes)] if report.notes else []
    return "\n".join(parts)


def _runs(runs: tuple[RunRow, ...]) -> str:
    head = ["RUN", "STATE", "STEPS", "ATT", "INT", "IMAGES/S", "BITS/DIM", "$ TOTAL"]
    rows = [
        [
            run.run,
            run.state,
            str(run.steps),
            str(len(run.attempts)),
            str(run.interruptions),
            number(run.images_per_s),
            number(run.bits_per_dim, 3),
            ("~" if run.is_estimate else "") + money(run.cost_usd),
        ]
        for run in runs
    ]
    return table(head, rows, right="STEPS ATT INT IMAGES/S BITS/DIM $ TOTAL")


def _types(types: tuple[TypeRow, ...]) -> str:
    head = ["TYPE", "MARKET", "CLOUD", "ATT", "INT", "IMAGES/S", "$/H", "$/KSTEP", "$/EPOCH"]
    rows = [
        [
            row.instance_type,
            row.market,
            "embedded" if row.cloud == "embedded cloud" else row.cloud,
            str(row.attempts),
            str(row.interruptions),
            number(row.images_per_s),
            price(row.price_usd_h),
            money(row.usd_per_1000_steps),
            money(row.usd_per_epoch),
        ]
        for row in types
    ]
    return table(head, rows, right="ATT INT IMAGES/S $/H $/KSTEP $/EPOCH")


def _wrapped(note: str, width: int = 80) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(note, width))
