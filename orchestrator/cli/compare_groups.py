"""`compare --nodes`: what groups of machines are estimated to do and to cost."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from model.config import TrainConfig
from orchestrator.cli.report import report_of
from orchestrator.cloud.quotes import quote
from orchestrator.errors import SpecError
from orchestrator.formatting import counted, megabytes, money, number, prose_width, table
from orchestrator.market.scaling import Estimate, gradient_bytes
from orchestrator.market.spot_prices import MarketRow, recorded_regions
from orchestrator.report.groups import Better, GroupRow, better, group_rows, larger, named
from orchestrator.report.records import records_of, workload_of
from orchestrator.report.rows import Report
from orchestrator.report.text import compact
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore

MUCH = 0.2  # of a step, for the network


def estimated(
    names: Sequence[str], nodes: Sequence[int], config: TrainConfig, *, home: Path, now: float
) -> tuple[list[GroupRow], list[Better]]:
    """Return the rows of these types and numbers of machines, and the single machines that are better.

    Raises:
        SpecError: the sizes of the data set are not known here.
    """
    try:
        _ = config.data.train
    except ValueError as error:
        raise SpecError(f"--dataset: its sizes are not known here: {error}") from None
    measured = measured_speeds(report_of(records_of(RunStore.folders(home), now), home, now, "hour-start"), config)

    def rows_of(types: Sequence[str], counts: Sequence[int]) -> list[GroupRow]:
        return group_rows(types, counts, config, measured=measured, prices=_prices(home, types, now))

    rows = rows_of(names, nodes)
    ones = [name for name, _ in larger(rows)]
    return rows, better(rows, rows_of(ones, (1,)))


def measured_speeds(built: Report, config: TrainConfig) -> dict[str, float]:
    """Return images/s of the types with one GPU that have run this workload on AWS."""
    spec = RunSpec(run="compare", cloud="aws", instances=("any",), market="spot", regions=("any",), trainer=config)
    name = workload_of(spec).name
    return {
        row.instance_type: row.images_per_s
        for row in built.types
        if row.workload == name and row.is_ranked and row.images_per_s and row.ranks == 1
    }


def _prices(home: Path, names: Sequence[str], now: float) -> Sequence[MarketRow]:
    return quote(home, "aws", names, recorded_regions(names), now, is_offline=True).rows if names else ()


def groups_text(rows: Sequence[GroupRow], found: Sequence[Better], config: TrainConfig) -> str:
    """Return the estimates as text, as wide as the terminal has room."""
    size = megabytes(gradient_bytes(config))
    title = (
        f"{config.model} {config.dataset}: {config.batch_size} images a step over all machines, {size} of gradients."
    )
    shown = [row for row in rows if row.group]
    tables = [f"Groups, estimated and not measured\n{_table(shown)}"] if shown else []
    lines = [*_better_lines(found), *_network_lines(rows), *_refused(rows), *_remarks(shown)]
    return "\n\n".join([*_filled([title]), *tables, "\n".join(_filled(lines))])


def _filled(lines: Sequence[str]) -> list[str]:
    return [textwrap.fill(line, prose_width(), break_on_hyphens=False) for line in lines]


def _table(rows: Sequence[GroupRow]) -> str:
    head = ["TYPE", "N", "GPUS", "GBIT/S", "IMAGES/S", "BETWEEN", "EFF", "$/H", "$/EPOCH", "BETWEEN ", "LIMIT"]
    cells = []
    for row in rows:
        if row.group is None:
            continue
        epoch = row.usd_per_epoch
        cells.append(
            [
                row.instance_type,
                str(row.nodes),
                str(row.group.ranks),
                number(row.network_gbit_s),
                compact(row.group.images_per_s.mid),
                _ends(row.group.images_per_s),
                f"{100 * row.group.efficiency.mid:.0f} %",
                money(None if row.price_usd_h is None else row.price_usd_h * row.nodes),
                money(None if epoch is None else epoch.mid),
                "-" if epoch is None else f"{money(epoch.low)}-{money(epoch.high)}",
                row.group.limit,
            ]
        )
    return table(
        head, cells, "N GPUS GBIT/S IMAGES/S BETWEEN EFF $/H $/EPOCH",
        whole=("TYPE",), drop=("BETWEEN ", "$/H", "LIMIT", "GPUS", "BETWEEN", "GBIT/S", "EFF"),
    )  # fmt: skip


def _ends(figure: Estimate) -> str:
    return f"{compact(figure.low)}-{compact(figure.high)}"


def _better_lines(found: Sequence[Better]) -> list[str]:
    lines = []
    for pair in found:
        one, many = pair.one, pair.many
        if one.group is None or many.group is None:
            continue
        speeds = f"{compact(one.group.images_per_s.mid)} against {compact(many.group.images_per_s.mid)} images/s"
        usd = [row.usd_of_epoch(row.on_demand_usd_h) for row in (one, many)]
        costs = (
            "" if usd[0] is None or usd[1] is None else f"${money(usd[0].mid)} against ${money(usd[1].mid)} an epoch"
        )
        text = f"One {one.instance_type} beats {many.name}: {speeds}"
        if pair.is_cheaper is None:
            text += "; no on-demand price of both is known"
        elif pair.is_cheaper:
            text += f", and on demand {costs}"
        else:
            text = f"One {one.instance_type} is faster than {many.name}: {speeds}; but on demand {costs}"
        lines.append(text + ".")
    return lines


def _network_lines(rows: Sequence[GroupRow]) -> list[str]:
    """Say for each type from how many machines on the network is the limit, or takes much of a step."""
    lines = []
    for name in dict.fromkeys(row.instance_type for row in rows):
        of_type = [row for row in rows if row.instance_type == name and row.nodes > 1]
        shares = [(row, row.group, row.group.reduce_s.mid / row.group.step_s.mid) for row in of_type if row.group]
        first = next((one for one in shares if one[1].limit == "network"), None)
        first = first or next((one for one in shares if one[2] >= MUCH), None)
        if first is None:
            continue
        row, found, share = first
        is_limit = found.limit == "network"
        words = "the network is the limit" if is_limit else f"the network takes {100 * share:.0f} % of a step"
        gain = _no_gain(row, rows)
        lines.append(
            f"{row.name}: {words}. Adding up the gradients takes {_milliseconds(found.reduce_s)} at "
            f"{number(row.network_gbit_s)} Gbit/s, computing them {_milliseconds(found.compute_s)}.{gain}"
        )
    return lines


def _no_gain(row: GroupRow, rows: Sequence[GroupRow]) -> str:
    """Return the sentence that fewer machines of the type are as fast, "" if they are not."""
    fewer = [
        one
        for one in rows
        if one.instance_type == row.instance_type and one.nodes < row.nodes and one.group and row.group
        and one.group.images_per_s.mid >= row.group.images_per_s.mid
    ]  # fmt: skip
    return f" {fewer[0].name} is as fast." if fewer else ""


def _milliseconds(seconds: Estimate) -> str:
    low, high = (number(1e3 * value) for value in (seconds.low, seconds.high))
    return f"~{number(1e3 * seconds.mid)} ms ({low} to {high})"


def _refused(rows: Sequence[GroupRow]) -> list[str]:
    whys: dict[str, list[str]] = {}
    for row in rows:
        if row.why_not:
            whys.setdefault(row.why_not, []).append(named(row.instance_type, row.nodes))
    return [f"{', '.join(names)}: no estimate, {why}." for why, names in whys.items()]


def _remarks(rows: Sequence[GroupRow]) -> list[str]:
    if not rows:
        return []
    texts = [
        "IMAGES/S and EFF are of the bundled trainer, one process on each GPU, which computes, then adds up; BETWEEN "
        "goes from full overlap to the slowest network, with the doubt about one GPU. GBIT/S is a machine's baseline; "
        "its peak lasts for minutes.",
    ]
    for basis in dict.fromkeys(row.basis for row in rows):
        names = dict.fromkeys(row.instance_type for row in rows if row.basis == basis)
        texts.append(f"{', '.join(names)}: the speed of one GPU is {basis}.")
    if any(row.group and row.group.limit == "kernels" for row in rows):
        texts.append("kernels: the time is that of starting kernels, which more GPUs do not shorten.")
    only_on_demand = dict.fromkeys(row.instance_type for row in rows if row.market == "on-demand")
    if only_on_demand and any(row.market == "spot" for row in rows):
        texts.append(f"{', '.join(only_on_demand)}: at the on-demand price; no spot price is known.")
    most = max(row.nodes for row in rows)
    if most > 1:
        texts.append(
            f"A group of {counted(most, 'machine')} is interrupted {most} times as often as one. A small share of the "
            "batch fills a GPU worse than this says. Measure with pixel-orch bench --nodes."
        )
    return texts
