"""What a job with a deadline may cost, before it starts: the policy is run on futures that the market's chain draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.policy.base import NO_POOL, Ints, Job
from orchestrator.policy.cells import CELLS, IS_UP, STEP_S, Chain
from orchestrator.policy.choice import policy_of
from orchestrator.policy.forecast import PRIOR_WEIGHT, Prior
from orchestrator.policy.live import Seen
from orchestrator.policy.market import Market
from orchestrator.policy.simulator import simulate

FUTURES = 200
SEED = 1


@dataclass(frozen=True)
class Outlook:
    """An estimate, in US dollars of instances alone.

    Args:
        mean_usd: over the futures.
        high_usd: 90 % of the futures are at or under it.
        most_usd: on-demand from the start to the deadline: no way of keeping it costs more.
        late_share: of the futures: 0 for a policy that keeps to the safety rule, unless the time is too short.
        spot_share: of the machine time that is spot.
        costs_usd: of each future, in ascending order.
        machine_h: of a future, on average.
    """

    mean_usd: float
    high_usd: float
    most_usd: float
    late_share: float
    spot_share: float
    costs_usd: tuple[float, ...]
    machine_h: float


def outlook(
    policy: str,
    job: Job,
    prior: Prior,
    *,
    pools: int,
    spot_usd_h: float,
    on_demand_usd_h: float,
    seen: Sequence[tuple[float, bool]] = (),
    count: int = FUTURES,
) -> Outlook:
    """Return what a job may cost.

    Args:
        policy: its name.
        job: what is done.
        prior: what is known of markets.
        pools: how many pools are asked.
        spot_usd_h, on_demand_usd_h: prices an hour.
        seen: (unix seconds, whether there was capacity), in the order of time.
        count: of the futures.
    """
    watched = Seen(prior.of(pools))
    for at, is_up in seen:
        watched.look(is_up=is_up, at=at)
    known = _Futures(watched, job, count, spot_usd_h, on_demand_usd_h)
    chosen = policy_of(policy, known, is_first_hour_free=True)
    outcome = simulate(known.market, job, chosen, known.starts, is_first_hour_free=True)
    machine_s = outcome.spot_s.sum() + outcome.on_demand_s.sum()
    return Outlook(
        mean_usd=float(outcome.cost.mean()),
        high_usd=float(np.quantile(outcome.cost, 0.9)),
        most_usd=on_demand_usd_h * max(job.deadline_s, job.work_s + job.margin_s) / 3600,
        late_share=float(outcome.is_late.mean()),
        spot_share=float(outcome.spot_s.sum() / machine_s) if machine_s else 0.0,
        costs_usd=tuple(np.sort(outcome.cost).tolist()),
        machine_h=float(machine_s / 3600 / count),
    )


class _Futures:
    """Futures of one market, one behind the other in a record, and what is known at each of its points."""

    def __init__(self, watched: Seen, job: Job, count: int, spot_usd_h: float, on_demand_usd_h: float) -> None:
        prior = watched.prior + watched.own
        self._chain = Chain.of(watched.own, watched.prior, PRIOR_WEIGHT)
        self._price = spot_usd_h
        self.on_demand_price = on_demand_usd_h
        steps = int(np.ceil(job.deadline_s / STEP_S - 1e-9)) + 1
        self._cells = _paths(self._chain, count, steps, seen=prior.moves.sum(axis=1))
        available = IS_UP[self._cells][:, None]
        prices = np.full(available.shape, spot_usd_h)
        self.market = Market("futures", ("any",), STEP_S, available, prices, on_demand_usd_h)
        self.starts: Ints = np.arange(count) * steps

    def season(self, at: Ints) -> Ints:
        return np.zeros_like(at)

    def chain(self, season: int) -> Chain:
        return self._chain

    def typical_price(self, season: int) -> float:
        return self._price

    def best_at(self, at: Ints) -> Ints:
        return np.where(IS_UP[self._cells[at]], 0, NO_POOL)

    def cells_at(self, at: Ints) -> Ints:
        cells: Ints = self._cells[at]
        return cells


def _paths(chain: Chain, count: int, steps: int, *, seen: np.ndarray) -> Ints:
    """Return (count * steps,) cells: paths of the chain, which begin where the prior was most of the time."""
    random = np.random.default_rng(SEED)
    share = seen / seen.sum() if seen.sum() else np.full(CELLS, 1 / CELLS)
    at = random.choice(CELLS, size=count, p=share)
    ways = np.cumsum(chain.moves, axis=1)
    paths = np.empty((count, steps), np.intp)
    for step in range(steps):
        paths[:, step] = at
        at = np.minimum((random.random(count)[:, None] > ways[at]).sum(axis=1), CELLS - 1)
    return paths.reshape(-1)
