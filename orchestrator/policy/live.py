"""A policy for one run that is led now: plain numbers in, one decision out. The policies are those of the simulator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.policy.base import NO_POOL, SPOT, Decision, Floats, Ints, Job, Policy, View
from orchestrator.policy.cells import STEP_S, UP_CELLS, Chain, Counts, Watch, cells_of
from orchestrator.policy.choice import policy_of
from orchestrator.policy.forecast import PRIOR_WEIGHT, Prior
from orchestrator.policy.planned import Planned
from orchestrator.policy.simulator import with_safety


@dataclass(frozen=True)
class Now:
    """What is known of a run at a decision.

    Args:
        elapsed_s: since its start.
        left_s: until its deadline; below zero after it.
        tick_s: until the next decision.
        work_s: training that is left.
        at_risk_s: training that a loss would take.
        mode: WAIT, SPOT or ON_DEMAND: what its machine is.
        starting_s: what is left of the change-over of its machine.
        is_spot_likely: whether a spot instance could be had: it is not known to be refused now.
        spot_price: of the cheapest pool, US dollars an hour.
        on_demand_price: US dollars an hour.
    """

    elapsed_s: float
    left_s: float
    tick_s: float
    work_s: float
    at_risk_s: float
    mode: int
    starting_s: float
    is_spot_likely: bool
    spot_price: float
    on_demand_price: float


@dataclass(frozen=True)
class Answer:
    """What to do.

    Args:
        mode: WAIT, SPOT or ON_DEMAND.
        is_forced: by the safety rule, against the policy.
        costs: what each way would cost until the end, as the policy expects, US dollars; {}: it expects nothing.
    """

    mode: int
    is_forced: bool
    costs: Mapping[str, float]


class LivePolicy:
    """A policy by its name, and what it has seen of the market so far.

    Args:
        name: one of `names.NAMES`.
        prior: what is known of other markets.
        pools: how many pools are asked.
        is_first_hour_free: whether AWS bills nothing for an instance that it takes back in its first hour.
    """

    def __init__(self, name: str, prior: Prior, *, pools: int, is_first_hour_free: bool = True) -> None:
        self.name = name
        self.seen = Seen(prior.of(pools))
        planned = Planned(self.seen, is_first_hour_free=is_first_hour_free, keeps_values=True)
        self._planned = planned if name == Planned.name else None
        self._policy: Policy = self._planned or policy_of(name, self.seen)
        self._job: Job | None = None

    def see(self, *, is_up: bool, at: float) -> None:
        """Take over that spot capacity was there, or was not, at a time (unix seconds)."""
        self.seen.look(is_up=is_up, at=at)

    def prepare(self, job: Job, spot_price: float, on_demand_price: float) -> None:
        """Make the plan for a job, which takes a second for one of days; decisions are quick then."""
        self._job = job
        self.seen.spot_price, self.seen.on_demand_price = spot_price, on_demand_price
        if self._planned is not None:
            self.seen.refit()
            self._planned.forget()
            self._planned.plan(job, 0)

    def decide(self, now: Now, *, margin_s: float, saves_at_notice: bool) -> Answer:
        """Return what the run does until the next decision; `prepare` was called before.

        Args:
            now: what is known.
            margin_s: a high quantile of change-overs to on-demand.
            saves_at_notice: whether the program saves when its machine is taken; else it loses what is at risk.
        """
        job = self._job
        if job is None:
            raise ValueError("prepare comes first")
        self.seen.is_up_now = now.is_spot_likely
        left_s = max(now.left_s, 0.0)
        view = View(
            elapsed_s=now.elapsed_s,
            left_s=left_s,
            tick_s=now.tick_s,
            at=np.zeros(1, np.intp),
            work_s=np.array([now.work_s]),
            at_risk_s=np.array([now.at_risk_s]),
            mode=np.array([now.mode]),
            pool=np.array([0 if now.mode == SPOT else NO_POOL]),
            starting_s=np.array([now.starting_s]),
            available=np.array([[now.is_spot_likely or now.mode == SPOT]]),
            price=np.array([[now.spot_price]]),
            on_demand_price=now.on_demand_price,
        )
        wished = self._policy.decide(job, view)
        safe = replace(job, margin_s=margin_s, checkpoint_every_s=0.0 if saves_at_notice else now.tick_s)
        kept = with_safety(safe, view, wished) if self._policy.is_safe else wished
        mode = int(kept.mode[0])
        return Answer(mode, mode != int(wished.mode[0]), _costs(wished))


def _costs(decision: Decision) -> dict[str, float]:
    return {name: float(value[0]) for name, value in decision.values.items() if 0 <= value[0] < 1e8}


class Seen:
    """What `Planned` asks a forecast for, of the one moment that is now.

    Args:
        prior: the counts of other markets.
    """

    def __init__(self, prior: Counts) -> None:
        self.prior, self.own = prior, Counts.none()
        self.watch, self.seen_at = Watch(), -math.inf
        self.is_up_now = True
        self.spot_price = self.on_demand_price = 1.0
        self._step: tuple[float, int] | None = None  # time and cell of the last step that was counted
        self._chain = Chain.of(self.own, prior, PRIOR_WEIGHT)

    def look(self, *, is_up: bool, at: float) -> None:
        """Take over whether there was capacity at a time (unix seconds); times do not go back."""
        passed_s = max(0.0, at - self.seen_at) if self.seen_at > -math.inf else 0.0
        cell = int(self.watch.look(np.array([is_up]), passed_s)[0])
        self.seen_at = at
        if self._step is None or at - self._step[0] > 2 * STEP_S:
            self._step = (at, cell)
        elif at - self._step[0] >= STEP_S:
            self.own.moves[self._step[1], cell] += 1
            self._step = (at, cell)

    def refit(self) -> None:
        """Make the chain anew from what was seen."""
        self._chain = Chain.of(self.own, self.prior, PRIOR_WEIGHT)

    def season(self, at: Ints) -> Ints:
        """Return 0: there is one chain at a time."""
        return np.zeros_like(at)

    def chain(self, season: int) -> Chain:
        """Return the chain of the last re-fit."""
        return self._chain

    def typical_price(self, season: int) -> float:
        """Return the price of spot, an hour."""
        return self.spot_price

    def best_at(self, at: Ints) -> Ints:
        """Return pool 0 where spot is likely, NO_POOL where it is not."""
        return np.full(at.shape, 0 if self.is_up_now else NO_POOL)

    def cells_at(self, at: Ints) -> Ints:
        """Return the cell of now; where the newest look was another one, a state that has just begun."""
        watch = self.watch
        if watch.is_up is None or watch.age_s is None or watch.share is None:
            return np.full(at.shape, 0 if self.is_up_now else UP_CELLS)
        age_s: Floats = np.where(watch.is_up == self.is_up_now, watch.age_s, 0.0)
        cell = cells_of(np.array([self.is_up_now]), age_s, watch.share)
        return np.full(at.shape, int(cell[0]))
