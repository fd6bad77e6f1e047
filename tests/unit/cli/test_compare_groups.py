"""`compare --nodes`: estimates of groups, one larger machine beside them, and where the network is the limit."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from model.config import config_from_settings
from orchestrator.cli.main import main
from orchestrator.market.spot_prices import recorded_regions, recorded_rows
from orchestrator.report.groups import better, group_rows, larger
from tests.support.report_runs import Had, write_run

LARGE = ["--model", "row-lstm", "--dataset", "cifar10", "--set", "hidden=128", "--set", "layers=12",
         "--set", "batch_size=64"]  # fmt: skip
ROW_LSTM = {"model": "row-lstm", "dataset": "cifar10", "hidden": 128, "layers": 12, "batch_size": 64}


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))


def compared(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["compare", *words]) == 0
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(compared(capsys, *words, "-o", "json"))
    return found


def test_there_is_a_row_for_each_type_and_number_of_machines(capsys: pytest.CaptureFixture[str]) -> None:
    raw = as_json(capsys, "g5.xlarge", "g5.12xlarge", "--nodes", "4,1,2", *LARGE)
    assert [(row["instance_type"], row["nodes"], row["ranks"]) for row in raw["groups"]] == [
        ("g5.xlarge", 1, 1), ("g5.xlarge", 2, 2), ("g5.xlarge", 4, 4),
        ("g5.12xlarge", 1, 4), ("g5.12xlarge", 2, 8), ("g5.12xlarge", 4, 16),
    ]  # fmt: skip
    four = raw["groups"][2]
    assert {row["origin"] for row in raw["groups"]} == {"estimated"}
    assert four["network_baseline_gbit_s"] == 2.5
    assert four["usd_h"] == pytest.approx(4 * four["price_usd_h"])
    assert four["usd_per_epoch"]["mid"] == pytest.approx(
        50_000 / four["images_per_s"]["mid"] * four["usd_h"] / 3600, rel=0.01
    )
    assert four["step_s"]["mid"] == pytest.approx(four["compute_s"]["mid"] + four["all_reduce_s"]["mid"])
    assert four["interruptions_of_one_machine"] == 4


def test_without_the_flag_the_json_has_the_keys_of_before(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(as_json(capsys, "g5.xlarge")) == {"types", "ratios", "of_2016", "prices"}
    assert set(as_json(capsys, "g5.xlarge", "--nodes", "1")) == {"types", "ratios", "of_2016", "prices", "groups"}


def test_one_larger_machine_that_beats_a_group_is_named_with_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(compared(capsys, "g5.xlarge", "g5.12xlarge", "--nodes", "1,4", *LARGE).split())
    assert "estimated and not measured" in shown
    assert "One g5.12xlarge beats 4 x g5.xlarge: 739 against 170 images/s, and on demand $0.107 against $0.328" in shown
    assert "4 x g5.xlarge: the network is the limit." in shown
    assert "4 x g5.12xlarge: the network takes 22 % of a step." in shown
    assert "at 40 Gbit/s" in shown


def test_the_network_is_named_as_the_limit(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    rows = group_rows(["g5.xlarge"], [2, 4], config_from_settings(ROW_LSTM), measured={"g5.xlarge": 5000.0}, prices=[])
    assert [row.group and row.group.limit for row in rows] == ["network", "network"]
    from orchestrator.cli.compare_groups import groups_text

    shown = " ".join(groups_text(rows, [], config_from_settings(ROW_LSTM)).split())
    assert "2 x g5.xlarge: the network is the limit. Adding up the gradients takes ~195 ms (115 to 216)" in shown
    assert "the speed of one GPU is measured on g5.xlarge" in shown
    assert "is as fast" not in shown, "no fewer machines were asked for"


def test_machines_that_bring_nothing_are_said_to(capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(compared(capsys, "g5.xlarge", "--nodes", "1,2", *LARGE).split())
    assert "computing them ~167 ms (55.8 to 502). 1 x g5.xlarge is as fast." in shown


def test_a_machine_that_is_faster_and_dearer_is_not_called_better(capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(compared(capsys, "g4dn.xlarge", "--nodes", "4", *LARGE).split())
    assert "One g4dn.12xlarge is faster than 4 x g4dn.xlarge" in shown
    assert "but on demand" in shown


def test_the_larger_machine_has_as_many_of_the_same_gpus() -> None:
    config = config_from_settings(ROW_LSTM)
    rows = group_rows(["g5.xlarge"], [1, 2, 4, 8], config, measured={}, prices=[])
    assert larger(rows) == [("g5.12xlarge", 4), ("g5.48xlarge", 8)], "there is none with two A10G"
    names = ["g5.12xlarge", "g5.48xlarge"]
    ones = group_rows(names, [1], config, measured={}, prices=recorded_rows(names, recorded_regions(names), 0))
    assert [(pair.one.instance_type, pair.many.nodes) for pair in better(rows, ones)] == [
        ("g5.12xlarge", 4),
        ("g5.48xlarge", 8),
    ]
    assert {pair.is_cheaper for pair in better(rows, ones)} == {None}, "the groups have no price here"


def test_a_measured_speed_stands_in_for_the_prediction_of_its_gpu() -> None:
    config = config_from_settings(ROW_LSTM)
    rows = group_rows(["g5.xlarge", "g5.12xlarge", "g6.xlarge"], [1], config, measured={"g5.xlarge": 700.0}, prices=[])
    own, same_gpu, other = rows
    assert own.group is not None
    assert own.group.images_per_s.mid == pytest.approx(700)
    assert same_gpu.basis == own.basis == "measured on g5.xlarge"
    assert other.basis.startswith("predicted from counted work, calibrated on g5.xlarge")


def test_what_cannot_be_estimated_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(compared(capsys, "p3.2xlarge", "g5.xlarge", "--nodes", "2,6", *LARGE).split())
    assert "2 x p3.2xlarge: no estimate, the baseline of its network is not known." in shown
    assert "6 x p3.2xlarge, 6 x g5.xlarge: no estimate, a batch of 64 images does not divide by 6 GPUs." in shown
    raw = as_json(capsys, "g5.xlarge", "--nodes", "6", *LARGE)
    assert "does not divide" in raw["groups"][0]["why_not"]
    assert "6 GPUs" in compared(capsys, "g5.xlarge", "--nodes", "6", *LARGE)


def test_a_run_that_was_measured_is_used(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    before = as_json(capsys, "g4dn.xlarge", "--nodes", "1")["groups"][0]
    assert before["basis"].startswith("predicted")
    write_run(home, "one", [Had("g4dn.xlarge", price_usd_h=0.36)])
    after = as_json(capsys, "g4dn.xlarge", "--nodes", "1")["groups"][0]
    assert after["basis"] == "measured on g4dn.xlarge"
    assert after["images_per_s"]["mid"] != before["images_per_s"]["mid"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--nodes", "0"], "--nodes: '0' is no number of machines"),
        (["--nodes", "two"], "--nodes: 'two'"),
        (["--nodes", "1,"], "--nodes: ''"),
        (["--nodes", "99999"], "from 1 to 256"),
        (["--model", "pixelcnn"], "add --nodes"),
        (["--nodes", "2", "--model", "gpt"], "give pixelcnn or row-lstm"),
        (["--nodes", "2", "--set", "batch=3"], "did you mean batch_size"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    assert main(["compare", "g5.xlarge", *words]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("width", [80, 40])
def test_it_fits_the_terminal(width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    import sys

    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["compare", "g5.xlarge", "p6-b300.48xlarge", "g5.12xlarge", "--nodes", "1,2,4", *LARGE]) == 0
    assert max(map(len, stream.getvalue().splitlines())) <= width
