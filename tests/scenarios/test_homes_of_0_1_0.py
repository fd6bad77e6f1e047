"""Runs that version 0.1.0 began, led to their end by this one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local import EmbeddedCloud
from orchestrator.runs.store import RunStore
from tests.support.home_0_1_0 import copied
from tests.support.stage import Stage, last_json, staged
from tests.support.tiny_trainer import expected, load

pytestmark = pytest.mark.slow


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage whose home is one that 0.1.0 made."""
    for stage in staged(tmp_path):
        shutil.rmtree(stage.home, ignore_errors=True)
        copied(stage.home, workdir=stage.work)
        for spec in stage.home.glob("runs/*/spec.json"):
            spec.write_text(spec.read_text().replace('"0.1"', '"0.02"'))  # seconds a step: the same, sooner
        yield stage


def check_nothing_is_left(stage: Stage, run: str) -> None:
    """No embedded cloud, no process, no open attempt of the run."""
    assert EmbeddedCloud.find(stage.home) is None
    assert stage.leftovers() == []
    assert RunStore(stage.home, run).state().open_attempts() == []


def test_a_stopped_run_resumes_to_its_end(stage: Stage) -> None:
    code, said = stage.run("launch", "--resume", "stopped", "-y", "-o", "json")
    assert code == 0, said
    answer = last_json(said)
    first, second = answer["attempts"]
    assert answer["state"] == "SUCCEEDED"
    assert (first["last_step"], second["first_step"], second["last_step"]) == (67, 68, 200)
    store = RunStore(stage.home, "stopped")
    assert load(str(store.checkpoints / "checkpoint-200.pt"))["weights"] == expected(200)
    check_nothing_is_left(stage, "stopped")


def test_a_run_whose_process_was_killed_is_taken_over(stage: Stage) -> None:
    code, said = stage.run("attach", "killed", "-o", "json")
    assert code == 0, said
    answer = last_json(said)
    first, second = answer["attempts"]
    assert answer["state"] == "SUCCEEDED"
    assert (first["ended_at"] is not None, second["first_step"], second["last_step"]) == (True, 41, 80)
    store = RunStore(stage.home, "killed")
    assert load(str(store.checkpoints / "checkpoint-80.pt"))["weights"] == expected(80)
    check_nothing_is_left(stage, "killed")


@pytest.mark.parametrize(
    "words", [("down", "killed", "-y"), ("sweep", "--cloud", "local", "-y")], ids=["down", "sweep"]
)
def test_a_run_whose_process_was_killed_is_written_off(stage: Stage, words: tuple[str, ...]) -> None:
    code, said = stage.run(*words)
    assert code == 0, said
    state = RunStore(stage.home, "killed").state()
    assert (state.is_final, state.open_attempts()) == (True, [])
    check_nothing_is_left(stage, "killed")
