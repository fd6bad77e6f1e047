"""`orchestrator.launch(...)`: what needs no machine: names, dry runs, what is printed."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator.cli.main import main
from orchestrator.errors import SpecError
from orchestrator.plan import preview
from orchestrator.runs.spec import NAME_GRAMMAR
from tests.memory import MemoryCloud, VirtualClock


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty home and a cloud in memory instead of the embedded one, which takes seconds to start."""
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(tmp_path / "home"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(preview, "cloud_of", lambda spec, home: nullcontext(MemoryCloud(VirtualClock())))
    return tmp_path


def planned(**flags: Any) -> orchestrator.RunResult:
    """Return the result of a dry run."""
    return orchestrator.launch(**{"instance": "p2.xlarge", "cloud": "local", "dry_run": True, **flags})


@pytest.mark.parametrize("folder", ["My_Project", "two words", "-x-", "ünïcode", "___", "a" * 80])
def test_any_folder_gives_a_name_that_a_run_may_have(at_home: Path, folder: str, capsys: Any) -> None:
    work = at_home / folder
    work.mkdir()
    (work / "train.py").write_text("print(1)")
    run = planned(workdir=work, command=["python", "train.py"], quiet=True)
    assert NAME_GRAMMAR.fullmatch(run.run)
    words = ["launch", "--cloud", "local", "-t", "p2.xlarge", "--spot", "--dry-run", "-o", "json"]
    assert main([*words, "--workdir", str(work), "--", "python", "train.py"]) == 0
    by_command = json.loads(capsys.readouterr().out)["run"]
    assert by_command[:-4] == run.run[:-4], "one function for both; the last four are random"


def test_a_dry_run_is_a_result_with_the_plan_and_prints_nothing_if_quiet(at_home: Path, capfd: Any) -> None:
    run = planned(quiet=True)
    assert capfd.readouterr() == ("", "")
    assert (run.state, run.ok, run.steps, run.cost_usd, run.checkpoint) == ("PLANNED", False, 0, 0.0, None)
    assert run.details["dry_run"] is True
    assert [call["operation"] for call in run.details["requests"]][-1] == "RunInstances"
    assert not (at_home / "home" / "runs").exists()
    planned()
    out, err = capfd.readouterr()
    assert out == "", "the caller's own"
    assert "nothing is created" in err


def test_a_dry_run_of_what_is_sent_is_a_result_with_the_files(at_home: Path, capfd: Any) -> None:
    Path("a.py").write_text("print(1)")
    run = planned(dry_run=False, sync_dry_run=True, workdir=".", command=["python", "a.py"], quiet=True)
    assert run.state == "PLANNED"
    assert run.details["files"] == ["a.py"]
    assert capfd.readouterr() == ("", "")


def test_a_command_is_a_list_of_words(at_home: Path) -> None:
    with pytest.raises(SpecError, match=r"give its words in a list: \['python', 'a.py'\]"):
        planned(workdir=".", command="python a.py")


def test_the_api_refuses_as_the_command_does(at_home: Path) -> None:
    with pytest.raises(SpecError, match="unknown instance type"):
        orchestrator.launch(instance="p2.xlrage", cloud="local")
    with pytest.raises(SpecError, match="unknown option bugdet"):
        orchestrator.launch(instance="p2.xlarge", cloud="local", bugdet=3)
    with pytest.raises(SpecError, match="no run is called"):
        orchestrator.result("nobody")
    assert not (at_home / "runs").exists()


@pytest.mark.slow
def test_the_api_launches_and_returns_what_came_of_it(at_home: Path, tmp_path: Path, capfd: Any) -> None:
    tiny = Path(__file__).parents[1] / "scenarios" / "tiny_trainer.py"
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "train.py").write_text(tiny.read_text())
    run = orchestrator.launch(
        instance=["p2.xlarge", "g2.2xlarge"],
        cloud="local",
        workdir=tmp_path / "work",
        command=["python3", "train.py", "20", "0.02"],
        env={"A": "b c"},
        strategy="any",
        quiet=True,
    )
    assert (run.ok, run.steps) == (True, 20)
    assert run.checkpoint is not None
    assert run.checkpoint.name == "checkpoint-20.pt"
    assert orchestrator.result(run.run) == run
    assert capfd.readouterr().out == ""
