"""One process leads several runs: after their owners died, each comes to its own end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.runs.store import RunStore
from tests.support.stage import Stage, last_json, staged
from tests.support.tiny_trainer import expected, load

pytestmark = pytest.mark.slow


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage."""
    yield from staged(tmp_path)


def test_one_process_takes_over_all_runs_and_each_can_be_stopped_alone(stage: Stage) -> None:
    names = ("tiny", "second", "third")
    owners = []
    for name, steps in zip(names, ("60", "60", "4000"), strict=True):
        words = stage.launch_words(steps, "0.05")
        words[words.index("tiny")] = name
        owners.append(stage.start(*words))
    stores = {name: RunStore(stage.home, name) for name in names}
    stage.until(lambda: all(s.folder.exists() and s.state().attempts for s in stores.values()), "machines")
    stage.until_step(3)
    for owner in owners:
        os.killpg(owner.pid, signal.SIGKILL)
        owner.wait()
    leader = stage.start("attach", "--all", "-o", "json")
    stage.until(lambda: all(s.owner_pid() == leader.pid for s in stores.values()), "one owner")
    assert all(store.has_shared_owner() for store in stores.values())
    stage.until(lambda: stores["third"].state().state == "RUNNING", "third to run")
    code, said = stage.run("stop", "third")
    assert code == 0, said
    assert stores["third"].state().state == "STOPPED"
    assert leader.wait(60) == 1, "one of them did not succeed"
    said = stage.said(leader)
    assert last_json(said)["runs"] == {"tiny": "SUCCEEDED", "second": "SUCCEEDED", "third": "STOPPED"}, said
    for name in names[:2]:
        assert load(str(stores[name].checkpoints / "checkpoint-60.pt"))["weights"] == expected(60)
        assert len(stores[name].state().attempts) == 1, "its machine was taken over, no second one rented"
    stage.check_nothing_is_left()
    code, said = stage.run("attach", "--all")
    assert code == 0
    assert "nothing to take over" in said
    assert json.loads(stage.run("status", "-o", "json")[1])[0]["owner_pid"] is None
