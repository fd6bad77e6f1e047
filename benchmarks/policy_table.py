"""The table of `docs/deadline.md`: every policy on real traces, learned from their first halves, judged on the second.

    python benchmarks/policy_table.py DIR [--output benchmarks/policy_table.txt] [--json FILE] [--plot FILE]

DIR has traces ZONE_TYPE.json (docs/deadline.md names the public ones). Each file is cut in the middle: what comes
before is the archive that `planned` learns from, and the jobs start after it. 300 starts a cell; work of 12, 24 and 48
hours; slack of 0.1, 0.25, 0.5 and 1; change-overs of 5 and 15 minutes; spot at 0.35 of on-demand (V100) or 0.30 (K80).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.policy.comparison import POLICIES, Cell, Wish, cells
from orchestrator.policy.forecast import Prior
from orchestrator.policy.traces import Trace, markets_of, read_folder
from orchestrator.report.policy_plot import draw

SLACKS = (0.1, 0.25, 0.5, 1.0)
WORKS_H = (12.0, 24.0, 48.0)
CHANGEOVERS_S = (300.0, 900.0)


def spot_price(trace: Trace) -> float:
    """Return the price of spot as a share of on-demand."""
    return 0.35 if "v100" in trace.name else 0.30


def halves(traces: Sequence[Trace]) -> tuple[list[Trace], list[Trace]]:
    """Return what is before the middle of each trace, and what is after it."""
    first = [replace(trace, available=trace.available[: len(trace.available) // 2]) for trace in traces]
    return first, [replace(trace, available=trace.available[len(trace.available) // 2 :]) for trace in traces]


def found(traces: Sequence[Trace], pools: str, starts: int) -> Iterator[Cell]:
    """Give all cells of single pools (`each`) or of the pools of a region."""
    before, after = halves(traces)
    archive = [m for one in prices(before) for m in markets_of(one[1], "region", spot_price=one[0], flag="")]
    prior = Prior.from_archive(archive, "the first halves")
    wish = Wish(WORKS_H, SLACKS, CHANGEOVERS_S, tuple(POLICIES), starts, 1)
    for price, group in prices(after):
        yield from cells(markets_of(group, pools, spot_price=price, flag=""), wish, prior)  # type: ignore[arg-type]


def prices(traces: Sequence[Trace]) -> list[tuple[float, list[Trace]]]:
    """Return the traces by the price of spot."""
    by_price: dict[float, list[Trace]] = {}
    for trace in traces:
        by_price.setdefault(spot_price(trace), []).append(trace)
    return list(by_price.items())


def table(made: Sequence[Cell], title: str) -> list[str]:
    """Return the lines of one table: means over sets and work, and how far `planned` is from the better baseline."""
    lines = []
    for changeover_s in CHANGEOVERS_S:
        lines += [f"{title}, change-over {changeover_s / 60:g} min", f"{'':26}" + "".join(f"{s:>8g}" for s in SLACKS)]
        for policy in POLICIES:
            row = [mean(made, policy, slack, changeover_s) for slack in SLACKS]
            lines.append(f"{policy:26}" + "".join(f"{value:8.3f}" for value in row))
    every = [cell for cell in made if cell.policy == "planned" and cell.work_h == WORKS_H[0]]
    best = [best_of(made, cell) for cell in every]
    planned = [excess_of(made, cell, "planned") for cell in every]
    ratio = sum(planned) / sum(best)
    worst = max(own - other for own, other in zip(planned, best, strict=True))
    late = sum(cell.late for cell in made if cell.policy != "spot")
    jobs = sum(cell.starts for cell in made if cell.policy != "spot")
    lines += [
        f"mean excess of planned / of the better of greedy and uniform-progress in each cell: {ratio:.2f}; worst cell: "
        f"{worst:+.3f}",
        f"late, all but spot: {late} of {jobs} jobs",
        "",
    ]
    return lines


def mean(made: Sequence[Cell], policy: str, slack: float, changeover_s: float) -> float:
    """Return the mean of cost / optimum over sets and work."""
    values = [
        cell.cost_over_optimum
        for cell in made
        if (cell.policy, cell.slack, cell.changeover_s) == (policy, slack, changeover_s)
    ]
    return sum(values) / len(values)


def best_of(made: Sequence[Cell], planned: Cell) -> float:
    """Return the excess of the better of greedy and Uniform Progress in a cell: each a mean over the work."""
    return min(excess_of(made, planned, policy) for policy in ("greedy", "uniform-progress"))


def excess_of(made: Sequence[Cell], like: Cell, policy: str) -> float:
    """Return the mean excess over the work of a policy, in the cell of another one."""
    key = (like.set, like.slack, like.changeover_s)
    values = [
        cell.cost_over_optimum - 1
        for cell in made
        if cell.policy == policy and (cell.set, cell.slack, cell.changeover_s) == key
    ]
    return sum(values) / len(values)


def main() -> None:
    """Simulate, and print the record."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("traces", type=Path)
    options.add_argument("--starts", type=int, default=300)
    options.add_argument("--output", type=Path)
    options.add_argument("--json", type=Path)
    options.add_argument("--plot", type=Path)
    asked = options.parse_args()
    began = time.monotonic()
    traces = read_folder(asked.traces, flag="traces")
    lines = [
        f"python benchmarks/policy_table.py DIR --starts {asked.starts}   Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}",
        f"{len(traces)} traces; a point every {sorted({trace.gap_s for trace in traces})} s, as the files say",
        "",
    ]
    every = []
    for pools, title in (("each", "one zone"), ("region", "two zones of a region")):
        made = list(found(traces, pools, asked.starts))
        every += [{"pools": pools, **cell.as_json()} for cell in made]
        lines += table(made, title)
        if asked.plot and pools == "each":
            draw([cell.as_json() for cell in made], asked.plot)
    lines.append(f"{time.monotonic() - began:.0f} s")
    print("\n".join(lines))
    if asked.output:
        asked.output.write_text("\n".join(lines) + "\n")
    if asked.json:
        asked.json.write_text(json.dumps({"cells": every}))


if __name__ == "__main__":
    main()
