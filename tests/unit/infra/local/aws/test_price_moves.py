"""Moves of the recorded spot prices: what a test or a faults file changes of them."""

import pytest

from infra.local.aws import spot_market
from infra.local.aws.price_moves import Move, MovedMarket

NOW = 1_790_000_000.0


def test_a_move_changes_the_price_from_its_time_on_and_stands_in_the_history() -> None:
    moved = MovedMarket()
    moved.add(Move(NOW - 3600, factor=1.5, instance_type="p2.xlarge", zone="us-east-1b"))
    pool = ("p2.xlarge", "us-east-1b")
    assert moved.spot_usd_h(*pool, NOW - 3601) == spot_market.spot_usd_h(*pool, NOW - 3601)
    assert moved.spot_usd_h(*pool, NOW) == pytest.approx(1.5 * spot_market.spot_usd_h(*pool, NOW), abs=1e-4)
    assert moved.spot_usd_h("p2.xlarge", "us-east-1c", NOW) == spot_market.spot_usd_h("p2.xlarge", "us-east-1c", NOW)
    changes = list(moved.history(*pool, NOW - 86400, NOW))
    assert NOW - 3600 in {change.time for change in changes}
    assert [change.time for change in changes] == sorted({change.time for change in changes}, reverse=True)
    assert sum(change.time <= NOW - 86400 for change in changes) == 1
    (only,) = moved.history(*pool, NOW, NOW)
    assert only.usd_h == moved.spot_usd_h(*pool, NOW)


def test_no_move_lifts_a_price_above_on_demand() -> None:
    moved = MovedMarket()
    moved.add(Move(NOW, usd_h=99.0))
    assert moved.spot_usd_h("p2.xlarge", "us-east-1b", NOW) == 0.9
    moved.clear()
    assert moved.spot_usd_h("p2.xlarge", "us-east-1b", NOW) < 0.4
    assert list(moved.history("p2.xlarge", "us-east-1f", NOW - 86400, NOW)) == []
