"""`simulate`: what a job with a deadline costs under each policy, on recorded or generated spot markets."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.colour import say
from orchestrator.cli.console import Screen
from orchestrator.errors import SpecError
from orchestrator.formatting import counted, nearest, prose_width, span, table, wrapped
from orchestrator.market.spot_prices import chosen_types
from orchestrator.plan.validators import duration_s
from orchestrator.runs.home import home_from_environment

if TYPE_CHECKING:
    from orchestrator.policy.comparison import Cell, Wish
    from orchestrator.policy.forecast import Prior
    from orchestrator.policy.market import Market
    from orchestrator.policy.traces import Pools, Trace

MINUTE_S = 60.0
MOST_WORK_H = 24 * 366.0
MOST_STARTS = 100_000
LEAST_SPOT_PRICE = 1e-6
MOST_SETS_SHOWN = 4  # by themselves; of more the mean is shown, and -o json has all


def simulate(args: argparse.Namespace) -> int:
    """Do `pixel-orch simulate`."""
    require_numpy("simulate")
    from orchestrator.policy.comparison import cells

    wish = _wish(args)
    markets, words = _markets(args)
    prior = _prior(args)
    _check_time(markets, wish)
    if args.plot:
        check_plot(Path(args.plot))
    total, made, screen = wish.size(len(markets)), 0, Screen(sys.stderr)

    def done() -> None:
        nonlocal made
        made += 1
        screen.live(f"simulated {made} of {total}")

    try:
        found = list(cells(markets, wish, prior, done))
    except ValueError as error:
        raise SpecError(str(error)) from None
    finally:
        screen.live("")
    if args.plot:
        _plot(found, args.plot)
    if args.output == "json":
        print(json.dumps(_json(args, found, words, prior), allow_nan=False))
    else:
        say(_text(found, wish, [words, f"planned knows beforehand: {prior.source}"]), is_plain=args.plain)
    return 0


def require_numpy(command: str) -> None:
    """Raise SpecError if numpy is missing, which the base package does not need."""
    if find_spec("numpy") is None:
        raise SpecError(f"{command}: the package numpy is missing; pip install 'pixel-orch[deadline]'")


def _wish(args: argparse.Namespace) -> Wish:
    from orchestrator.policy.comparison import POLICIES, Wish

    names = tuple(POLICIES) if args.policy == "all" else tuple(dict.fromkeys(_words(args.policy, "--policy")))
    for name in names:
        if name not in POLICIES:
            near = nearest(name, POLICIES)
            hint = f"did you mean {near}? " if near else ""
            raise SpecError(f"--policy: there is no policy {name[:40]!r}; {hint}there are all, {', '.join(POLICIES)}")
    works_h = [_minutes(text, "--work", "12h") / 60 for text in _words(args.work, "--work")]
    if max(works_h) > MOST_WORK_H:
        raise SpecError(f"--work: {max(works_h):g} hours are more than a year; for example --work 24h")
    wish = Wish(
        works_h=tuple(works_h),
        slacks=tuple(_slack(text) for text in _words(args.slack, "--slack")),
        changeovers_s=tuple(
            _minutes(text, "--changeover", "5m") * 60 for text in _words(args.changeover, "--changeover")
        ),
        policies=names,
        starts=_whole(args.starts, "--starts", 1, MOST_STARTS),
        seed=_whole(args.seed, "--seed", 0, 2**31),
        checkpoint_every_s=_minutes(args.checkpoint_every, "--checkpoint-every", "30m") * 60
        if args.checkpoint_every
        else 0.0,
        is_first_hour_free=args.free_first_hour,
    )
    for work_h, slack, job in wish.jobs():
        need_s = job.changeover_s + job.checkpoint_every_s
        what = "change-over and what a loss takes" if job.checkpoint_every_s else "change-over"
        if job.deadline_s - job.work_s < need_s:
            raise SpecError(
                f"--slack {slack:g}: {span(job.deadline_s - job.work_s)} beyond {work_h:g} h of work are less than one "
                f"{what} ({span(need_s)}): none is in time; give --slack {_least_slack(need_s, work_h)} or more"
            )
    return wish


def _least_slack(need_s: float, work_h: float) -> str:
    return f"{-(-need_s // (36 * work_h)) / 100:g}"


def _markets(args: argparse.Namespace) -> tuple[list[Market], str]:
    """Return the markets, and what they are in words."""
    from orchestrator.policy.generated import DAYS, generated
    from orchestrator.policy.traces import markets_of, read_folder, share_words

    if sum(given is not None for given in (args.traces, args.market, args.price_history)) != 1:
        raise SpecError("give one of --traces DIR, --price-history TYPE and --market NAME; for example --market mixed")
    if not LEAST_SPOT_PRICE <= args.spot_price <= 1:
        raise SpecError(f"--spot-price: {args.spot_price:g} is no share of the on-demand price; give 0.33, for example")
    if args.market is not None:
        market = generated(args.market, spot_price=args.spot_price, seed=args.seed)
        return [market], f"a generated market, {DAYS} days, no record of AWS"
    if args.price_history is not None:
        traces, words = _of_prices(args.price_history)
        return markets_of(traces, args.pools, spot_price=args.spot_price, flag="--price-history"), words
    traces = read_folder(Path(args.traces), flag="--traces", is_inverted=args.inverted)
    markets = markets_of(traces, args.pools, spot_price=args.spot_price, flag="--traces")
    return markets, f"{args.traces}: {share_words(traces)}"


def _of_prices(text: str) -> tuple[list[Trace], str]:
    """Return traces of the price histories that `pixel-orch prices` has asked for, and what they are in words."""
    from orchestrator.cloud.price_cache import PriceCache
    from orchestrator.policy.price_traces import price_traces

    names, cache = chosen_types(text), PriceCache(home_from_environment(), "aws")
    found: list[Trace] = []
    for (name, _), entry in sorted(cache.entries.items()):
        if name in names and entry.on_demand_usd_h:
            found += price_traces(name, entry.zones, entry.on_demand_usd_h, entry.start, entry.end)
    if not found:
        raise SpecError(
            f"--price-history: no history of {', '.join(names)} is here; ask for it first: "
            f"pixel-orch prices --instance {names[0]} --days 90"
        )
    return found, (
        f"price histories of {counted(len(found), 'zone')}, as AWS gave them. They say nothing of capacity: it is "
        "taken to be there wherever the price is at or under on-demand"
    )


def _prior(args: argparse.Namespace) -> Prior:
    from orchestrator.policy.forecast import Prior
    from orchestrator.policy.traces import markets_of, read_folder

    if args.archive is None:
        return Prior.shipped()
    traces = read_folder(Path(args.archive), flag="--archive", is_inverted=args.inverted)
    pools: Pools = args.pools
    if pools == "each" and all(trace.region for trace in traces):
        pools = "region"  # what it shows of single pools is the same
    markets = markets_of(traces, pools, spot_price=args.spot_price, flag="--archive")
    return Prior.from_archive(markets, f"the archive {args.archive}, {counted(len(traces), 'trace')}")


def _check_time(markets: Sequence[Market], wish: Wish) -> None:
    """Refuse a deadline that does not fit into a record, or that takes hours, before anything is computed."""
    from orchestrator.policy.optimum import check_size

    for market in markets:
        for work_h, slack, job in wish.jobs():
            if job.deadline_s > market.duration_s:
                raise SpecError(
                    f"{market.name} lasts {span(market.duration_s)}: --work {work_h:g}h with --slack {slack:g} needs "
                    f"{span(job.deadline_s)}; give less work, less slack or longer traces"
                )
            try:
                check_size(market, job, wish.starts, is_first_hour_free=wish.is_first_hour_free)
            except ValueError as error:
                raise SpecError(str(error)) from None


def _words(text: str, flag: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise SpecError(f"{flag}: nothing is given")
    return words


def _minutes(text: str, flag: str, example: str) -> float:
    minutes = duration_s(text, flag=flag, example=example) / MINUTE_S
    if minutes != round(minutes):
        raise SpecError(
            f"{flag}: {text!r} is not a whole number of minutes, in which a simulation goes; {flag} {example}"
        )
    return minutes


def _slack(text: str) -> float:
    try:
        slack = float(text)
    except ValueError:
        slack = -1.0
    if not 0 <= slack <= 1000:
        raise SpecError(
            f"--slack: {text[:40]!r} is no share of the work from 0 to 1000; --slack 0.25 is a quarter more time"
        )
    return slack


def _whole(value: int, flag: str, least: int, most: int) -> int:
    if not least <= value <= most:
        raise SpecError(f"{flag}: {value} is not from {least} to {most}")
    return value


def check_plot(path: Path) -> None:
    """Raise SpecError if a plot cannot be written there."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf") or not path.parent.is_dir():
        raise SpecError(f"--plot: cannot write {path}; name a .png, .svg or .pdf file in a folder that exists")


def _plot(found: Sequence[Cell], path: str) -> None:
    from orchestrator.report.policy_plot import draw

    draw([cell.as_json() for cell in found], Path(path))


def _json(args: argparse.Namespace, found: Sequence[Cell], words: str, prior: Prior) -> dict[str, Any]:
    return {
        "cells": [cell.as_json() for cell in found],
        "market": words,
        "archive": prior.source,
        "seed": args.seed,
        "spot_price": args.spot_price,
        "pools": args.pools,
        "first_hour_is_free": args.free_first_hour,
    }


def _text(found: Sequence[Cell], wish: Wish, notes: Sequence[str]) -> str:
    sets = list(dict.fromkeys(cell.set for cell in found))
    parts: list[str] = []
    for changeover_s in wish.changeovers_s:
        for shown in [[name] for name in sets] if len(sets) <= MOST_SETS_SHOWN else [sets]:
            here = [cell for cell in found if cell.changeover_s == changeover_s and cell.set in shown]
            name = shown[0] if len(shown) == 1 else f"mean of {counted(len(shown), 'set')}"
            parts += [f"{name}, change-over {span(changeover_s)}: cost / optimum by slack", _block(here, wish), ""]
    works = ", ".join(f"{work:g} h" for work in wish.works_h)
    lines = [
        f"Mean of {counted(wish.starts, 'start')} a cell over {works} of work (seed {wish.seed}). The optimum "
        "knows the whole market beforehand. OF ON-DEM is the cost as a share of on-demand without an interruption.",
        *notes,
    ]
    return "\n".join([*parts, *(wrapped(line, prose_width()) for line in lines)])


def _block(here: Sequence[Cell], wish: Wish) -> str:
    head = ["POLICY", *(f"{slack:g}" for slack in wish.slacks), "+-", "OF ON-DEM", "ATTEMPTS", "LATE"]
    rows = []
    for name in wish.policies:
        own = [cell for cell in here if cell.policy == name]
        by_slack = [_mean([c.cost_over_optimum for c in own if c.slack == slack]) for slack in wish.slacks]
        jobs = sum(cell.starts for cell in own)
        late = sum(cell.late for cell in own)
        rows.append([
            name,
            *(f"{value:.3f}" for value in by_slack),
            f"{_mean([cell.stderr for cell in own]):.3f}",
            f"{100 * _mean([cell.cost_over_on_demand for cell in own]):.0f} %",
            f"{_mean([cell.attempts for cell in own]):.1f}",
            f"{late} of {jobs}",
        ])  # fmt: skip
    return table(head, rows, " ".join(head[1:]), whole=("POLICY",), drop=("+-", "ATTEMPTS", "OF ON-DEM", "LATE"))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
