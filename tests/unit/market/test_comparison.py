"""The comparison: the ratios of 2016 from their own inputs, the corrected ones, and any types of the catalog."""

from __future__ import annotations

import argparse
import json
from decimal import Decimal
from pathlib import Path

import pytest

from model.config import config_from_settings
from orchestrator.cli import compare as comparing
from orchestrator.cli.flags import parser
from orchestrator.errors import SpecError
from orchestrator.market import catalog
from orchestrator.market.comparison import as_of_2016, compare
from orchestrator.market.spot_prices import recorded_rows
from orchestrator.market.throughput import work_of
from orchestrator.report import build
from orchestrator.report.rows import Workload

REGIONS = ["us-east-1", "us-west-2", "ap-northeast-1"]


def test_the_ratios_of_2016_follow_from_their_own_inputs() -> None:
    assert [f"{line.then_ratio:.1f}" for line in as_of_2016()] == ["1.9", "1.9", "3.0", "1.5"]


def test_what_is_known_today_stands_beside_them() -> None:
    assert [f"{line.known_ratio:.2f}" for line in as_of_2016() if line.known_ratio] == ["1.39", "1.68", "2.83", "1.50"]
    words = " ".join(line.why for line in as_of_2016())
    for word in ("K520", "not a K10", "highest boost clock", "two regions", "ap-northeast-1", "us-west-2"):
        assert word in words


def test_ratios_are_to_the_first_type_and_of_whole_machines() -> None:
    rows = recorded_rows(["g4dn.xlarge", "p5.48xlarge"], REGIONS, 0)
    compared = compare(["g4dn.xlarge", "p5.48xlarge"], rows, "recorded")
    (ratios,) = compared.ratios
    assert ratios.fp32 == Decimal("66.9") * 8 / Decimal("8.1")
    assert ratios.memory == 40
    assert ratios.spot == Decimal("14.25") / Decimal("0.207")
    assert compared.then == ()


def test_a_type_without_a_market_price_has_none_and_no_ratio() -> None:
    rows = recorded_rows(["g4dn.xlarge", "p5.4xlarge"], REGIONS, 0)
    compared = compare(["g4dn.xlarge", "p5.4xlarge"], rows, "recorded")
    assert compared.sides[1].spot_usd_h is None
    assert compared.ratios[0].spot is None
    assert compared.ratios[0].on_demand is not None


def asked(*types: str, output: str = "table") -> argparse.Namespace:
    return parser().parse_args(["compare", *types, "-o", output])


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, *types: str, output: str = "table"
) -> str:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    assert comparing.do_compare(asked(*types, output=output)) == 0
    return capsys.readouterr().out


def test_it_prints_the_claims_of_2016_with_what_became_of_both_types(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    shown = run(monkeypatch, capsys, home, "g2.2xlarge", "p2.xlarge")
    for figure in ("0.0736", "0.141", "2.29", "4.365", "160", "240", "RETIRED", "2023", "2025-03", "g4dn.xlarge"):
        assert figure in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert not (home / "cache").exists(), "it needs nothing and leaves nothing"


def test_every_type_of_the_catalog_fits_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    shown = run(monkeypatch, capsys, home, *(known.name for known in catalog.all_types()))
    assert max(map(len, shown.splitlines())) <= 80
    assert "A10G's own sheet" in run(monkeypatch, capsys, home, "g5.xlarge")


def test_the_json_has_the_same_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    raw = json.loads(run(monkeypatch, capsys, home, "g2.2xlarge", "p2.xlarge", output="json"))
    assert [round(line["ratio"], 1) for line in raw["of_2016"]] == [1.9, 1.9, 3.0, 1.5]
    assert raw["ratios"][0]["fp32"] == pytest.approx(4.113 / 2.448)
    assert "recorded" in raw["prices"]


def test_the_json_has_the_network_of_each_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    raw = json.loads(run(monkeypatch, capsys, home, "g5.xlarge", "p4d.24xlarge", "p3.2xlarge", output="json"))
    one, eight, unknown = raw["types"]
    assert (one["network_baseline_gbit_s"], one["network_peak_gbit_s"], one["gpu_link"]) == (2.5, 10, None)
    assert (eight["network_total_gbit_s"], eight["efa_interfaces"], eight["gpu_link_gb_s"]) == (400, 4, 300)
    assert unknown["network_baseline_gbit_s"] is None


def test_an_unknown_type_is_one_line_with_near_names(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    with pytest.raises(SpecError, match=r"TYPE: unknown instance type 'g4dn.xlrge'; did you mean g4dn.xlarge"):
        comparing.do_compare(asked("p2.xlarge", "g4dn.xlrge"))


def test_a_size_without_a_spot_price_is_compared_in_one_market(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    names = ["g5.xlarge", "g5.2xlarge", "g5.12xlarge"]
    compared = compare(names, recorded_rows(names, REGIONS, 0), "recorded")
    assert [side.spot_usd_h is None for side in compared.sides] == [False, True, True]
    double, twelve = compared.ratios
    assert double.tflops_per_usd == pytest.approx(Decimal("1.006") / Decimal("1.212")), "on-demand against on-demand"
    assert twelve.tflops_per_usd == pytest.approx(4 * Decimal("1.006") / Decimal("5.672"))
    shown = " ".join(run(monkeypatch, capsys, home, *names).split())
    assert "g5.2xlarge, g5.12xlarge: no spot price is known; TFLOPS PER $ uses the on-demand price." in shown
    assert "the bundled trainer has a process on each" in shown
    assert "4x A10G" in shown
    assert shown.count("A10G's own sheet") == 1, "a note of the family stands there once"


def test_types_may_be_parted_by_commas(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert run(monkeypatch, capsys, home, "g4dn.xlarge,g5.xlarge") == run(
        monkeypatch, capsys, home, "g4dn.xlarge", "g5.xlarge"
    )
    with pytest.raises(SpecError, match="no instance type is given"):
        run(monkeypatch, capsys, home, ",")


def test_predictions_are_of_one_size_of_each_gpu_and_of_what_was_run() -> None:
    work = work_of(config_from_settings({}))
    workload = Workload("w", 32, 1000.0, work)
    predicted = build([], 0.0, workloads={"w": workload}, prices=recorded_rows(["g5.xlarge"], REGIONS, 0)).predicted
    assert {row.instance_type for row in predicted} == {known.name for known in catalog.one_of_each_gpu()}
    assert {"g5.xlarge", "p4de.24xlarge"} <= {row.instance_type for row in predicted}
