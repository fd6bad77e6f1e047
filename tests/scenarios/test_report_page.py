"""The HTML report in a real browser: nothing complains, nothing is fetched, its tables hold the JSON's numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import main
from orchestrator.formatting import money, number
from orchestrator.report.html.units import three_digits
from tests.support import axe, browser
from tests.support.browser import Page
from tests.support.report_runs import PNG, Had, write_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.find() is None, reason=browser.WHY_NOT),
]

CELLS = """
Object.fromEntries([...document.querySelectorAll("table")].map(t => [t.id, {
  head: [...t.tHead.rows[0].cells].map(c => c.textContent.trim()),
  rows: [...t.tBodies[0].rows].map(r => [...r.cells].map(c => c.textContent.trim())),
}]))
"""
WIDER_THAN_THE_PAGE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
CONTRAST = """
(() => {
  const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => {
    v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (!c.endsWith(", 0)") && c !== "transparent") return c; } return "rgb(255,255,255)"; };
  return [...document.querySelectorAll("h1,h2,h3,p,td,th button,figcaption,caption,span,small,b,svg text")].map(e => {
    const style = getComputedStyle(e), a = light(e.closest("svg") ? style.fill : style.color), b = light(behind(e));
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent.slice(0, 40)];
  }).sort((x, y) => x[0] - y[0])[0];
})()
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Write a page over runs of every kind; return it and the JSON of the same report."""
    home = tmp_path_factory.mktemp("report") / "home"
    home.mkdir()
    store = write_run(
        home, "lost-twice",
        [Had(last_step=60, ended_by="aws"),
         Had("g5.xlarge", first_step=51, last_step=150, images_per_s=1700, seconds=9000)],
    )  # fmt: skip
    for step in (50, 100, 150):
        (store.folder / f"samples-{step}.png").write_bytes(PNG)
    write_run(home, "on-demand", [Had(market="on-demand", price_usd_h=0.526)])
    write_run(home, "here", [Had("p2.xlarge", images_per_s=70)], cloud="embedded cloud")
    write_run(home, "mute", [Had(lines=[])])
    write_run(home, "evil", [Had()], trainer=None, command=("<script>alert(1)</script>",), workdir=str(home))
    before = os.environ.get("PIXEL_ORCH_HOME")
    os.environ["PIXEL_ORCH_HOME"] = str(home)
    try:
        assert main(["report", "--html", str(home / "r.html"), "-o", "json", "--out", str(home / "r.json")]) == 0
    finally:
        os.environ.pop("PIXEL_ORCH_HOME")
        if before is not None:
            os.environ["PIXEL_ORCH_HOME"] = before
    return home / "r.html", json.loads((home / "r.json").read_text())


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser.page() as opened:
        yield opened


def opened(page: Page, path: Path, width: int = 1280, scheme: str = "light") -> Page:
    page.complaints.clear()
    page.requests.clear()
    page.size(width)
    page.media(scheme=scheme)
    page.go(path.as_uri())
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_shows_without_complaint_and_without_network(
    page: Page, report: tuple[Path, dict[str, Any]], width: int, scheme: str, tmp_path: Path
) -> None:
    opened(page, report[0], width, scheme)
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(("data:", "file:"))] == []
    assert page.run(WIDER_THAN_THE_PAGE) == 0, "only the tables scroll sideways"
    ratio, text = page.run(CONTRAST)
    assert ratio >= 4.5, f"contrast {ratio:.2f} of {text!r}"
    page.picture(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 50_000


def test_its_tables_hold_the_numbers_of_the_json(page: Page, report: tuple[Path, dict[str, Any]]) -> None:
    path, raw = report
    tables = opened(page, path).run(CELLS)

    def column(key: str, name: str) -> list[str]:
        place = tables[f"table-{key}"]["head"].index(name)
        return [row[place] for row in tables[f"table-{key}"]["rows"]]

    def usd(value: float | None) -> str:
        return money(None if value is None else Decimal(repr(value)))

    def per_thousand(value: float | None) -> str:
        return "-" if value is None else three_digits(1000 * value, keeps_zeros=True)

    runs = raw["runs"]
    assert column("runs", "run") == [run["run"] for run in runs]
    assert [cell.lstrip("~") for cell in column("runs", "billed $")] == [usd(run["cost_usd"]) for run in runs]
    assert column("runs", "on-demand $") == [usd(run["on_demand_usd"]) for run in runs]
    assert column("runs", "images/s") == [number(run["images_per_s"]) for run in runs]
    assert column("runs", "bits/dim") == [number(run["bits_per_dim"], 3) for run in runs]
    assert column("runs", "steps lost") == [str(run["steps_lost"]) for run in runs]
    attempts = [attempt for run in runs for attempt in run["attempts"]]
    assert [cell.lstrip("~") for cell in column("all-attempts", "billed $")] == [usd(a["billed_usd"]) for a in attempts]
    assert column("all-attempts", "disk $") == [usd(a["volume_usd"]) for a in attempts]
    types = {(row["instance_type"], row["market"], row["workload"] or "-"): row for row in raw["types"]}
    keys = list(zip(column("types", "type"), column("types", "market"), column("types", "workload"), strict=True))
    assert sorted(keys) == sorted(types)
    assert column("types", "images/s") == [number(types[key]["images_per_s"]) for key in keys]
    assert column("types", "$/1,000 epochs") == [per_thousand(types[key]["usd_per_epoch"]) for key in keys]
    assert column("predicted", "images/s") == [number(row["images_per_s"]) for row in raw["predicted"]]
    assert column("predicted", "$/1,000 epochs") == [per_thousand(row["usd_per_epoch"]) for row in raw["predicted"]]
    assert column("left-out", "error") == [f"{100 * row['error']:+.0f} %" for row in raw["left_out"]]
    assert {"mute", "evil"} <= {run["run"] for run in runs}
    assert column("problems", "run") == [run["run"] for run in runs for _ in run["problems"]]


def test_it_can_be_used_without_eyes_and_without_a_mouse(page: Page, report: tuple[Path, dict[str, Any]]) -> None:
    opened(page, report[0])
    assert page.run("[...document.images].every(i => i.alt && i.naturalWidth > 0)")
    assert page.run("document.images.length") == 3
    alts = page.run("[...document.querySelectorAll('[role=img]')].map(e => e.getAttribute('aria-label'))")
    assert len(alts) >= 10
    assert all(len(alt) > 40 for alt in alts)
    assert page.run("document.documentElement.lang") == "en"
    assert page.run("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size"
                    " === document.querySelectorAll('[id]').length"), "an id stands once"  # fmt: skip
    page.run("document.querySelector('#table-runs th:nth-child(9) button').focus()")
    for _ in range(2):
        for kind in ("keyDown", "char", "keyUp"):
            page.ask(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
            )
    assert page.run("document.querySelector('#table-runs th:nth-child(9)').getAttribute('aria-sort')") == "descending"
    cells = page.run("[...document.querySelectorAll('#table-runs td:nth-child(9)')].map(c => c.textContent)")
    values = [float(cell.lstrip("~")) for cell in cells]
    assert values == sorted(values, reverse=True)
    assert page.run("document.querySelectorAll('svg title').length") > 20, "marks say what they are"


ROWS = """
[...document.querySelectorAll(".figures")].map(box => {
  const rows = {};
  for (const one of box.children) {
    const r = one.getBoundingClientRect();
    (rows[Math.round(r.top)] ||= []).push(r.height);
  }
  return Object.values(rows);
}).flat()
"""
CARDS = """
[...document.querySelectorAll(".card")].map(e => { const r = e.getBoundingClientRect(); return [r.top, r.height]; })
"""


def test_what_stands_in_one_row_has_one_height(page: Page, report: tuple[Path, dict[str, Any]]) -> None:
    opened(page, report[0], 1280)
    rows = page.run(ROWS)
    assert any(len(row) == 2 for row in rows)
    assert all(max(row) - min(row) < 1 for row in rows)
    for width in (1280, 800, 390):
        opened(page, report[0], width)
        cards: dict[float, set[float]] = {}
        for top, height in page.run(CARDS):
            cards.setdefault(round(top), set()).add(round(height))
        assert all(len(heights) == 1 for heights in cards.values()), f"cards at {width} px: {cards}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_serious_fault(page: Page, report: tuple[Path, dict[str, Any]], width: int, scheme: str) -> None:
    if axe.source() is None:
        pytest.skip(axe.WHY_NOT)
    assert axe.faults(opened(page, report[0], width, scheme)) == []


def test_no_text_of_a_chart_leaves_its_picture(page: Page, report: tuple[Path, dict[str, Any]]) -> None:
    for width in (1280, 390):
        opened(page, report[0], width)
        assert page.run(CUT_OFF) == []


CUT_OFF = """
[...document.querySelectorAll("figure svg")].filter(svg => svg.getBoundingClientRect().width > 0).flatMap(svg => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter(text => {
    const r = text.getBoundingClientRect();
    return r.left < box.left - 1 || r.right > box.right + 1 || r.top < box.top - 1 || r.bottom > box.bottom + 1;
  }).map(text => `${svg.closest("figure").id}: ${text.textContent}`);
})
"""


def test_where_the_speed_says_nothing_the_page_leads_with_prices(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(tmp_path))
    write_run(tmp_path, "here", [Had("p2.xlarge", images_per_s=70)], cloud="embedded cloud")
    assert main(["report", "--html", str(tmp_path / "r.html")]) == 0
    for width in (1280, 390):
        opened(page, tmp_path / "r.html", width)
        assert page.run("document.querySelector('#speed-0 h3').firstChild.textContent.trim()") == "Price of each type"
        assert page.run(CUT_OFF) == []
    caption = page.run("document.querySelector('#speed-0 figcaption').textContent")
    assert "so price alone tells them apart" in caption


def test_the_story_the_bill_and_the_paid_pool_are_told_to_those_who_see_no_picture(
    page: Page, report: tuple[Path, dict[str, Any]]
) -> None:
    opened(page, report[0])
    alts = page.run("[...document.querySelectorAll('[role=img]')].map(e => e.getAttribute('aria-label'))")
    assert any(alt.startswith("Run lost-twice lost 1 instance.") for alt in alts)
    assert any("10 steps had to be trained again" in alt for alt in alts)
    assert any(alt.startswith("The bill of 5 runs is") for alt in alts)
    assert any("g5.xlarge us-east-1a $0.210 (paid)" in alt for alt in alts)


def test_what_a_run_is_called_is_text_not_a_program(page: Page, report: tuple[Path, dict[str, Any]]) -> None:
    opened(page, report[0])
    assert page.run("document.querySelectorAll('script').length") == 1
    assert "<script>alert(1)</script>" in page.run("document.body.textContent")


def test_it_prints(page: Page, report: tuple[Path, dict[str, Any]]) -> None:
    opened(page, report[0], scheme="dark")
    assert page.pdf().startswith(b"%PDF")
    page.media(kind="print", scheme="dark")
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_an_empty_store_is_a_page_too(page: Page, tmp_path: Path) -> None:
    from orchestrator.report import build
    from orchestrator.report.html.page import Exhibits, as_html

    (tmp_path / "empty.html").write_text(as_html(build([], 0.0), Exhibits()))
    opened(page, tmp_path / "empty.html", 390)
    assert page.complaints == []
    assert page.run("document.querySelector('h1').textContent") == "No runs yet"
