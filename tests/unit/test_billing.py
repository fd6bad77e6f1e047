"""What is billed: one test for each rule, with the worked figures."""

from __future__ import annotations

from decimal import Decimal

from orchestrator.billing import bill, total_usd
from orchestrator.events import Attempt

START = 1_790_000_000.0


def attempt(seconds: float | None, **fields: object) -> Attempt:
    """Return an attempt that lasted so long."""
    base: dict[str, object] = {
        "number": 1,
        "instance_id": "i-1",
        "instance_type": "p2.xlarge",
        "zone": "us-east-1a",
        "region": "us-east-1",
        "market": "spot",
        "price_usd_h": 0.36,
        "started_at": START,
        "ended_at": None if seconds is None else START + seconds,
        "ended_by": "pixel-orch",
    }
    return Attempt(**{**base, **fields})  # type: ignore[arg-type]


def test_seconds_are_billed_at_the_price_of_their_instance_hour() -> None:
    billed = bill(attempt(5400, prices_usd_h={0: 0.36, 1: 0.72}), START)
    assert billed.usd == Decimal("0.36") + Decimal("0.72") / 2
    assert not billed.is_estimate


def test_the_first_minute_is_billed_whole() -> None:
    assert bill(attempt(7, prices_usd_h={0: 0.36}), START).seconds == 60
    assert bill(attempt(7, prices_usd_h={0: 0.36}), START).usd == Decimal("0.006")


def test_an_interruption_in_the_first_hour_is_free() -> None:
    lost = attempt(3599, ended_by="aws", end_reason="Server.SpotInstanceTermination: interrupted")
    assert bill(lost, START).usd == 0
    assert bill(lost, START).is_free


def test_an_interruption_after_the_first_hour_bills_the_seconds_used() -> None:
    lost = attempt(3601, ended_by="aws", end_reason="Server.SpotInstanceTermination", prices_usd_h={0: 0.36, 1: 0.36})
    assert bill(lost, START).usd == Decimal("0.36") + Decimal("0.0001")


def test_what_we_end_ourselves_in_the_first_hour_is_billed() -> None:
    assert bill(attempt(1800, prices_usd_h={0: 0.36}), START).usd == Decimal("0.18")


def test_a_failure_of_aws_that_is_no_interruption_is_billed() -> None:
    assert bill(attempt(1800, ended_by="aws", end_reason="Server.InternalError"), START).usd > 0


def test_an_on_demand_instance_is_never_free() -> None:
    gone = attempt(100, market="on-demand", ended_by="aws", end_reason="Server.SpotInstanceTermination")
    assert bill(gone, START).usd == Decimal("0.36") * 100 / 3600


def test_what_still_runs_is_an_estimate_up_to_now() -> None:
    billed = bill(attempt(None, prices_usd_h={0: 0.36}), START + 1800)
    assert billed.is_estimate
    assert billed.usd == Decimal("0.18")


def test_a_missing_price_is_taken_from_the_launch_and_called_an_estimate() -> None:
    assert bill(attempt(1800), START).is_estimate


def test_a_clock_that_goes_back_bills_the_minimum_not_less_than_nothing() -> None:
    assert bill(attempt(-50, prices_usd_h={0: 0.36}), START).seconds == 60


def test_the_total_is_the_sum_without_binary_rounding() -> None:
    assert total_usd([attempt(60, price_usd_h=0.1, prices_usd_h={0: 0.1})] * 3, START) * 20 == Decimal("0.1")
