"""Markets, jobs and policies for the tests of policies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.policy.base import NO_POOL, ON_DEMAND, SPOT, Decision, Job, Policy, View
from orchestrator.policy.market import Market
from orchestrator.policy.simulator import Outcome, simulate

GAP_S = 600.0
HOUR_S = 3600.0


def market_of(*pools: str, price: Sequence[float] | float = 0.3, gap_s: float = GAP_S) -> Market:
    """Return a market from texts: `11100` is a pool that is there for three points."""
    available = np.array([[letter == "1" for letter in pool] for pool in pools]).T
    prices = np.broadcast_to(np.asarray(price, float), available.shape).copy()
    return Market("hand-made", tuple("abcdef"[: len(pools)]), gap_s, available, prices)


def random_market(seed: int, points: int = 400, pools: int = 1, stays: float = 0.9) -> Market:
    """Return a market that changes at random."""
    random = np.random.default_rng(seed)
    changes = random.random((points, pools)) > stays
    available = (np.cumsum(changes, axis=0) + random.integers(0, 2, pools)) % 2 == 0
    prices = np.repeat(0.2 + 0.3 * random.random((points // 10 + 1, pools)), 10, axis=0)[:points]
    return Market(f"random-{seed}", tuple("abcdef"[:pools]), GAP_S, available, prices)


def job(work_h: float, slack: float, changeover_s: float = 300.0, **more: float) -> Job:
    """Return a job."""
    return Job(work_h * HOUR_S, round(work_h * 60 * (1 + slack)) * 60.0, changeover_s, **more)


def run(market: Market, what: Job, policy: Policy, **more: object) -> Outcome:
    """Return how one job goes that starts with the record."""
    return simulate(market, what, policy, np.array([0]), **more)  # type: ignore[arg-type]


class Recorded:
    """A policy whose decisions are written down: (seconds since the start, mode, pool)."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.name, self.is_safe = policy, policy.name, policy.is_safe
        self.told: list[tuple[float, list[int], list[int]]] = []

    def decide(self, what: Job, view: View) -> Decision:
        """Pass it on, and write it down."""
        decision = self.policy.decide(what, view)
        pools = np.where(decision.mode == SPOT, decision.pool, NO_POOL)
        self.told.append((view.elapsed_s, decision.mode.tolist(), pools.tolist()))
        return decision


class Erratic:
    """A policy that does anything at any time: the safety rule has to hold nevertheless."""

    name = "erratic"
    is_safe = True

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def decide(self, what: Job, view: View) -> Decision:
        """Return something at random that is possible."""
        count, pools = view.available.shape
        mode = self.random.integers(0, ON_DEMAND + 1, count)
        mode = np.where(self.random.random(count) < 0.9, view.mode, mode)
        pool = np.where(view.mode == SPOT, view.pool, self.random.integers(0, pools, count))
        can = view.available[np.arange(count), np.maximum(pool, 0)]
        return Decision(np.where((mode == SPOT) & ~can, 0, mode), pool, {})
