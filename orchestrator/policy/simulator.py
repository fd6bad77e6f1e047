"""Runs many jobs of one kind under a policy, each from its own start in a market's record, side by side.

The rules are those of a live run: an instance costs money from its request on, and trains after its change-over; a loss
is seen when it happens; a decision is taken every minute, and at once where the market has changed. The safety rule
(`safety.py`) stands above each policy that does not go without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.policy import safety
from orchestrator.policy.base import NO_POOL, ON_DEMAND, SPOT, WAIT, Decision, Flags, Floats, Ints, Job, Policy, View
from orchestrator.policy.market import Market

TICK_S = 60.0
FREE_S = 3600.0  # AWS bills nothing for a spot instance that it takes back in its first hour


@dataclass(frozen=True)
class Outcome:
    """How N jobs went.

    Args:
        cost: (N,) in the market's unit of prices x hours.
        finish_s: (N,) from the start until the work was done.
        is_late: (N,) whether that was after the deadline; the rest was done on-demand then.
        attempts: (N,) instances.
        losses: (N,) spot instances that were taken back.
        lost_s: (N,) training that had to be done again.
        spot_s: (N,) of spot instances.
        on_demand_s: (N,) of on-demand instances.
    """

    cost: Floats
    finish_s: Floats
    is_late: Flags
    attempts: Ints
    losses: Ints
    lost_s: Floats
    spot_s: Floats
    on_demand_s: Floats


class Draws:
    """Change-overs of N jobs, one after the other: all equal, or drawn.

    Args:
        mean_s: of the job.
        sigma: of the logarithm; 0: all are equal to the mean.
        most_s: none is longer: the quantile that the safety rule counts on.
        seed: of the random numbers.
    """

    def __init__(self, mean_s: float, sigma: float = 0.0, most_s: float = np.inf, seed: int = 0) -> None:
        self.mean_s, self.sigma, self.most_s = mean_s, sigma, most_s
        self._random = np.random.default_rng(seed)

    def take(self, count: int) -> Floats:
        """Return the next ones."""
        if not self.sigma:
            return np.full(count, float(self.mean_s))
        drawn = self.mean_s * np.exp(self.sigma * self._random.standard_normal(count) - self.sigma**2 / 2)
        return np.minimum(drawn, self.most_s)


def simulate(
    market: Market,
    job: Job,
    policy: Policy,
    starts: Ints,
    *,
    tick_s: float = TICK_S,
    is_first_hour_free: bool = False,
    draws: Draws | None = None,
) -> Outcome:
    """Return how jobs that start at these points go.

    Args:
        market: what happens.
        job: what each of them does.
        policy: decides.
        starts: (N,) points of the record.
        tick_s: between two decisions; a whole share of the market's gap.
        is_first_hour_free: whether a spot instance that is lost in its first hour costs nothing.
        draws: of change-overs; None: all are the job's.
    """
    jobs = _Jobs(market, job, starts, draws or Draws(job.changeover_s), is_first_hour_free=is_first_hour_free)
    gap_ticks = max(1, round(market.gap_s / tick_s))
    tick_s = market.gap_s / gap_ticks
    elapsed_s = 0.0
    while elapsed_s < job.deadline_s - 1e-6 and jobs.is_open.any():
        step_s = min(tick_s, job.deadline_s - elapsed_s)
        jobs.lose(market.index(starts, elapsed_s))
        view = jobs.view(elapsed_s, step_s)
        decision = policy.decide(job, view)
        if policy.is_safe:
            decision = with_safety(job, view, decision)
        jobs.act(decision)
        jobs.advance(elapsed_s, step_s)
        elapsed_s += step_s
    return jobs.outcome()


def with_safety(job: Job, view: View, decision: Decision) -> Decision:
    """Return the decision with those jobs moved to on-demand that could be late otherwise."""
    is_kept = (decision.mode == SPOT) & (view.mode == SPOT) & (decision.pool == view.pool)
    starting_s = np.where(is_kept, view.starting_s, max(job.changeover_s, job.margin_s))
    on_spot = safety.burnt(view.tick_s, starting_s, saves_at_notice=not job.checkpoint_every_s)
    burnt_s = np.where(decision.mode == SPOT, on_spot, view.tick_s)
    must = safety.must_move(view.slack_s, burnt_s - 1e-6, job.margin_s)
    ends_now = is_kept & (view.starting_s <= 0) & (view.work_s <= view.tick_s)
    stays = (view.mode == ON_DEMAND) & (decision.mode == ON_DEMAND)
    must &= ~ends_now & ~stays
    return Decision(np.where(must, ON_DEMAND, decision.mode), decision.pool, decision.values)


class _Jobs:
    """The state of N jobs."""

    def __init__(self, market: Market, job: Job, starts: Ints, draws: Draws, *, is_first_hour_free: bool) -> None:
        count = len(starts)
        self.market, self.job, self.draws, self.is_first_hour_free = market, job, draws, is_first_hour_free
        self.at = starts
        self.work_s = np.full(count, float(job.work_s))
        self.at_risk_s = np.zeros(count)
        self.mode: Ints = np.full(count, WAIT)
        self.pool: Ints = np.full(count, NO_POOL)
        self.starting_s = np.zeros(count)
        self.age_s, self.session_cost = np.zeros(count), np.zeros(count)  # of the instance
        self.cost, self.finish_s = np.zeros(count), np.full(count, np.inf)
        self.attempts, self.losses = np.zeros(count, np.intp), np.zeros(count, np.intp)
        self.lost_s, self.spot_s, self.on_demand_s = np.zeros(count), np.zeros(count), np.zeros(count)

    @property
    def is_open(self) -> Flags:
        is_open: Flags = np.isinf(self.finish_s)
        return is_open

    def lose(self, at: Ints) -> None:
        """Take back the spot instances whose pool has no capacity any more."""
        self.at = at
        is_lost = (self.mode == SPOT) & ~self.market.available[at, np.maximum(self.pool, 0)]
        if not is_lost.any():
            return
        self.losses += is_lost
        if self.is_first_hour_free:
            self.cost -= np.where(is_lost & (self.age_s < FREE_S + 1e-6), self.session_cost, 0.0)
        self.work_s += np.where(is_lost, self.at_risk_s, 0.0)
        self.lost_s += np.where(is_lost, self.at_risk_s, 0.0)
        self._end(is_lost)

    def _end(self, which: Flags) -> None:
        self.mode = np.where(which, WAIT, self.mode)
        self.pool = np.where(which, NO_POOL, self.pool)
        self.starting_s = np.where(which, 0.0, self.starting_s)
        self.at_risk_s = np.where(which, 0.0, self.at_risk_s)

    def view(self, elapsed_s: float, tick_s: float) -> View:
        """Return what a policy is told."""
        return View(
            elapsed_s=elapsed_s,
            left_s=self.job.deadline_s - elapsed_s,
            tick_s=tick_s,
            at=self.at,
            work_s=self.work_s,
            at_risk_s=self.at_risk_s,
            mode=self.mode,
            pool=self.pool,
            starting_s=self.starting_s,
            available=self.market.available[self.at],
            price=self.market.price[self.at],
            on_demand_price=self.market.on_demand_price,
            is_point=abs(elapsed_s / self.market.gap_s - round(elapsed_s / self.market.gap_s)) < 1e-6,
        )

    def act(self, decision: Decision) -> None:
        """Begin and end instances as decided; one that is ended on purpose saves first."""
        mode = np.where(self.is_open, decision.mode, WAIT)
        pool = np.where(mode == SPOT, decision.pool, NO_POOL)
        is_new = (mode != WAIT) & ((mode != self.mode) | (pool != self.pool))
        count = int(is_new.sum())
        self.attempts += is_new
        self.at_risk_s = np.where((mode != self.mode) | is_new, 0.0, self.at_risk_s)
        self.mode, self.pool = mode, pool
        self.starting_s = np.where(mode == WAIT, 0.0, self.starting_s)
        if count:
            self.starting_s[is_new] = self.draws.take(count)
            self.age_s[is_new] = self.session_cost[is_new] = 0.0

    def advance(self, elapsed_s: float, tick_s: float) -> None:
        """Let a tick pass: an instance costs, and trains after its change-over, until the work is done."""
        runs = (self.mode != WAIT) & self.is_open
        starting_s = np.minimum(self.starting_s, tick_s)
        trained_s = np.where(runs, np.minimum(tick_s - starting_s, self.work_s), 0.0)
        is_done = runs & (self.work_s <= tick_s - starting_s + 1e-9)
        used_s = np.where(is_done, starting_s + trained_s, np.where(runs, tick_s, 0.0))
        spot_price = self.market.price[self.at, np.maximum(self.pool, 0)]
        price = np.where(self.mode == SPOT, spot_price, self.market.on_demand_price)
        spent = used_s / 3600 * price
        self.cost += spent
        self.session_cost += spent
        self.age_s += used_s
        self.spot_s += np.where(self.mode == SPOT, used_s, 0.0)
        self.on_demand_s += np.where(self.mode == ON_DEMAND, used_s, 0.0)
        self.starting_s = np.maximum(self.starting_s - tick_s, 0.0)
        self.work_s -= trained_s
        if self.job.checkpoint_every_s:
            self.at_risk_s = np.where(self.mode == SPOT, self.at_risk_s + trained_s, 0.0)
            self.at_risk_s = np.where(self.at_risk_s >= self.job.checkpoint_every_s - 1e-9, 0.0, self.at_risk_s)
        self.finish_s = np.where(is_done, elapsed_s + used_s, self.finish_s)
        self._end(is_done)

    def outcome(self) -> Outcome:
        """Return how it went; what is not done by the deadline is done on-demand after it, and late."""
        is_late = self.is_open.copy()
        changeover_s = np.where(self.mode == ON_DEMAND, self.starting_s, self.job.changeover_s)
        rest_s = np.where(is_late, self.work_s + changeover_s, 0.0)
        return Outcome(
            cost=self.cost + rest_s / 3600 * self.market.on_demand_price,
            finish_s=np.where(is_late, self.job.deadline_s + rest_s, self.finish_s),
            is_late=is_late,
            attempts=self.attempts,
            losses=self.losses,
            lost_s=self.lost_s,
            spot_s=self.spot_s,
            on_demand_s=self.on_demand_s + rest_s,
        )
