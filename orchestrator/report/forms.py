"""The report for programs: JSON, CSV, Markdown. Field names carry their units; money and speeds are plain numbers."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from orchestrator.clock import iso
from orchestrator.formatting import money, number, one_line, visible
from orchestrator.report.rows import Report, RunRow
from orchestrator.report.text import compact, ranked_types, steps_words, when
from orchestrator.runs.listing import UNREADABLE

TIMES = ("state_since", "started_at", "ended_at", "created_at", "generated_at")


def as_json(report: Report) -> dict[str, Any]:
    """Return the report for `-o json`. Times are ISO 8601 in UTC."""
    return {
        "generated_at": iso(report.generated_at),
        "billing_rule": report.billing_rule,
        "runs": [*(run_json(run) for run in report.runs), *(one.as_json() for one in report.broken)],
        "types": [{**plain(row), "origin": "measured"} for row in report.types],
        "predicted": [{**plain(row), "origin": "predicted"} for row in report.predicted],
        "left_out": [plain(row) for row in report.left_out],
        "prices": report.price_note,
        "notes": [report.billing_note, *report.notes],
    }


def run_json(run: RunRow) -> dict[str, Any]:
    """Return a run's row; steps that are not known are null, and not 0."""
    unknown = {} if run.is_measured else {"steps": None, "steps_lost": None}
    return {**plain(run), **unknown}


def plain(row: Any) -> dict[str, Any]:
    """Return a row as plain JSON values: a Decimal as a number, a time as text."""
    return {
        f.name: _plain(f.name, getattr(row, f.name)) for f in dataclasses.fields(row) if not f.metadata.get("page_only")
    }


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if name in TIMES:
        return None if value is None else iso(value)
    if isinstance(value, tuple):
        return [plain(one) if dataclasses.is_dataclass(one) else one for one in value]
    return value


RUN_COLUMNS = (
    "run", "state", "cloud", "workload", "created_at", "steps", "steps_lost", "interruptions", "images_per_s",
    "usd_per_1000_steps", "usd_per_epoch", "nats", "bits_per_dim", "device", "instance_usd", "volume_usd",
    "address_usd", "data_out_usd", "cost_usd", "on_demand_usd", "is_estimate", "duration_s", "to_first_step_usd",
    "data_s", "data_usd", "machine_s", "batch_size", "images_per_epoch", "user_setup_s", "user_setup_usd",
)  # fmt: skip


def as_csv(report: Report) -> str:
    """Return a header and one line per run."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [*RUN_COLUMNS, "attempts", "problems"], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for run in report.runs:
        row = {**run_json(run), "attempts": len(run.attempts), "problems": "; ".join(run.problems)}
        writer.writerow({name: _cell(value) for name, value in row.items()})
    for one in report.broken:
        row = {"run": one.run, "state": UNREADABLE, "problems": f"cannot be read: {one.why}"}
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return out.getvalue().rstrip("\n")


def _cell(value: Any) -> Any:
    """Return a value for a spreadsheet: a text that it would take for a formula gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@", "\\t", "\\r", "\\n")) else text


def as_markdown(report: Report) -> str:
    """Return the tables as Markdown."""
    if not report.runs and not report.broken:
        return "No runs yet."
    parts = [f"## Runs\n\nAs of {when(report.generated_at)}.", _markdown(*runs_table(report))]
    parts += ["## Instance types, measured", _markdown(*types_table(report))]
    if sizes_table(report)[1]:
        parts += ["## Groups, by their size", _markdown(*sizes_table(report))]
    if report.predicted:
        parts += ["## Predicted, not measured", _markdown(*predicted_table(report))]
    if report.broken:
        parts += ["## Runs that cannot be read"]
        parts += [_markdown(["run", "why"], [[one.run, one.why] for one in report.broken])]
    parts += [report.billing_note, *report.notes]
    return visible("\n\n".join(parts))


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_markdown_cell, line)) + " |" for line in lines)


def _markdown_cell(cell: str) -> str:
    text = one_line(cell).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("`", "&#96;").replace("](", "]&#40;")


# -- the tables that Markdown and HTML share: header and cells


Table = tuple[list[str], list[list[str]]]


def runs_table(report: Report) -> Table:
    """Return one row per run."""
    head = ["run", "state", "steps", "attempts", "interrupted", "steps lost", "images/s", "bits/dim", "billed $",
            "on-demand $", "saved"]  # fmt: skip
    rows = [
        [
            run.run,
            run.state,
            steps_words(run),
            str(len(run.attempts)),
            str(run.interruptions),
            str(run.steps_lost) if run.is_measured else "-",
            number(run.images_per_s),
            number(run.bits_per_dim, 3),
            ("~" if run.is_estimate else "") + money(run.cost_usd),
            money(run.on_demand_usd),
            "-" if not run.on_demand_usd else f"{100 * (1 - run.cost_usd / run.on_demand_usd):.0f} %",
        ]
        for run in report.runs
    ]
    return head, rows


def types_table(report: Report) -> Table:
    """Return one row per type, market, cloud and workload."""
    head = ["type", "market", "cloud", "workload", "attempts", "interrupted", "images/s", "10 % - 90 %", "sec/step",
            "$/h", "$/1,000 steps", "$/epoch", "images/$"]  # fmt: skip
    rows = [
        [
            row.label,
            row.market,
            "embedded" if row.is_embedded else row.cloud,
            row.workload or "-",
            str(row.attempts),
            str(row.interruptions),
            number(row.images_per_s),
            f"{number(row.slow_images_per_s)} - {number(row.fast_images_per_s)}" if row.slow_images_per_s else "-",
            number(row.seconds_per_step),
            money(row.price_usd_h),
            money(row.usd_per_1000_steps),
            money(row.usd_per_epoch),
            compact(row.images_per_usd),
        ]
        for row in ranked_types(report.types)
    ]
    return head, rows


def predicted_table(report: Report) -> Table:
    """Return one row per predicted type and workload."""
    head = ["type", "workload", "images/s", "90 % between", "$/h", "price", "$/epoch", "images/$"]
    rows = [
        [
            row.instance_type,
            row.workload or "-",
            number(row.images_per_s),
            f"{number(row.low_images_per_s)} - {number(row.high_images_per_s)}",
            money(row.price_usd_h),
            row.price_source,
            money(row.usd_per_epoch),
            compact(row.images_per_usd),
        ]
        for row in report.predicted
    ]
    return head, rows


def attempts_table(report: Report, most: int | None = None) -> Table:
    """Return one row per attempt."""
    head = ["run", "attempt", "type", "zone", "market", "$/h", "started, UTC", "s to 1st step", "s to data", "steps",
            "lost", "images/s", "ended by", "instance $", "disk $", "address $", "data out $", "billed $"]  # fmt: skip
    rows = [
        [
            run.run,
            str(a.number),
            a.machines,
            a.zone,
            a.market,
            money(a.usd_h),
            when(a.started_at)[5:16],
            f"{a.to_first_step_s:.1f}",
            f"{a.data_s:.1f}" if a.data_s else "-",
            f"{a.first_step}-{a.last_step}" if a.last_step >= a.first_step else "-",
            str(a.steps_lost),
            number(a.images_per_s),
            a.ended_by or "-",
            "free" if a.is_free else money(a.instance_usd),
            money(a.volume_usd),
            money(a.address_usd),
            money(a.data_out_usd),
            ("~" if a.is_estimate else "") + money(a.billed_usd),
        ]
        for run in report.runs[-(most or len(report.runs)) :]
        for a in run.attempts
    ]
    return head, rows


def members_table(report: Report, most: int | None = None) -> Table:
    """Return one row for each machine of each attempt of a group; none for runs on one machine at a time."""
    head = ["run", "attempt", "node", "instance", "zone", "market", "$/h", "started, UTC", "ended by", "waited, s",
            "waited $", "billed $"]  # fmt: skip
    rows = [
        [
            run.run,
            str(a.number),
            "-" if one.rank is None else str(one.rank),
            one.instance_id,
            one.zone,
            one.market,
            money(one.price_usd_h),
            when(one.started_at)[5:16],
            one.ended_by or "-",
            f"{one.group_wait_s:.1f}",
            money(one.group_wait_usd),
            ("" if one.ended_at is not None else "~") + money(one.billed_usd) + ("*" if one.is_free else ""),
        ]
        for run in report.runs[-(most or len(report.runs)) :]
        for a in run.attempts
        if a.is_group
        for one in a.members
    ]
    return head, rows


def sizes_table(report: Report) -> Table:
    """Return what the steps of each group cost at each of its sizes."""
    head = ["run", "machines", "attempts", "steps", "images/s", "sec/step", "$/1,000 steps", "$/epoch", "waited $",
            "billed $"]  # fmt: skip
    rows = [
        [
            run.run,
            str(one.nodes),
            str(one.attempts),
            str(one.steps) if run.is_measured else "-",
            number(one.images_per_s),
            number(one.seconds_per_step),
            money(one.usd_per_1000_steps),
            money(one.usd_per_epoch),
            money(one.group_wait_usd),
            money(one.cost_usd),
        ]
        for run in report.runs
        for one in run.by_nodes
    ]
    return head, rows


def left_out_table(report: Report) -> Table:
    """Return one row per leave-one-out check."""
    head = ["type", "workload", "measured images/s", "predicted from the others", "error"]
    rows = [
        [
            row.instance_type,
            row.workload or "-",
            number(row.measured_images_per_s),
            number(row.predicted_images_per_s),
            f"{100 * row.error:+.0f} %",
        ]
        for row in report.left_out
    ]
    return head, rows
