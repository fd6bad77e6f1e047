"""The chart that leads a workload: what it shows, and that no label covers anything."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("textalloc", reason="textalloc is not installed")

from orchestrator.report.html.price_speed import (
    Priced,
    Spot,
    front,
    lead,
    of_gpus,
    priced,
    scatter,
    speed_says_nothing,
    spots,
)
from orchestrator.report.html.svg import NARROW, WIDE, Canvas, drawn
from orchestrator.report.rows import PredictedRow, Report, TypeRow

NAMES = ("g4dn.xlarge", "g5.xlarge", "g5.12xlarge", "p4de.24xlarge", "g6e.48xlarge", "p2.xlarge (this CPU)")


def predicted(name: str, speed: float, spot: str | None, on_demand: str) -> PredictedRow:
    price = Decimal(spot or on_demand)
    return PredictedRow(
        "net", name, speed, speed / 3, 3 * speed, price, "spot, recorded" if spot else "on-demand", price / 1000, 1.0,
        "the bound", on_demand_usd_h=Decimal(on_demand),
    )  # fmt: skip


def measured(name: str, speed: float, price: str, cloud: str = "AWS") -> TypeRow:
    usd_h = Decimal(price)
    return TypeRow(
        cloud, "net", name, "spot", 1, 0, speed, 0.9 * speed, 1.1 * speed, 1.0, usd_h, usd_h, usd_h, usd_h, 1.0, usd_h,
        "T4", cloud == "AWS", on_demand_usd_h=2 * usd_h,
    )  # fmt: skip


def report_of(types: list[TypeRow], rows: list[PredictedRow]) -> Report:
    return Report(0.0, "hour-start", (), tuple(types), tuple(rows))


def boxes_of(canvas: Canvas) -> list[Any]:
    return [text.get_window_extent(canvas.figure._get_renderer()) for text in canvas.axes.texts]  # as the SVG has it


def crosses(box: Any, start: Any, end: Any) -> bool:
    """Whether a segment goes through a box (Liang and Barsky)."""
    low, high = 0.0, 1.0
    for from_, to, least, most in ((start[0], end[0], box.x0, box.x1), (start[1], end[1], box.y0, box.y1)):
        if to == from_:
            if not least <= from_ <= most:
                return False
            continue
        near, far = sorted(((least - from_) / (to - from_), (most - from_) / (to - from_)))
        low, high = max(low, near), min(high, far)
    return low < high


def overlaps(canvas: Canvas, points: list[Spot], line: list[Spot]) -> list[str]:
    """Return what the labels of a drawn chart cover: other labels, marks, bars, the front, the frame."""
    boxes, axes = boxes_of(canvas), canvas.axes
    to_pixels = axes.transData.transform
    marks = [to_pixels((p.price_usd_h, p.images_per_s)) for p in points]
    bars = [[to_pixels((p.price_usd_h, y)) for y in (p.low, p.high)] for p in points if p.kind != "predicted"]
    bars += [list(pair) for pair in zip(*(
        [to_pixels((p.price_usd_h, p.images_per_s)) for p in part] for part in (line[:-1], line[1:])
    ), strict=True)]  # fmt: skip
    frame = axes.get_window_extent()
    found = [f"labels {i} and {j}" for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])]
    for i, box in enumerate(boxes):
        found += [f"label {i} and a mark" for x, y in marks if box.x0 - 3 < x < box.x1 + 3 and box.y0 < y < box.y1]
        found += [f"label {i} and a line" for start, end in bars if crosses(box, start, end)]
        is_inside = frame.x0 - 1 <= box.x0 and box.x1 <= frame.x1 + 1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        found += [] if is_inside else [f"label {i} leaves the chart"]
    return found


@pytest.mark.parametrize(("size", "is_wide"), [(WIDE, True), (NARROW, False)])
@pytest.mark.parametrize("count", [3, 8, 20])
def test_a_label_covers_no_other_label_and_no_mark_and_no_bar(
    count: int, size: tuple[float, float], is_wide: bool
) -> None:
    some = random.Random(count)
    points = []
    for _ in range(count):
        speed, price = some.choice([1e3, 3e3, 1e4]) * some.uniform(0.95, 1.05), some.choice([0.2, 0.5, 3.0, 14.0])
        kind = some.choice(["measured", "predicted", "predicted"])
        price *= some.uniform(0.9, 1.1)
        points.append(Spot(some.choice(NAMES), price, speed, 0.8 * speed, 1.2 * speed, kind))
    left_out: list[str] = []
    best = front(points)
    canvas, _ = drawn(size, lambda one: left_out.extend(scatter(one, points, best)), (is_wide, False))
    assert overlaps(canvas, points, best) == []
    assert len(canvas.axes.texts) + len(left_out) == count
    assert len(canvas.axes.texts) >= 0.6 * count, "most have a name"


def test_the_measure_of_overlaps_finds_them() -> None:
    point = Spot("a", 1.0, 100.0, 50.0, 200.0, "measured")

    def draw(canvas: Canvas) -> None:
        canvas.axes.plot([0.5, 1.0, 2.0], [50.0, 100.0, 200.0])
        canvas.axes.text(1.0, 98.0, "on its mark")
        canvas.axes.text(1.0, 99.0, "and on another")

    canvas, _ = drawn(WIDE, draw)
    found = overlaps(canvas, [point], [])
    assert {"labels 1 and 0", "label 0 and a mark", "label 1 and a line"} <= set(found)


def test_where_all_speeds_are_equal_price_alone_is_drawn_and_the_reason_is_said() -> None:
    rows = [replace(predicted(name, 9690.0, spot, on_demand), is_bound_by_kernels=True) for name, spot, on_demand in (
        ("g5.xlarge", "0.45", "1.006"), ("g4dn.xlarge", "0.21", "0.526"), ("p5.4xlarge", None, "6.88"),
    )]  # fmt: skip
    report = report_of([measured("g4dn.xlarge", 400.0, "0.2", "embedded cloud")], rows)
    assert speed_says_nothing(spots(report, "net"))
    assert priced(report, "net") == [
        Priced("g4dn.xlarge", 0.21, 0.526), Priced("g5.xlarge", 0.45, 1.006), Priced("p5.4xlarge", None, 6.88),
    ]  # fmt: skip
    chart = lead(report, "net", "lead", (3.0, 3.0))
    assert chart is not None
    assert chart.title == "Price of each type"
    assert "All 3 types are predicted at about 9,690 images/s, so price alone tells them apart." in chart.caption
    assert "bound by kernel starts" in chart.caption
    assert "The lowest price is that of g4dn.xlarge: $0.210 per hour." in chart.caption
    assert "g5.xlarge $0.450 spot, $1.01 on demand; p5.4xlarge - spot, $6.88 on demand" in chart.alt
    assert chart.svg.count("$0.526") >= 2, "a figure stands beside its mark, in both widths"


@pytest.mark.parametrize(("second", "says_nothing"), [(1049.0, True), (1060.0, False)])
def test_five_percent_is_where_speed_begins_to_count(second: float, says_nothing: bool) -> None:
    report = report_of([measured("g4dn.xlarge", 1000.0, "0.2"), measured("g5.xlarge", second, "0.4")], [])
    assert speed_says_nothing(spots(report, "net")) is says_nothing
    chart = lead(report, "net", "lead", (3.7, 3.5))
    assert chart is not None
    assert (chart.title == "Price of each type") is says_nothing


def test_on_the_embedded_cloud_alone_the_speed_is_that_of_this_cpu_and_price_is_drawn() -> None:
    types = [
        measured("p2.xlarge", 70.0, "0.3", "embedded cloud"),
        measured("g5.xlarge", 200.0, "0.4", "embedded cloud"),
    ]
    chart = lead(report_of(types, []), "net", "lead", (3.0, 3.0))
    assert of_gpus(spots(report_of(types, []), "net")) == []
    assert chart is not None
    assert "Every instance of the embedded cloud is this machine's CPU" in chart.caption
    assert lead(report_of([], []), "net", "lead", (3.0, 3.0)) is None


def test_a_price_that_was_paid_goes_before_a_quoted_one_and_that_of_the_embedded_cloud_comes_last() -> None:
    types = [measured("g5.xlarge", 900.0, "0.3"), measured("g4dn.xlarge", 9.0, "0.11", "embedded cloud")]
    rows = [predicted("g5.xlarge", 900.0, "0.4", "1.006"), predicted("g4dn.xlarge", 900.0, "0.21", "0.526")]
    found = {one.label: one.spot_usd_h for one in priced(report_of(types, rows), "net")}
    assert found == {"g5.xlarge": 0.3, "g4dn.xlarge": 0.21}


def test_the_reach_of_a_prediction_is_a_sentence_and_no_bar() -> None:
    rows = [predicted("g5.xlarge", 3000.0, "0.45", "1.006"), predicted("g4dn.xlarge", 1000.0, "0.21", "0.526")]
    chart = lead(report_of([], rows), "net", "lead", (3.7, 3.5))
    assert chart is not None
    assert "A prediction may be off by a factor of 3 either way (90 % interval)." in chart.caption
    assert "Bars:" not in chart.caption
