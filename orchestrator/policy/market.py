"""A market over time: which pools have capacity at each moment, and at which price."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from orchestrator.policy.base import Flags, Floats, Ints


@dataclass(frozen=True)
class Market:
    """A record of pools of one instance type.

    Args:
        name: of the set: a pool's name, `TYPE/REGION` or `TYPE/all`.
        pools: their names.
        gap_s: between two points.
        available: (T, Z) whether a spot instance could be had, and a running one was kept.
        price: (T, Z) of a spot instance; in the unit of `on_demand_price`.
        on_demand_price: of an on-demand instance.
    """

    name: str
    pools: tuple[str, ...]
    gap_s: float
    available: Flags
    price: Floats
    on_demand_price: float = 1.0

    @property
    def points(self) -> int:
        """How many points the record has."""
        return int(self.available.shape[0])

    @property
    def duration_s(self) -> float:
        """How long the record is."""
        return self.points * self.gap_s

    def index(self, begin: Ints, elapsed_s: float) -> Ints:
        """Return the point that holds `elapsed_s` after each of these points."""
        at: Ints = begin + int(np.floor(elapsed_s / self.gap_s + 1e-9))
        return at

    def until(self, point: int) -> Market:
        """Return the record of the time before a point."""
        return replace(self, available=self.available[:point], price=self.price[:point])

    def starts(self, count: int, deadline_s: float, seed: int) -> Ints:
        """Return random points at which a job can start and still have its deadline within the record.

        Raises:
            ValueError: the record is shorter than the deadline.
        """
        last = self.points - int(np.ceil(deadline_s / self.gap_s - 1e-9))
        if last < 0:
            raise ValueError(
                f"{self.name} lasts {self.duration_s / 3600:.1f} h: one of {deadline_s / 3600:.1f} h does not fit"
            )
        drawn: Ints = np.random.default_rng(seed).integers(0, last + 1, size=count)
        return drawn
