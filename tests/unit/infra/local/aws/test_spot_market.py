"""The embedded cloud's spot market: pure prices."""

import itertools

import pytest

from infra.local.aws import spot_market

NOW = 1_790_000_000.0
POOLS = [
    (instance_type, zone)
    for instance_type in spot_market.instance_types()
    for region in spot_market.regions()
    for zone in spot_market.offering_zones(instance_type, region)
]


def test_not_every_type_is_in_every_zone() -> None:
    assert spot_market.offering_zones("p2.xlarge", "ap-northeast-1") == []
    assert "us-east-1f" not in spot_market.offering_zones("p2.xlarge", "us-east-1")
    assert spot_market.offering_zones("no.such", "us-east-1") == []
    assert spot_market.zones("mars-north-1") == []


@pytest.mark.parametrize(("instance_type", "zone"), POOLS)
def test_a_price_stays_near_its_recorded_level_and_never_above_on_demand(instance_type: str, zone: str) -> None:
    region = spot_market.region_of(zone)
    base = spot_market.load_pools()["types"][instance_type]["pools"][region]["spot_usd_h"][zone]
    for day in range(90):
        usd_h = spot_market.spot_usd_h(instance_type, zone, NOW - day * 86400)
        assert 0.9 * base <= usd_h <= spot_market.on_demand_usd_h(instance_type, region)
        assert usd_h <= 1.1 * base


def test_a_price_moves_in_steps() -> None:
    changes = list(spot_market.history("p2.xlarge", "us-east-1b", NOW - 7 * 86400, NOW))
    assert 7 * 5 <= len(changes) <= 7 * 7
    assert len({change.usd_h for change in changes}) > 10
    for change in changes:
        assert spot_market.spot_usd_h("p2.xlarge", "us-east-1b", change.time) == change.usd_h
        assert spot_market.spot_usd_h("p2.xlarge", "us-east-1b", change.time - 1) != change.usd_h


def test_a_price_without_a_market_stays_at_on_demand() -> None:
    changes = spot_market.history("p5.48xlarge", "us-east-1f", NOW - 86400, NOW)
    assert {change.usd_h for change in changes} == {55.04}


def test_a_window_holds_the_changes_in_it_and_the_last_one_before_it() -> None:
    start, end = NOW - 86400, NOW - 3600
    newest, *_, oldest = changes = list(spot_market.history("g5.xlarge", "us-west-2a", start, end))
    assert newest.time <= end
    assert oldest.time <= start
    assert all(change.time > start for change in changes[:-1])
    assert all(later.time > earlier.time for later, earlier in itertools.pairwise(changes))


def test_a_window_of_one_moment_holds_the_price_in_force() -> None:
    (only,) = spot_market.history("g5.xlarge", "us-west-2a", NOW, NOW)
    assert only.usd_h == spot_market.spot_usd_h("g5.xlarge", "us-west-2a", NOW)


def test_two_windows_tell_the_same_story() -> None:
    wide = set(spot_market.history("g4dn.xlarge", "us-east-1a", NOW - 30 * 86400, NOW))
    narrow = set(spot_market.history("g4dn.xlarge", "us-east-1a", NOW - 3 * 86400, NOW))
    assert narrow < wide


def test_a_pool_that_is_not_offered_has_no_history_and_no_price() -> None:
    assert list(spot_market.history("p2.xlarge", "us-east-1f", NOW - 86400, NOW)) == []
    assert list(spot_market.history("p2.xlarge", "us-east-1b", NOW, NOW - 86400)) == []
    with pytest.raises(KeyError):
        spot_market.spot_usd_h("p2.xlarge", "us-east-1f", NOW)
