"""`--gpu` wherever types are named, and who wins against `--instance`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import orchestrator
from orchestrator.cli.flags import parser
from orchestrator.cli.main import main
from orchestrator.errors import SpecError
from orchestrator.plan.settings import resumed_spec, spec_from
from orchestrator.runs.spec import RunSpec

T4 = ("g4dn.xlarge", "g4dn.2xlarge", "g4dn.4xlarge", "g4dn.8xlarge", "g4dn.16xlarge")
AWS = ["launch", "--spot", "--region", "us-east-1"]
LOCAL = ["launch", "--spot", "--cloud", "local"]


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Run with this home, in a folder of its own."""
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return home


def spec(*words: str, start: list[str] = AWS) -> RunSpec:
    """Return what a launch asks for."""
    return spec_from(vars(parser().parse_args([*start, *words])), [])


def test_a_launch_with_a_gpu_may_rent_every_type_that_has_it() -> None:
    assert spec("--gpu", "T4").instances == T4
    assert spec("--gpu", "A10G:8,L4:8").instances == ("g5.48xlarge", "g6.48xlarge")
    assert spec("--gpu", "K80", start=LOCAL).instances == ("p2.xlarge",), "the embedded cloud has retired ones"
    with pytest.raises(SpecError, match="retired by AWS"):
        spec("--gpu", "K80")


def test_flags_win_over_a_file_as_a_pair(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("gpu: [T4, 'A10G:4']\n")
    assert spec("-f", str(file)).instances == (*T4, "g5.12xlarge", "g5.24xlarge")
    assert spec("-f", str(file), "--instance", "g6.xlarge").instances == ("g6.xlarge",)
    file.write_text("instance: g6.xlarge\n")
    assert spec("-f", str(file), "--gpu", "T4:4").instances == ("g4dn.12xlarge",)
    file.write_text("instance: g6.xlarge\ngpu: T4\n")
    for words in (["-f", str(file)], ["--gpu", "T4", "--instance", "g6.xlarge"]):
        with pytest.raises(SpecError, match="--instance and --gpu both say what is rented; give one of them"):
            spec(*words)


def test_a_file_that_is_merely_found_may_not_choose_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "pixel-orch.yaml").write_text("gpu: H100:8\n")
    with pytest.raises(SpecError, match="gpu is not allowed in a file that is only found"):
        spec()


def test_a_run_that_is_resumed_may_take_another_gpu() -> None:
    old = spec("--gpu", "T4")
    flags = vars(parser().parse_args(["launch", "--resume", old.run, "--gpu", "A10G:4"]))
    assert resumed_spec(flags, [], old).instances == ("g5.12xlarge", "g5.24xlarge")
    assert resumed_spec(vars(parser().parse_args(["launch", "--resume", old.run])), [], old).instances == T4


@pytest.mark.slow
def test_the_cheapest_type_is_tried_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LOCAL, "--gpu", "A10G:4", "--dry-run", "-o", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    offers = plan["offers"]
    assert {offer["instance_type"] for offer in offers} == {"g5.12xlarge", "g5.24xlarge"}
    assert [offer["price_usd_h"] for offer in offers] == sorted(offer["price_usd_h"] for offer in offers)
    planned = orchestrator.launch(gpu="A10G:4", cloud="local", dry_run=True, quiet=True)
    assert {offer["instance_type"] for offer in planned.details["offers"]} == {"g5.12xlarge", "g5.24xlarge"}


@pytest.mark.slow
def test_compare_prices_and_check_take_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    for words, names in (
        (["--gpu", "H200:8"], ["p5e.48xlarge", "p5en.48xlarge"]),
        (["g5.xlarge", "--gpu", "T4:4"], ["g5.xlarge", "g4dn.12xlarge"]),
    ):
        assert main(["compare", *words, "-o", "json"]) == 0
        assert [side["instance_type"] for side in json.loads(capsys.readouterr().out)["types"]] == names
    assert main(["prices", "--gpu", "L40S:8", "--offline"]) == 0
    assert "g6e.48xlarge" in capsys.readouterr().out
    assert main(["check", "--cloud", "local", "--gpu", "A10G:4"]) == 0
    assert "g5.12xlarge, g5.24xlarge in us-east-1" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "words",
    [
        [*LOCAL, "--gpu", "T44"],
        ["compare", "--gpu", "T44"],
        ["prices", "--gpu", "T44", "--offline"],
        ["check", "--cloud", "local", "--gpu", "T44"],
    ],
    ids=lambda words: words[0],
)
def test_an_unknown_gpu_is_one_line_with_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and "unknown GPU 'T44'; did you mean T4? known: K520" in error


@pytest.mark.slow
def test_a_type_without_a_spot_price_is_not_on_the_embedded_cloud(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LOCAL, "--gpu", "B200:8", "--dry-run"]) == 2
    assert "no spot price of it is recorded; choose another type" in capsys.readouterr().err
