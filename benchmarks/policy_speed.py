"""How long simulations, plans and decisions of deadline policies take.

    python benchmarks/policy_speed.py [--output benchmarks/policy_speed.txt]

1,000 jobs of 24 h with slack 0.25 under all seven policies, with their optimum, on a generated market of nine pools
over 45 days, on one thread (limit 60 s); a plan for 48 h (limit 2 s, 200 MB); a decision by it (limit 10 ms).
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before numpy is imported

import argparse
import platform
import resource
import time
from pathlib import Path

import numpy as np

from orchestrator.policy.base import NO_POOL, WAIT, Job, View
from orchestrator.policy.comparison import POLICIES, Wish, cells
from orchestrator.policy.forecast import Forecast, Prior
from orchestrator.policy.generated import GAP_S, RECIPES, Recipe, generated
from orchestrator.policy.market import Market
from orchestrator.policy.planned import Planned

STARTS = 1000


def nine_pools() -> Market:
    """Return the market."""
    one = RECIPES["mixed"]
    RECIPES["nine"] = Recipe(one.up_h, one.down_h, one.long_share, pools=8, shared=0.5)
    eight, ninth = (generated(name, spot_price=0.33, seed=1) for name in ("nine", "mixed"))
    pools = (*eight.pools, *ninth.pools)
    available = np.hstack([eight.available, ninth.available])
    return Market("nine", pools, GAP_S, available, np.full(available.shape, 0.33))


def main() -> None:
    """Measure, and print the record."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output")
    asked = options.parse_args()
    market, prior = nine_pools(), Prior.shipped()
    lines = [f"python benchmarks/policy_speed.py   {platform.platform()}, Python {platform.python_version()}, "
             f"load {os.getloadavg()[0]:.1f}, one thread"]  # fmt: skip
    wish = Wish((24.0,), (0.25,), (300.0,), tuple(POLICIES), STARTS, 1)
    began = time.perf_counter()
    found = list(cells([market], wish, prior))
    lines.append(
        f"{STARTS} jobs x {len(found)} policies, 9 pools, 45 days   {time.perf_counter() - began:.1f} s (limit 60 s)"
    )
    what = Job(48 * 3600.0, 96 * 3600.0, 300.0)
    planned = Planned(Forecast(market, 300.0, prior), keeps_values=True)
    planned.forecast.chain(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    planned.plan(what, 1)
    took = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    lines.append(
        f"a plan for 48 h, slack 1, with its values   {took:.2f} s (limit 2 s), {grown:.0f} MB more (limit 200 MB)"
    )
    lines.append(f"a decision   {1000 * decision_s(planned, what, market):.3f} ms (limit 10 ms)")
    text = "\n".join(lines)
    print(text)
    if asked.output:
        Path(asked.output).write_text(text + "\n")


def decision_s(planned: Planned, what: Job, market: Market) -> float:
    """Return how long one decision takes, the mean of a thousand."""
    at = np.array([400])
    view = View(
        elapsed_s=3600.0, left_s=what.deadline_s - 3600.0, tick_s=60.0, at=at, work_s=np.array([what.work_s - 600.0]),
        at_risk_s=np.zeros(1), mode=np.array([WAIT]), pool=np.array([NO_POOL]), starting_s=np.zeros(1),
        available=market.available[at], price=market.price[at], on_demand_price=1.0,
    )  # fmt: skip
    planned.decide(what, view)
    began = time.perf_counter()
    for _ in range(1000):
        planned.decide(what, view)
    return (time.perf_counter() - began) / 1000


if __name__ == "__main__":
    main()
