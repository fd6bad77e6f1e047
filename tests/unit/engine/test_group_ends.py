"""How the programs of a group end when they do not end together, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import BudgetError, TrainingError
from orchestrator.runs.events import AttemptLost
from orchestrator.runs.spec import Downloads, GroupSpec, Limits, ProgramSpec
from tests.support.groups import group_story
from tests.support.memory import Machine
from tests.support.memory_bucket import PLACE, MemoryS3
from tests.support.story import Story


def own_story(
    home: Path,
    ends: dict[int, tuple[float, int]],
    save_s: float = 0.0,
    prone: Callable[[int, Machine], None] = lambda number, machine: None,
    **spec: object,
) -> Story:
    """Return a story of a user's own program on 2 machines, of which some end by themselves: (after seconds, code)."""

    def fate(number: int, machine: Machine) -> None:
        machine.steps, machine.save_s = 400, save_s
        machine.ends_alone = ends.get(number)
        prone(number, machine)

    return group_story(home, "2", fate, **spec)


@pytest.mark.parametrize("culprit", [1, 2])
def test_a_program_that_fails_while_the_others_hang_ends_the_run_and_no_machine_is_replaced(
    home: Path, culprit: int
) -> None:
    """The others are blocked in a collective, and end only when they are told to: that is not what ends the run."""
    story = own_story(home, {culprit: (30.0, 3)})
    with pytest.raises(TrainingError, match=f"node {culprit - 1} .*exit code 3"):
        story.engine(config_json=None).run()
    state = story.store.state()
    assert state.state == "FAILED" and state.generation == 1
    assert not [one for one in story.store.events() if isinstance(one, AttemptLost)]
    assert story.cloud.alive() == []


def test_a_program_that_fails_while_node_0_does_not_end_at_all_is_named(home: Path) -> None:
    """Node 0 ignores SIGTERM: it is not the one that failed."""
    story = own_story(home, {2: (30.0, 3)}, save_s=10_000.0)
    with pytest.raises(TrainingError, match=r"exit code 3"):
        story.engine(config_json=None).run()
    assert story.store.state().generation == 1
    assert story.cloud.alive() == []


@pytest.mark.parametrize("early", [1, 2])
def test_a_program_that_is_done_on_one_machine_lets_the_other_go_on(home: Path, early: int) -> None:
    """It has less to do there; the run is done when all are."""
    story = own_story(home, {early: (5.0, 0), 3 - early: (200.0, 0)})
    began_at = story.clock.now()
    story.engine(config_json=None).run()
    state = story.store.state()
    assert state.state == "SUCCEEDED" and state.generation == 1
    assert story.clock.now() - began_at > 200.0
    assert not any(machine.stop_at for machine in story.cloud.machines), "nobody was told to end"


def test_a_run_whose_limit_comes_while_one_machine_is_done_is_not_complete(home: Path) -> None:
    """Node 0 has ended well, node 1 was stopped: its part is not done."""
    story = own_story(home, {1: (5.0, 0)}, limits=Limits(max_duration_s=150.0))
    with pytest.raises(BudgetError):
        story.engine(config_json=None).run()
    assert story.store.state().state == "STOPPED"


@pytest.mark.slow
def test_a_run_whose_second_machine_vanishes_after_the_first_was_done_begins_anew(home: Path) -> None:
    """What the second one had to do is not done."""
    story = own_story(home, {1: (5.0, 0)})
    seen: list[float] = []

    def tick(attempt: object, step: int) -> None:
        if not seen:
            seen.append(story.clock.now())
            story.later(40.0, lambda: story.cloud.end(story.cloud.machines[1], "Server.SpotInstanceTermination"))

    story.recorder.on_tick = tick
    story.engine(config_json=None).run()
    assert story.store.state().generation == 2


def test_a_machine_that_is_lost_with_outputs_of_its_ended_program_begins_anew(home: Path) -> None:
    """The program was done everywhere; what it wrote on node 1 was still on its way."""

    def prone(number: int, machine: Machine) -> None:
        machine.has_tree = True
        if number == 2:
            machine.pull_s = 60.0
            story.clock.at(machine.ready_at + 40.0, lambda: story.cloud.end(machine, "Server.SpotInstanceTermination"))

    story = own_story(home, {1: (10.0, 0), 2: (12.0, 0), 3: (12.0, 0)}, prone=prone)
    story.engine(config_json=None).run()
    state = story.store.state()
    assert state.state == "SUCCEEDED" and state.generation == 2
    assert 1 in state.node_outputs


def test_with_download_none_the_outputs_that_s3_does_not_get_are_downloaded(home: Path) -> None:
    """Only the first machine stores its outputs in S3: those of the others would be gone with their machines."""

    def prone(number: int, machine: Machine) -> None:
        machine.has_tree = True

    group = GroupSpec(min_nodes=2, max_nodes=2)
    program = ProgramSpec(group=group, downloads=Downloads(mode="none"))
    story = own_story(home, {}, prone=prone, program=program)
    story.engine(config_json=None, bucket=PLACE, remote_store=MemoryS3(story.cloud)).run()
    state = story.store.state()
    assert state.state == "SUCCEEDED"
    assert set(state.node_outputs) == {1}


def test_a_first_machine_that_is_lost_after_its_program_was_done_begins_anew(home: Path) -> None:
    """It goes while the last outputs of another one are downloaded."""

    def prone(number: int, machine: Machine) -> None:
        machine.has_tree = True
        if number == 1:
            gone_at = machine.ready_at + 60.0
            story.clock.at(gone_at, lambda: story.cloud.end(machine, "Server.SpotInstanceTermination"))
        if number == 2:
            machine.pull_s = 200.0

    story = own_story(home, {1: (10.0, 0), 2: (10.0, 0), 3: (10.0, 0)}, prone=prone)
    story.engine(config_json=None).run()
    state = story.store.state()
    assert state.state == "SUCCEEDED" and state.generation == 2
