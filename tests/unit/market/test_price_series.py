"""A price over time: weighted by how long it was in force."""

from __future__ import annotations

import random
from decimal import Decimal
from fractions import Fraction

import pytest

from orchestrator.market.price_series import PricePoint, price_at, window


def by_the_second(changes: list[PricePoint], start: int, end: int) -> Fraction | None:
    """Return the mean the long way: look up the price of every second."""
    found = []
    for second in range(start, end):
        before = [(c.at, place, c.usd_h) for place, c in enumerate(changes) if c.at <= second]
        if before:
            found.append(Fraction(max(before)[2]))
    return sum(found, Fraction(0)) / len(found) if found else None


@pytest.mark.parametrize("seed", range(60))
def test_the_mean_weighs_each_price_by_the_time_it_stood(seed: int) -> None:
    dice = random.Random(seed)
    start, end = 1000, 1000 + dice.randint(1, 300)
    moments = [float(dice.randint(700, 1400)) for _ in range(dice.randint(0, 9))]
    changes = [PricePoint(at, Decimal(dice.randint(1, 9999)) / 10000) for at in moments]
    wanted = by_the_second(changes, start, end)
    seen = window(changes, start, end)
    assert (seen is None) == (wanted is None)
    if seen is not None and wanted is not None:
        assert abs(Fraction(seen.mean_usd_h) - wanted) < Fraction(1, 10**20)
        assert seen.low_usd_h <= seen.mean_usd_h <= seen.high_usd_h


def test_the_price_before_the_window_stands_until_the_first_change() -> None:
    seen = window([PricePoint(0, Decimal("0.1")), PricePoint(75, Decimal("0.5"))], 50, 100)
    assert seen is not None
    assert seen.mean_usd_h == Decimal("0.3")
    assert (seen.changes, seen.known_from) == (1, 50)


def test_volatility_is_the_deviation_over_the_mean() -> None:
    still = window([PricePoint(0, Decimal("0.2"))], 0, 100)
    moved = window([PricePoint(0, Decimal("0.1")), PricePoint(50, Decimal("0.3"))], 0, 100)
    assert still is not None
    assert still.volatility == 0
    assert moved is not None
    assert moved.volatility == pytest.approx(0.5)


def test_the_price_in_force_is_that_of_the_last_change_before() -> None:
    changes = [PricePoint(20, Decimal("0.3")), PricePoint(10, Decimal("0.2"))]  # newest first, as EC2 gives them
    assert price_at(changes, 9.9) is None
    assert price_at(changes, 10) == price_at(changes, 19.9) == Decimal("0.2")
    assert price_at(changes, 1e9) == Decimal("0.3")
