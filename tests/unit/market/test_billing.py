"""What is billed: one test for each rule, with AWS's own worked examples where it gives any."""

from __future__ import annotations

import calendar
import random
from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest

from orchestrator.market import catalog
from orchestrator.market.billing import SPOT_RULES, bill, other_usd_h, total_usd
from orchestrator.runs.events import (
    CheckpointPulled,
    Event,
    InstanceEnded,
    InstanceRunning,
    InstanceStarted,
    InterruptionNoticed,
    PriceChanged,
    PriceSeen,
)
from orchestrator.runs.state import Attempt, fold
from orchestrator.runs.state_reasons import FAILED_LAUNCHES

START = 1_790_000_000.0
APRIL = float(calendar.timegm((2026, 4, 10, 0, 0, 0)))  # a month of 30 days, as in AWS's example


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


# -- the instance


def test_seconds_are_billed_at_the_price_of_their_instance_hour() -> None:
    """AWS, 2017-11-28: the price in effect at the beginning of each instance-hour, per second."""
    billed = bill(attempt(5400, prices_usd_h={0: 0.36, 1: 0.72}), START)
    assert billed.usd == Decimal("0.36") + Decimal("0.72") / 2
    assert not billed.is_estimate


def test_the_other_rule_bills_each_second_at_the_price_in_effect() -> None:
    """AWS's whitepaper: "You pay the Spot price that's in effect, billed to the nearest second"."""
    changes = {START - 7000: 0.30, START + 1800: 0.60, START + 5400: 9.0}
    lasted = attempt(5400, prices_usd_h={0: 0.30, 1: 0.60}, price_changes=changes)
    assert bill(lasted, START, "in-effect").usd == Decimal("0.30") / 2 + Decimal("0.60")
    assert bill(lasted, START, "hour-start").usd == Decimal("0.30") + Decimal("0.60") / 2
    assert not bill(lasted, START, "in-effect").is_estimate


def test_the_price_in_effect_before_the_first_known_change_is_an_estimate() -> None:
    lasted = attempt(3600, price_changes={START + 1800: 0.72})
    assert bill(lasted, START, "in-effect").usd == Decimal("0.18") + Decimal("0.36")
    assert bill(lasted, START, "in-effect").is_estimate


def test_the_first_minute_is_billed_whole() -> None:
    assert bill(attempt(7, prices_usd_h={0: 0.36}), START).seconds == 60
    assert bill(attempt(7, prices_usd_h={0: 0.36}), START).usd == Decimal("0.006")


def test_a_begun_second_is_billed() -> None:
    assert bill(attempt(100.2, prices_usd_h={0: 0.36}), START).seconds == 101


def test_an_interruption_in_the_first_hour_is_free() -> None:
    """AWS's table: interrupted by EC2 in the first hour, Linux: no charge."""
    lost = attempt(3599, ended_by="aws", end_code="Server.SpotInstanceTermination")
    for rule in SPOT_RULES:
        assert bill(lost, START, rule).usd == 0  # type: ignore[arg-type]
        assert bill(lost, START, rule).is_free  # type: ignore[arg-type]


def test_an_interruption_after_the_first_hour_bills_the_seconds_used() -> None:
    """AWS's table: interrupted by EC2 in any hour after the first, Linux: charged for the seconds used."""
    lost = attempt(3601, ended_by="aws", end_code="Server.SpotInstanceTermination", prices_usd_h={0: 0.36, 1: 0.36})
    assert bill(lost, START).usd == Decimal("0.36") + Decimal("0.0001")


def test_what_we_end_ourselves_in_the_first_hour_is_billed() -> None:
    """AWS's table: if you stop or terminate the Spot Instance: charged for the seconds used."""
    assert bill(attempt(1800, prices_usd_h={0: 0.36}), START).usd == Decimal("0.18")


def test_a_failure_of_aws_that_is_no_interruption_is_billed() -> None:
    failed = attempt(1800, ended_by="aws", end_code="Server.InternalError", ran_at=START + 30)
    assert not failed.is_interrupted
    assert bill(failed, START).usd > 0


def test_the_text_of_a_reason_decides_nothing() -> None:
    """Only EC2's code does: its text is for people."""
    text = "Server.SpotInstanceTermination"
    lost = attempt(1800, ended_by="aws", end_code="Server.InternalError", end_reason=text, ran_at=START + 30)
    assert bill(lost, START).usd > 0


@pytest.mark.parametrize("code", sorted(FAILED_LAUNCHES))
def test_a_machine_that_went_from_pending_to_terminated_is_not_billed(code: str) -> None:
    """AWS bills the running state only."""
    failed = attempt(90, ended_by="aws", end_code=code)
    assert failed.never_ran
    assert bill(failed, START).usd == 0
    assert not failed.is_interrupted
    ours = attempt(90, end_code="Client.UserInitiatedShutdown")
    assert bill(ours, START).usd > 0, "whether it ran before it was ended is not known"


def test_an_on_demand_instance_is_per_second_at_one_price_and_never_free() -> None:
    """AWS, "Per-second billing for EC2": one-second increments, a minimum of 60 s."""
    gone = attempt(100, market="on-demand", ended_by="aws", end_code="Server.SpotInstanceTermination")
    assert bill(gone, START).usd == Decimal("0.36") * 100 / 3600
    assert bill(attempt(1, market="on-demand"), START).usd == Decimal("0.36") / 60


def test_what_still_runs_is_an_estimate_up_to_now() -> None:
    billed = bill(attempt(None, prices_usd_h={0: 0.36}), START + 1800)
    assert billed.is_estimate
    assert billed.usd == Decimal("0.18")


def test_a_missing_price_is_taken_from_the_launch_and_called_an_estimate() -> None:
    assert bill(attempt(1800), START).is_estimate


def test_a_clock_that_goes_back_bills_the_minimum_not_less_than_nothing() -> None:
    assert bill(attempt(-50, prices_usd_h={0: 0.36}), START).seconds == 60


# -- beside the instance


def test_a_volume_is_billed_by_the_second_of_its_month() -> None:
    """AWS's example: 2,000 GB for 12 hours in a 30-day month, at $0.08 per GB-month (aws.amazon.com/ebs/pricing)."""
    lasted = attempt(43200, started_at=APRIL, ended_at=APRIL + 43200, disk_gib=2000)
    assert bill(lasted, APRIL).volume_usd == Decimal("0.08") * 2000 * 43200 / (86400 * 30)
    assert round(bill(lasted, APRIL).volume_usd, 2) == Decimal("2.67")


def test_a_volume_over_the_end_of_a_month_is_billed_by_the_days_of_each() -> None:
    end_of_april = float(calendar.timegm((2026, 5, 1, 0, 0, 0)))
    lasted = attempt(7200, started_at=end_of_april - 3600, ended_at=end_of_april + 3600, disk_gib=100)
    hour = Decimal("0.08") * 100 / 24
    assert bill(lasted, APRIL).volume_usd == pytest.approx(hour / 30 + hour / 31)


def test_the_volume_of_a_free_instance_is_billed_and_for_a_minute_at_least() -> None:
    lost = attempt(10, ended_by="aws", end_code="Server.SpotInstanceTermination", disk_gib=100, public_addresses=1)
    billed = bill(lost, START)
    assert billed.is_free
    assert billed.instance_usd == 0
    assert billed.volume_usd == pytest.approx(Decimal("0.08") * 100 * 60 / (86400 * 30))
    assert billed.usd == billed.volume_usd + billed.address_usd


def test_a_public_address_costs_half_a_cent_an_hour() -> None:
    assert bill(attempt(7200, public_addresses=1), START).address_usd == Decimal("0.01")


def test_data_out_is_billed_by_the_gigabyte_of_its_region() -> None:
    assert bill(attempt(100, pulled_bytes=5 * 10**8), START).data_out_usd == Decimal("0.045")
    tokyo = attempt(100, pulled_bytes=10**9, region="ap-northeast-1")
    assert bill(tokyo, START).data_out_usd == Decimal("0.114")


def test_a_region_without_a_price_is_an_estimate_not_a_wrong_number() -> None:
    there = attempt(3600, prices_usd_h={0: 0.36}, region="mars-north-1")
    assert not bill(there, START).is_estimate
    with_disk = attempt(3600, prices_usd_h={0: 0.36}, region="mars-north-1", disk_gib=100)
    assert bill(with_disk, START).is_estimate
    assert bill(with_disk, START).on_demand_usd is None


def test_what_a_budget_reckons_with_beside_the_instance_is_never_less_than_what_is_billed() -> None:
    for month in range(1, 13):
        began = float(calendar.timegm((2027, month, 10, 0, 0, 0)))
        lasted = attempt(3600, started_at=began, ended_at=began + 3600, disk_gib=100, public_addresses=1)
        assert bill(lasted, began).other_usd <= other_usd_h("us-east-1", 100, 1)


def test_every_region_has_its_charges_with_a_source() -> None:
    for region in catalog.regions():
        found = catalog.charges(region)
        assert found is not None
        assert Decimal("0.05") < found.gp3_usd_gb_month < Decimal("0.2")
        assert Decimal("0.05") < found.data_out_usd_gb < Decimal("0.2")


# -- beside it, on-demand


def test_the_same_on_on_demand_is_as_long_and_never_free() -> None:
    lost = attempt(1800, ended_by="aws", end_code="Server.SpotInstanceTermination", disk_gib=100)
    billed = bill(lost, START)
    assert billed.on_demand_usd == Decimal("0.9") / 2 + billed.volume_usd
    on_demand = bill(attempt(1800, market="on-demand", price_usd_h=0.9), START)
    assert on_demand.on_demand_usd == on_demand.usd == Decimal("0.45")


def test_an_unknown_type_has_no_on_demand_price_beside_it() -> None:
    assert bill(attempt(1800, instance_type="p99.huge"), START).on_demand_usd is None


def test_the_total_is_the_sum_without_binary_rounding() -> None:
    assert total_usd([attempt(60, price_usd_h=0.1, prices_usd_h={0: 0.1})] * 3, START) * 20 == Decimal("0.1")


# -- random histories


def history(seed: int) -> tuple[list[Event], float]:
    """Return the events of a run of several attempts, in the order in which they were written, and a time after it."""
    dice = random.Random(seed)
    events: list[Event] = []
    at = START + dice.randint(0, 10**7)
    for number in range(1, dice.randint(1, 5) + 1):
        start, lasted = at, dice.choice([dice.randint(0, 90), dice.randint(0, 3600), dice.randint(3500, 20000)])
        region = dice.choice(["us-east-1", "ap-northeast-1", "mars-north-1"])
        price = dice.randint(1, 9999) / 10000
        events.append(
            InstanceStarted(
                at=start,
                attempt=number,
                instance_id=f"i-{number}",
                instance_type="p2.xlarge",
                zone=f"{region}a",
                region=region,
                market=dice.choice(["spot", "spot", "on-demand"]),
                price_usd_h=price,
                disk_gib=dice.choice([0, 100]),
                public_addresses=dice.choice([0, 1]),
            )
        )
        later: list[Event] = [
            CheckpointPulled(
                at=start + 1,
                attempt=number,
                step=n,
                name=f"c{number}-{n}",
                sha256="",
                size_bytes=dice.randint(0, 10**9),
            )
            for n in range(dice.randint(0, 3))
        ]
        for hour in range(lasted // 3600 + 1):
            if dice.random() < 0.9:
                price = dice.randint(1, 9999) / 10000
                later.append(PriceSeen(at=start + lasted, attempt=number, hour=hour, price_usd_h=price))
        for _ in range(dice.randint(0, 3)):
            since, price = start + dice.randint(-5000, lasted + 100), dice.randint(1, 9999) / 10000
            later.append(PriceChanged(at=start + lasted, attempt=number, since=since, price_usd_h=price))
        if dice.random() < 0.3:
            ends_at = start + lasted
            later.append(InterruptionNoticed(at=start, attempt=number, instance_id=f"i-{number}", ends_at=ends_at))
        if dice.random() < 0.8:
            who = dice.choice(["aws", "pixel-orch", "instance", "other"])
            why = dice.choice(["Server.SpotInstanceTermination: x", "Server.InternalError", ""])
            later.append(
                InstanceEnded(
                    at=start + lasted,
                    attempt=number,
                    instance_id=f"i-{number}",
                    ended_at=start + lasted,
                    ended_by=who,  # type: ignore[arg-type]
                    reason=why,
                    reason_code=why.partition(":")[0] if dice.random() < 0.5 else None,  # as version 0.1.0 wrote it
                )
            )
        if dice.random() < 0.5:
            later.append(InstanceRunning(at=start, attempt=number, instance_id=f"i-{number}"))
        dice.shuffle(later)
        events += later
        at += dice.randint(0, lasted + 1000)
    return events, at + 30000


def folded_usd(events: list[Event], now: float, rule: str) -> Fraction:
    """Return the bill by another way: from the events alone, piece by piece of time, in exact fractions."""
    return sum((_of_attempt(events, e, now, rule) for e in events if isinstance(e, InstanceStarted)), Fraction(0))


def _of_attempt(events: list[Event], born: InstanceStarted, now: float, rule: str) -> Fraction:
    mine = [e for e in events if getattr(e, "attempt", None) == born.attempt]
    ended = next((e for e in mine if isinstance(e, InstanceEnded)), None)
    seconds = int(max(60, (ended.ended_at if ended else now) - born.at))
    noticed = any(isinstance(e, InterruptionNoticed) for e in mine)
    received = sum(e.size_bytes for e in mine if isinstance(e, CheckpointPulled))
    ran = received or any(isinstance(e, InstanceRunning) for e in mine)
    if ended is not None and ended.reason == "Server.InternalError" and not ran:
        return Fraction(0)
    free = (
        born.market == "spot"
        and ended is not None
        and ended.ended_by == "aws"
        and (ended.reason.startswith("Server.Spot") or noticed)
        and ended.ended_at - born.at < 3600
    )
    hours: dict[Any, float] = {e.hour: e.price_usd_h for e in mine if isinstance(e, PriceSeen)}
    changes: dict[float, float] = {e.since: e.price_usd_h for e in mine if isinstance(e, PriceChanged)}
    found = catalog.charges(born.region)
    usd = Fraction(0)
    for second, count in _pieces(born.at, seconds, changes):
        before = [moment for moment in sorted(changes) if moment <= born.at + second]
        price = born.price_usd_h
        if born.market == "spot" and rule == "hour-start":
            price = hours.get(second // 3600, price)
        elif born.market == "spot" and before:
            price = changes[before[-1]]
        usd += 0 if free else Fraction(str(price)) * count / 3600
        if found is not None:
            date = datetime.fromtimestamp(born.at + second, tz=timezone.utc)
            month_s = calendar.monthrange(date.year, date.month)[1] * 86400
            usd += Fraction(found.gp3_usd_gb_month) * int(born.disk_gib) * count / month_s
            usd += Fraction(found.public_ipv4_usd_h) * born.public_addresses * count / 3600
    if found is not None:
        usd += Fraction(found.data_out_usd_gb) * received / 10**9
    return usd


def _pieces(start: float, seconds: int, changes: dict[float, float]) -> Iterator[tuple[int, int]]:
    """Yield (first second, how many) of the pieces within which no hour, no price and no day changes."""
    marks = {0, seconds, *range(0, seconds, 3600), *(int(moment - start) for moment in changes)}
    marks |= {int(midnight - start) for midnight in range(int(start // 86400 + 1) * 86400, int(start) + seconds, 86400)}
    inside = sorted(mark for mark in marks if 0 <= mark <= seconds)
    yield from ((mark, later - mark) for mark, later in pairwise(inside))


def check_histories(seeds: range) -> None:
    """Raise AssertionError where the sum over the attempts is not the fold of the events."""
    for seed in seeds:
        events, now = history(seed)
        for rule in SPOT_RULES:
            total = total_usd(fold(events).attempts, now, rule)  # type: ignore[arg-type]
            difference = abs(Fraction(total) - folded_usd(events, now, rule))
            assert difference < Fraction(1, 10**18), f"seed {seed}, rule {rule}: off by {float(difference)}"


def test_the_sum_over_attempts_is_the_fold_of_events_in_random_histories() -> None:
    check_histories(range(300))


@pytest.mark.slow
def test_the_sum_over_attempts_is_the_fold_of_events_in_10000_random_histories() -> None:
    check_histories(range(300, 10_300))
