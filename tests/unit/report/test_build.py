"""The figures of runs and instance types follow from events and metrics."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from orchestrator.cli.report import report_of
from orchestrator.report import as_text
from orchestrator.report.records import record_of, records_of
from orchestrator.runs.events import HostReady
from orchestrator.runs.store import RunStore
from tests.support.report_runs import BORN, Had, write_run

NOW = BORN + 10**6


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


def test_the_cost_before_the_first_step_covers_boot_set_up_and_data(home: Path) -> None:
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
    assert "before the first step (boot, set-up): $0.00700, $0.00200 of it until the data were ready (20s)" in said


def test_the_cost_of_an_epoch_is_price_over_measured_speed(home: Path) -> None:
    row = record_of(write_run(home, "one", [Had(images_per_s=1000, price_usd_h=0.36)]), NOW).row
    assert row.usd_per_epoch == pytest.approx(Decimal("0.0001") * 1257 / 1000)
    assert row.usd_per_1000_steps == pytest.approx(Decimal("0.0001") * 32)


def test_costs_of_steps_and_epochs_agree_over_attempts_at_different_prices(home: Path) -> None:
    cheap = Had(last_step=900, price_usd_h=0.1, images_per_s=1000, seconds=3000)
    expensive = Had(first_step=901, last_step=1000, price_usd_h=0.9, images_per_s=500, seconds=3000)
    write_run(home, "first", [cheap, expensive])
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


def test_an_attempt_without_a_step_counts_fully_as_time_before_the_first_step(home: Path) -> None:
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


def test_the_speed_of_the_embedded_cloud_is_shown_and_not_ranked(home: Path) -> None:
    write_run(home, "here", [Had("p5.48xlarge", images_per_s=9e9)], cloud="embedded cloud")
    write_run(home, "there", [Had("g4dn.xlarge", images_per_s=1000)])
    built = report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start")
    by_cloud = {row.cloud: row for row in built.types}
    assert not by_cloud["embedded cloud"].is_ranked
    assert by_cloud["AWS"].is_ranked
    assert max(row.images_per_s for row in built.predicted) < 1e6, "it calibrates nothing"
    assert "p5.48xlarge" in {row.instance_type for row in built.predicted}
    assert "this machine's CPU" in built.notes[0]


def test_types_measured_on_aws_calibrate_the_predictions(home: Path) -> None:
    write_run(home, "t4", [Had("g4dn.xlarge", images_per_s=1000)])
    write_run(home, "a10g", [Had("g5.xlarge", images_per_s=1100)])
    built = report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start")
    names = {row.instance_type for row in built.predicted}
    assert {"g6.xlarge", "p5.4xlarge"} <= names
    assert not {"g4dn.xlarge", "g5.xlarge", "p3.2xlarge"} & names, "neither what was run nor what is gone"
    errors = {row.instance_type: row.error for row in built.left_out}
    assert errors["g5.xlarge"] == pytest.approx(1000 / 1100 - 1)
    assert 900 < next(row.images_per_s for row in built.predicted if row.instance_type == "g6.xlarge") < 1200


def test_the_billing_rule_can_be_set(home: Path) -> None:
    from orchestrator.runs.events import PriceChanged

    changes = [PriceChanged(at=BORN, attempt=1, since=BORN - 50, price_usd_h=0.2),
               PriceChanged(at=BORN, attempt=1, since=BORN + 10 + 900, price_usd_h=0.4)]  # fmt: skip
    store = write_run(home, "moved", [Had(price_usd_h=0.2, seconds=1800, extra=list(changes))])
    assert record_of(store, NOW).row.instance_usd == Decimal("0.1")
    assert record_of(store, NOW, "in-effect").row.instance_usd == Decimal("0.15")


def test_the_text_explains_predictions_that_are_equal_because_of_kernel_starts(home: Path) -> None:
    from model.config import TrainConfig

    write_run(home, "small", [Had("g4dn.xlarge", images_per_s=1000)])
    built = report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start")
    speeds = [row.images_per_s for row in built.predicted]
    assert max(speeds) <= 1.001 * min(speeds), "several GPUs also add up their gradients"
    assert "bound by kernel starts" in " ".join(as_text(built).split())
    large = TrainConfig(hidden=128, layers=15, batch_size=256)
    write_run(home, "large", [Had("g4dn.xlarge", images_per_s=10)], trainer=large)
    alone = [record for record in records_of(RunStore.all(home), NOW) if record.row.run == "large"]
    assert "bound by kernel starts" not in as_text(report_of(alone, home, NOW, "hour-start"))
