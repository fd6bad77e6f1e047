"""What is known of a pool at a moment, in one of a few cells: is it up, for how long, and how often was it lately.

A cell is observed, not guessed: it follows from the record before the moment. How one cell leads to another is counted;
that is all that the plan (`plan.py`) knows of a market.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.policy.base import Flags, Floats, Ints

STEP_S = 600.0  # the step of the chain, and of the plan
AGES_S = (1800.0, 7200.0, 28800.0)  # since the last change: under half an hour, two hours, eight hours, more
SHARES_UP = (0.6, 0.85)  # of the time in which it was up lately, where it is up now
SHARES_DOWN = (0.25, 0.6)
MEMORY_S = 12 * 3600.0  # of "lately": weights fall by e in that time
AGE_AT_FIRST_S = 1800.0
SHARE_AT_FIRST = 0.5

UP_CELLS = (len(AGES_S) + 1) * (len(SHARES_UP) + 1)
CELLS = UP_CELLS + (len(AGES_S) + 1) * (len(SHARES_DOWN) + 1)
IS_UP: Flags = np.arange(CELLS) < UP_CELLS


@dataclass
class Watch:
    """What is remembered of Z pools between two looks, so that each look takes no longer than the one before.

    Args:
        is_up: (Z,) at the last look; None before the first.
        age_s: (Z,) since its last change.
        share: (Z,) of the time in which it was up lately.
    """

    is_up: Flags | None = None
    age_s: Floats | None = None
    share: Floats | None = None

    def look(self, is_up: Flags, passed_s: float) -> Ints:
        """Take over what is seen now, (Z,), so many seconds after the last look; return the cells, (Z,)."""
        if self.is_up is None or self.age_s is None or self.share is None:
            self.age_s = np.full(is_up.shape, AGE_AT_FIRST_S)
            self.share = np.full(is_up.shape, SHARE_AT_FIRST)
        else:
            self.age_s = np.where(is_up == self.is_up, self.age_s + passed_s, 0.0)
        weight = 1 - np.exp(-passed_s / MEMORY_S)
        self.share = self.share + weight * (is_up - self.share)
        self.is_up = is_up
        return cells_of(is_up, self.age_s, self.share)


def cells_of(is_up: Flags, age_s: Floats, share: Floats) -> Ints:
    """Return the cells of pools, of one shape: by their state, its age and their share of time."""
    age = np.searchsorted(AGES_S, age_s, side="right")
    up = age * (len(SHARES_UP) + 1) + np.searchsorted(SHARES_UP, share)
    down = UP_CELLS + age * (len(SHARES_DOWN) + 1) + np.searchsorted(SHARES_DOWN, share)
    return np.where(is_up, up, down)


def cells_over_time(available: Flags, gap_s: float) -> Ints:
    """Return (T, Z) cells of a record, each from what is before it and at it."""
    watch = Watch()
    return np.array([watch.look(row, gap_s) for row in available]).reshape(available.shape)


@dataclass(frozen=True)
class Counts:
    """How often each cell led to each other one within a step.

    Args:
        moves: (CELLS, CELLS) from a cell, to a cell.
        switches: (CELLS, CELLS) how many of those between two up cells lost their pool, while another one was up.
    """

    moves: Floats
    switches: Floats

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.moves + other.moves, self.switches + other.switches)

    @classmethod
    def none(cls) -> Counts:
        """Return counts of nothing."""
        return cls(np.zeros((CELLS, CELLS)), np.zeros((CELLS, CELLS)))

    @classmethod
    def of(cls, cells: Ints, is_lost: Flags, gap_s: float) -> Counts:
        """Return the counts of a record.

        Args:
            cells: (T,) one after the other.
            is_lost: (T,) whether the pool that was followed was lost since the point before.
            gap_s: between two points.
        """
        lag = max(1, round(STEP_S / gap_s))
        if len(cells) <= lag:
            return cls.none()
        made = cls.none()
        pairs = (cells[:-lag], cells[lag:])
        lost = np.cumsum(np.concatenate([[0], is_lost]))
        is_switch = (lost[lag + 1 :] - lost[1:-lag] > 0) & IS_UP[pairs[0]] & IS_UP[pairs[1]]
        np.add.at(made.moves, pairs, 1.0 / lag)
        np.add.at(made.switches, (pairs[0][is_switch], pairs[1][is_switch]), 1.0 / lag)
        return made


@dataclass(frozen=True)
class Chain:
    """Where a cell leads to within a step.

    Args:
        moves: (CELLS, CELLS) chances; each row sums to one.
        switch: (CELLS, CELLS) the chance that a move between two up cells loses the pool.
    """

    moves: Floats
    switch: Floats

    @classmethod
    def of(cls, own: Counts, prior: Counts, prior_weight: float) -> Chain:
        """Return the chain of a pool's own counts and of others', which weigh as much as so many moves from each cell.

        A cell that was never seen stays what it is.
        """
        elsewhere = prior.moves + np.eye(CELLS)
        mixed = own.moves + prior_weight * elsewhere / elsewhere.sum(axis=1, keepdims=True)
        share = np.divide(prior.switches, prior.moves, out=np.zeros_like(prior.moves), where=prior.moves > 0)
        switched = own.switches + share * (mixed - own.moves)
        return cls(mixed / mixed.sum(axis=1, keepdims=True), switched / np.maximum(mixed, 1e-12))

    def life_s(self) -> Floats:
        """Return (CELLS,) how long an instance lives on average that is up in a cell; 0 in a down cell."""
        stays = (self.moves * (1 - self.switch))[:UP_CELLS, :UP_CELLS]
        steps = np.linalg.solve(np.eye(UP_CELLS) - 0.999 * stays, np.ones(UP_CELLS))
        return np.concatenate([steps * STEP_S, np.zeros(CELLS - UP_CELLS)])
