"""The least that a job can cost for one who knows the whole market beforehand: an exact dynamic program.

Time and work are counted in units of u seconds, the greatest common divisor of the gap between two points, the
change-over, the work and the deadline (and of an hour, where that may be free). Between two points prices and
availability are constant, so the cost of a plan is linear in the times at which it changes. Its least value lies in a
corner: all changes but one at points of the record, and that one a multiple of u away. So the plan on this grid is
exact: no policy can be under it on a finer one.

The state is the slack (time until the deadline less the work left), which shrinks while nothing is trained:

    wait           V(t, s) = V(t + 1, s - 1)
    train          V(t, s) = price + V(t + 1, s)
    start          V(t, s) = price + V(t + 1, s - d): the change-over is work that is added
"""

from __future__ import annotations

import math

import numpy as np

from orchestrator.policy.base import Flags, Floats, Ints, Job
from orchestrator.policy.market import Market
from orchestrator.policy.simulator import FREE_S

MOST_VALUES = 4_000_000  # at a time: 32 MB each
MOST_EFFORT = 2e11  # values in all: some ten minutes of one core


def unit_s(market: Market, job: Job, *, is_first_hour_free: bool = False) -> float:
    """Return the unit of time of the program, in seconds.

    Raises:
        ValueError: the times of the job have no common unit of a second or more.
    """
    times = [market.gap_s, job.changeover_s, job.work_s, job.deadline_s, *([FREE_S] if is_first_hour_free else [])]
    if any(abs(time - round(time)) > 1e-6 for time in times):
        raise ValueError(
            f"the optimum is computed in whole seconds: the gap of {market.name} ({market.gap_s:g} s), work, deadline "
            "and change-over must be such"
        )
    return float(math.gcd(*(round(time) for time in times)))


def check_size(market: Market, job: Job, count: int, *, is_first_hour_free: bool = False) -> None:
    """Refuse what would take hours.

    Raises:
        ValueError: so many starts of so long a job, in so fine a unit of time.
    """
    u = unit_s(market, job, is_first_hour_free=is_first_hour_free)
    slacks = (job.deadline_s - job.work_s) / u + 1
    if job.deadline_s / u * slacks * min(count, market.points) * (len(market.pools) + 2) > MOST_EFFORT:
        raise ValueError(
            f"the optimum of {job.work_s / 3600:g} h of work with slack {job.slack:g} in {market.name} takes too long "
            f"in steps of {u:g} s, which gap, change-over, work and deadline have in common; give fewer starts, less "
            "work or slack, or times that have more in common"
        )


def optimum(market: Market, job: Job, starts: Ints, *, is_first_hour_free: bool = False) -> Floats:
    """Return (N,) the least cost of a job that starts at each of these points, and is never late.

    Raises:
        ValueError: no plan is in time, the times have no common unit, or it would take hours.
    """
    check_size(market, job, len(starts), is_first_hour_free=is_first_hour_free)
    u = unit_s(market, job, is_first_hour_free=is_first_hour_free)
    free_steps = round(FREE_S / u) if is_first_hour_free else 0
    slack = round((job.deadline_s - job.work_s) / u)
    if slack < round(job.changeover_s / u):
        raise ValueError("no plan is in time: the deadline leaves no time for one change-over")
    distinct, which = np.unique(starts, return_inverse=True)
    kept = len(market.pools) + 2 + free_steps
    blocks = max(1, math.ceil(len(distinct) * (slack + 1) * kept / MOST_VALUES))
    parts = [_least(market, job, some, u, free_steps) for some in np.array_split(distinct, blocks) if len(some)]
    least: Floats = np.concatenate(parts)[which]
    return least


def _least(market: Market, job: Job, starts: Ints, u: float, free_steps: int) -> Floats:
    steps, slack = round(job.deadline_s / u), round((job.deadline_s - job.work_s) / u)
    per_gap = round(market.gap_s / u)
    program = _Program(market, len(starts), steps=steps, slack=slack, changeover=round(job.changeover_s / u), u=u)
    for t in range(steps - 1, -1, -1):
        program.step(t, starts + t // per_gap, free_steps)
    best: Floats = program.wait[:, slack]
    return best


class _Program:
    """Values of one moment, for N starts and S + 1 slacks: of a job that waits, is on on-demand, or in a pool."""

    def __init__(self, market: Market, count: int, *, steps: int, slack: int, changeover: int, u: float) -> None:
        self.market, self.steps, self.slack, self.changeover, self.u = market, steps, slack, changeover, u
        end = np.zeros((count, slack + 1))  # with some slack at the deadline the work is done
        self.wait, self.on_demand = end.copy(), end.copy()
        self.pools = [end.copy() for _ in market.pools]
        self.history: list[Floats] = []  # of `wait`, the newest first

    def step(self, t: int, at: Ints, free_steps: int) -> None:
        """Go from the values after this step to those before it."""
        hours = self.u / 3600
        od_price = self.market.on_demand_price * hours
        price = self.market.price[at] * hours
        available = self.market.available[at]
        if free_steps:
            done = self.steps - (t + 1) - np.arange(self.slack + 1) <= 0  # then it is ended by us, and billed
            self.history = [np.where(done, np.inf, self.wait), *self.history[: free_steps - 1]]
        wait = _later(self.wait, 1)
        on_demand = od_price + self.on_demand
        np.minimum(wait, _later(on_demand, self.changeover), out=wait)
        pools = []
        for pool, after in enumerate(self.pools):
            runs = np.where(available[:, pool, None], price[:, pool, None] + after, np.inf)
            np.minimum(wait, _later(runs, self.changeover), out=wait)
            pools.append(runs)
        if free_steps:
            self._take_free(wait, at, t, free_steps)
        left = self.steps - t - np.arange(self.slack + 1)  # the work that is left at each slack
        wait[:, left <= 0] = 0.0
        self.wait = wait
        self.on_demand = np.minimum(on_demand, wait)
        self.on_demand[:, left <= 0] = 0.0
        self.pools = [np.minimum(runs, wait) for runs in pools]

    def _take_free(self, wait: Floats, at: Ints, t: int, free_steps: int) -> None:
        """Take an instance that is lost within its first hour, and costs nothing."""
        per_gap = round(self.market.gap_s / self.u)
        for pool in range(len(self.market.pools)):
            until = _loss_after(self.market.available[:, pool], at, t, per_gap, free_steps)
            for lasts in np.unique(until[until > 0]):
                if lasts > len(self.history) or lasts <= self.changeover:
                    continue
                rows = until == lasts
                wait[rows] = np.minimum(wait[rows], _later(self.history[lasts - 1][rows], self.changeover))


def _later(values: Floats, slack: int) -> Floats:
    """Return the values with so much less slack; without it there is no way."""
    if slack == 0:
        return values
    moved = np.full_like(values, np.inf)
    moved[:, slack:] = values[:, :-slack]
    return moved


def _loss_after(available: Flags, at: Ints, t: int, per_gap: int, most: int) -> Ints:
    """Return after how many steps an instance that starts now is lost; 0: later than `most`, or none starts."""
    inside = t % per_gap
    found = np.zeros(len(at), np.intp)
    still = available[at].copy()
    for ahead in range(1, (most + inside) // per_gap + 1):
        point = at + ahead
        goes_on = still & (point < len(available))
        lost = goes_on & ~available[np.minimum(point, len(available) - 1)]
        found[lost] = ahead * per_gap - inside
        still = goes_on & ~lost
    found[found > most] = 0
    return found
