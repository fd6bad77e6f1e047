"""Programs of the user's own: any number they measure, steps or epochs or neither; time and dollars in any case."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.report import exhibits_of, report_of
from orchestrator.report import as_csv, as_json, as_markdown, as_text
from orchestrator.report.bench import bench_row
from orchestrator.report.metrics import from_json, read, to_json
from orchestrator.report.records import Record, record_of
from orchestrator.report.series import Curve, Series, main_keys
from orchestrator.report.summary import summary_json, summary_text
from orchestrator.runs.events import Event, Progress
from orchestrator.runs.program_events import MetricsFound
from orchestrator.runs.store import RunStore
from tests.support.report_runs import BORN, Had, write_run

NOW = BORN + 10**6


def own(home: Path, lines: list[dict[str, Any]], *, name: str = "own", steps: int = 0, unit: str = "step") -> RunStore:
    """Write a run of a program that wrote these lines, one a second of its clock where they have no time."""
    made = [json.dumps({"time": BORN + 40 + second, **line}) for second, line in enumerate(lines)]
    store = write_run(
        home, name, [Had(last_step=steps, lines=made)], trainer=None, command=("python", "train.py"), workdir=str(home)
    )
    events = [event for event in store.events() if steps or not isinstance(event, Progress)]
    told: list[Event] = [MetricsFound(at=BORN + 41, attempt=1, source="TensorBoard's event files (runs/x)")]
    if steps:
        told.append(Progress(at=BORN + 1700, attempt=1, step=steps, unit=unit))  # type: ignore[arg-type]  # one of two
    text = "".join(json.dumps(event.to_json()) + "\n" for event in [*events, *(told if lines else [])])
    (store.folder / "events.jsonl").write_text(text)
    return store


def record(home: Path, lines: list[dict[str, Any]], **how: Any) -> Record:
    return record_of(own(home, lines, **how), NOW)


def steps(count: int, per_s: float = 2.0) -> list[dict[str, Any]]:
    return [
        {"step": n, "loss": 1 / n, "train/accuracy": 1 - 1 / n, "time": BORN + 40 + n / per_s}
        for n in range(1, count + 1)
    ]


# -- steps per second, cost of a step and of an epoch


def test_steps_per_second_are_computed_where_no_line_has_a_speed(home: Path) -> None:
    row = record(home, steps(100), steps=100).row
    assert row.attempts[0].steps_per_s == pytest.approx(2.0)
    assert row.seconds_per_step == pytest.approx(0.5)
    assert row.images_per_s is None
    price = row.attempts[0].price_usd_h
    assert row.usd_per_step is not None and row.usd_per_1000_steps is not None
    assert float(row.usd_per_step) == pytest.approx(float(price) * 0.5 / 3600)
    assert float(row.usd_per_1000_steps) == pytest.approx(1000 * float(row.usd_per_step))


def test_the_cost_of_an_epoch_follows_from_the_steps_of_one(home: Path) -> None:
    lines = [{**line, "epoch": line["step"] / 25} for line in steps(100)]
    row = record(home, lines, steps=100).row
    assert row.usd_per_epoch is not None and row.usd_per_step is not None
    assert float(row.usd_per_epoch) == pytest.approx(25 * float(row.usd_per_step))


def test_a_program_that_counts_epochs_is_reported_by_epochs(home: Path) -> None:
    lines = [{"step": n, "unit": "epoch", "epoch": n, "loss": 1 / n, "time": BORN + 40 + 60 * n} for n in range(1, 21)]
    store = own(home, lines, steps=20, unit="epoch")
    row = record_of(store, NOW).row
    assert (row.steps, row.unit, row.seconds_per_step) == (20, "epoch", pytest.approx(60.0))
    assert row.usd_per_epoch == row.usd_per_step
    text = summary_text(store, NOW)
    assert "epochs      20" in text
    assert "60 s and $0.00350 an epoch" in text
    assert "20 ep" in as_text(report_of([record_of(store, NOW)], home, NOW, "hour-start"))


@pytest.mark.parametrize(
    ("lines", "speed"),
    [
        ([{"step": 1}], None),
        ([{"step": 1, "time": 2e9}, {"step": 5, "time": 2e9}], None),
        ([{"step": 1, "time": 2e9}, {"step": 5, "time": 2e9}, {"step": 9, "time": 2e9 + 2}], 2.0),
        ([{"step": 1, "time": 2e9}, {"step": 5, "time": 1e9}, {"step": 9, "time": 1e9 + 2}], 2.0),
        ([{"step": 9, "time": 2e9}, {"step": 1, "time": 2e9 + 1}, {"step": 5, "time": 2e9 + 3}], 2.0),
        ([{"step": 7, "steps_per_s": 4.2}], 4.2),
        ([{"loss": 1.0}, {"loss": 0.5}], None),
    ],
)
def test_a_speed_is_known_or_none_and_never_wrong(lines: list[dict[str, Any]], speed: float | None) -> None:
    series = Series()
    for line in lines:
        series.read(line)
    assert series.steps_per_s == speed


def test_the_warm_up_does_not_count_for_the_speed() -> None:
    series = Series(skip_until_step=10)
    for n in range(1, 30):
        series.read({"step": n, "time": 1e9 + (10 * n if n <= 10 else 100 + n)})
    assert series.steps_per_s == pytest.approx(1.0)


def test_what_a_worse_source_told_is_forgotten() -> None:
    series = Series()
    series.read({"step": 500, "time": 1e9, "bar": 1.0})
    series.read({"event": "source", "source": "metrics.jsonl"})
    series.read({"step": 3, "time": 1e9 + 5, "loss": 0.5})
    assert list(series.values) == ["loss"]


# -- values


def test_every_number_is_kept_and_the_main_ones_are_shown_first(home: Path) -> None:
    store = own(home, [{**line, "zeta": 3, "ok": True, "name": "x"} for line in steps(10)], steps=10)
    details = summary_json(store, NOW)
    assert details["metrics"] == {"loss": 0.1, "train/accuracy": 0.9, "zeta": 3.0}
    assert details["metrics_source"] == "TensorBoard's event files (runs/x)"
    text = summary_text(store, NOW)
    assert "values      loss 0.1, train/accuracy 0.9, zeta 3" in text
    assert "read from   TensorBoard's event files (runs/x)" in text
    assert main_keys(["lr", "b", "acc", "train_loss", "eval_loss"]) == ["eval_loss", "train_loss", "acc", "lr", "b"]


def test_a_curve_of_millions_of_measurements_is_held_in_bounded_memory() -> None:
    curve = Curve()
    for n in range(200_000):
        curve.add(n, float(n))
    assert len(curve.points) <= 2000
    assert curve.points[0][1] < curve.points[-1][1] <= curve.last == 199_999.0


def test_a_digest_with_curves_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in steps(500)))
    found = read(path, is_own=True)
    assert from_json(json.loads(json.dumps(to_json(found)))) == found
    assert len(found.curves["loss"]) <= 150
    for wrong in ({"values": {"a": "x"}}, {"curves": {"a": [[1]]}}, {"values": []}, {"curves": {"a": [[1, None]]}}):
        with pytest.raises(ValueError, match=r"is no|are no"):
            from_json({**json.loads(json.dumps(to_json(found))), **wrong})


def test_the_page_has_a_chart_of_each_value(home: Path) -> None:
    from orchestrator.report.html.page import as_html

    records = [record(home, steps(30), steps=30, name="one"), record(home, steps(20), steps=20, name="two")]
    page = as_html(report_of(records, home, NOW, "hour-start"), exhibits_of(records, home, NOW))
    assert 'id="value-0"' in page and 'id="value-1"' in page
    assert "Line chart of loss over the steps. At the end: one 0.03333 at step 30; two 0.05 at step 20." in page


@pytest.mark.slow
def test_steps_and_epochs_are_not_drawn_over_one_axis(home: Path) -> None:
    from orchestrator.report.html.page import as_html

    epochs = [{"step": n, "unit": "epoch", "loss": 1 / n} for n in range(1, 9)]
    records = [
        record(home, steps(30), steps=30, name="one"), record(home, epochs, steps=8, unit="epoch", name="two")
    ]  # fmt: skip
    page = as_html(report_of(records, home, NOW, "hour-start"), exhibits_of(records, home, NOW))
    assert "Line chart of loss over the steps. At the end: one 0.03333 at step 30." in page
    assert "Line chart of loss over the epochs. At the end: two 0.125 at epoch 8." in page


@pytest.mark.slow
def test_a_program_whose_steps_are_timed_is_not_said_to_have_no_speed(home: Path) -> None:
    from orchestrator.report.html.page import Exhibits, as_html

    page = as_html(report_of([record(home, steps(30), steps=30)], home, NOW, "hour-start"), Exhibits())
    assert "the seconds and dollars of a step are in the table of types" in page
    assert "has measured a speed" not in page
    assert "- - -" not in page, "a range of which no end is known"


# -- without any


def test_a_program_without_metrics_is_reported_by_time_and_dollars(home: Path) -> None:
    store = own(home, [])
    row = record_of(store, NOW).row
    assert not row.is_measured and not row.is_untrained
    assert row.problems == ()
    assert row.cost_usd > 0
    attempt = row.attempts[0]
    assert attempt.to_first_step_s == 60.0, "until the program's start, and not its whole life"
    assert attempt.to_first_step_usd < attempt.instance_usd / 20
    text = summary_text(store, NOW)
    assert "no step was trained" not in text and "steps       0" not in text
    assert "metrics     none found, so that steps and speed are not known" in text
    assert "before the program's start (boot, set-up): $" in text
    details = summary_json(store, NOW)
    assert (details["steps"], details["metrics"], details["metrics_source"]) == (None, {}, None)


def test_no_form_of_the_report_says_0_steps_where_they_are_not_known(home: Path) -> None:
    built = report_of([record(home, [])], home, NOW, "hour-start")
    assert as_json(built)["runs"][0]["steps"] is None
    line = next(line for line in as_text(built).splitlines() if line.startswith("own "))
    assert line.split()[2] == "-"
    assert "| own | SUCCEEDED | - | 1 |" in as_markdown(built)
    head, cells = (one.split(",") for one in as_csv(built).splitlines())
    assert dict(zip(head, cells, strict=False))["steps"] == ""
    assert "no metrics" not in as_text(built)


def test_values_without_steps_are_shown_and_no_step_is_made_up(home: Path) -> None:
    store = own(home, [{"loss": 0.5}, {"loss": 0.25}])
    text = summary_text(store, NOW)
    assert "metrics     without steps: the program tells none" in text
    assert "values      loss 0.25" in text


def test_the_bundled_trainer_without_a_step_is_still_said_to_have_trained_none(home: Path) -> None:
    store = write_run(home, "none", [Had(last_step=0, lines=[])])
    assert "no step was trained" in summary_text(store, NOW)


# -- bench


def test_a_type_is_measured_by_steps_where_no_line_tells_images(home: Path) -> None:
    store = own(home, [{**line, "epoch": line["step"] / 25} for line in steps(100)], steps=100)
    digest = read(store.metrics_path(1), is_own=True)
    row = bench_row(
        "g4dn.xlarge", record_of(store, NOW).row, digest, full_steps=7200, target_bits=None, says="", attempt=1
    )
    assert row.seconds_per_step == pytest.approx(0.5)
    assert row.est_hours == pytest.approx(1.0)
    assert row.est_usd == pytest.approx(Decimal("0.21"))
    assert row.usd_per_epoch is not None and float(row.usd_per_epoch) == pytest.approx(25 * 0.5 * 0.21 / 3600)
