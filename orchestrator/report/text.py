"""The report as text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from orchestrator.clock import iso
from orchestrator.formatting import WIDTH, money, number, span, table, visible
from orchestrator.report.rows import PredictedRow, Report, RunRow, TypeRow
from orchestrator.runs.listing import UNREADABLE
from orchestrator.runs.spec import EMBEDDED_TITLE

MOST_RUNS = 40
EMPTY = "no runs yet; start with: pixel-orch launch --cloud local --instance p2.xlarge --spot"


def as_text(report: Report, width: float = WIDTH) -> str:
    """Return the report for a terminal of that width; run names are never truncated."""
    if not report.runs and not report.broken:
        return EMPTY
    prose = int(min(width, WIDTH))
    parts = ["Runs (measured, billed)", _runs(report, width)]
    for workload in dict.fromkeys(row.workload for row in report.types):
        parts += ["", *_of_workload(report, workload, width)]
    sizes = by_nodes_cells(report.runs)
    if sizes:
        parts += ["", "Groups, by their size (measured, billed)", _by_nodes(sizes, width)]
    parts += ["", *_bill(report.runs, prose)]
    problems = [f"{run}: {problem}" for run, problem in report.problems]
    if problems:
        parts += ["", "Problems in the data:", *(_bullet(problem, prose) for problem in problems[:10])]
        parts += [f"- and {len(problems) - 10} more: -o json lists them all"] if len(problems) > 10 else []
    parts += ["", *(textwrap.fill(note, prose) for note in (report.billing_note, *report.notes))]
    return visible("\n".join(parts))


def _runs(report: Report, width: float) -> str:
    runs = report.runs
    head = ["RUN", "STATE", "STEPS", "ATT", "INT", "IMAGES/S", "BITS/DIM", "$", "ON-DEM $"]
    shown = runs[-MOST_RUNS:]
    rows = [
        [
            run.run,
            run.state,
            steps_words(run),
            str(len(run.attempts)),
            str(run.interruptions),
            number(run.images_per_s),
            number(run.bits_per_dim, 3),
            ("~" if run.is_estimate else "") + money(run.cost_usd),
            money(run.on_demand_usd),
        ]
        for run in shown
    ]
    rows += [[one.run, UNREADABLE, *["-"] * (len(head) - 2)] for one in report.broken]
    text = table(
        head, rows, right="STEPS ATT INT IMAGES/S BITS/DIM $ ON-DEM $", width=width,
        drop=("ATT", "INT", "ON-DEM $", "BITS/DIM", "IMAGES/S", "STEPS"),
    )  # fmt: skip
    left = len(runs) - len(shown)
    return text + (f"\n({left} older runs are not shown; the sums below and -o json include them)" if left else "")


def _of_workload(report: Report, workload: str, width: float) -> list[str]:
    types = [row for row in report.types if row.workload == workload]
    parts = []
    for cloud in dict.fromkeys(row.cloud for row in types):
        where = "this machine's CPU, on the embedded cloud" if cloud == EMBEDDED_TITLE else cloud
        parts += [_title(f"Measured on {where}: {workload or 'workload not recorded'}", width)]
        parts += [_types([row for row in types if row.cloud == cloud], width), ""]
    parts.pop()
    predicted = [row for row in report.predicted if row.workload == workload]
    if predicted:
        parts += ["", _title(f"Predicted: {workload}", width), _predicted(predicted, width)]
        parts += [textwrap.fill(basis_words(report, workload), int(min(width, WIDTH)))]
    return parts


def steps_words(run: RunRow) -> str:
    """Return the steps of a run: `120`, `20 ep` for epochs, `-` where they are not known."""
    if not run.is_measured:
        return "-"
    return f"{run.steps} ep" if run.unit == "epoch" else str(run.steps)


def ranked_types(types: Iterable[TypeRow]) -> list[TypeRow]:
    """Return the types by images per dollar, else by the cost of a step; the unranked ones last."""

    def place(row: TypeRow) -> tuple[object, ...]:
        return not row.is_ranked, -(row.images_per_usd or 0), row.usd_per_step or 0, row.instance_type, row.market

    return sorted(types, key=place)


def _types(types: Sequence[TypeRow], width: float) -> str:
    head = ["TYPE", "MARKET", "ATT", "IMAGES/S", "$/H", "SEC/STEP", "$/KSTEP", "$/EPOCH"]
    rows = [
        [
            row.label,
            row.market,
            str(row.attempts),
            number(row.images_per_s),
            money(row.price_usd_h),
            number(row.seconds_per_step),
            money(row.usd_per_1000_steps),
            money(row.usd_per_epoch),
        ]
        for row in ranked_types(types)
    ]
    return table(
        head, rows, right="ATT IMAGES/S $/H SEC/STEP $/KSTEP $/EPOCH", width=width,
        drop=("ATT", "SEC/STEP", "$/KSTEP", "$/H", "MARKET"),
    )  # fmt: skip


def _predicted(rows: Sequence[PredictedRow], width: float) -> str:
    head = ["TYPE", "IMAGES/S", "90 % BETWEEN", "$/H", "PRICE", "$/EPOCH", "IMAGES/$"]
    cells = [
        [
            row.instance_type,
            number(row.images_per_s),
            f"{compact(row.low_images_per_s)} - {compact(row.high_images_per_s)}",
            money(row.price_usd_h),
            row.price_source.removeprefix("spot, "),
            money(row.usd_per_epoch),
            compact(row.images_per_usd),
        ]
        for row in rows
    ]
    return table(
        head, cells, right="IMAGES/S 90 % BETWEEN $/H $/EPOCH IMAGES/$", width=width,
        drop=("PRICE", "IMAGES/$", "90 % BETWEEN", "$/H"),
    )  # fmt: skip


SIZES_HEAD = ["RUN", "NODES", "ATT", "STEPS", "IMAGES/S", "$/KSTEP", "$/EPOCH", "WAITED $", "$"]


def by_nodes_cells(runs: Sequence[RunRow]) -> list[list[str]]:
    """Return a row for each size that a group of a run had; none for runs on one machine at a time."""
    return [
        [
            run.run,
            str(one.nodes),
            str(one.attempts),
            str(one.steps) if run.is_measured else "-",
            number(one.images_per_s),
            money(one.usd_per_1000_steps),
            money(one.usd_per_epoch),
            money(one.group_wait_usd),
            money(one.cost_usd),
        ]
        for run in runs[-MOST_RUNS:]
        for one in run.by_nodes
    ]


def _by_nodes(cells: list[list[str]], width: float) -> str:
    right = "NODES ATT STEPS IMAGES/S $/KSTEP $/EPOCH WAITED $ $"
    return table(SIZES_HEAD, cells, right=right, width=width, drop=("ATT", "IMAGES/S", "WAITED $", "STEPS", "$/EPOCH"))


def basis_words(report: Report, workload: str) -> str:
    """Return the basis of the predictions for a workload and their measured error."""
    rows = [row for row in report.predicted if row.workload == workload]
    checks = [row for row in report.left_out if row.workload == workload]
    text = f"Predicted from {rows[0].basis}."
    if len(rows) > 1 and all(row.is_bound_by_kernels for row in rows):
        text += (
            " All types have the same figure, or nearly: a network this small is bound by kernel starts (6 us each on "
            "any type), not by the GPU."
        )
    if checks:
        errors = ", ".join(f"{row.instance_type} {100 * row.error:+.0f} %" for row in checks)
        text += f" Error of the prediction when each measured type is left out in turn: {errors}."
    else:
        text += " The predictions cannot be checked: fewer than two types are measured on AWS."
    if any(row.gpus > 1 for row in rows):
        text += " IMAGES/S is of all GPUs of a machine, with a process on each of them."
    if report.price_note:
        text += f" Prices, {report.price_note}."
    return text


def _bill(runs: Sequence[RunRow], width: int) -> list[str]:
    total = sum(run.cost_usd for run in runs)
    parts = [
        f"{name} ${money(sum(getattr(run, key) for run in runs))}"
        for name, key in (
            ("instances", "instance_usd"),
            ("disks", "volume_usd"),
            ("addresses", "address_usd"),
            ("data out", "data_out_usd"),
        )
    ]
    mark = "~" if any(run.is_estimate for run in runs) else ""
    lines = [f"Billed: {mark}${money(total)} = {' + '.join(parts)}."]
    start_usd = sum(run.to_first_step_usd for run in runs)
    if start_usd:
        data_s = sum(run.data_s for run in runs)
        data = (
            f", ${money(sum(run.data_usd for run in runs))} of it until the data were ready ({span(data_s)})"
            if data_s
            else ""
        )
        own_s, own_usd = sum(run.user_setup_s for run in runs), sum(run.user_setup_usd for run in runs)
        own = f", ${money(own_usd)} of it for the set-up of your own programs ({span(own_s)})" if own_s else ""
        lines.append(f"Of this, before {start_of(runs)} (boot, set-up): ${money(start_usd)}{data}{own}.")
    waited_usd, waited_s = sum(run.group_wait_usd for run in runs), sum(run.group_wait_s for run in runs)
    if waited_s >= 1:
        lines.append(f"Waiting for the group: ${money(waited_usd)}, {span(waited_s)} of machine time.")
    known = [run for run in runs if run.on_demand_usd is not None and run.attempts]
    on_demand = sum(run.on_demand_usd or 0 for run in known)
    if on_demand:
        same = sum(run.cost_usd for run in known)
        lines.append(
            f"On-demand price of the same time: ${money(on_demand)}; saved {100 * (1 - same / on_demand):.0f} %."
        )
    return [textwrap.fill(line, width) for line in lines]


def start_of(runs: Sequence[RunRow]) -> str:
    """Return where the set-up of these runs ends: not every program of a user's own tells its steps."""
    own = {run.is_own and (bool(run.metrics_source) or not run.is_measured) for run in runs if run.attempts}
    return "the first step" if own <= {False} else "the program's start" if own == {True} else "the training"


def _bullet(text: str, width: int) -> str:
    return textwrap.fill(text, width, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def compact(value: float | None) -> str:
    """Return a figure in a short form: 12.3k, 4.56M."""
    if value is None or value < 10_000:
        return number(value)
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return number(value)


def duration_words(run: RunRow) -> str:
    """Return the instance time and, if it differs much, the duration of the run."""
    words = f"for {span(run.machine_s)} of instance time"
    is_longer = run.duration_s > 1.2 * run.machine_s + 10
    return words + (f" ({span(run.duration_s)} from start to end)" if is_longer else "")


def _title(text: str, width: float) -> str:
    return text if len(text) <= width else textwrap.fill(text, int(width), subsequent_indent="  ")


def when(at: float) -> str:
    """Return a time for people: UTC, to the minute."""
    return f"{iso(at)[:10]} {iso(at)[11:16]} UTC"
