"""One table of many simulations: sets of pools x work x slack x change-over x policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.policy.base import Floats, Job
from orchestrator.policy.choice import SIMPLE, policy_of
from orchestrator.policy.forecast import Forecast, Prior
from orchestrator.policy.market import Market
from orchestrator.policy.optimum import optimum
from orchestrator.policy.planned import Planned
from orchestrator.policy.simulator import Outcome, simulate

POLICIES = (*SIMPLE, Planned.name)
"""In the order in which a table has them."""


@dataclass(frozen=True)
class Wish:
    """What is to be simulated.

    Args:
        works_h: hours of training.
        slacks: the time beyond the work, as shares of it.
        changeovers_s: what each start of an instance costs.
        policies: names of `POLICIES`.
        starts: jobs of each cell.
        seed: of their starts.
        checkpoint_every_s: training that a loss takes at most; 0: the program saves at the notice.
        is_first_hour_free: whether a spot instance that is lost in its first hour costs nothing.
    """

    works_h: Sequence[float]
    slacks: Sequence[float]
    changeovers_s: Sequence[float]
    policies: Sequence[str]
    starts: int
    seed: int
    checkpoint_every_s: float = 0.0
    is_first_hour_free: bool = False

    def jobs(self) -> Iterator[tuple[float, float, Job]]:
        """Give each work, slack and job; a deadline is a whole minute."""
        for changeover_s in self.changeovers_s:
            for work_h in self.works_h:
                for slack in self.slacks:
                    deadline_s = round(work_h * 60 * (1 + slack)) * 60.0
                    yield (
                        work_h,
                        slack,
                        Job(
                            work_s=work_h * 3600,
                            deadline_s=deadline_s,
                            changeover_s=changeover_s,
                            checkpoint_every_s=self.checkpoint_every_s,
                        ),
                    )

    def size(self, markets: int) -> int:
        """Return how many simulations these are."""
        return markets * len(self.works_h) * len(self.slacks) * len(self.changeovers_s) * len(self.policies)


@dataclass(frozen=True)
class Cell:
    """What came out of one simulation.

    Args:
        cost_over_optimum: mean over the starts of cost / optimum.
        stderr: its standard error; 0 for one start.
        late: jobs that were not in time.
        attempts: instances a job, on average.
        lost_h: training done again a job, on average.
        cost_over_on_demand: mean cost over that of on-demand without an interruption.
    """

    set: str
    policy: str
    work_h: float
    slack: float
    changeover_s: float
    starts: int
    cost_over_optimum: float
    stderr: float
    late: int
    attempts: float
    lost_h: float
    cost_over_on_demand: float

    def as_json(self) -> dict[str, Any]:
        """Return the cell as `-o json` has it."""
        return {
            "set": self.set,
            "policy": self.policy,
            "work_h": self.work_h,
            "slack": self.slack,
            "changeover_s": self.changeover_s,
            "starts": self.starts,
            "cost_over_optimum": round(self.cost_over_optimum, 6),
            "stderr": round(self.stderr, 6),
            "late": self.late,
            "attempts": round(self.attempts, 3),
            "lost_h": round(self.lost_h, 4),
            "cost_over_on_demand": round(self.cost_over_on_demand, 6),
        }


def cells(
    markets: Sequence[Market], wish: Wish, prior: Prior, done: Callable[[], None] = lambda: None
) -> Iterator[Cell]:
    """Give the cells one after the other; every policy of a job has the same starts.

    Args:
        markets: what happens.
        wish: what is to be simulated.
        prior: what `planned` knows beforehand of markets like these.
        done: is called after each of them.

    Raises:
        ValueError: a record is too short, or no plan is in time.
    """
    for market in markets:
        forecasts = {changeover_s: Forecast(market, changeover_s, prior) for changeover_s in wish.changeovers_s}
        for work_h, slack, job in wish.jobs():
            starts = market.starts(wish.starts, job.deadline_s, wish.seed)
            least = optimum(market, job, starts, is_first_hour_free=wish.is_first_hour_free)
            for name in wish.policies:
                policy = policy_of(name, forecasts[job.changeover_s], is_first_hour_free=wish.is_first_hour_free)
                outcome = simulate(market, job, policy, starts, is_first_hour_free=wish.is_first_hour_free)
                yield _cell(market, (name, work_h, slack, job), outcome, least)
                done()


def _cell(market: Market, asked: tuple[str, float, float, Job], outcome: Outcome, least: Floats) -> Cell:
    name, work_h, slack, job = asked
    ratio = outcome.cost / least  # no price is zero, so the least is above it
    count = len(least)
    on_demand = market.on_demand_price * (job.work_s + job.changeover_s) / 3600
    return Cell(
        set=market.name,
        policy=name,
        work_h=work_h,
        slack=slack,
        changeover_s=job.changeover_s,
        starts=count,
        cost_over_optimum=float(ratio.mean()),
        stderr=float(ratio.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0,
        late=int(outcome.is_late.sum()),
        attempts=float(outcome.attempts.mean()),
        lost_h=float(outcome.lost_s.mean() / 3600),
        cost_over_on_demand=float(outcome.cost.mean() / on_demand),
    )
