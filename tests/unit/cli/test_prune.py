"""`runs prune`: removes what is over and was named, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.runs.events import StateChanged
from orchestrator.runs.store import RunStore
from tests.support.story import Story


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
        ([], "name runs or globs"),
        (["--older-than", "soon"], "--older-than"),
        (["--keep-last", "-1"], "--keep-last"),
        (["x"], "stdin is not a terminal; pass -y"),
    ],
)
def test_prune_refuses(at_home: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    store = finished(at_home, "x")
    assert main(["runs", "prune", *words]) == 2
    assert says in capsys.readouterr().err
    assert store.folder.exists()
