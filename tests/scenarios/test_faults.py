"""Faults that must be survived, each with real processes on the embedded cloud. Slow: `make test-all`."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local import EmbeddedCloud
from tests.support.stage import Stage, last_json, staged
from tests.support.tiny_trainer import expected, load

pytestmark = pytest.mark.slow
ALL = ("--download", "all")  # large checkpoints: a tenth of the price pays for the newest only


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage."""
    yield from staged(tmp_path)


def check_trained(stage: Stage, steps: int) -> None:
    """The run is done, and its weights are those of a run without interruption."""
    assert stage.state().state == "SUCCEEDED"
    assert load(str(stage.store.checkpoints / f"checkpoint-{steps}.pt"))["weights"] == expected(steps)
    stage.check_nothing_is_left()


def test_a_quiet_run_of_a_program_of_ones_own(stage: Stage) -> None:
    code, said = stage.run(*stage.launch_words("30", "0.02", flags=("-o", "json")))
    assert code == 0, said
    answer = last_json(said)
    assert answer["state"] == "SUCCEEDED"
    assert answer["cloud"] == "embedded cloud"
    assert answer["steps"] == 30
    assert [(a["first_step"], a["last_step"], a["ended_by"]) for a in answer["attempts"]] == [(1, 30, "pixel-orch")]
    assert answer["images_per_s"] > 0
    assert answer["cost_usd"] > 0
    assert load(answer["checkpoint"])["step"] == 30
    outputs = stage.store.folder / "outputs"
    home = {str(path.relative_to(outputs)): path.read_text() for path in outputs.rglob("*") if path.is_file()}
    wrote = ("results/scores.csv", "results/deep/a b.txt", "final.pt")
    assert '"step": 30' in home.pop("metrics.jsonl"), "it is its own file"
    assert home == {name: f"{name} after 30" for name in wrote}, "all that it wrote, and no link"
    check_trained(stage, 30)


def test_no_capacity_in_the_first_zones(stage: Stage) -> None:
    cloud = EmbeddedCloud.ensure(stage.home)
    for zone in ("us-east-1b", "us-east-1c"):
        cloud.add_fault(
            {"operation": "RunInstances", "zone": zone, "error": "InsufficientInstanceCapacity", "times": 5}
        )
    code, said = stage.run(*stage.launch_words("20", "0.02"))
    assert code == 0, said
    assert [f.zone for f in stage.state().failures] == ["us-east-1b", "us-east-1c"]
    assert [a.zone for a in stage.state().attempts] == ["us-east-1a"]
    check_trained(stage, 20)


def test_no_capacity_anywhere_ends_with_one_line_and_nothing_rented(stage: Stage) -> None:
    cloud = EmbeddedCloud.ensure(stage.home)
    cloud.add_fault({"operation": "RunInstances", "error": "InsufficientInstanceCapacity", "times": None})
    code, said = stage.run(*stage.launch_words("20", "0.02"))
    assert code == 1
    assert "No spot capacity for p2.xlarge" in said
    assert "Traceback" not in said
    assert stage.state().attempts == []
    stage.check_nothing_is_left()


def test_notice_then_termination(stage: Stage) -> None:
    launch = stage.start(*stage.launch_words("150", "0.05"))
    stage.until_step(25)
    stage.embedded().interrupt(stage.instance_id(), notice_s=3)
    assert launch.wait(90) == 0, stage.said(launch)
    first, second = stage.state().attempts
    assert first.ended_by == "aws"
    assert second.first_step == first.last_step + 1, "the notice was used: no step is trained twice"
    assert first.zone != second.zone
    check_trained(stage, 150)


def test_termination_without_notice(stage: Stage) -> None:
    launch = stage.start(*stage.launch_words("150", "0.05"))
    stage.until_step(25)
    stage.embedded().interrupt(stage.instance_id(), notice=False)
    assert launch.wait(90) == 0, stage.said(launch)
    first, second = stage.state().attempts
    assert first.ended_by == "aws"
    assert second.resumed_from % 10 == 0
    check_trained(stage, 150)


def test_a_trainer_that_crashes_is_not_relaunched_and_its_last_lines_are_shown(stage: Stage) -> None:
    code, said = stage.run(*stage.launch_words("60", "0.02", "--crash-at", "33"))
    assert code == 1
    assert "ValueError: the loss is not a number" in said
    assert "exit code 7" in said
    assert stage.state().state == "FAILED"
    assert len(stage.state().attempts) == 1
    assert max(stage.state().checkpoints) == 30
    stage.check_nothing_is_left()


def test_ssh_cut_during_a_pull(stage: Stage) -> None:
    launch = stage.start(*stage.launch_words("60", "0.1", "--every", "20", "--size", "8000000", flags=ALL))
    stage.until_step(5)
    stage.embedded().cut(stage.instance_id(), after_bytes=3_000_000)
    stage.embedded().cut(stage.instance_id())
    assert launch.wait(90) == 0, stage.said(launch)
    assert len(stage.state().attempts) == 1, "a cut connection is no lost instance"
    assert sorted(stage.state().checkpoints) == [20, 40, 60]
    check_trained(stage, 60)


def test_a_frozen_host(stage: Stage) -> None:
    launch = stage.start(*stage.launch_words("150", "0.05"))
    stage.until_step(25)
    stage.embedded().freeze(stage.instance_id())
    assert launch.wait(90) == 0, stage.said(launch)
    first, _ = stage.state().attempts
    assert first.ended_by == "pixel-orch"
    assert "no answer" in first.lost_because
    check_trained(stage, 150)


def test_our_disk_is_full_for_a_while(stage: Stage) -> None:
    launch = stage.start(*stage.launch_words("120", "0.05", "--every", "20", "--size", "3000000", flags=ALL))
    stage.until(lambda: 20 in stage.state().checkpoints, "checkpoint 20")
    no_limit = resource.RLIM_INFINITY
    resource.prlimit(launch.pid, resource.RLIMIT_FSIZE, (1_000_000, no_limit))  # of the leading process alone
    stage.until(lambda: "THE DISK OF THIS MACHINE IS FULL" in stage.said(launch), "the warning")
    assert launch.poll() is None
    time.sleep(1)
    resource.prlimit(launch.pid, resource.RLIMIT_FSIZE, (no_limit, no_limit))
    assert launch.wait(60) == 0, stage.said(launch)
    assert len(stage.state().attempts) == 1, "the machine was well all the time"
    assert sorted(stage.state().checkpoints) == [20, 40, 60, 80, 100, 120]
    check_trained(stage, 120)


def test_sigkill_of_the_trainer_while_it_writes_a_checkpoint(stage: Stage) -> None:
    launch = stage.start(*stage.launch_words("100", "0.02", "--slow-write", "--every", "20"))
    out = stage.until(
        lambda: next((stage.home / "local" / "instances").glob("*/home/pixel-orch/tiny/out"), None),
        "the trainer's folder",
    )
    stage.until(lambda: (out / ".checkpoint-40.tmp").exists(), "a checkpoint being written")
    os.kill(stage.trainer_pid(), signal.SIGKILL)
    assert launch.wait(90) == 1
    assert "signal 9" in stage.said(launch)
    assert sorted(stage.state().checkpoints) == [20]
    stage.check_nothing_is_left()


def test_a_damaged_newest_checkpoint_at_home_is_said_and_the_one_before_it_used(stage: Stage) -> None:
    launch = stage.start(*stage.launch_words("150", "0.05"))
    stage.until(lambda: 30 in stage.state().checkpoints, "checkpoint 30")
    newest = max(stage.state().checkpoints)
    (stage.store.checkpoints / f"checkpoint-{newest}.pt").write_bytes(b"damaged")
    stage.embedded().interrupt(stage.instance_id(), notice=False)
    assert launch.wait(90) == 0, stage.said(launch)
    refused = [r.name for r in stage.state().refused]
    if refused:  # a newer one may have come home before the end: then that one was used
        assert "damaged" in stage.said(launch)
    check_trained(stage, 150)


@pytest.mark.parametrize("moment", ["at once", "provisioning", "training", "recovering"])
def test_ctrl_c_at_any_time(stage: Stage, moment: str) -> None:
    stage.env["PIXEL_ORCH_LOCAL_BOOT_S"] = "2" if moment in ("provisioning", "recovering") else "0.3"
    launch = stage.start(*stage.launch_words("400", "0.05"))
    _wait_for(stage, launch, moment)
    os.kill(launch.pid, signal.SIGINT)
    # CPython ends itself by SIGINT, -2 here, if the signal came within `exec` of a string, as dataclasses use while
    # they are imported. A shell shows 130 for both.
    assert launch.wait(60) in (130, -signal.SIGINT), stage.said(launch)
    assert "Traceback" not in stage.said(launch)
    if (stage.home / "runs" / "tiny").exists():
        assert stage.state().state == "CANCELLED"
        stage.check_nothing_is_left()
    if moment == "training":
        assert max(stage.state().checkpoints) == stage.state().attempts[0].last_step, (
            "the last step is on the local disk"
        )


def _wait_for(stage: Stage, launch: object, moment: str) -> None:
    if moment == "at once":
        stage.until(lambda: (stage.home / "local").exists(), "the home")
    elif moment == "provisioning":
        stage.until(lambda: stage.state().attempts, "an instance")
    else:
        stage.until_step(15)
    if moment == "recovering":
        stage.embedded().interrupt(stage.instance_id(), notice=False)
        stage.until(lambda: stage.state().state in ("RECOVERING", "PROVISIONING"), "the recovery")


MOMENTS = [  # half a minute each; tests/unit/engine/test_random_stories.py kills the process at all of them
    ("requested", "attach"),
    ("requested", "cleanup"),
    ("provisioning", "attach"),
    ("training", "cleanup"),
    ("noticed", "attach"),
    ("recovering", "cleanup"),
    ("ending", "attach"),
]


@pytest.mark.parametrize(("moment", "then"), MOMENTS)
def test_sigkill_of_the_engine_in_each_state(stage: Stage, moment: str, then: str) -> None:
    stage.env["PIXEL_ORCH_LOCAL_BOOT_S"] = "1.5"
    steps = "60" if moment == "ending" else "100"
    launch = stage.start(*stage.launch_words(steps, "0.05"))
    if moment == "requested":
        stage.until(lambda: stage.state().requests, "a request")
    elif moment == "provisioning":
        stage.until(lambda: stage.state().attempts, "an instance")
    elif moment == "ending":
        stage.until(lambda: any(a.trainer_exit for a in stage.state().attempts), "the trainer's end")
    else:
        stage.until_step(15)
    if moment in ("noticed", "recovering"):
        stage.embedded().interrupt(stage.instance_id(), notice=moment == "noticed", notice_s=4)
        word = "noticed_ends_at" if moment == "noticed" else "lost_because"
        stage.until(lambda: any(getattr(a, word) for a in stage.state().attempts), moment)
    os.kill(launch.pid, signal.SIGKILL)
    launch.wait()
    if then == "attach":
        code, said = stage.run("attach", "tiny")
        assert code == 0, said
        check_trained(stage, int(steps))
    else:
        code, said = stage.run("cleanup", "--cloud", "local", "-y")
        assert code == 0, said
        assert stage.state().is_final
        stage.check_nothing_is_left()


@pytest.mark.parametrize("delay_s", [0.0, 0.6, 1.0, 1.4, 2.0])
def test_down_while_a_launch_in_the_background_begins_leaves_nothing_rented(stage: Stage, delay_s: float) -> None:
    """Whenever `down` says "ended", nothing is rented afterwards; before the run has its name there is none."""
    launch = stage.start(*stage.launch_words("1000", "0.05", flags=("-d",)))
    time.sleep(delay_s)
    code, said = stage.run("down", "tiny", "-y")
    assert "Traceback" not in said
    launch.wait(60)
    if code == 0:
        assert stage.state().is_final, said
        assert stage.leftovers() == []
    else:
        assert "no run is called tiny" in said, said
        assert stage.run("down", "tiny", "-y")[0] == 0
    assert stage.state().state == "CANCELLED"
    assert all(attempt.ended_at is not None for attempt in stage.state().attempts)
    assert "Traceback" not in stage.said(launch)
    stage.check_nothing_is_left()


def test_a_folder_that_changes_during_the_run_changes_no_attempt(stage: Stage) -> None:
    (stage.work / "notes.txt").write_text("for the reader")
    launch = stage.start(*stage.launch_words("150", "0.05"))
    stage.until_step(25)
    (stage.work / "train.py").write_text("raise SystemExit('edited in mid-run')")
    (stage.work / "notes.txt").unlink()
    stage.embedded().interrupt(stage.instance_id(), notice_s=3)
    assert launch.wait(90) == 0, stage.said(launch)
    assert len(stage.state().attempts) == 2
    check_trained(stage, 150)
    assert stage.run("runs", "prune", "tiny", "-y")[0] == 0
    assert not [path for path in (stage.home / "objects").rglob("*") if path.is_file()]


def test_all_of_a_long_log_and_of_long_metrics_is_downloaded(stage: Stage) -> None:
    """The last lines of a log are what is read after a failure; the last one has no end."""
    program = (
        "import json, os, sys\n"
        "out = open(os.environ['PIXEL_ORCH_OUT'] + '/metrics.jsonl', 'a')\n"
        "for step in range(1, 20001): out.write(json.dumps({'step': step, 'images_per_s': 1.0}) + '\\n')\n"
        "out.close()\n"
        "for line in range(70000): print('a line of the log, which is long', line, 'x' * 60)\n"
        "sys.stderr.write('the very last words')\n"
        "sys.exit(3)\n"
    )
    (stage.work / "train.py").write_text(program)
    code, said = stage.run(*stage.launch_words())
    assert code == 1
    assert "the very last words" in said
    log = stage.store.log_path(1).read_text()
    assert log.endswith("the very last words")
    assert log.count("a line of the log") == 70000
    assert stage.state().step == 20000
