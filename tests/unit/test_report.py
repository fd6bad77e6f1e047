"""The report: figures that follow from events and metrics, what is left out and said, and its forms."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import main
from orchestrator.cli.report import report_of
from orchestrator.report import as_csv, as_json, as_markdown, as_text, build
from orchestrator.report.html.charts import Spot, front
from orchestrator.report.metrics import Digest, digest, joined, parse, thinned
from orchestrator.report.records import record_of, records_of
from orchestrator.runs.events import HostReady
from orchestrator.runs.store import RunStore
from tests.report_runs import BORN, PNG, Had, write_run

NOW = BORN + 10**6


def line(step: int, speed: float, wall_s: float, **more: object) -> dict[str, Any]:
    return {"step": step, "images_per_s": speed, "wall_s": wall_s, **more}


# -- metrics


def test_the_speed_is_without_warm_up_and_each_line_weighs_as_long_as_it_took() -> None:
    found = digest([line(1, 5, 10.0), line(11, 100, 20.0), line(31, 50, 60.0)])
    assert found.images_per_s == pytest.approx((100 * 10 + 50 * 40) / 50)
    assert found.steps_per_s == pytest.approx(30 / 50)
    assert found.measured == 2


def test_the_spread_is_that_of_the_lines() -> None:
    found = digest([line(1, 1, 0.0), *(line(step, 99.0 + step, float(step)) for step in range(2, 103))])
    assert found.slow_images_per_s == pytest.approx(111)
    assert found.fast_images_per_s == pytest.approx(191)


def test_warm_up_steps_do_not_count() -> None:
    lines = [line(step, 10 if step <= 5 else 100, float(step)) for step in range(1, 20)]
    assert digest(lines, skip_until_step=5).images_per_s == pytest.approx(100)


def test_metrics_cut_in_mid_line_keep_their_whole_lines() -> None:
    whole = json.dumps(line(1, 5, 1.0)).encode()
    lines, torn = parse(whole + b"\n" + whole[:20] + b"\n" + whole + b"\n[1]\nnull\n" + whole[:-4])
    assert (len(lines), torn) == (2, 4)
    assert digest(lines, torn=torn).problems == ("4 lines of the metrics cut or unreadable, left out",)


def test_losses_that_are_no_numbers_are_left_out_and_said() -> None:
    lines, _ = parse(
        b'{"step": 1, "nats": NaN, "bits_per_dim": NaN, "images_per_s": 5}\n'
        b'{"step": 2, "split": "valid", "nats": Infinity, "bits_per_dim": 2.0}\n'
        b'{"step": 3, "split": "valid", "nats": 80.0, "bits_per_dim": 1.8}\n'
    )
    found = digest(lines)
    assert (found.valid_nats, found.not_finite, found.train_curve) == (80.0, 2, ())
    assert "2 losses not finite, left out" in found.problems


def test_a_clock_that_goes_back_is_left_out_and_said() -> None:
    found = digest([line(1, 9, 1.0), line(2, 100, 2.0), line(3, 100, 1.5), line(4, 100, 2.5)])
    assert found.images_per_s == pytest.approx(100)
    assert "its clock went back, those spans left out" in found.problems


@pytest.mark.parametrize("odd", [True, "7", None, 1.5, [], {}])
def test_a_step_that_is_no_whole_number_is_passed_over(odd: object) -> None:
    assert digest([{"step": odd, "images_per_s": 5.0, "bits_per_dim": 2.0}]).images_per_s is None


def test_no_metrics_are_said() -> None:
    assert Digest().problems == ("no metrics",)
    assert digest([{"step": 1}]).problems == ("no speed in the metrics",)


def test_a_curve_of_two_attempts_has_what_was_done_again_once() -> None:
    first = Digest(train_curve=((1, 3.0), (2, 2.0), (3, 1.5)))
    second = Digest(train_curve=((3, 1.4), (4, 1.3)))
    assert joined([(0, first), (2, second)])[0] == ((1, 3.0), (2, 2.0), (3, 1.4), (4, 1.3))


def test_a_thinned_curve_keeps_its_mean() -> None:
    points = [(step, float(step)) for step in range(1, 1001)]
    few = thinned(points, 150)
    assert len(few) <= 150
    assert few[-1][0] == 1000
    assert few[0][1] == pytest.approx(sum(range(1, few[0][0] + 1)) / few[0][0])


# -- rows


def test_a_run_over_two_attempts_is_billed_and_measured_over_both(home: Path) -> None:
    interrupted = Had(last_step=60, ended_by="aws", seconds=1800, images_per_s=500, zone="us-east-1b")
    again = Had(first_step=51, last_step=100, seconds=7200, price_usd_h=0.3, images_per_s=1000)
    row = record_of(write_run(home, "two", [interrupted, again]), NOW).row
    first, second = row.attempts
    assert first.is_free
    assert first.instance_usd == 0
    assert first.billed_usd == first.volume_usd + first.address_usd + first.data_out_usd > 0
    assert second.instance_usd == Decimal("0.6")
    assert row.cost_usd == first.billed_usd + second.billed_usd
    assert row.on_demand_usd == Decimal("0.526") * Decimal("2.5") + (row.cost_usd - Decimal("0.6"))
    assert (row.interruptions, row.steps_lost, row.steps) == (1, 10, 100)
    assert row.images_per_s == pytest.approx(110 / (60 / 500 + 50 / 1000))
    assert row.bits_per_dim == pytest.approx(2 + 3 / 100 + 0.01)


def test_what_boot_set_up_and_data_cost_before_a_first_step(home: Path) -> None:
    ready = HostReady(at=BORN + 60, attempt=1, instance_id="i-1", python="python3", setup_s=40.0, data_s=20.0)
    first = Had(price_usd_h=0.36, seconds=1800, extra=[ready])
    never = Had(price_usd_h=0.36, seconds=600, ended_by="aws")  # nothing is billed
    row = record_of(write_run(home, "one", [first, never]), NOW).row
    assert [a.to_first_step_s for a in row.attempts] == [70.0, 70.0]  # write_run: the first progress is 70 s in
    assert [a.to_first_step_usd for a in row.attempts] == [pytest.approx(Decimal("0.0001") * 70), 0]
    assert (row.data_s, row.data_usd) == (20.0, pytest.approx(Decimal("0.0001") * 20))
    assert row.to_first_step_usd == row.attempts[0].to_first_step_usd
    built = report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start")
    said = " ".join(as_text(built).split())
    assert "before a first step (boot, set-up): $0.00700, $0.00200 of it while data came (20s)" in said


def test_cost_of_an_epoch_is_price_over_measured_speed(home: Path) -> None:
    row = record_of(write_run(home, "one", [Had(images_per_s=1000, price_usd_h=0.36)]), NOW).row
    assert row.usd_per_epoch == pytest.approx(Decimal("0.0001") * 1257 / 1000)
    assert row.usd_per_1000_steps == pytest.approx(Decimal("0.0001") * 32)


def test_money_for_steps_epochs_and_hours_is_one_definition_over_attempts_at_different_prices(home: Path) -> None:
    cheap = Had(last_step=900, price_usd_h=0.1, images_per_s=1000, seconds=3000)
    dear = Had(first_step=901, last_step=1000, price_usd_h=0.9, images_per_s=500, seconds=3000)
    write_run(home, "first", [cheap, dear])
    write_run(home, "second", [Had(last_step=200, price_usd_h=0.4, images_per_s=800)])
    records = records_of(RunStore.all(home), NOW)
    built = report_of(records, home, NOW, "hour-start")
    (kind,) = built.types
    trained_s = [900 * 32 / 1000, 100 * 32 / 500, 200 * 32 / 800]
    prices = [Decimal("0.1"), Decimal("0.9"), Decimal("0.4")]
    usd = sum(Decimal(repr(s)) * price / 3600 for s, price in zip(trained_s, prices, strict=True))
    assert kind.images_per_s == pytest.approx(1200 * 32 / sum(trained_s))
    assert kind.seconds_per_step == pytest.approx(32 / kind.images_per_s)
    assert kind.price_usd_h == pytest.approx(usd * 3600 / Decimal(repr(sum(trained_s))))
    assert kind.usd_per_1000_steps == pytest.approx(usd / 1200 * 1000)
    for row in (kind, *(record.row for record in records)):
        assert row.usd_per_epoch / row.usd_per_1000_steps * 1000 == pytest.approx(Decimal(1257) / 32), "steps an epoch"
    alone = report_of([record for record in records if record.row.run == "first"], home, NOW, "hour-start")
    run = next(record.row for record in records if record.row.run == "first")
    assert alone.types[0].usd_per_1000_steps == run.usd_per_1000_steps
    assert alone.types[0].usd_per_epoch == run.usd_per_epoch
    assert alone.types[0].images_per_s == run.images_per_s
    assert alone.types[0].images_per_usd == pytest.approx(float(run.batch_size * 1000 / run.usd_per_1000_steps))


def test_seconds_for_a_step_are_those_of_the_same_images(home: Path) -> None:
    slow_clock = [line(step, 800.0, step * 0.5) for step in range(1, 20)]  # validations between the measured spans
    found = digest([{"event": "start", "batch_size": 32}, *slow_clock])
    assert found.images_per_s == pytest.approx(800)
    assert found.steps_per_s == pytest.approx(25)


def test_steps_are_trained_again_only_if_a_later_attempt_trained_them(home: Path) -> None:
    lost = Had(last_step=28, ended_by="pixel-orch")
    never = Had(first_step=1, last_step=0, lines=[])
    row = record_of(write_run(home, "ended-at-once", [lost, never]), NOW).row
    assert row.steps_lost == 0, "what was thrown away was not done again"
    again = Had(first_step=11, last_step=50)
    row = record_of(write_run(home, "resumed", [lost, never, again, Had(first_step=41, last_step=60)]), NOW).row
    assert [a.steps_lost for a in row.attempts] == [18, 0, 10, 0]
    done = sum(a.last_step - a.first_step + 1 for a in row.attempts)
    assert row.steps_lost == done - 60


def test_all_of_an_instance_that_never_made_a_step_was_before_a_first_step(home: Path) -> None:
    never = Had(last_step=0, seconds=20, price_usd_h=0.36, market="on-demand", lines=[])
    store = write_run(home, "short", [never])
    text = [row for row in (store.folder / "events.jsonl").read_text().splitlines() if '"progress"' not in row]
    (store.folder / "events.jsonl").write_text("\n".join(text) + "\n")
    (attempt,) = record_of(store, NOW).row.attempts
    assert attempt.to_first_step_s == 20
    assert attempt.to_first_step_usd == attempt.instance_usd == Decimal("0.36") / 60, "60 s are billed"


def test_runs_of_different_workloads_are_not_compared_by_speed(home: Path) -> None:
    from model.config import TrainConfig

    write_run(home, "small", [Had(images_per_s=1000)])
    write_run(home, "large", [Had(images_per_s=10)], trainer=TrainConfig(hidden=64))
    built = report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start")
    assert [row.images_per_s for row in built.types] == pytest.approx([1000, 10])


def test_the_embedded_clouds_speed_is_shown_and_never_ranked(home: Path) -> None:
    write_run(home, "here", [Had("p5.48xlarge", images_per_s=9e9)], cloud="embedded cloud")
    write_run(home, "there", [Had("g4dn.xlarge", images_per_s=1000)])
    built = report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start")
    by_cloud = {row.cloud: row for row in built.types}
    assert not by_cloud["embedded cloud"].is_ranked
    assert by_cloud["AWS"].is_ranked
    assert max(row.images_per_s for row in built.predicted) < 1e6, "it calibrates nothing"
    assert "p5.48xlarge" in {row.instance_type for row in built.predicted}
    assert "this machine's CPU" in built.notes[0]


def test_what_was_measured_on_aws_calibrates_what_was_not(home: Path) -> None:
    write_run(home, "t4", [Had("g4dn.xlarge", images_per_s=1000)])
    write_run(home, "a10g", [Had("g5.xlarge", images_per_s=1100)])
    built = report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start")
    names = {row.instance_type for row in built.predicted}
    assert {"g6.xlarge", "p5.4xlarge"} <= names
    assert not {"g4dn.xlarge", "g5.xlarge", "p3.2xlarge"} & names, "neither what was run nor what is gone"
    errors = {row.instance_type: row.error for row in built.left_out}
    assert errors["g5.xlarge"] == pytest.approx(1000 / 1100 - 1)
    assert 900 < next(row.images_per_s for row in built.predicted if row.instance_type == "g6.xlarge") < 1200


def test_the_rule_of_billing_can_be_set(home: Path) -> None:
    from orchestrator.runs.events import PriceChanged

    changes = [PriceChanged(at=BORN, attempt=1, since=BORN - 50, price_usd_h=0.2),
               PriceChanged(at=BORN, attempt=1, since=BORN + 10 + 900, price_usd_h=0.4)]  # fmt: skip
    store = write_run(home, "moved", [Had(price_usd_h=0.2, seconds=1800, extra=list(changes))])
    assert record_of(store, NOW).row.instance_usd == Decimal("0.1")
    assert record_of(store, NOW, "in-effect").row.instance_usd == Decimal("0.15")


def test_predictions_that_are_equal_since_kernels_bound_them_say_so(home: Path) -> None:
    from model.config import TrainConfig

    write_run(home, "small", [Had("g4dn.xlarge", images_per_s=1000)])
    built = report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start")
    assert len({round(row.images_per_s, 6) for row in built.predicted}) == 1
    assert "bound by kernel starts" in " ".join(as_text(built).split())
    large = TrainConfig(hidden=128, layers=15, batch_size=256)
    write_run(home, "large", [Had("g4dn.xlarge", images_per_s=10)], trainer=large)
    alone = [record for record in records_of(RunStore.all(home), NOW) if record.row.run == "large"]
    assert "bound by kernel starts" not in as_text(report_of(alone, home, NOW, "hour-start"))


def test_the_front_holds_what_nothing_beats() -> None:
    points = [Spot(name, price, speed, 0, 0, "measured") for name, price, speed in (
        ("cheap", 0.2, 100), ("dear and slow", 0.5, 90), ("dearer and fast", 0.6, 300), ("same price", 0.6, 200),
        ("dearest", 9.0, 300),
    )]  # fmt: skip
    assert [point.label for point in front(points)] == ["cheap", "dearer and fast"]
    equal = [Spot("a", 0.2, 100.0, 0, 0, "predicted"), Spot("b", 0.3, 100.00000001, 0, 0, "predicted")]
    assert [point.label for point in front(equal)] == ["a"]


def test_the_page_says_no_line_where_there_is_none_and_what_it_leaves_out(home: Path) -> None:
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
    assert "2 of 14 runs have drawn any" in page
    write_run(home, "there", [Had("g4dn.xlarge", images_per_s=1000)])
    write_run(home, "where", [Had("g5.xlarge", images_per_s=3000, price_usd_h=0.4)])
    records = records_of(RunStore.all(home), NOW)
    page = as_html(report_of(records, home, NOW, "hour-start"), exhibits_of(records, home, NOW))
    assert "above and left of the line" in page


@pytest.mark.parametrize(
    ("interrupted", "again", "says"),
    [(False, False, "<b>0</b><span>interruptions</span>"), (True, False, "<b>1</b><span>interruption</span>"),
     (True, True, "1 step trained again, over all runs")],
)  # fmt: skip
def test_the_tile_of_interruptions_counts_in_words(home: Path, interrupted: bool, again: bool, says: str) -> None:
    from orchestrator.report.html.page import Exhibits, as_html

    first = Had(last_step=60, ended_by="aws" if interrupted else "pixel-orch")
    write_run(home, "one", [first, Had(first_step=60 if again else 61, last_step=70)])
    page = as_html(report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start"), Exhibits())
    assert says in page
    assert "trained twice" not in page


# -- a digest is made once


def test_metrics_of_an_attempt_that_is_over_are_digested_once(home: Path) -> None:
    store = write_run(home, "kept", [Had()])
    before = record_of(store, NOW)
    kept = store.attempt_folder(1) / "digest.json"
    assert kept.exists()
    assert record_of(store, NOW).digests == before.digests
    kept.write_text('{"key": 1}')
    assert record_of(store, NOW).digests == before.digests, "a damaged one is made anew"
    with (store.attempt_folder(1) / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 101, "split": "valid", "nats": 1.0, "bits_per_dim": 0.5}) + "\n")
    assert record_of(store, NOW).row.bits_per_dim == 0.5, "a file that has grown is read again"


def test_an_attempt_that_goes_on_leaves_no_digest(home: Path) -> None:
    store = write_run(home, "going", [Had(ended_by=None)])
    assert record_of(store, NOW).row.is_estimate
    assert not (store.attempt_folder(1) / "digest.json").exists()


def test_many_runs_are_read_by_several_processes_in_their_order(home: Path) -> None:
    names = [f"run-{number:03}" for number in range(45)]
    for name in names:
        write_run(home, name, [Had(last_step=3)])
    found = records_of([RunStore(home, name) for name in names], NOW)
    assert [record.row.run for record in found] == names
    assert found[7].row == record_of(RunStore(home, "run-007"), NOW).row


# -- forms


@pytest.fixture
def built(home: Path) -> Any:
    write_run(
        home, "first", [Had(last_step=60, ended_by="aws"), Had(first_step=51, market="on-demand", price_usd_h=0.526)]
    )
    write_run(home, "mute", [Had("g5.xlarge", lines=[])])
    write_run(home, "own", [Had("p2.xlarge", images_per_s=70)], cloud="embedded cloud", trainer=None,
              command=("python3", "train|it.py"), workdir=str(home))  # fmt: skip
    write_run(home, "unborn", [])
    return report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start")


def test_the_terminal_form_fits_80_columns_and_says_what_was_left_out(built: Any) -> None:
    shown = as_text(built)
    assert max(map(len, shown.splitlines())) <= 80, shown
    assert "mute: attempt 1: no metrics" in shown
    assert "unborn: no instance was had" in shown
    assert "Predicted: pixelcnn digits" in shown
    assert "The same seconds on on-demand" in shown


def test_the_json_form_has_plain_numbers_and_no_nan(built: Any) -> None:
    raw = json.loads(json.dumps(as_json(built), allow_nan=False))
    run = raw["runs"][0]
    parts = ("instance_usd", "volume_usd", "address_usd", "data_out_usd")
    assert run["cost_usd"] == pytest.approx(sum(run[part] for part in parts))
    assert run["cost_usd"] == pytest.approx(sum(a["billed_usd"] for a in run["attempts"]))
    assert run["attempts"][0]["started_at"].endswith("Z")
    assert {row["origin"] for row in raw["types"]} == {"measured"}
    assert {row["origin"] for row in raw["predicted"]} == {"predicted"}


def test_the_csv_form_has_a_line_a_run(built: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(built))))
    assert [row["run"] for row in rows] == ["first", "mute", "own", "unborn"]
    assert float(rows[0]["cost_usd"]) == pytest.approx(float(built.runs[0].cost_usd))
    assert "no metrics" in rows[1]["problems"]


def test_the_markdown_form_is_tables(built: Any) -> None:
    shown = as_markdown(built)
    assert "| run | state |" in shown
    assert "train\\|it.py" in shown
    assert "## Predicted, not measured" in shown


def test_an_empty_store_is_said_in_every_form(home: Path) -> None:
    nothing = build([], NOW)
    assert "no runs yet" in as_text(nothing)
    assert as_json(nothing)["runs"] == []
    assert as_csv(nothing).startswith("run,")
    assert "No runs" in as_markdown(nothing)


def test_the_command_writes_each_form(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    write_run(home, "one", [Had()])
    for form, begins in (("json", "{"), ("csv", "run,"), ("markdown", "## Runs"), ("table", "Runs (measured")):
        assert main(["report", "one", "-o", form]) == 0
        assert capsys.readouterr().out.startswith(begins)
    assert main(["report", "--html", str(tmp_path / "none" / "r.html")]) == 2
    assert "--html: cannot write" in capsys.readouterr().err
    assert main(["report", "--out", str(tmp_path / "r.txt")]) == 0
    assert "one" in (tmp_path / "r.txt").read_text()


def test_without_the_library_the_line_says_which_extra(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    write_run(home, "one", [Had()])
    assert main(["report", "--html", str(home / "r.html")]) == 2
    assert "pip install 'pixel-orch[report]'" in capsys.readouterr().err


def test_reading_many_lines_is_quick() -> None:
    text = b"\n".join(json.dumps(line(step, 1918.3456, step / 10, nats=83.2)).encode() for step in range(20_000))
    began = time.process_time()
    lines, _ = parse(text)
    digest(lines)
    assert time.process_time() - began < 1.0, "twenty runs of 1,000 lines; the whole is measured in benchmarks/"


def test_a_report_needs_no_library_that_draws_unless_it_draws(home: Path) -> None:
    write_run(home, "one", [Had()])
    code = (
        "import sys; from orchestrator.cli.main import main; main(['report']); "
        "print(sorted({'matplotlib', 'numpy', 'boto3', 'torch'} & set(sys.modules)))"
    )
    import os

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env={**os.environ, "PIXEL_ORCH_HOME": str(home)})  # fmt: skip
    assert shown.stdout.strip().splitlines()[-1] == "[]"
