"""Completion, pruning, settings files and the API: what a person meets beside the runs themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator.cli.main import main
from orchestrator.errors import SpecError
from orchestrator.plan.settings import settings_file
from orchestrator.runs.events import StateChanged
from orchestrator.runs.store import RunStore
from tests.story import Story


def finished(home: Path, run: str, *, age_s: float = 0.0) -> RunStore:
    """Return a run that is over."""
    story = Story(home, run=run)
    path = story.store.folder / "events.jsonl"
    import time

    event = json.loads(path.read_text())
    event["at"] = time.time() - age_s
    path.write_text(json.dumps(event) + "\n")
    story.store.append(StateChanged(at=time.time(), state="SUCCEEDED"))
    (story.store.checkpoints / "checkpoint-1.pt").write_bytes(b"x" * 2_000_000)
    return story.store


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Run with this home, in an empty folder."""
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return home


def pruned(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """Return what `runs prune` removed."""
    assert main(["runs", "prune", "-y", "-o", "json", *words]) == 0
    return list(json.loads(capsys.readouterr().out)["removed"])


def test_prune_removes_what_is_over_and_old_and_nothing_else(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = finished(at_home, "old", age_s=40 * 86400), finished(at_home, "new")
    going = Story(at_home, run="going").store
    assert pruned(capsys, "--older-than", "30d") == ["old"]
    assert (old.folder.exists(), new.folder.exists(), going.folder.exists()) == (False, True, True)
    assert pruned(capsys, "--keep-last", "1") == []
    assert pruned(capsys, "n*", "going") == ["new"], "a run that goes on is never removed"
    assert going.folder.exists()


def test_prune_says_what_it_would_remove(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = finished(at_home, "old")
    assert main(["runs", "prune", "old", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "2.0" in out
    assert "nothing was removed" in out
    assert store.folder.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "say which"),
        (["--older-than", "soon"], "--older-than"),
        (["--keep-last", "-1"], "--keep-last"),
        (["x"], "no terminal to ask on"),
    ],
)
def test_prune_refuses(at_home: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    store = finished(at_home, "x")
    assert main(["runs", "prune", *words]) == 2
    assert says in capsys.readouterr().err
    assert store.folder.exists()


def completed(line: str, home: Path) -> list[str]:
    """Return what a shell is told may follow."""
    env = {**os.environ, "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    env.update(PIXEL_ORCH_HOME=str(home), _ARGCOMPLETE_STDOUT_FILENAME=str(home / "answer"))
    subprocess.run([sys.executable, "-m", "orchestrator.cli"], env=env, check=False, timeout=20)
    return [word.strip() for word in (home / "answer").read_text().split("\n")]


def test_a_shell_completes_commands_runs_and_types(at_home: Path) -> None:
    finished(at_home, "digits-1")
    assert "launch" in completed("pixel-orch la", at_home)
    assert completed("pixel-orch report di", at_home) == ["digits-1"]
    assert "p2.xlarge" in completed("pixel-orch launch --instance p2.", at_home)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_part_names_the_program(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "pixel-orch" in capsys.readouterr().out


def test_settings_are_found_where_people_look(at_home: Path, tmp_path: Path) -> None:
    mine = tmp_path / "config" / "pixel-orch" / "config.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("region: us-west-2\nspot: true\n")
    Path("pixel-orch.yaml").write_text("region: eu-west-1\n")
    assert settings_file(None) == {"region": "eu-west-1", "spot": True}
    Path("named.yaml").write_text("region: us-east-2\n")
    assert settings_file("named.yaml") == {"region": "us-east-2"}, "a file that is named stands alone"


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
