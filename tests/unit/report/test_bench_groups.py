"""A bench of groups: dollars are of all machines, efficiency is against the smallest group, estimates stand beside."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from model.config import config_from_settings
from orchestrator.cli.bench import _notes
from orchestrator.cli.flags import parser
from orchestrator.report.bench import (
    BenchRow,
    as_json,
    as_text,
    bench_row,
    beside_estimates,
    with_efficiency,
)
from orchestrator.report.metrics import Digest
from orchestrator.report.records import record_of
from tests.support.report_runs import BORN, Had, write_run

CONFIG = config_from_settings({"model": "row-lstm", "dataset": "cifar10", "batch_size": 32})


def row(home: Path, nodes: int, speed: float | None, name: str = "g5.xlarge", cloud: str = "AWS") -> BenchRow:
    run = write_run(home, f"b-{name.replace('.', '-')}-x{nodes}", [Had(name, price_usd_h=0.36)], cloud=cloud)
    found = Digest() if speed is None else Digest(
        lines=40, images_per_s=speed, steps_per_s=speed / 32, measured=30, batch_size=32, images_per_epoch=50_000
    )  # fmt: skip
    given: dict[str, Any] = {"full_steps": 1000, "target_bits": None, "says": "" if speed else "no capacity"}
    return bench_row(name, record_of(run, BORN + 10**6).row, found, nodes=nodes, **given)


def test_dollars_are_of_all_machines(home: Path) -> None:
    one, four = row(home, 1, 100), row(home, 4, 400)
    assert four.price_usd_h == 4 * Decimal("0.36")
    assert four.usd_per_epoch == one.usd_per_epoch, "four times as fast at four times the price"
    assert four.usd_per_step == one.usd_per_step


def test_efficiency_is_against_the_smallest_group_that_was_measured(home: Path) -> None:
    rows = with_efficiency([row(home, 1, None), row(home, 2, 150), row(home, 4, 200), row(home, 4, 90, "g6.xlarge")])
    assert [one.efficiency for one in rows] == [None, 1.0, pytest.approx(2 / 3), 1.0]


def test_types_alone_have_no_efficiency_and_no_estimate(home: Path) -> None:
    alone = [row(home, 1, 100), row(home, 1, 90, "g6.xlarge")]
    assert beside_estimates(with_efficiency(alone), CONFIG) == alone
    assert "Groups" not in as_text(alone, (), ())


def test_estimates_build_on_the_measured_machine_and_not_on_this_cpu(home: Path) -> None:
    one, four = beside_estimates([row(home, 1, 1000), row(home, 4, 2000)], CONFIG)
    assert one.estimated_images_per_s == pytest.approx(1000)
    assert four.estimate_basis == "measured on g5.xlarge"
    assert four.estimated_low_images_per_s is not None
    assert four.estimated_high_images_per_s is not None
    assert four.estimated_low_images_per_s <= four.estimated_images_per_s <= four.estimated_high_images_per_s
    assert four.estimated_usd_per_epoch == pytest.approx(
        Decimal(repr(50_000 / four.estimated_images_per_s * 4 * 0.36 / 3600))
    )
    here = beside_estimates([row(home, n, 9.0, "g6.xlarge", "embedded cloud") for n in (1, 2)], CONFIG)
    assert all(one.estimate_basis.startswith("predicted") for one in here)


def test_a_program_of_ones_own_and_a_batch_that_does_not_divide_have_no_estimate(home: Path) -> None:
    rows = [row(home, 1, 100), row(home, 3, 200)]
    assert beside_estimates(rows, None) == rows
    one, three = beside_estimates(rows, CONFIG)
    assert one.estimated_images_per_s is not None
    assert three.estimated_images_per_s is None
    assert "does not divide by 3" in three.estimate_basis


def test_the_json_has_what_it_had_and_the_groups_figures(home: Path) -> None:
    rows = beside_estimates(with_efficiency([row(home, 1, 1000), row(home, 2, 1500)]), CONFIG)
    two = next(one for one in as_json("b", rows, (), ())["types"] if one["nodes"] == 2)
    assert two["efficiency"] == pytest.approx(0.75)
    assert two["instance_type"] == "g5.xlarge"
    assert two["estimated_images_per_s"] > 0


@pytest.mark.parametrize("width", [80, 40])
def test_the_groups_are_a_table_that_fits(width: int, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    rows = beside_estimates(with_efficiency([row(home, n, 1000 * n**0.5, "g4dn.12xlarge") for n in (1, 2, 4)]), CONFIG)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", Terminal())
    shown = as_text([replace(one, says="") for one in rows], (), ())
    assert "Groups, measured beside the estimate" in shown
    assert max(map(len, shown.splitlines())) <= width
    assert "71 %" in shown or width == 40
    lines = [line for line in shown.splitlines() if line.startswith("g4dn.12xlarge")]
    assert [line.split()[1] for line in lines[-3:]] == ["1", "2", "4"], "by the number of machines"


def test_notes_say_what_the_figures_are_and_where_estimates_come_from(home: Path) -> None:
    args = parser().parse_args(["bench", "-t", "g5.xlarge", "--nodes", "1,3"])
    rows = beside_estimates(with_efficiency([row(home, 1, 1000), row(home, 3, 1500)]), CONFIG)
    notes = " ".join(_notes(rows, args, (), is_embedded=False))
    assert "$ are of all machines of a group" in notes
    assert "Estimate for g5.xlarge: one GPU is measured on g5.xlarge." in notes
    assert "Estimate for 3 x g5.xlarge: none, a batch of 32 images does not divide by 3 GPUs." in notes
    own = " ".join(_notes(beside_estimates([row(home, 2, 9)], None), args, (), is_embedded=False))
    assert "no estimate for a program of your own" in own
    assert "group" not in " ".join(_notes(rows[:1], args, (), is_embedded=False))
