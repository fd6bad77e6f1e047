"""The plan: for each moment, cell and slack what costs the least from there on, if the market is as its chain says.

It goes backward from the deadline in steps of ten minutes. `s` is the slack in units of u seconds, `y` the next cell,
`V` the expected cost until the work is done. A change-over is work that is added, as in `optimum.py`, and takes slack.

    wait             E V(y, s - step)
    go on, spot      price + E [V_spot(y, s) if it survives, else V(y, s - what a loss takes)]
    go on, on-demand on-demand price + E V_on_demand(y, s)
    start            the same with s - change-over; spot only where a second one fits, for on-demand after a loss
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.policy.base import ON_DEMAND, SPOT, Floats, Job
from orchestrator.policy.cells import CELLS, IS_UP, STEP_S, Chain

NEVER = 1e9
TIE = 1e-9  # what costs the same later is done now
MOST_SLACKS = 600  # of a plan: a finer unit of slack changes nothing that can be seen
FREE_STEPS = round(3600 / STEP_S)


@dataclass(frozen=True)
class Plan:
    """What to do, by steps that are left, cell and slack.

    Args:
        unit_s: of the slack.
        idle: (steps + 1, CELLS, slacks) of a job without an instance.
        on_demand: (steps + 1, CELLS, slacks) of one on on-demand.
        values: the same for the costs of WAIT, SPOT and ON_DEMAND in this order, of an idle job, or None.
    """

    unit_s: float
    idle: np.ndarray  # of int8
    on_demand: np.ndarray
    values: Floats | None = None


def make_plan(
    chain: Chain,
    job: Job,
    spot_price: float,
    on_demand_price: float,
    *,
    is_first_hour_free: bool = False,
    keeps_values: bool = False,
) -> Plan:
    """Return the plan of a job.

    Args:
        chain: of the market.
        job: its work is at most what the plan is asked for.
        spot_price: an hour, of a typical pool of the market.
        on_demand_price: an hour, in the same unit.
        is_first_hour_free: whether AWS bills nothing for an instance that it takes back in its first hour.
        keeps_values: whether the costs are kept, to give a decision its reasons.
    """
    slack_s = max(0.0, job.deadline_s - job.work_s)
    unit_s = max(float(np.gcd(round(STEP_S), max(1, round(job.changeover_s)))), slack_s / MOST_SLACKS)
    back = _Backward(chain, job, spot_price, on_demand_price, unit_s=unit_s, slacks=int(slack_s / unit_s + 1e-9) + 1)
    if is_first_hour_free:
        back.refund = _refunds(chain) * spot_price * STEP_S / 3600
    steps = int(np.ceil(job.deadline_s / STEP_S - 1e-9))
    shape = (steps + 1, CELLS, back.slacks)
    plan = Plan(unit_s, np.zeros(shape, np.int8), np.zeros(shape, np.int8),
                np.zeros((*shape[:1], 3, *shape[1:]), np.float32) if keeps_values else None)  # fmt: skip
    for left in range(1, steps + 1):
        ways = back.step(left)
        least = ways.min(axis=0)
        plan.idle[left] = np.where(ways[SPOT] <= least + TIE, SPOT, ways.argmin(axis=0))
        plan.on_demand[left] = np.where(back.is_kept, ON_DEMAND, plan.idle[left])
        if plan.values is not None:
            plan.values[left] = np.minimum(ways, NEVER)
    return plan


class _Backward:
    """The values of one moment, (CELLS, slacks): of a job that is idle, on spot, or on on-demand."""

    def __init__(
        self, chain: Chain, job: Job, spot_price: float, on_demand_price: float, *, unit_s: float, slacks: int
    ) -> None:
        self.chain, self.unit_s, self.slacks = chain, unit_s, slacks
        self.spot_cost, self.on_demand_cost = (price * STEP_S / 3600 for price in (spot_price, on_demand_price))
        self.step_units = STEP_S / unit_s
        self.waits = round(self.step_units)
        self.changeover = int(np.ceil(job.changeover_s / unit_s - 1e-9))
        self.loses = int(np.ceil(job.checkpoint_every_s / 2 / unit_s))  # half an interval on average
        self.idle, self.spot, self.on_demand = (np.zeros((CELLS, slacks)) for _ in range(3))
        self.refund = np.zeros(CELLS)
        self.is_kept = np.zeros((CELLS, slacks), bool)

    def step(self, left: int) -> Floats:
        """Go one step back, to where so many are left; return (3, CELLS, slacks): what each way costs an idle job."""
        lost = _later(self.idle, self.loses)
        switch = self.chain.moves * self.chain.switch
        survives = (self.chain.moves - switch)[:, IS_UP] @ self.spot[IS_UP]
        ends = switch[:, IS_UP] @ lost[IS_UP] + self.chain.moves[:, ~IS_UP] @ lost[~IS_UP]
        goes_spot = np.where(IS_UP[:, None], self.spot_cost + survives + ends, NEVER)
        goes_on_demand = self.on_demand_cost + self.chain.moves @ self.on_demand
        ways = np.stack([
            _later(self.chain.moves @ self.idle, self.waits),
            _later(goes_spot, self.changeover) - self.refund[:, None],
            _later(goes_on_demand, self.changeover),
        ])  # fmt: skip
        ways[SPOT][:, : 2 * self.changeover] = NEVER
        work: Floats = left * self.step_units - np.arange(self.slacks, dtype=float)  # that is left, in units
        self._end_within(work, goes_spot, goes_on_demand)
        idle = ways.min(axis=0)
        self.is_kept = goes_on_demand <= idle + 1e-12
        for values in (idle, goes_spot, goes_on_demand):
            values[:, work <= 0] = 0.0
        self.idle = np.minimum(idle, NEVER)
        self.on_demand = np.minimum(np.minimum(goes_on_demand, idle), NEVER)
        self.spot = np.where(IS_UP[:, None], np.minimum(goes_spot, NEVER), self.idle)
        return ways

    def _end_within(self, work: Floats, goes_spot: Floats, goes_on_demand: Floats) -> None:
        """Let a job end whose work is less than a step: it pays for the work only."""
        ends = (work > 0) & (work < self.step_units)
        share = work[ends] / self.step_units
        goes_spot[np.ix_(IS_UP, ends)] = share * self.spot_cost
        goes_on_demand[:, ends] = share * self.on_demand_cost


def _later(values: Floats, units: int) -> Floats:
    """Return the values with so much less slack; without it there is no way."""
    if units == 0:
        return values
    moved = np.full_like(values, NEVER)
    moved[:, units:] = values[:, : max(0, values.shape[1] - units)]
    return moved


def _refunds(chain: Chain) -> Floats:
    """Return (CELLS,) the steps of an instance that AWS does not bill on average, since it ends in its first hour."""
    stays = chain.moves * (1 - chain.switch)
    stays = np.where(IS_UP[:, None] & IS_UP[None, :], stays, 0.0)
    alive = np.eye(CELLS)
    steps = np.zeros(CELLS)
    for number in range(1, FREE_STEPS + 1):
        after = alive @ stays
        steps += number * (alive.sum(axis=1) - after.sum(axis=1))
        alive = after
    return np.where(IS_UP, steps, 0.0)
