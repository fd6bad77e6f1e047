"""Stop and resume, detach, and the budget, with real processes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.market.billing import total_usd
from tests.support.stage import Stage, last_json, staged
from tests.support.tiny_trainer import expected, load

pytestmark = pytest.mark.slow


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage."""
    yield from staged(tmp_path)


def test_stop_saves_and_resume_goes_on(stage: Stage) -> None:
    launch = stage.start(*stage.launch_words("120", "0.05"))
    stage.until_step(15)
    code, said = stage.run("stop", "tiny")
    assert code == 0, said
    assert "launch --resume tiny" in said
    assert launch.wait(30) == 130
    assert stage.state().state == "STOPPED"
    assert max(stage.state().checkpoints) == stage.state().attempts[0].last_step
    stage.check_nothing_is_left()
    code, said = stage.run("launch", "--resume", "tiny", "-y", "-o", "json")
    assert code == 0, said
    first, second = last_json(said)["attempts"]
    assert second["first_step"] == first["last_step"] + 1
    assert load(str(stage.store.checkpoints / "checkpoint-120.pt"))["weights"] == expected(120)
    code, said = stage.run("launch", "--resume", "tiny", "-y")
    assert code == 2
    assert "has succeeded" in said
    stage.check_nothing_is_left()


def test_a_detached_run_goes_on_alone_and_can_be_attached_and_stopped(stage: Stage) -> None:
    words = stage.launch_words("2000", "0.05", flags=("-d", "-o", "json"))
    code, said = stage.run(*words)
    assert code == 0, said
    pid = last_json(said)["owner_pid"]
    stage.until_step(10)
    code, said = stage.run("status", "-o", "json")
    assert json.loads(said)[0]["owner_pid"] == pid
    code, said = stage.run("stop", "tiny", "-o", "json")
    assert code == 0, said
    assert last_json(said)["state"] == "STOPPED"
    stage.check_nothing_is_left()


def test_stop_also_works_when_nobody_leads_the_run_any_more(stage: Stage) -> None:
    launch = stage.start(*stage.launch_words("2000", "0.05"))
    stage.until_step(15)
    launch.kill()
    launch.wait()
    code, said = stage.run("stop", "tiny")
    assert code == 0, said
    assert stage.state().state == "STOPPED"
    assert max(stage.state().checkpoints) == stage.state().attempts[0].last_step > 15
    stage.check_nothing_is_left()


def test_a_budget_that_buys_no_minute_rents_nothing_and_says_how_to_go_on(stage: Stage) -> None:
    code, said = stage.run(*stage.launch_words("10", "0.05", flags=("--budget", "0.01", "-o", "json")))
    assert code == 1, said
    answer = last_json(said)
    assert (answer["state"], answer["attempts"]) == ("STOPPED", [])
    assert "does not pay for a first minute at up to $0.9169 an hour" in answer["reason"]
    stage.check_nothing_is_left()
    code, said = stage.run("launch", "--resume", "tiny", "--budget", "0.05", "-y", "-o", "json")
    assert code == 0, said
    assert last_json(said)["state"] == "SUCCEEDED"
    stage.check_nothing_is_left()


def test_faults_of_a_file_apply_to_the_launch(stage: Stage) -> None:
    faults = stage.work.parent / "faults.yaml"
    faults.write_text("- {operation: RunInstances, zone: us-east-1b, error: InsufficientInstanceCapacity, times: 1}\n")
    code, said = stage.run(*stage.launch_words("10", "0.05", flags=("--faults", str(faults), "-o", "json")))
    assert code == 0, said
    assert [f.code for f in stage.state().failures] == ["InsufficientInstanceCapacity"]
    stage.check_nothing_is_left()


def test_machines_that_die_from_pending_end_the_launch_with_ec2s_words_and_no_bill(stage: Stage) -> None:
    faults = stage.work.parent / "faults.yaml"
    faults.write_text("seed: 1\nfaults:\n  - {event: failed-boot, times: 99}\n")
    code, said = stage.run(*stage.launch_words("10", "0.05", flags=("--faults", str(faults))))
    assert code == 1, said
    assert "Server.InternalError: Internal error on launch" in said
    assert "EC2 ended it before it ran" in " ".join(said.split())
    assert len(stage.state().attempts) == 3
    assert total_usd(stage.state().attempts, stage.state().created_at + 3600) == 0
    stage.check_nothing_is_left()


SET_BACK = """
import os, time
real = time.time
time.time = lambda: real() - (3600 if os.path.exists({flag!r}) else 0)
"""


@pytest.mark.parametrize("is_killed", [False, True], ids=["in-one-process", "between-two"])
def test_a_clock_that_is_set_back_by_an_hour_switches_no_limit_off(stage: Stage, is_killed: bool) -> None:
    """Every process of this machine has the wrong time from then on, as they have when somebody sets the clock."""
    clock, flag = stage.work.parent / "clock", stage.work.parent / "is-set-back"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(SET_BACK.format(flag=str(flag)))
    stage.env["PYTHONPATH"] = os.pathsep.join([str(clock), stage.env.get("PYTHONPATH", os.getcwd())])
    launch = stage.start(*stage.launch_words("2000", "0.05", flags=("--max-duration", "20s")))
    stage.until_step(20)
    if is_killed:
        launch.kill()
        launch.wait()
    flag.touch()
    if is_killed:
        launch = stage.start("attach", "tiny")
    launch.wait(60)
    state = stage.state()
    assert state.state == "STOPPED", stage.said(launch)
    assert "the duration of 20 s is over" in " ".join(stage.said(launch).split())
    (attempt,) = state.attempts
    assert attempt.ended_at is not None
    assert 10 < attempt.ended_at - attempt.started_at < 30
    assert total_usd(state.attempts, attempt.ended_at) > 0
    stage.check_nothing_is_left()
