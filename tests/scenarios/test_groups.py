"""Runs on several machines, as real processes on the embedded cloud: losses, leaders, refusals. Slow."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from infra.local import EmbeddedCloud
from orchestrator.market.billing import bill
from orchestrator.runs.events import CapacityAwaited
from orchestrator.runs.group_events import GroupFormed
from orchestrator.runs.state import RunState
from tests.support.stage import Stage, last_json, staged

pytestmark = pytest.mark.slow

ON = ("launch", "--cloud", "local", "-t", "p2.8xlarge", "--spot", "-y", "-n", "tiny", "-o", "json")
ZONES = "abcdef"
SPOT_P = "L-7212CCBC"
VCPUS = 32  # of a p2.8xlarge
TICKS = 100
PROGRAM = """
import os, signal, sys, time
total, may_end, told = int(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
step = int(open("done").read()) if os.path.exists("done") else 0
print(f"node {os.environ['PIXEL_ORCH_NODE_RANK']} of {os.environ['PIXEL_ORCH_NODES']} begins after {step}", flush=True)
while step < total or not os.path.exists(may_end):
    time.sleep(0.02)
    if step < total:
        step += 1
        with open("new", "w") as file:
            file.write(str(step))
        os.replace("new", "done")
        print(f"step {step}/{total}", flush=True)
    if asked and told:  # as an all_reduce would tell the others
        open(told, "w").close()
    if told and os.path.exists(told):
        sys.exit(0)
    if asked:
        sys.exit(143)
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage whose program counts on each machine by itself, from what it finds there."""
    for one in staged(tmp_path):
        (one.work / "train.py").write_text(PROGRAM)
        yield one


def group(stage: Stage, nodes: str, *words: str) -> list[str]:
    """Return the words that launch the counting program on a group; it ends once the file of `let_end` is there."""
    program = ["python3", "train.py", str(TICKS), str(stage.work.parent / "may-end"), *words]
    return [*ON, "--nodes", nodes, "--workdir", str(stage.work), "--", *program]


def let_end(stage: Stage) -> None:
    """Let the programs end when they have counted."""
    (stage.work.parent / "may-end").touch()


def trains(stage: Stage, generation: int) -> RunState | None:
    """Return the state once every machine of a generation has said its first words."""
    state = stage.state()
    members = state.members(generation) if state.generation >= generation else []
    logs = [stage.store.folder / "attempts" / str(one.number) / "trainer.log" for one in members]
    return state if logs and all("step" in log.read_text() for log in logs) else None


def check_shares(state: RunState, cost_usd: float) -> None:
    """The shares of the attempts add up to what the run cost."""
    ended_at = max(attempt.ended_at or 0.0 for attempt in state.attempts)
    shares = [bill(attempt, ended_at).usd for attempt in state.attempts]
    assert all(share >= 0 for share in shares)
    assert sum(shares, Decimal(0)) == pytest.approx(Decimal(str(cost_usd)), abs=Decimal("0.0001"))


def begins(stage: Stage, number: int) -> str:
    """Return the first line of an attempt's log."""
    return (stage.store.folder / "attempts" / str(number) / "trainer.log").read_text().splitlines()[0]


def test_the_bundled_trainer_on_two_machines_is_interrupted_and_finishes(stage: Stage) -> None:
    words = ["--nodes", "2", "--interrupt-after", "2", "--set", "steps=150", "--set", "checkpoint_every=50"]
    code, said = stage.run(*ON, *words)
    assert code == 0, said
    summary = last_json(said)
    assert summary["state"] == "SUCCEEDED"
    state = stage.state()
    assert state.generation == 2
    assert max(state.checkpoints) == 150
    assert state.members(2)[0].first_step == state.members(1)[0].last_step + 1, "nothing is lost, nothing done twice"
    check_shares(state, summary["cost_usd"])
    assert EmbeddedCloud.find(stage.home) is None
    assert stage.leftovers() == []


def test_a_machine_that_dies_without_a_notice_is_replaced_and_the_others_stay(stage: Stage) -> None:
    launch = stage.start(*group(stage, "3"))
    first = stage.until(lambda: trains(stage, 1), "three programs")
    if shutil.which("ssh") is not None:
        code, said = stage.run("ssh", "tiny", "--node", "1", "--", "hostname; basename $(dirname $HOME)")
        assert (code, said.split()) == (0, [socket.gethostname(), first.members(1)[1].instance_id])
    code, said = stage.run("logs", "tiny", "--node", "1")
    assert code == 0 and said.startswith("node 1 of 3 begins after 0")
    dead = first.members(1)[2]
    stage.embedded().interrupt(dead.instance_id, notice=False)
    stage.until(lambda: stage.state().generation == 2, "the next generation")
    let_end(stage)
    assert launch.wait(90) == 0, stage.said(launch)
    state = stage.state()
    assert (state.state, state.generation) == ("SUCCEEDED", 2)
    before, after = state.members(1), state.members(2)
    assert [one.instance_id for one in after[:2]] == [one.instance_id for one in before[:2]]
    assert after[2].instance_id != dead.instance_id
    for one in after[:2]:
        assert int(begins(stage, one.number).split()[-1]) > 0, "a machine that stays has what its program wrote"
    check_shares(state, last_json(stage.said(launch))["cost_usd"])
    assert stage.leftovers() == []


def test_a_program_that_ends_with_0_because_another_machine_is_taken_back_is_not_complete(stage: Stage) -> None:
    """Its processes agree, so that machine 0 ends before it was told itself."""
    told = stage.work.parent / "told"
    launch = stage.start(*group(stage, "2", str(told)))
    first = stage.until(lambda: trains(stage, 1), "two programs")
    stage.embedded().interrupt(first.members(1)[1].instance_id)
    stage.until(told.exists, "the notice")
    stage.until(lambda: stage.state().generation == 2 or launch.poll() is not None, "the end of the generation")
    told.unlink()
    let_end(stage)
    assert launch.wait(90) == 0, stage.said(launch)
    state = stage.state()
    assert (state.state, state.generation) == ("SUCCEEDED", 2)
    assert (stage.store.folder / "outputs" / "done").read_text() == str(TICKS)
    assert stage.leftovers() == []


def test_a_run_whose_process_is_killed_while_it_waits_for_a_machine_is_attached_and_finishes(stage: Stage) -> None:
    launch = stage.start(*group(stage, "2"))
    first = stage.until(lambda: trains(stage, 1), "two programs")
    cloud = stage.embedded()
    for zone in ZONES:
        cloud.set_capacity("p2.8xlarge", f"us-east-1{zone}", 1)
    cloud.interrupt(first.members(1)[1].instance_id, notice=False)
    stage.until(lambda: any(isinstance(one, CapacityAwaited) for one in stage.store.events()), "no capacity")
    os.killpg(launch.pid, signal.SIGKILL)
    launch.wait()
    for zone in ZONES:
        cloud.set_capacity("p2.8xlarge", f"us-east-1{zone}", None)
    let_end(stage)
    code, said = stage.run("attach", "tiny", "-o", "json")
    assert code == 0, said
    state = stage.state()
    assert (state.state, state.generation) == ("SUCCEEDED", 2)
    assert state.members(2)[0].instance_id == first.members(1)[0].instance_id, "the machine that was well goes on"
    assert [one.generation for one in stage.store.events() if isinstance(one, GroupFormed)] == [1, 2]
    check_shares(state, last_json(said)["cost_usd"])
    assert stage.leftovers() == []


@pytest.mark.parametrize(
    ("nodes", "words", "told"),
    [
        ("4:2", (), "--nodes: 4:2 begins with the larger number; give 2:4"),
        ("0", (), "--nodes: 0 is not between 1 and 1000"),
        ("two", (), "--nodes: 'two' is no number of machines; give N or MIN:MAX, such as 2:4"),
        (
            "3",
            ("--set", "batch_size=32"),
            "batch_size = 32 is not divisible by 3 processes; give a multiple of 3, such as 33",
        ),
        ("2:4", ("--deadline", "12h", "--work", "8h"), "--deadline needs a group of one size; give --nodes 4"),
        ("2", ("--strategy", "any"), "--strategy any chooses a pool for one machine; leave it out with --nodes"),
    ],
)
def test_what_a_group_cannot_be_is_one_line(stage: Stage, nodes: str, words: tuple[str, ...], told: str) -> None:
    code, said = stage.run(*ON, "--nodes", nodes, *words)
    assert (code, said.count("\n")) == (2, 1)
    assert said.strip().endswith(told)
    assert EmbeddedCloud.find(stage.home) is None
    assert stage.leftovers() == []


def test_more_machines_than_the_quota_allows_are_not_asked_for(stage: Stage) -> None:
    EmbeddedCloud.ensure(stage.home).set_quota(SPOT_P, 2 * VCPUS)
    code, said = stage.run(*ON, "--nodes", "3", "--set", "batch_size=24")
    assert code == 1
    last = said.strip().splitlines()[-1]
    assert f"{SPOT_P} (P spot) in us-east-1 is {2 * VCPUS}; {3 * VCPUS} are needed" in last
    assert EmbeddedCloud.find(stage.home) is None
    assert stage.leftovers() == []


def test_capacity_for_some_of_the_machines_rents_none(stage: Stage) -> None:
    cloud = EmbeddedCloud.ensure(stage.home)
    for zone in ZONES:
        cloud.set_capacity("p2.8xlarge", f"us-east-1{zone}", 2)
    code, said = stage.run(*ON, "--nodes", "3", "--set", "batch_size=24")
    assert code == 1
    assert "error: No spot capacity for 3 machines at once of p2.8xlarge in us-east-1" in said
    assert "Allow a smaller group with --nodes 1:3." in said
    assert stage.state().attempts == []
    assert EmbeddedCloud.find(stage.home) is None
    assert stage.leftovers() == []
