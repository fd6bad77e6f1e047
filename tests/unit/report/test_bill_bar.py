"""The bill against on-demand as one bar."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

from orchestrator.report.html.bill_bar import bill_bar, bill_of, saving_words
from orchestrator.report.records import records_of
from orchestrator.report.rows import RunRow
from orchestrator.runs.store import RunStore
from tests.support.report_runs import BORN, Had, write_run

NOW = BORN + 10**5


def rows(home: Path) -> list[RunRow]:
    return [record.row for record in records_of(RunStore.all(home), NOW)]


def test_its_parts_are_the_bill_and_the_rest_is_what_on_demand_costs_more(home: Path) -> None:
    write_run(home, "one", [Had(seconds=3600, price_usd_h=0.21)])
    runs = rows(home)
    bill = bill_of(runs)
    assert bill is not None
    assert bill.usd == runs[0].cost_usd
    assert bill.on_demand_usd == runs[0].on_demand_usd
    assert bill.saved == float(1 - runs[0].cost_usd / (runs[0].on_demand_usd or Decimal(1)))
    text = bill_bar(runs)
    widths = [float(found) for found in re.findall(r'class="(?:p\d|rest)" style="width:([\d.]+)%', text)]
    assert len(widths) == 5
    assert abs(sum(widths) - 100) < 0.5
    assert f"<b>{saving_words(bill)}</b>" in text
    assert "The same seconds cost" in text
    assert 'role="img"' in text


def test_a_run_on_demand_has_saved_nothing(home: Path) -> None:
    write_run(home, "one", [Had(market="on-demand", price_usd_h=0.526)])
    text = bill_bar(rows(home))
    assert "the same as on demand" in text
    assert 'class="rest"' not in text


def test_a_bill_above_on_demand_says_by_how_much(home: Path) -> None:
    write_run(home, "one", [Had(seconds=3600, price_usd_h=0.7)])
    text = bill_bar(rows(home))
    assert "% more than on demand" in text
    assert "The whole bar is the bill." in text


def test_runs_without_a_known_on_demand_price_are_left_out_and_counted(home: Path) -> None:
    write_run(home, "one", [Had()])
    write_run(home, "two", [Had("x9.unknown")])
    assert "1 run without a known on-demand price left out." in bill_bar(rows(home))
    assert bill_bar([row for row in rows(home) if row.run == "two"]) == ""
    assert bill_bar([]) == ""
