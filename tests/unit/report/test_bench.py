"""The figures of a bench follow from measurement and price."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.bench import BenchRow, as_json, as_text, bench_row, common_target, ranked, steps_to
from orchestrator.report.metrics import Digest
from orchestrator.report.metrics import digest as made
from orchestrator.report.records import record_of
from tests.support.report_runs import BORN, Had, write_run

NOW = BORN + 10**6


def row(home: Path, name: str = "g4dn.xlarge", *, price: float = 0.36, speed: float = 100, cloud: str = "AWS",
        **changes: Any) -> BenchRow:  # fmt: skip
    record = record_of(
        write_run(home, f"bench-{name.replace('.', '-')}", [Had(name, price_usd_h=price)], cloud=cloud), NOW
    )
    digest = Digest(
        lines=40, images_per_s=speed, steps_per_s=speed / 32, slow_images_per_s=speed * 0.9,
        fast_images_per_s=speed * 1.1, measured=30, batch_size=32, images_per_epoch=1000,
        valid_curve=((50, 2.5), (100, 2.1)),
    )  # fmt: skip
    given: dict[str, Any] = {"full_steps": 10_000, "target_bits": 2.2, "says": ""}
    return bench_row(name, record.row, digest, **{**given, **changes})


def test_every_figure_follows_from_speed_and_price(home: Path) -> None:
    found = row(home)
    assert found.seconds_per_step == pytest.approx(0.32)
    assert found.usd_per_step == pytest.approx(Decimal("0.0001") * Decimal("0.32"))
    assert found.est_hours == pytest.approx(3200 / 3600)
    assert found.est_usd == pytest.approx(Decimal("0.32"))
    assert found.usd_per_epoch == pytest.approx(Decimal("0.001"))
    assert found.images_per_usd == pytest.approx(1e6)
    assert found.usd_to_target == pytest.approx(Decimal("0.0032")), "100 steps of it"


def test_columns_of_a_short_bench_agree_despite_validations_between_its_steps(home: Path) -> None:
    lines: list[dict[str, Any]] = [{"event": "start", "batch_size": 32, "images_per_epoch": 1000}]
    lines += [{"step": step, "images_per_s": 940.0, "wall_s": 0.086 * step} for step in range(1, 5)]
    record = record_of(write_run(home, "short", [Had(price_usd_h=0.36)]), NOW)
    found = bench_row("g4dn.xlarge", record.row, made(lines), full_steps=1000, target_bits=None, says="")
    step_s = 32 / found.images_per_s
    assert found.seconds_per_step == pytest.approx(step_s)
    assert found.usd_per_step == pytest.approx(Decimal(repr(step_s)) * Decimal("0.0001"))
    assert found.est_hours == pytest.approx(1000 * step_s / 3600)
    assert found.est_usd == pytest.approx(1000 * found.usd_per_step)
    assert found.usd_per_epoch / found.usd_per_step == pytest.approx(Decimal(1000) / 32)


def test_the_price_is_that_of_the_measured_attempt(home: Path) -> None:
    two = [Had(price_usd_h=0.36, ended_by="aws"), Had(price_usd_h=0.9, first_step=101, last_step=110)]
    record = record_of(write_run(home, "two", two), NOW)
    given: dict[str, Any] = {"full_steps": None, "target_bits": None, "says": ""}
    assert bench_row("g4dn.xlarge", record.row, record.digests[1], attempt=1, **given).price_usd_h == Decimal("0.36")
    assert bench_row("g4dn.xlarge", record.row, record.digests[2], **given).price_usd_h == Decimal("0.9")


def test_a_target_that_is_not_reached_has_no_cost(home: Path) -> None:
    assert row(home, target_bits=1.0).usd_to_target is None
    assert steps_to(Digest(train_curve=((1, 3.0), (7, 2.0))), 2.0) == 7
    assert common_target([Digest(train_curve=((1, 3.0), (7, 2.0))), Digest(valid_curve=((5, 2.4),)), Digest()]) == 2.4
    assert common_target([Digest()]) is None


def test_gpu_types_are_ranked_by_images_per_dollar_and_the_embedded_cloud_is_not(home: Path) -> None:
    slow, fast = row(home, "g4dn.xlarge", speed=100), row(home, "g5.xlarge", speed=400)
    assert [one.instance_type for one in ranked([slow, fast])] == ["g5.xlarge", "g4dn.xlarge"]
    here = [
        row(home, name, speed=speed, cloud="embedded cloud")
        for name, speed in (("g6.xlarge", 9.0), ("p3.2xlarge", 99.0))
    ]
    assert [one.instance_type for one in ranked(here)] == ["g6.xlarge", "p3.2xlarge"], "in the order asked for"
    assert "the types are not ranked" in as_text(here, (), ())
    assert [one["is_ranked"] for one in as_json("b", here, (), ())["types"]] == [False, False]


def test_a_failed_type_is_one_line_with_the_reason(home: Path) -> None:
    lost = bench_row("g6.xlarge", None, Digest(), full_steps=100, target_bits=None, says="no capacity")
    shown = as_text([row(home), lost], (), ("a note",))
    assert "- g6.xlarge: no capacity" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "nothing was measured" in as_text([lost], (), ())
    assert as_json("b", [lost], (), ())["types"][0]["usd_per_step"] is None


def test_the_gpus_clock_utilisation_and_memory_are_shown(home: Path) -> None:
    facts = {"name": "Tesla T4", "sm_clock_mhz": 1590.0, "utilization_percent": 97.4, "memory_peak_mib": 3100.0}
    assert "Tesla T4, 1590 MHz, 97 %, 3.0 GiB" in gpu_text(row(home, gpu=facts))


def gpu_text(found: BenchRow) -> str:
    from orchestrator.report.bench import gpu_words

    return gpu_words(found)
