"""`compare`: instance types side by side. Offline; needs no account."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from decimal import Decimal

from orchestrator.cli.colour import say
from orchestrator.clock import SystemClock
from orchestrator.cloud.quotes import age_words, quote
from orchestrator.errors import SpecError
from orchestrator.formatting import money, number, prose_width, table
from orchestrator.market import catalog
from orchestrator.market.comparison import Comparison, Side, Then, compare, comparison_json
from orchestrator.market.gpus import any_types_with
from orchestrator.market.scaling import node_counts
from orchestrator.market.spot_prices import recorded_regions
from orchestrator.runs.home import home_from_environment


def do_compare(args: argparse.Namespace) -> int:
    """Do `pixel-orch compare`: offline, from the catalog and from cached or recorded prices."""
    words = [word.strip() for text in args.types for word in text.split(",") if word.strip()]
    of_gpu = () if args.gpu is None else any_types_with(args.gpu)
    if not words and not of_gpu:
        raise SpecError("TYPE: no instance type is given; for example pixel-orch compare g4dn.xlarge g5.xlarge")
    names = tuple(dict.fromkeys([*(catalog.find(name, flag="TYPE").name for name in words), *of_gpu]))
    nodes = _nodes(args)
    home, now = home_from_environment(), SystemClock().now()
    quoted = quote(home, "aws", names, recorded_regions(names), now, is_offline=True)
    note = "; ".join(age_words(quoted.rows, now))
    compared = compare(names, quoted.rows, note)
    told, text = comparison_json(compared), comparison_text(compared)
    if nodes:
        from orchestrator.cli.compare_groups import estimated, groups_text
        from orchestrator.plan.settings import trainer_of
        from orchestrator.report.groups import groups_json

        config = trainer_of({"model": args.model, "dataset": args.dataset, "set": args.set})
        rows, better = estimated(names, nodes, config, home=home, now=now)
        told["groups"] = groups_json(rows)
        text = f"{groups_text(rows, better, config)}\n\n{text}"
    if args.output == "json":
        print(json.dumps(told))
    else:
        say(text, is_plain=args.plain)
    return 0


def _nodes(args: argparse.Namespace) -> tuple[int, ...]:
    """Return the sizes of the groups to estimate; none without `--nodes`.

    Raises:
        SpecError: `--nodes` holds no numbers, or what is trained is named without it.
    """
    if args.nodes is not None:
        return node_counts(args.nodes)
    for flag in ("model", "dataset", "set"):
        if getattr(args, flag):
            raise SpecError(f"--{flag} says what a group trains; add --nodes 1,2,4 or drop it")
    return ()


def comparison_text(compared: Comparison) -> str:
    """Return the comparison, as wide as the terminal has room."""
    parts = [_hardware(compared.sides), "", _prices_of(compared.sides)]
    if compared.ratios:
        first = compared.sides[0].known.name
        head = [f"OVER {first}", "SPOT", "ON-DEM", "FP32", "MEMORY", "GB/S", "FP32 PER $"]
        rows = [
            [r.name, *(_times(v) for v in (r.spot, r.on_demand, r.fp32, r.memory, r.bandwidth, r.tflops_per_usd))]
            for r in compared.ratios
        ]
        parts += ["", table(head, rows, " ".join(head[1:]), drop=("GB/S", "MEMORY", "ON-DEM"))]
    if compared.then:
        parts += ["", *_then_text(compared.then)]
    parts += ["", *_remarks(compared)]
    return "\n".join(parts)


def _hardware(sides: Sequence[Side]) -> str:
    head = ["TYPE", "GPU", "TFLOPS", "GIB", "GB/S", "RETIRED", "TAKE NOW"]
    rows = [
        [
            s.known.name,
            f"{s.known.gpus}x {s.known.gpu}" if s.known.gpus > 1 else s.known.gpu,
            number(float(s.fp32_tflops)),
            number(float(s.memory_gib)),
            number(float(s.bandwidth_gb_s)),
            s.known.retired or "-",
            s.known.replacement or "-",
        ]
        for s in sides
    ]
    return table(head, rows, "TFLOPS GIB GB/S", drop=("TAKE NOW", "RETIRED", "GB/S"))


def _prices_of(sides: Sequence[Side]) -> str:
    head = ["TYPE", "SPOT $/H", "WHERE", "ON-DEM $/H", "WHERE ", "TFLOPS PER $"]
    rows = [
        [
            s.known.name,
            money(s.spot_usd_h),
            "-" if s.spot is None else s.spot.zone or s.spot.region,
            money(s.on_demand_usd_h),
            s.on_demand_region or "-",
            number(None if s.tflops_per_usd is None else float(s.tflops_per_usd)),
        ]
        for s in sides
    ]
    return table(head, rows, "SPOT $/H ON-DEM $/H TFLOPS PER $", drop=("WHERE ", "WHERE", "TFLOPS PER $"))


def _times(value: Decimal | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _then_text(lines: Sequence[Then]) -> list[str]:
    head = ["2016", "g2.2xlarge", "p2.xlarge", "RATIO", "KNOWN: g2", "p2", "RATIO "]
    rows = [
        [
            line.what,
            f"{line.then[0].normalize():f}",
            f"{line.then[1].normalize():f}",
            f"{line.then_ratio:.1f}",
            *(("-", "-", "-") if line.known is None else (_short(line.known[0]), _short(line.known[1]))),
            *([] if line.known_ratio is None else [f"{line.known_ratio:.2f}"]),
        ]
        for line in lines
    ]
    title = "The comparison of 2016 by its own inputs, and what is known about them"
    text = table(head, rows, " ".join(head[1:]), drop=("RATIO ", "p2", "KNOWN: g2"))
    return [textwrap.fill(title, prose_width()), text, *(_bullet(f"{line.what}: {line.why}") for line in lines)]


def _short(value: Decimal) -> str:
    return f"{value:.4g}"


def _bullet(text: str) -> str:
    return textwrap.fill(text, prose_width(), initial_indent="- ", subsequent_indent="  ")


def _remarks(compared: Comparison) -> list[str]:
    notes: dict[str, list[str]] = {}
    for s in compared.sides if not compared.then else ():
        notes.setdefault(s.known.note, []).append(s.known.name)
    texts = [f"{', '.join(names)}: {note}" for note, names in notes.items() if note]
    gone = [s.known for s in compared.sides if s.known.is_retired]
    if gone:
        names = ", ".join(known.name for known in gone)
        texts.append(f"{names}: still in AWS's price list, but cannot be rented; --cloud local simulates it.")
    if any(s.known.gpus > 1 for s in compared.sides):
        texts.append("Rates and memory are of all GPUs of an instance; the bundled trainer has a process on each.")
    without = [s.known.name for s in compared.sides if s.spot_usd_h is None and s.on_demand_usd_h is not None]
    if without:
        texts.append(f"{', '.join(without)}: no spot price is known; TFLOPS PER $ uses the on-demand price.")
    unpriced = [s.known.name for s in compared.sides if s.spot_usd_h is None and s.on_demand_usd_h is None]
    if unpriced:
        texts.append(f"{', '.join(unpriced)}: no price is known; ask AWS with pixel-orch prices.")
    texts.append("TFLOPS is peak fp32; SPOT is the lowest known price over zones and regions.")
    texts.append("Rates are peaks from data sheets; pixel-orch bench measures real ones.")
    texts.append(f"Prices, {compared.price_note}.")
    return [textwrap.fill(text, prose_width(), break_on_hyphens=False) for text in texts]
