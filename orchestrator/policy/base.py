"""What a policy is told, and what it answers: for one job, or for many jobs of one kind side by side.

Shapes: N jobs, Z pools. A live run is N = 1. All times are in seconds, all prices in one unit an hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ints = NDArray[np.intp]

WAIT, SPOT, ON_DEMAND = 0, 1, 2
"""What a job can do: nothing, on a spot instance, or on an on-demand instance."""

NO_POOL = -1


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Args:
        work_s: useful seconds of training.
        deadline_s: time that there is, from the start.
        changeover_s: what each start of an instance costs before it trains: boot, set-up, restore.
        margin_s: a high quantile of those to on-demand; the safety rule keeps that much slack.
        checkpoint_every_s: training that a loss takes at most; 0: the program saves at the notice.
    """

    work_s: float
    deadline_s: float
    changeover_s: float
    margin_s: float = -1.0
    checkpoint_every_s: float = 0.0

    def __post_init__(self) -> None:
        if self.margin_s < 0:
            object.__setattr__(self, "margin_s", self.changeover_s)

    @property
    def slack(self) -> float:
        """The time beyond the work, as a share of the work."""
        return self.deadline_s / self.work_s - 1


@dataclass
class View:
    """What is known at a decision, and nothing that comes later.

    Args:
        elapsed_s: since the start of the jobs.
        left_s: until their deadline.
        tick_s: until the next decision, unless something happens before.
        at: (N,) index of this moment in the market's record; policies that learn look at earlier ones only.
        work_s: (N,) training that is left.
        at_risk_s: (N,) training since the newest checkpoint.
        mode: (N,) WAIT, SPOT or ON_DEMAND: what each job does now; a spot instance that was lost is WAIT.
        pool: (N,) index of the pool of its spot instance, NO_POOL without one.
        starting_s: (N,) what is left of the change-over of its instance.
        available: (N, Z) whether a spot instance can be had.
        price: (N, Z) of a spot instance.
        on_demand_price: of an on-demand instance.
        is_point: whether something may have changed in the market since the last decision.
    """

    elapsed_s: float
    left_s: float
    tick_s: float
    at: Ints
    work_s: Floats
    at_risk_s: Floats
    mode: Ints
    pool: Ints
    starting_s: Floats
    available: Flags
    price: Floats
    on_demand_price: float
    is_point: bool = True

    @property
    def slack_s(self) -> Floats:
        """(N,) time beyond the work, if the instance is lost now."""
        return self.left_s - self.work_s - self.at_risk_s

    def cheapest(self) -> Ints:
        """(N,) the available pool with the lowest price, NO_POOL where none is available."""
        prices = np.where(self.available, self.price, np.inf)
        return np.where(self.available.any(axis=1), prices.argmin(axis=1), NO_POOL)


@dataclass
class Decision:
    """What each job does until the next decision.

    Args:
        mode: (N,) WAIT, SPOT or ON_DEMAND.
        pool: (N,) the pool of its spot instance; ignored elsewhere. The pool that it has means: keep the instance.
        values: what was compared, by name, (N,) each: the expected cost of each way, where a policy computes it.
    """

    mode: Ints
    pool: Ints
    values: Mapping[str, Floats]


class Policy(Protocol):
    """Decides. It keeps nothing between two decisions that is not in the view, but what it learns of the market."""

    name: ClassVar[str]
    is_safe: ClassVar[bool]
    """Whether the safety rule stands above it: only `spot` goes without it, and `on-demand` needs none."""

    def decide(self, job: Job, view: View) -> Decision:
        """Return what the jobs do now."""
        ...


def on_spot(view: View, otherwise: Ints) -> Decision:
    """Return the decision that all baselines share: keep a live spot instance, else take the cheapest pool's.

    Args:
        view: what is known.
        otherwise: (N,) what a job does for which there is no spot instance.
    """
    lives = view.mode == SPOT
    best = view.cheapest()
    pool = np.where(lives, view.pool, best)
    return Decision(np.where(pool != NO_POOL, SPOT, otherwise), pool, {})
