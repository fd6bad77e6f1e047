"""Which offers there are, and in which order they are tried."""

from __future__ import annotations

from decimal import Decimal

import pytest

from orchestrator import catalog
from orchestrator.cloud import Offer, Pool, PricePoint
from orchestrator.errors import Scope
from orchestrator.offers import is_market_signal, next_round, on_demand_offers, rules_out, spot_offers
from orchestrator.spec import check_price

A, B, C = (Pool("g4dn.xlarge", f"us-east-1{z}", "us-east-1") for z in "abc")
PRICES = {A: PricePoint(0, 0.21), B: PricePoint(0, 0.19), C: PricePoint(0, 0.23)}


def test_offers_are_ranked_by_price() -> None:
    assert [o.pool for o in spot_offers([A, B, C], PRICES, None)] == [B, A, C]


def test_the_cap_leaves_out_what_is_above_it() -> None:
    assert [o.pool for o in spot_offers([A, B, C], PRICES, Decimal("0.2"))] == [B]


@pytest.mark.parametrize("price", [0.526, 0.0526, 0.0, -1.0])
def test_a_price_that_is_no_market_signal_is_never_ranked_cheapest(price: float) -> None:
    assert not is_market_signal(price, 0.526)
    offers = spot_offers([A, B], {**PRICES, A: PricePoint(0, price)}, None)
    assert [o.pool for o in offers] == [B, A]
    assert offers[-1].price_usd_h == 0.526


def test_a_pool_without_a_price_comes_last() -> None:
    assert [o.pool for o in spot_offers([A, B], {A: PRICES[A]}, None)] == [A, B]


def test_on_demand_prices_are_the_recorded_ones_and_say_so() -> None:
    offers = on_demand_offers([A])
    assert offers == [Offer(A, "on-demand", 0.526, f"recorded {catalog.recorded_on()}")]


def test_after_a_loss_the_lost_pools_come_last_the_latest_at_the_end() -> None:
    offers = spot_offers([A, B, C], PRICES, None)
    assert [o.pool for o in next_round(offers, [B, A])] == [C, B, A]


@pytest.mark.parametrize("text", ["-1", "0", "nan", "inf", "-inf", "cheap", "", "0.001", "1e", "$1"])
def test_a_price_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="--max-price"):
        check_price(text)


def test_every_figure_of_the_catalog_names_its_source() -> None:
    for known in catalog.all_types():
        for field in (
            "gpu",
            "compute_capability",
            "fp32_tflops",
            "bandwidth_gb_s",
            "gpu_memory_gib",
            "vcpus",
            "on_demand_usd_h",
        ):
            assert known.sources[field] in catalog.sources(), f"{known.name}.{field}"
        assert known.is_retired == (known.retired is not None)
        if known.is_retired:
            assert not catalog.find(str(known.replacement)).is_retired


def _offer(kind: str, zone: str, market: str = "spot") -> Offer:
    return Offer(Pool(kind, zone, zone[:-1]), market, 0.3, "spot history")


@pytest.mark.parametrize(
    ("scope", "leaves"),
    [
        ("pool", [1, 2, 3, 4, 5]),
        ("zone", [1, 3, 5]),
        ("quota", [3, 4, 5]),
        ("region", [5]),
        ("account", []),
        ("request", []),
        ("moment", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_refusal_rules_out_what_its_scope_says(scope: Scope, leaves: list[int]) -> None:
    offers = [
        _offer("g4dn.xlarge", "us-east-1a"),
        _offer("g4dn.xlarge", "us-east-1b"),
        _offer("g5.xlarge", "us-east-1a"),
        _offer("p4d.24xlarge", "us-east-1b"),
        _offer("g4dn.xlarge", "us-east-1a", "on-demand"),
        _offer("g4dn.xlarge", "us-west-2a"),
    ]
    assert [i for i, offer in enumerate(offers) if not rules_out(scope, offers[0], offer)] == leaves
