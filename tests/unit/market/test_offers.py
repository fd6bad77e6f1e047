"""Which offers there are, and in which order they are tried."""

from __future__ import annotations

from decimal import Decimal

import pytest

from orchestrator.errors import Scope
from orchestrator.market import catalog
from orchestrator.market.offers import is_market_signal, next_round, on_demand_offers, rules_out, spot_offers
from orchestrator.market.pools import Offer, Pool
from orchestrator.market.price_series import PricePoint
from orchestrator.plan.validators import check_price

A, B, C = (Pool("g4dn.xlarge", f"us-east-1{z}", "us-east-1") for z in "abc")
PRICES = {A: PricePoint(0, Decimal("0.21")), B: PricePoint(0, Decimal("0.19")), C: PricePoint(0, Decimal("0.23"))}


def test_offers_are_ranked_by_price() -> None:
    assert [o.pool for o in spot_offers([A, B, C], PRICES, None)] == [B, A, C]


def test_the_cap_leaves_out_what_is_above_it() -> None:
    assert [o.pool for o in spot_offers([A, B, C], PRICES, Decimal("0.2"))] == [B]


@pytest.mark.parametrize("price", [0.526, 0.0526, 0.0, -1.0])
def test_a_price_that_is_no_market_signal_is_never_ranked_cheapest(price: float) -> None:
    assert not is_market_signal(price, 0.526)
    offers = spot_offers([A, B], {**PRICES, A: PricePoint(0, Decimal(str(price)))}, None)
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
            *(["on_demand_usd_h"] if known.on_demand_usd_h else []),
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


@pytest.mark.parametrize(
    ("name", "gpu", "size", "usd_h"),
    [
        ("g4dn.2xlarge", "T4", (1, 8, 32), 0.752),
        ("g5.2xlarge", "A10G", (1, 8, 32), 1.212),
        ("g5.12xlarge", "A10G", (4, 48, 192), 5.672),
        ("g6.2xlarge", "L4", (1, 8, 32), 0.9776),
        ("g6e.48xlarge", "L40S", (8, 192, 1536), 30.13118),
        ("p3.8xlarge", "Tesla V100", (4, 32, 244), 12.24),
        ("p4de.24xlarge", "A100 80GB", (8, 96, 1152), 27.447),
    ],
)
def test_the_usual_sizes_of_a_family_are_known(name: str, gpu: str, size: tuple[int, int, int], usd_h: float) -> None:
    known = catalog.find(name)
    assert (known.gpu, (known.gpus, known.vcpus, known.memory_gib)) == (gpu, size)
    assert known.on_demand_usd_h == {"us-east-1": usd_h}
    assert "2026-01-19" in catalog.sources()[known.sources["on_demand_usd_h"]]


def test_a_size_has_the_gpu_facts_and_the_status_of_its_family() -> None:
    sizes = [known for known in catalog.all_types() if known.like]
    assert len(sizes) > 20
    for known in sizes:
        first = catalog.find(known.like)
        for field in ("gpu", "fp32_tflops", "bandwidth_gb_s", "gpu_memory_gib", "compute_capability", "status"):
            assert getattr(known, field) == getattr(first, field), f"{known.name}.{field}"
        assert known.name.partition(".")[0] == first.name.partition(".")[0]
        assert known.vcpus > first.vcpus
    assert {known.like for known in catalog.one_of_each_gpu()} == {""}


def test_what_is_not_recorded_is_taken_from_the_price_list() -> None:
    west = Pool("g5.2xlarge", "us-west-2a", "us-west-2")
    assert on_demand_offers([west]) == []
    assert on_demand_offers([west, A], {west: 1.2, A: 99.0}) == [
        Offer(A, "on-demand", 0.526, f"recorded {catalog.recorded_on()}"),
        Offer(west, "on-demand", 1.2, "price list, now"),
    ]
    assert spot_offers([west], {}, None) == []
    assert [o.price_usd_h for o in spot_offers([west], {}, None, {west: 1.2})] == [1.2]
    assert [o.price_usd_h for o in spot_offers([west], {west: PricePoint(0, Decimal("0.5"))}, None)] == [0.5]
