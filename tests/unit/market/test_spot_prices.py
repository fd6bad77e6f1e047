"""Rows of the spot market: what is a market price, and what is recorded."""

from __future__ import annotations

from decimal import Decimal

import pytest

from orchestrator.market.pools import Pool
from orchestrator.market.price_series import PricePoint
from orchestrator.market.spot_prices import (
    MarketRow,
    cheapest_zones,
    doubt,
    lowest,
    pool_row,
    ranked,
    recorded_rows,
    saves,
)

START = 1_790_000_000.0


def test_what_equals_on_demand_a_tenth_of_it_or_is_missing_is_no_market() -> None:
    assert "equals on-demand" in doubt(Decimal("14.4"), Decimal("14.40"))
    assert "tenth" in doubt(Decimal("0.09"), Decimal("0.9"))
    assert doubt(None, Decimal("0.9")) == "no spot price"
    assert doubt(Decimal(0), Decimal("0.9")) == "not above zero"
    assert doubt(Decimal("0.27"), Decimal("0.9")) == ""
    assert doubt(Decimal("0.27"), None) == ""


def row(zone: str, price: str | None, on_demand: str = "0.9", name: str = "p2.xlarge") -> MarketRow:
    """Return the row of a pool whose price has stood for ever."""
    return pool_row(
        Pool(name, zone, zone[:-1]),
        [] if price is None else [PricePoint(0, Decimal(price))],
        start=START,
        end=START + 100,
        on_demand_usd_h=Decimal(on_demand),
        source="live",
        as_of=START,
    )


def test_a_price_without_a_market_is_never_ranked_cheapest() -> None:
    rows = [row("us-east-1a", "0.09"), row("us-east-1b", "0.5"), row("us-west-2a", "0.3"), row("us-west-2b", None)]
    assert [r.zone for r in ranked(rows)] == ["us-west-2a", "us-east-1b", "us-east-1a", "us-west-2b"]
    assert lowest(rows)["p2.xlarge"].zone == "us-west-2a"
    assert [r.zone for r in cheapest_zones(rows)] == ["us-west-2a", "us-east-1b"]
    assert "p2.xlarge" not in lowest([row("us-east-1a", "0.09"), row("us-east-1b", "0.9")])
    assert saves(rows[0]) is None
    assert saves(rows[2]) == pytest.approx(2 / 3)


def test_what_is_recorded_says_so_and_where_nothing_is() -> None:
    here, there = recorded_rows(["p2.xlarge"], ["us-east-1", "eu-west-1"], START)
    assert (here.source, here.low_usd_h, here.now_usd_h) == ("recorded", Decimal("0.271"), None)
    assert there.note == "not recorded in this region"
    assert recorded_rows(["p5.4xlarge"], ["us-east-1"], START)[0].note == "no spot price recorded"
