"""The charts and the HTML page: what they leave out is written beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli.report import report_of
from orchestrator.report.html.price_speed import Spot, front
from orchestrator.report.records import records_of
from orchestrator.runs.store import RunStore
from tests.support.report_runs import BORN, PNG, Had, write_run

NOW = BORN + 10**6


def test_the_pareto_front_holds_the_points_that_no_other_dominates() -> None:
    points = [Spot(name, price, speed, 0, 0, "measured") for name, price, speed in (
        ("cheap", 0.2, 100), ("expensive and slow", 0.5, 90), ("expensive and fast", 0.6, 300),
        ("same price", 0.6, 200), ("most expensive", 9.0, 300),
    )]  # fmt: skip
    assert [point.label for point in front(points)] == ["cheap", "expensive and fast"]
    equal = [Spot("a", 0.2, 100.0, 0, 0, "predicted"), Spot("b", 0.3, 100.00000001, 0, 0, "predicted")]
    assert [point.label for point in front(equal)] == ["a"]


@pytest.mark.slow
def test_the_page_describes_the_front_only_if_it_is_drawn_and_names_what_it_leaves_out(home: Path) -> None:
    from orchestrator.cli.report import exhibits_of
    from orchestrator.report.html.page import as_html

    for number in range(14):
        store = write_run(home, f"run-{number:02}", [Had("p2.xlarge", last_step=60)], cloud="embedded cloud",
                          trainer=None, command=("python3", "x.py"), workdir=str(home))  # fmt: skip
        if number in (3, 4):
            (store.folder / "samples-50.png").write_bytes(PNG)
    records = records_of(RunStore.all(home), NOW)
    page = as_html(report_of(records, home, NOW, "hour-start"), exhibits_of(records, home, NOW))
    assert "above and left of the line" not in page
    assert "The newest 6 of 14 runs" in page
    assert "The newest 12 of 14 runs" in page
    assert "2 of 14 runs have sampled images" in page
    write_run(home, "there", [Had("g4dn.xlarge", images_per_s=1000)])
    write_run(home, "where", [Had("g5.xlarge", images_per_s=3000, price_usd_h=0.4)])
    records = records_of(RunStore.all(home), NOW)
    page = as_html(report_of(records, home, NOW, "hour-start"), exhibits_of(records, home, NOW))
    assert "above and left of the line" in page


@pytest.mark.slow
def test_a_page_of_many_runs_has_two_stories_and_says_so(home: Path) -> None:
    from orchestrator.report.html.page import Exhibits, as_html

    for number in range(41):
        attempts = [Had(last_step=60, ended_by="aws"), Had(first_step=61, last_step=70)] if number < 3 else [Had()]
        write_run(home, f"run-{number:02}", attempts, born=BORN + number)
    page = as_html(report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start"), Exhibits())
    assert page.count('<figure id="story-') == 2
    assert "The newest 2 of 3 runs that lost an instance" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("interrupted", "again", "says"),
    [(False, False, "<b>0</b><span>interruptions</span>"), (True, False, "<b>1</b><span>interruption</span>"),
     (True, True, "1 step trained again, in all runs")],
)  # fmt: skip
def test_the_card_of_interruptions_has_a_plural(home: Path, interrupted: bool, again: bool, says: str) -> None:
    from orchestrator.report.html.page import Exhibits, as_html

    first = Had(last_step=60, ended_by="aws" if interrupted else "pixel-orch")
    write_run(home, "one", [first, Had(first_step=60 if again else 61, last_step=70)])
    page = as_html(report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start"), Exhibits())
    assert says in page
    assert "trained twice" not in page


@pytest.mark.slow
@pytest.mark.parametrize("attempts", [2, 12])
def test_lost_steps_are_named_on_the_timeline_where_they_cover_no_other_bar(home: Path, attempts: int) -> None:
    from orchestrator.report.html.charts import timeline

    lost = [Had(first_step=1 + 50 * n, last_step=60 + 50 * n, ended_by="aws") for n in range(attempts - 1)]
    write_run(home, "unlucky", [*lost, Had(first_step=50 * attempts - 49, last_step=50 * attempts)])
    chart = timeline(report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start"), "attempts")
    assert chart is not None
    assert chart.svg.count("-10 steps</text>") == 2, "behind the last lost one, in the wide and the narrow picture"
