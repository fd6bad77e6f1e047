"""Traces as people have them, and what `simulate` says of what it cannot take."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.cli.main import main
from orchestrator.cloud.price_cache import Entry, PriceCache
from orchestrator.errors import SpecError
from orchestrator.market.price_series import PricePoint
from orchestrator.policy.comparison import POLICIES
from orchestrator.policy.price_traces import price_traces
from orchestrator.policy.traces import markets_of, read_folder, trace_from

POINTS = 300  # 50 hours


def trace(data: Any = None, gap_s: Any = 600, **more: Any) -> dict[str, Any]:
    """Return a trace as its file has it."""
    data = [1, 1, 1, 0] * (POINTS // 4) if data is None else data
    metadata = {"gap_seconds": gap_s, **more.pop("metadata", {})}
    return {"metadata": metadata, "data": data, **more}


def folder_of(folder: Path, **files: Any) -> Path:
    """Write files whose names have `_` for `-` in the zone."""
    folder.mkdir(exist_ok=True)
    for name, told in files.items():
        (folder / f"{name}.json").write_text(told if isinstance(told, str) else json.dumps(told))
    return folder


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    folder = folder_of(tmp_path / "traces")
    for zone in ("us-west-2a", "us-west-2b", "us-east-1a"):
        (folder / f"{zone}_p3.2xlarge.json").write_text(json.dumps(trace()))
    (folder / "README.md").write_text("no trace")
    return folder


def test_a_folder_is_read_and_its_files_are_grouped_by_type_and_region(traces: Path) -> None:
    read = read_folder(traces, flag="--traces")
    assert (read[0].region, read[0].instance_type) == ("us-east-1", "p3.2xlarge")
    names = {
        pools: [(market.name, len(market.pools)) for market in markets_of(read, pools, spot_price=0.3, flag="")]
        for pools in ("each", "region", "all")
    }
    assert names["each"][0] == ("us-east-1a_p3.2xlarge", 1)
    assert names["region"] == [("p3.2xlarge/us-east-1", 1), ("p3.2xlarge/us-west-2", 2)]
    assert names["all"] == [("p3.2xlarge/all", 3)]


def test_one_means_available_unless_it_is_said_to_mean_the_other(traces: Path) -> None:
    plain, inverted = (read_folder(traces, flag="--traces", is_inverted=flag)[0] for flag in (False, True))
    assert plain.available.mean() == pytest.approx(0.75)
    assert (plain.available != inverted.available).all()


def test_prices_are_shares_of_on_demand() -> None:
    read = trace_from("x", trace([1, 1, 0], prices=[1.0, 1.5, 3.0], metadata={"on_demand_usd_h": 3.0}))
    assert read.price is not None
    assert np.allclose(read.price, [1 / 3, 0.5, 1])
    (market,) = markets_of([read], "each", spot_price=0.9, flag="")
    assert np.allclose(market.price[:, 0], [1 / 3, 0.5, 1])


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("{", "line 1"),
        ("[1, 0]", "metadata"),
        ({"data": [1, 0]}, "metadata"),
        (trace(gap_s=None), "gap_seconds"),
        (trace(gap_s=0), "gap_seconds"),
        (trace(gap_s=True), "gap_seconds"),
        (trace(gap_s="600"), "gap_seconds"),
        (trace([]), "2 to"),
        (trace("1010"), "2 to"),
        (trace([1, None, 0]), "a gap at point 1"),
        (trace([1, 2, 0]), "2 at point 1"),
        (trace([1, 0.5]), "0.5 at point 1"),
        (trace([1, [0]]), "at point 1"),
        (trace([1, 0], prices=[1.0]), "2 prices"),
        (trace([1, 0], prices=[1.0, 2.0]), "on_demand_usd_h"),
        (trace([1, 0], prices=[1.0, -2.0], metadata={"on_demand_usd_h": 3}), "-2.0 at point 1"),
        (trace([1, 0], prices=[1.0, 0], metadata={"on_demand_usd_h": 3}), "0 at point 1"),
        (trace([1, 0], prices=[1.0, None], metadata={"on_demand_usd_h": 3}), "None at point 1"),
        (trace([1, 0], prices=[1.0, 1.0], metadata={"on_demand_usd_h": 0}), "on_demand_usd_h"),
        ("[" * 100_000, "nested"),
        ('{"metadata": {"gap_seconds": ' + "9" * 5000 + '}, "data": [1, 0]}', "digits"),
    ],
)
def test_what_is_no_trace_is_named_in_one_line(tmp_path: Path, told: Any, says: str) -> None:
    folder = folder_of(tmp_path / "t", **{"us-west-2a_k80": told})
    with pytest.raises(SpecError, match=re.escape(says)) as error:
        read_folder(folder, flag="--traces")
    assert "us-west-2a_k80.json" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--work 0h", "not above zero"),
        ("--work 90s", "whole number of minutes"),
        ("--work 100000h", "more than a year"),
        ("--work ,", "nothing is given"),
        ("--slack x", "no share"),
        ("--slack nan", "no share"),
        ("--slack 0.05 --work 1h --changeover 15m", "give --slack 0.25 or more"),
        ("--policy gredy", "did you mean greedy"),
        ("--spot-price -0.3", "no share of the on-demand price"),
        ("--spot-price nan", "no share of the on-demand price"),
        ("--spot-price 1e-320", "no share of the on-demand price"),
        ("--checkpoint-every 40m", "change-over and what a loss takes (45m00s)"),
        ("--traces {fine} --work 20h --starts 300", "takes too long in steps of 1 s"),
        ("--starts 0", "from 1 to"),
        ("--seed -1", "from 0 to"),
        ("--pools region --traces {odd}", "no zone and type in its name"),
        ("--traces {empty}", "has no trace"),
        ("--traces {missing}", "cannot read the folder"),
        ("--traces {gaps} --pools all", "different gaps"),
        ("--work 60h", "lasts 50h00m"),
        ("--market mixed", "one of --traces DIR"),
        ("--price-history g5.xlarge", "one of --traces DIR"),
        ("--archive {empty}", "has no trace"),
        ("--plot {missing}/a.png", "cannot write"),
        ("--plot {empty}/a.txt", ".png, .svg or .pdf"),
    ],
)
def test_an_impossible_wish_is_one_line_and_exit_code_2(
    tmp_path: Path, traces: Path, capsys: pytest.CaptureFixture[str], words: str, says: str
) -> None:
    places = {
        "odd": folder_of(tmp_path / "odd", mine=trace()),
        "empty": folder_of(tmp_path / "empty"),
        "gaps": folder_of(tmp_path / "gaps", **{"us-west-2a_x": trace(), "us-west-2b_x": trace(gap_s=300)}),
        "fine": folder_of(tmp_path / "fine", mine=trace([1, 0] * 50_000, gap_s=1)),
        "missing": tmp_path / "missing",
    }
    given = words.format(**places).split()
    if "--traces" not in given:
        given = ["--traces", str(traces), *given]
    assert main(["simulate", "--starts", "2", "--work", "2h", *given]) == 2
    told = capsys.readouterr()
    assert says in told.err, told.err
    assert told.out == ""
    assert told.err.count("\n") == 1


def test_the_json_has_a_cell_for_each_set_policy_work_slack_and_change_over(
    traces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["simulate", "--traces", str(traces), "--pools", "region", "--work", "1h", "--changeover", "5m,10m",
             "--starts", "4", "--seed", "3", "-o", "json", "--slack"]  # fmt: skip
    assert main([*words, "0.5,1"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert len(cells) == 2 * len(POLICIES) * 2 * 2
    assert main([*words, "0.5", "--policy", "planned"]) == 0
    again = json.loads(capsys.readouterr().out)["cells"]
    assert [cell for cell in cells if cell in again] == again, "the same seed, the same figures"
    for cell in cells:
        assert {
            "set",
            "policy",
            "work_h",
            "slack",
            "changeover_s",
            "starts",
            "cost_over_optimum",
            "stderr",
            "late",
        } <= set(cell)
        assert cell["starts"] == 4
        assert cell["policy"] == "spot" or (cell["late"] == 0 and cell["cost_over_optimum"] >= 1 - 1e-9)
    assert {cell["set"] for cell in cells} == {"p3.2xlarge/us-east-1", "p3.2xlarge/us-west-2"}


@pytest.mark.parametrize("width", [80, 40])
def test_the_table_fits_and_names_what_it_is(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    words = ["--market", "scarce", "--work", "2h", "--slack", "0.5,1", "--starts", "4"]
    assert main(["simulate", *words]) == 0
    said = capsys.readouterr().out
    assert "a generated market" in said
    assert "planned" in said
    assert re.search(r"on-demand +\d\.\d{3}", said)


def test_price_histories_are_markets_of_prices_alone(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    words = ["simulate", "--price-history", "g5.xlarge", "--work", "2h", "--starts", "3", "-o", "json"]
    assert main(words) == 2
    assert "pixel-orch prices --instance g5.xlarge" in capsys.readouterr().err
    cache = PriceCache(home, "aws")
    day = 1.79e9
    changes = {"us-east-1a": (PricePoint(day - 9, Decimal("0.4")), PricePoint(day + 43_200, Decimal("1.2"))),
               "us-east-1b": (PricePoint(day, Decimal("0.5")),)}  # fmt: skip
    cache.put("g5.xlarge", "us-east-1", Entry(day, day, day + 86_400, Decimal("1.0"), changes))
    cache.save()
    assert main([*words, "--pools", "region", "--policy", "greedy,on-demand"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "nothing of capacity" in told["market"]
    greedy, on_demand = told["cells"]
    assert greedy["set"] == "g5.xlarge/us-east-1"
    assert greedy["cost_over_on_demand"] < 0.6 < on_demand["cost_over_on_demand"]
    first = price_traces("g5.xlarge", changes, Decimal(1), day, day + 86_400)[0]
    assert first.available[:72].all()
    assert not first.available[72:].any(), "over on-demand there is none"


def test_an_archive_is_what_planned_learns_from(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "--traces", str(traces), "--policy", "planned", "--work", "4h", "--starts", "5", "-o", "json"]
    told = []
    for more in ([], ["--archive", str(traces)]):
        assert main([*words, *more]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert "shipped" in told[0]["archive"]
    assert "3 traces" in told[1]["archive"]


@pytest.mark.slow
def test_a_plot_has_a_line_for_each_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plot.svg"
    assert (
        main(
            ["simulate", "--market", "mixed", "--work", "2h", "--slack", "0.5,1", "--starts", "3", "--plot", str(path)]
        )
        == 0
    )
    capsys.readouterr()
    assert path.stat().st_size > 5000
    assert (
        main(["simulate", "--market", "mixed", "--work", "2h", "--starts", "3", "--plot", str(tmp_path / "a.png")]) == 0
    )
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_without_numpy_it_says_what_to_install() -> None:
    program = (
        "import sys, importlib.util\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'numpy' else found(name, *rest)\n"
        "from orchestrator.cli.main import main\n"
        "sys.exit(main(['simulate', '--market', 'mixed']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'pixel-orch[deadline]'" in done.stderr
