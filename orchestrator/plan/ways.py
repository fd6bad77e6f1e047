"""Ways to get some work done by a deadline: types x pools x policies, each with its cost and its chances; pure.

Speeds are measured ones of this home, else predicted with their interval. How spot will be is drawn from counts of
other markets. Both are estimates, and their doubts are kept apart: being in time depends on the speed, costs on both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.market import catalog
from orchestrator.market.billing import other_usd_h
from orchestrator.market.budget import LARGE_DISK_GIB
from orchestrator.market.spot_prices import MarketRow
from orchestrator.policy.base import Job
from orchestrator.policy.forecast import Prior
from orchestrator.policy.outlook import Outlook, outlook

Z90 = 1.645  # the two-sided 90 % quantile of a normal distribution
POOLS = (("zone", 1), ("region", 3))  # one zone alone, and all of a region followed as one
GRID = 40  # points at which the work's distribution is looked at
FUTURES = 100


@dataclass(frozen=True)
class Speed:
    """How fast a type is.

    Args:
        work_h: hours of training, the middle of what is expected.
        spread: standard deviation of its logarithm; 0: it is known.
        basis: "measured", "predicted", "given".
    """

    work_h: float
    spread: float
    basis: str

    @classmethod
    def of_images(cls, images: float, mean: float, low: float, high: float, basis: str) -> Speed:
        """Return the speed of images an hour; `low` and `high` are a 90 % interval."""
        spread = math.log(high / low) / (2 * Z90) if 0 < low < high else 0.0
        return cls(images / mean / 3600, spread, basis)

    def chance_within(self, hours: float) -> float:
        """Return the chance that the work takes no longer."""
        if hours <= 0:
            return 0.0
        if self.spread == 0:
            return float(self.work_h <= hours)
        return 0.5 * (1 + math.erf(math.log(hours / self.work_h) / self.spread / math.sqrt(2)))

    def factors(self) -> list[float]:
        """Return factors of the work that are equally likely."""
        if self.spread == 0:
            return [1.0]
        return [math.exp(self.spread * _normal_quantile((place + 0.5) / GRID)) for place in range(GRID)]


@dataclass(frozen=True)
class Way:
    """One way, and what it may come to.

    Args:
        mean_usd: expected, with disk and address.
        high_usd: 90 % of the futures are at or under it.
        in_time: the chance of being done by the deadline.
        in_budget: the chance of costing no more than the budget; None without one.
    """

    instance_type: str
    region: str
    pools: str
    policy: str
    work_h: float
    basis: str
    mean_usd: float
    high_usd: float
    in_time: float
    in_budget: float | None
    price_source: str

    @property
    def chance(self) -> float:
        """The chance that it is done in time and in budget, as if the two had nothing to do with each other."""
        return self.in_time * (1.0 if self.in_budget is None else self.in_budget)

    def as_json(self) -> dict[str, Any]:
        """Return the way as `-o json` has it."""
        told = dict(vars(self))
        for name in ("work_h", "mean_usd", "high_usd", "in_time", "in_budget"):
            told[name] = None if told[name] is None else round(told[name], 6)
        return told


@dataclass(frozen=True)
class Asked:
    """What a way has to keep to.

    Args:
        deadline_h: hours that there are.
        budget_usd: None without one.
        changeover_s: what each start of an instance costs.
        margin_s: a high quantile of it.
        policies: their names.
    """

    deadline_h: float
    budget_usd: float | None
    changeover_s: float
    margin_s: float
    policies: Sequence[str]


def ways(
    speeds: dict[str, Speed],
    prices: dict[str, MarketRow],
    asked: Asked,
    prior_of: Callable[[MarketRow], Prior],
    done: Callable[[], None] = lambda: None,
) -> Iterator[Way]:
    """Give all ways of the types that have a speed and both prices.

    Args:
        speeds: by type.
        prices: by type: the lowest known spot price, with the on-demand price of its region.
        asked: what is to be kept.
        prior_of: gives the counts of other markets that stand for this one.
        done: is called after each of them.
    """
    for name, speed in speeds.items():
        row = prices.get(name)
        if row is None or row.rank_usd_h is None or row.on_demand_usd_h is None:
            continue
        for policy in asked.policies:
            for pools, count in POOLS if policy != "on-demand" else POOLS[:1]:
                yield _way(name, speed, row, asked, prior_of(row), policy=policy, pools=pools, count=count)
                done()


def _way(  # the inner part of three loops
    name: str, speed: Speed, row: MarketRow, asked: Asked, prior: Prior, *, policy: str, pools: str, count: int
) -> Way:
    spot, on_demand = float(row.rank_usd_h or 0), float(row.on_demand_usd_h or 0)
    beside_usd_h = float(other_usd_h(row.region, LARGE_DISK_GIB, 1))
    most_h = asked.deadline_h - asked.changeover_s / 3600
    work_h = min(speed.work_h, most_h)  # a way that is late is priced as if it were just in time, and then by its work
    job = Job(
        work_s=max(60.0, work_h * 3600), deadline_s=asked.deadline_h * 3600, changeover_s=asked.changeover_s,
        margin_s=min(asked.margin_s, max(asked.changeover_s, (asked.deadline_h - work_h) * 3600)),
    )  # fmt: skip
    found = outlook(policy, job, prior, pools=count, spot_usd_h=spot, on_demand_usd_h=on_demand, count=FUTURES)
    scale = speed.work_h / work_h
    costs = _costs(found, speed, scale, beside_usd_h)
    in_time = speed.chance_within(most_h) * (1 - found.late_share if policy == "spot" else 1.0)
    budget = asked.budget_usd
    return Way(
        instance_type=name,
        region=row.region,
        pools="-" if policy == "on-demand" else pools,
        policy=policy,
        work_h=speed.work_h,
        basis=speed.basis,
        mean_usd=sum(costs) / len(costs),
        high_usd=costs[min(len(costs) - 1, int(0.9 * len(costs)))],
        in_time=in_time,
        in_budget=None if budget is None else sum(usd <= budget for usd in costs) / len(costs),
        price_source=row.source,
    )


def _costs(found: Outlook, speed: Speed, scale: float, beside_usd_h: float) -> list[float]:
    """Return the costs of all futures at all speeds, ascending, with disk and address."""
    beside_usd = found.machine_h * beside_usd_h
    return sorted((usd + beside_usd) * scale * factor for usd in found.costs_usd for factor in speed.factors())


def frontier(found: Sequence[Way]) -> list[Way]:
    """Return the ways that no other one beats: none is as likely to be in time and in budget, and cheaper."""
    best: list[Way] = []
    for way in sorted(found, key=lambda way: (way.mean_usd, -way.chance)):
        if way.chance > 0 and (not best or way.chance > best[-1].chance + 1e-6):
            best.append(way)
    return best


def can_be_rented(name: str) -> bool:
    """Return whether a type can be rented: a retired one is no way to get anything done."""
    return not catalog.find(name).is_retired


def _normal_quantile(share: float) -> float:
    """Return the quantile of the standard normal distribution, by bisection."""
    low, high = -8.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        if 0.5 * (1 + math.erf(middle / math.sqrt(2))) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2
