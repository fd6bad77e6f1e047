"""The chart of spot prices: the pool that was paid is in it, first and thick."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from orchestrator.cli.report import exhibits_of, report_of
from orchestrator.cloud.price_cache import Entry, PriceCache
from orchestrator.market.price_series import PricePoint
from orchestrator.report.html.price_history import History, paid_pools, price_history, price_lines
from orchestrator.report.records import records_of
from orchestrator.report.rows import Report
from orchestrator.runs.events import PriceChanged
from orchestrator.runs.store import RunStore
from tests.support.report_runs import BORN, Had, write_run

NOW = BORN + 10**5
BEGAN = BORN + 10  # of the first attempt
CHEAP = History(
    "g4dn.xlarge us-east-1f", ((BORN - 9000, 0.10), (BORN + 300, 0.11), (BORN + 10**5, 0.12)), NOW, "cached"
)


def report_over(home: Path) -> Report:
    return report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start")


def changed(since: float, usd_h: float) -> PriceChanged:
    return PriceChanged(at=BEGAN + 80, attempt=1, since=since, price_usd_h=usd_h)


def test_the_pool_that_was_paid_comes_first_even_if_it_is_not_the_cheapest(home: Path) -> None:
    extra = [changed(BEGAN - 500, 0.30), changed(BEGAN + 600, 0.36), changed(BEGAN + 5000, 0.99)]
    write_run(home, "one", [Had(zone="us-east-1c", seconds=1800, extra=list(extra))])
    lines, known = price_lines(report_over(home), [CHEAP])
    assert known == 1
    assert [(line.label, line.is_paid) for line in lines] == [
        ("g4dn.xlarge us-east-1c", True), ("g4dn.xlarge us-east-1f", False),
    ]  # fmt: skip
    assert lines[0].spans == (((BEGAN, 0.30), (BEGAN + 600, 0.36), (BEGAN + 1800, 0.36)),)
    assert lines[1].spans[0][0][1] == 0.10, "the market's price in force when the chart begins"
    assert BEGAN - 300 < lines[1].spans[0][0][0] < BEGAN, "the chart's time is that of the run"
    assert lines[1].spans[0][-1][0] < BEGAN + 2200


def test_an_attempt_without_price_changes_has_its_hourly_prices(home: Path) -> None:
    write_run(home, "one", [Had(seconds=5000, price_usd_h=0.25)])
    (pool,) = paid_pools(report_over(home))
    assert pool.spans == (((BEGAN, 0.25), (BEGAN + 3600, 0.25), (BEGAN + 5000, 0.25)),)


def test_a_pool_that_was_paid_twice_is_one_line_and_on_demand_is_none(home: Path) -> None:
    write_run(home, "one", [Had(), Had()])
    write_run(home, "two", [Had(market="on-demand", price_usd_h=0.526)], born=BORN + 9000)
    (line,), _ = price_lines(report_over(home), [])
    assert len(line.spans) == 2
    assert line.is_paid


def test_the_market_goes_on_thin_where_the_paid_pool_is_in_it_too(home: Path) -> None:
    write_run(home, "one", [Had(zone="us-east-1f")])
    lines, _ = price_lines(report_over(home), [CHEAP])
    assert [(line.label, line.is_paid) for line in lines] == [(CHEAP.label, True), (CHEAP.label, False)]


def test_prices_of_nothing_are_no_chart(home: Path) -> None:
    write_run(home, "one", [Had(price_usd_h=0.0)])
    assert price_history(report_over(home), [], "prices") is None


def test_of_many_paid_pools_the_newest_are_drawn_and_an_older_one_is_not_called_unpaid(home: Path) -> None:
    for number, letter in enumerate("abcdefg"):
        write_run(home, f"run-{letter}", [Had(zone=f"us-east-1{letter}")], born=BORN + 3000.0 * number)
    records = records_of(RunStore.all(home), NOW)
    lines, known = price_lines(report_over(home), exhibits_of(records, home, NOW).histories)
    assert known == 7
    assert [line.label[-1] for line in lines if line.is_paid] == ["g", "f", "e", "d", "c"]
    assert not {line.label[-1] for line in lines} & {"a", "b"}


def test_the_cached_price_of_the_paid_zone_is_in_it_although_another_zone_is_cheaper(home: Path) -> None:
    write_run(home, "one", [Had(zone="us-east-1c")])
    cache = PriceCache(home, "aws")
    zones = {
        f"us-east-1{letter}": (PricePoint(BORN - 9000, Decimal(usd_h)),)
        for letter, usd_h in (("c", "0.3"), ("f", "0.1"))
    }
    cache.put("g4dn.xlarge", "us-east-1", Entry(NOW, BORN - 9000, NOW, None, zones))
    cache.save()
    records = records_of(RunStore.all(home), NOW)
    lines, _ = price_lines(report_over(home), exhibits_of(records, home, NOW).histories)
    assert [(line.label, line.is_paid) for line in lines] == [
        ("g4dn.xlarge us-east-1c", True), ("g4dn.xlarge us-east-1f", False), ("g4dn.xlarge us-east-1c", False),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_caption_and_the_words_name_what_was_paid(home: Path) -> None:
    write_run(home, "one", [Had(zone="us-east-1c", price_usd_h=0.3)])
    chart = price_history(report_over(home), [CHEAP], "prices")
    assert chart is not None
    assert chart.title == "Spot prices over the time of the runs"
    assert "Thick: a pool that a run paid" in chart.caption
    assert "g4dn.xlarge us-east-1c $0.300 (paid); g4dn.xlarge us-east-1f" in chart.alt
    alone = price_history(Report(NOW, "hour-start", (), ()), [CHEAP], "prices")
    assert alone is not None
    assert alone.title == "Spot prices"
    assert price_history(Report(NOW, "hour-start", (), ()), [], "prices") is None
