"""What is known of a market beforehand: its own past, and what others' past has shown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from orchestrator.policy.base import NO_POOL, Flags, Floats, Ints
from orchestrator.policy.cells import IS_UP, Chain, Counts, cells_over_time
from orchestrator.policy.market import Market

PRIOR_WEIGHT = 100.0  # moves from each cell that others' past counts for
REFIT_S = 2 * 86400.0  # the own past is counted again after so long
SHIPPED = Path(__file__).parent / "prior.json"


@dataclass(frozen=True)
class Prior:
    """What others' past has shown.

    Args:
        one: counts of single pools.
        several: of several pools of one type, of which the best one is followed.
        source: in words.
    """

    one: Counts
    several: Counts
    source: str

    @classmethod
    def shipped(cls) -> Prior:
        """Return the counts that are shipped (`prior.json` names their source)."""
        told = json.loads(SHIPPED.read_text())
        one, several = (
            Counts(np.array(told[key]["moves"], float), np.array(told[key]["switches"], float))
            for key in ("one", "several")
        )
        return cls(one, several, str(told["source"]))

    @classmethod
    def from_archive(cls, markets: Iterable[Market], source: str) -> Prior:
        """Return the counts of an archive: of each pool by itself, and of the sets of more than one."""
        one, several = Counts.none(), Counts.none()
        for market in markets:
            for pool in range(len(market.pools)):
                one += Forecast(_alone(market, pool)).counts(market.points)
            if len(market.pools) > 1:
                several += Forecast(market).counts(market.points)
        return cls(one, several if several.moves.any() else one, source)

    def with_losses(self, factor: float, source: str) -> Prior:
        """Return counts in which capacity is lost so many times as often, and is there for the less.

        Args:
            factor: 1 changes nothing.
            source: what says so.
        """
        return Prior(_losing(self.one, factor), _losing(self.several, factor), f"{self.source}; {source}")

    def of(self, pools: int) -> Counts:
        """Return the counts for a market of so many pools."""
        return self.one if pools == 1 else self.several


def _losing(counts: Counts, factor: float) -> Counts:
    """Return counts whose moves from an up cell to a down cell are so many times as many, each row with its old sum."""
    moves = counts.moves.copy()
    lost = moves[np.ix_(IS_UP, ~IS_UP)]
    stays = moves[np.ix_(IS_UP, IS_UP)]
    before = moves[IS_UP].sum(axis=1, keepdims=True)
    more = np.minimum(lost.sum(axis=1, keepdims=True) * factor, 0.95 * before)
    moves[np.ix_(IS_UP, ~IS_UP)] = _scaled(lost, more)
    moves[np.ix_(IS_UP, IS_UP)] = _scaled(stays, before - more)
    switches = np.minimum(counts.switches * factor, moves)
    return Counts(moves, switches)


def _scaled(rows: Floats, sums: Floats) -> Floats:
    old = rows.sum(axis=1, keepdims=True)
    scaled: Floats = rows * np.divide(sums, old, out=np.zeros_like(old), where=old > 0)
    return scaled


def _alone(market: Market, pool: int) -> Market:
    where = slice(pool, pool + 1)
    name = market.pools[pool]
    return Market(
        name, (name,), market.gap_s, market.available[:, where], market.price[:, where], market.on_demand_price
    )


class Forecast:
    """Cells, pools and chains of a market's record. What it says of a moment follows from the record up to it.

    Several pools are followed as one: up while any of them is; an instance stays in its pool until that is lost.

    Args:
        market: the record.
        changeover_s: what moving to another pool costs: it makes a pool that lasts worth a higher price.
        prior: what others' past has shown; needed for `chain` only.
    """

    def __init__(self, market: Market, changeover_s: float = 0.0, prior: Prior | None = None) -> None:
        self.market, self.changeover_s, self.prior = market, changeover_s, prior
        self._chains: dict[int, Chain] = {}

    @cached_property
    def pool_cells(self) -> Ints:
        """(T, Z) cells of each pool by itself."""
        return cells_over_time(self.market.available, self.market.gap_s)

    @cached_property
    def best(self) -> Ints:
        """(T,) the pool to take at each point: the least price x (1 + change-over / expected life); NO_POOL if none."""
        available, price = self.market.available, self.market.price
        if len(self.market.pools) == 1:
            return np.where(available[:, 0], 0, NO_POOL)
        life_s = self._lives()[self.pool_cells]
        worth = np.where(available, price * (1 + self.changeover_s / np.maximum(life_s, 60.0)), np.inf)
        return np.where(available.any(axis=1), worth.argmin(axis=1), NO_POOL)

    def _lives(self) -> Floats:
        prior = self.prior.one if self.prior is not None else Counts.none()
        return Chain.of(Counts.none(), prior, PRIOR_WEIGHT).life_s()

    @cached_property
    def _followed(self) -> tuple[Ints, Flags]:
        """(T,) cells of the pools as one, and whether the pool that was followed was lost since the point before."""
        available = self.market.available
        if len(self.market.pools) == 1:
            return self.pool_cells[:, 0], np.zeros(len(available), bool)
        is_lost, at = [], NO_POOL
        for row, best in zip(available.tolist(), self.best.tolist(), strict=True):
            is_lost.append(at != NO_POOL and not row[at])
            at = best if at == NO_POOL or is_lost[-1] else at
        is_any_up = np.array(available.any(axis=1), bool)[:, None]
        return cells_over_time(is_any_up, self.market.gap_s)[:, 0], np.array(is_lost, bool)

    @property
    def on_demand_price(self) -> float:
        """The price of on-demand, an hour."""
        return self.market.on_demand_price

    def best_at(self, at: Ints) -> Ints:
        """Return the pool to take at each of these points."""
        best: Ints = self.best[at]
        return best

    def cells_at(self, at: Ints) -> Ints:
        """Return the cell of the pools as one at each of these points."""
        cells: Ints = self.cells[at]
        return cells

    @property
    def cells(self) -> Ints:
        """(T,) cells of the pools as one."""
        return self._followed[0]

    def counts(self, until: int) -> Counts:
        """Return the counts of the record before a point."""
        cells, is_lost = self._followed
        return Counts.of(cells[:until], is_lost[:until], self.market.gap_s)

    def season(self, at: Ints) -> Ints:
        """Return the number of the re-fit that holds at each of these points."""
        return at // max(1, round(REFIT_S / self.market.gap_s))

    def chain(self, season: int) -> Chain:
        """Return the chain of a season: of the record before it, and of the prior."""
        if season not in self._chains:
            own = self.counts(season * max(1, round(REFIT_S / self.market.gap_s)))
            prior = self.prior.of(len(self.market.pools)) if self.prior is not None else Counts.none()
            self._chains[season] = Chain.of(own, prior, PRIOR_WEIGHT)
        return self._chains[season]

    def typical_price(self, season: int) -> float:
        """Return the mean price, an hour, of the pools to take before a season; the least at first without a past."""
        end = season * max(1, round(REFIT_S / self.market.gap_s))
        best = self.best[:end]
        taken = np.flatnonzero(best != NO_POOL)
        if not len(taken):
            return float(self.market.price[0].min())
        return float(self.market.price[taken, best[taken]].mean())
