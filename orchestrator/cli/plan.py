"""`plan`: which type, pools and policy get some work done by a deadline and in a budget, before anything is rented."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model.config import TrainConfig
from orchestrator.cli.colour import say
from orchestrator.cli.console import Screen
from orchestrator.cli.report import report_of
from orchestrator.cli.simulate import check_plot, require_numpy
from orchestrator.clock import SystemClock
from orchestrator.cloud.quotes import age_words, quote
from orchestrator.errors import SpecError
from orchestrator.formatting import counted, money, prose_width, span, table, wrapped
from orchestrator.market.spot_advisor import FACTORS, RANGES, read_range
from orchestrator.market.spot_prices import MarketRow, chosen_types, lowest, recorded_regions
from orchestrator.plan.deadline import moment, shown
from orchestrator.plan.settings import trainer_of
from orchestrator.plan.validators import check_amount, duration_s
from orchestrator.policy.names import NAMES
from orchestrator.report import change_overs
from orchestrator.report.build import build
from orchestrator.report.predictions import is_of_one_machine
from orchestrator.report.records import records_of, workload_of
from orchestrator.report.rows import Workload
from orchestrator.runs.home import home_from_environment
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore

if TYPE_CHECKING:
    from orchestrator.plan.ways import Asked, Speed, Way
    from orchestrator.policy.forecast import Prior

DEFAULT_POLICIES = "planned,greedy,on-demand"
MEASURED_SPREAD = 0.05  # of a measured speed from run to run; its scatter within a run does not count
MOST_SHOWN = 20
LIKELY, HOPELESS = 0.9, 0.02
SAFE = 1.3  # a deadline with so much more than the work is likely to be kept
UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}


def plan(args: argparse.Namespace) -> int:
    """Do `pixel-orch plan`."""
    require_numpy("plan")
    from orchestrator.plan.ways import frontier, ways
    from orchestrator.policy.forecast import Prior

    home, now = home_from_environment(), SystemClock().now()
    asked, due = _asked(args, home, now)
    if args.plot:
        check_plot(Path(args.plot))
    names = chosen_types(args.instance, args.gpu)
    quoted = quote(home, "aws", names, recorded_regions(names), now, is_offline=True)
    speeds, basis = _speeds(args, names, home, now)
    prices = {name: _priced(row, quoted.rows) for name, row in lowest(quoted.rows).items()}
    screen, prior, made = Screen(sys.stderr), Prior.shipped(), 0

    def done() -> None:
        nonlocal made
        made += 1
        screen.live(f"{made} ways")

    try:
        found = list(ways(speeds, prices, asked, lambda row: _prior(args.spot_advisor, row, prior), done))
    finally:
        screen.live("")
    if not found:
        raise SpecError(
            "--instance: none of these types has a known speed and known prices; pixel-orch prices lists some"
        )
    best = frontier(found)
    if max(way.chance for way in found) < HOPELESS:
        raise SpecError(_impossible(found, asked))
    notes = [basis, f"Spot: {prior.source}", f"Prices, {'; '.join(age_words(quoted.rows, now))}"]
    if args.plot:
        from orchestrator.report.policy_plot import draw_ways

        draw_ways([way.as_json() for way in found], [way.as_json() for way in best], Path(args.plot))
    if args.output == "json":
        print(json.dumps({"deadline": due, "ways": [way.as_json() for way in found],
                          "frontier": [way.as_json() for way in best], "notes": notes}, allow_nan=False))  # fmt: skip
    else:
        say(_text(found, best, asked, due, notes), is_plain=args.plain)
    return 0


def _asked(args: argparse.Namespace, home: Path, now: float) -> tuple[Asked, str]:
    from orchestrator.plan.ways import Asked

    if args.deadline is None:
        raise SpecError("--deadline is missing; give for example --deadline 24h")
    at = moment(args.deadline, now)
    policies = [word.strip() for word in (args.policy or DEFAULT_POLICIES).split(",") if word.strip()]
    for name in policies:
        if name not in NAMES:
            raise SpecError(f"--policy: there is no policy {name[:40]!r}; there are {', '.join(NAMES)}")
    samples = _samples(home)
    changeover_s = change_overs.typical_s(samples, is_embedded=False)
    margin_s = change_overs.margin_s(samples, is_embedded=False)
    if args.changeover is not None:
        changeover_s = duration_s(args.changeover, flag="--changeover", example="5m")
        margin_s = max(changeover_s, min(margin_s, 2 * changeover_s))
    if at - now <= changeover_s:
        raise SpecError(
            f"--deadline: {span(at - now)} are less than one change-over ({span(changeover_s)}); give a later one"
        )
    budget = None if args.budget is None else float(check_amount(args.budget, flag="--budget", example="20"))
    return Asked((at - now) / 3600, budget, changeover_s, margin_s, tuple(dict.fromkeys(policies))), shown(at)


def _prior(advisor: str | None, row: MarketRow, shipped: Prior) -> Prior:
    """Return what stands for a market: the shipped counts, with the range of the Spot Advisor where a file is given."""
    if advisor is None:
        return shipped
    place = read_range(Path(advisor).expanduser(), (row.instance_type,), (row.region,), flag="--spot-advisor")
    return shipped.with_losses(FACTORS[place], RANGES[place])


def _samples(home: Path) -> list[float]:
    """Return the change-overs of all runs on AWS: what is planned has none of its own yet."""
    return [
        seconds
        for record in records_of(RunStore.folders(home), SystemClock().now())
        if record.row.cloud == "AWS"
        for seconds in change_overs.measured(record.state.attempts)
    ]


def _speeds(args: argparse.Namespace, names: Sequence[str], home: Path, now: float) -> tuple[dict[str, Speed], str]:
    """Return the hours of work of each type, and where they are from."""
    from orchestrator.plan.ways import Speed, can_be_rented

    given = [flag for flag in ("images", "steps", "work") if getattr(args, flag) is not None]
    if len(given) != 1:
        raise SpecError("give one of --images N, --steps N and --work TIME; for example --images 50M")
    able = [name for name in names if can_be_rented(name)]
    if not able:
        raise SpecError(f"--instance: {', '.join(names)}: retired by AWS, and nothing can be done on them any more")
    if args.work is not None:
        hours = duration_s(args.work, flag="--work", example="10h") / 3600
        return {name: Speed(hours, 0.0, "given") for name in able}, "Work: as given, the same on every type"
    config = trainer_of({"model": args.model, "dataset": args.dataset, "set": args.set})
    workload = workload_of(_spec(config))
    images = _images(args, config)
    measured, predicted = _rows(workload, able, home, now)
    speeds = {name: Speed(images / rate / 3600, MEASURED_SPREAD, "measured") for name, rate in measured.items()}
    for name, mean, low, high in predicted:
        speeds.setdefault(name, Speed.of_images(images, mean, low, high, "predicted"))
    basis = f"Work: {images:,.0f} images of {workload.name}"
    return {name: speeds[name] for name in able if name in speeds}, basis


def _images(args: argparse.Namespace, config: TrainConfig) -> float:
    if args.steps is not None:
        if args.steps < 1:
            raise SpecError(f"--steps: {args.steps} is not above zero; for example --steps 5000")
        return float(args.steps * config.batch_size)
    text = args.images.strip()
    unit = UNITS.get(text[-1:], 0.0)
    return float(check_amount(text[:-1] if unit else text, flag="--images", example="50M")) * (unit or 1.0)


def _spec(config: TrainConfig) -> RunSpec:
    return RunSpec(run="plan", cloud="aws", instances=("any",), market="spot", regions=("any",), trainer=config)


def _rows(
    workload: Workload, names: Sequence[str], home: Path, now: float
) -> tuple[dict[str, float], list[tuple[str, float, float, float]]]:
    """Return images/s of the types that were measured on AWS, and of the others as predicted, with 90 % intervals."""
    built = report_of(records_of(RunStore.folders(home), now), home, now, "hour-start")
    measured = {
        row.instance_type: row.images_per_s
        for row in built.types
        if row.workload == workload.name and row.is_ranked and row.images_per_s and is_of_one_machine(row)
    }
    predicted = [row for row in built.predicted if row.workload == workload.name]
    if not predicted:  # no run of this workload: by its counted work alone
        predicted = list(build([], now, workloads={workload.name: workload}, prices=[]).predicted)
    return (
        {name: rate for name, rate in measured.items() if name in names},
        [(r.instance_type, r.images_per_s, r.low_images_per_s, r.high_images_per_s) for r in predicted],
    )


def _priced(row: MarketRow, rows: Sequence[MarketRow]) -> MarketRow:
    """Return a row with an on-demand price: of its region, else the lowest known one."""
    from dataclasses import replace

    if row.on_demand_usd_h is not None:
        return row
    known = [one.on_demand_usd_h for one in rows if one.instance_type == row.instance_type and one.on_demand_usd_h]
    return replace(row, on_demand_usd_h=min(known)) if known else row


def _text(found: Sequence[Way], best: Sequence[Way], asked: Asked, due: str, notes: Sequence[str]) -> str:
    has_budget = asked.budget_usd is not None
    ranked = sorted(found, key=lambda way: (way.chance < LIKELY, way.mean_usd, -way.chance))
    head = [
        "TYPE",
        "POOLS",
        "POLICY",
        "WORK",
        "$",
        "90 % $",
        "IN TIME",
        *(["IN BUDGET"] if has_budget else []),
        "SPEED",
        "BEST",
    ]
    rows = [
        [
            way.instance_type,
            way.pools,
            way.policy,
            span(way.work_h * 3600),
            money(way.mean_usd),
            money(way.high_usd),
            _share(way.in_time),
            *([_share(way.in_budget)] if has_budget else []),
            way.basis,
            "*" if way in best else "",
        ]
        for way in ranked[:MOST_SHOWN]
    ]
    budget = f" for at most ${asked.budget_usd:g}" if has_budget else ""
    parts = [
        wrapped(
            f"By {due} ({span(asked.deadline_h * 3600)} from now){budget}: {counted(len(found), 'way')}", prose_width()
        ),
        table(head, rows, "WORK $ 90 % $ IN TIME IN BUDGET", whole=("TYPE", "POLICY"),
              drop=("SPEED", "90 % $", "WORK", "BEST", "POOLS", "IN BUDGET")),
        "",
    ]  # fmt: skip
    if not best or best[-1].chance < LIKELY:
        parts += [wrapped(_impossible(found, asked), prose_width()), ""]
    lines = [
        "Estimates, with disk and address. $ is expected; *: no other way is as likely and cheaper. IN TIME is the "
        "doubt about the speed, the 90 % those about speed and spot. zone: one zone alone; region: all of a region.",
        *notes,
    ]
    return "\n".join([*parts, *(wrapped(line, prose_width()) for line in lines)])


def _impossible(found: Sequence[Way], asked: Asked) -> str:
    """Return what would be possible where nothing is likely to keep deadline and budget."""
    in_time = [way for way in found if way.in_time >= LIKELY]
    if not in_time:
        fastest = min(found, key=lambda way: way.work_h)
        need = span(fastest.work_h * 3600 * SAFE + asked.changeover_s)
        return f"None is likely to be in time: {fastest.instance_type} needs about {need}; give a later --deadline"
    cheapest = min(in_time, key=lambda way: way.high_usd)
    return (
        f"None is likely to be in time and in budget: the cheapest in time, {cheapest.instance_type} with "
        f"{cheapest.policy}, costs up to ${money(cheapest.high_usd)}; give --budget {cheapest.high_usd:.3g}"
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
