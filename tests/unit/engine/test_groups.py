"""A run on several machines at once, in virtual time: rented all or none, and whatever happens to one of them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from model.config import TrainConfig
from orchestrator.errors import CapacityError, PixelOrchError, TrainingError
from orchestrator.export.points import points_of
from orchestrator.market.billing import bill, total_usd
from orchestrator.runs.events import AttemptLost, CheckpointPulled, LaunchRequested, LossReason
from orchestrator.runs.group_events import GroupFormed
from orchestrator.runs.spec import Limits, RecoveryPolicy
from orchestrator.runs.state import RunState
from tests.support.groups import at_step, group_story
from tests.support.memory import Machine
from tests.support.story import Recorder, Story

Fate = Callable[[int, Machine], None]


def check(story: Story) -> RunState:
    """Nothing is left, nothing acknowledged is lost, and the bill is the sum of the machines' own."""
    state = story.store.state()
    assert state.is_final
    assert story.cloud.alive() == []
    assert state.open_attempts() == []
    assert story.cloud.security_groups == {}
    assert story.cloud.placement.by_name == {}
    refused = {one.name for one in state.refused}
    for event in story.store.events():
        if isinstance(event, CheckpointPulled) and event.name not in refused:
            assert story.store.is_whole(event)
    by_instance: dict[str, Decimal] = {}
    for attempt in state.attempts:
        share = bill(attempt, story.clock.now()).usd
        assert share >= 0
        by_instance[attempt.instance_id] = by_instance.get(attempt.instance_id, Decimal(0)) + share
    assert set(by_instance) == {machine.instance.instance_id for machine in story.cloud.machines}
    wholes = {attempt.instance_id: attempt.whole for attempt in state.attempts}
    for instance_id, whole in wholes.items():
        pulled = sum(one.pulled_bytes for one in state.attempts if one.instance_id == instance_id)
        whole.pulled_bytes = pulled
        assert by_instance[instance_id] == pytest.approx(bill(whole, story.clock.now()).usd, abs=Decimal("1e-12"))
    total = total_usd(state.attempts, story.clock.now())
    assert total == pytest.approx(sum(by_instance.values()), abs=Decimal("1e-12"))
    for generation in range(1, state.generation + 1):
        members = state.members(generation)
        assert [one.rank for one in members] == list(range(len(members)))
        assert len({(one.instance_type, one.zone) for one in members}) == 1
    return state


def lost(story: Story) -> list[tuple[int, LossReason | None]]:
    """Return (attempt, cause) of every machine that was given up."""
    return [(one.attempt, one.cause) for one in story.store.events() if isinstance(one, AttemptLost)]


def generations(state: RunState) -> list[list[str]]:
    """Return the instances of each generation by rank, as the numbers of their launch."""
    order = list(dict.fromkeys(one.instance_id for one in sorted(state.attempts, key=lambda one: one.number)))
    return [
        [str(1 + order.index(one.instance_id)) for one in state.members(generation)]
        for generation in range(1, state.generation + 1)
    ]


def test_a_group_is_rented_by_one_request_and_trains_to_its_end(home: Path) -> None:
    """One RunInstances for all of three, in one placement group, with one generation."""
    story = group_story(home)
    story.engine().run()
    state = check(story)
    assert state.state == "SUCCEEDED"
    assert generations(state) == [["1", "2", "3"]]
    requests = [event for event in story.store.events() if isinstance(event, LaunchRequested)]
    assert [one.count for one in requests] == [3]
    call = story.cloud.calls[-1]
    assert (call.parameters["MinCount"], call.parameters["MaxCount"]) == (3, 3)
    assert call.parameters["Placement"]["GroupName"].startswith("pixel-orch-story-")
    envs = [machine.job.env for machine in story.cloud.machines if machine.job is not None]
    assert [env["PIXEL_ORCH_NODE_RANK"] for env in envs] == ["0", "1", "2"]
    assert {env["PIXEL_ORCH_MASTER_ADDR"] for env in envs} == {"10.0.0.1"}


def test_a_notice_on_any_machine_stops_all_and_only_that_one_is_replaced(home: Path) -> None:
    """The survivors stay rented; the work goes on from the agreed step, and nothing is trained twice."""
    for victim in range(3):
        story = group_story(home / str(victim))
        at_step(story, 40, lambda s=story, v=victim: s.cloud.interrupt(s.cloud.machines[v]))  # type: ignore[misc]  # the defaults bind
        story.engine().run()
        state = check(story)
        assert state.state == "SUCCEEDED"
        assert len(story.cloud.machines) == 4
        second = state.members(2)
        assert len(second) == 3
        assert state.members(2)[0].resumed_from == state.members(1)[0].last_step >= 40
        assert lost(story) == [(victim + 1, LossReason.INTERRUPTED)]
        zones = {machine.instance.zone for machine in story.cloud.machines}
        assert len(zones) == 1


def test_two_notices_at_once(home: Path) -> None:
    story = group_story(home)
    at_step(story, 40, lambda: [story.cloud.interrupt(machine) for machine in story.cloud.machines[:2]] and None)
    story.engine().run()
    state = check(story)
    assert state.state == "SUCCEEDED"
    assert generations(state) == [["1", "2", "3"], ["4", "5", "3"]]
    assert state.interruptions == 2


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_machine_that_vanishes_ends_the_generation_and_the_newest_checkpoint_counts(home: Path, victim: int) -> None:
    story = group_story(home)
    at_step(story, 45, lambda: story.cloud.interrupt(story.cloud.machines[victim], notice_s=0.0))
    story.engine().run()
    state = check(story)
    assert state.state == "SUCCEEDED"
    assert state.members(2)[0].resumed_from == 40
    assert lost(story) == [(victim + 1, LossReason.INTERRUPTED)]


@pytest.mark.parametrize("victim", [0, 2])
def test_a_frozen_machine_is_given_up_after_its_silence(home: Path, victim: int) -> None:
    story = group_story(home)

    def freeze() -> None:
        story.cloud.machines[victim].frozen_from = story.clock.now()

    at_step(story, 45, freeze)
    story.engine().run()
    state = check(story)
    assert state.state == "SUCCEEDED"
    assert lost(story) == [(victim + 1, LossReason.UNREACHABLE)]


def test_a_failure_of_one_trainer_ends_the_run_with_the_words_of_that_machine(home: Path) -> None:
    """The others exit because of it; theirs is not the exit code that counts."""

    def fate(number: int, machine: Machine) -> None:
        machine.crashes_at_step = 30 if number == 2 else None

    story = group_story(home, fate=fate)
    with pytest.raises(TrainingError, match="exit code 1"):
        story.engine().run()
    state = check(story)
    assert state.state == "FAILED"
    assert len(story.cloud.machines) == 3
    lead = state.members(1)[0]
    assert lead.trainer_exit is not None
    assert lead.trainer_exit.exit_code == 1
    assert lead.trainer_exit.tail.startswith("node 1 (i-")


def test_half_a_group_is_not_rented(home: Path) -> None:
    """A pool with room for two of three gives none; the next pool has room."""
    story = group_story(home)
    story.cloud.room_in["us-east-1b"] = 2
    story.engine().run()
    state = check(story)
    assert state.state == "SUCCEEDED"
    assert {machine.instance.zone for machine in story.cloud.machines} == {"us-east-1c"}


def test_no_pool_with_room_is_one_line_and_nothing_is_left(home: Path) -> None:
    story = group_story(home)
    for zone in ("us-east-1a", "us-east-1b", "us-east-1c"):
        story.cloud.room_in[zone] = 2
    with pytest.raises(CapacityError, match=r"No spot capacity for 3 machines at once of g4dn.xlarge.*--nodes 1:3"):
        story.engine().run()
    state = check(story)
    assert state.state == "FAILED"
    assert story.cloud.machines == []


def test_a_group_that_may_be_smaller_begins_with_what_there_is(home: Path) -> None:
    """The largest size that any pool has room for: two of four; three do not divide a batch of 16."""
    story = group_story(home, "1:4", trainer=TrainConfig(steps=100, batch_size=16))
    for zone in ("us-east-1a", "us-east-1b", "us-east-1c"):
        story.cloud.room_in[zone] = 3
    story.engine().run()
    assert [len(generation) for generation in generations(check(story))] == [2]


def test_it_shrinks_when_the_lost_machine_cannot_be_replaced_and_grows_again(home: Path) -> None:
    slow = {"trainer": TrainConfig(steps=4000, batch_size=24), "recovery": RecoveryPolicy(poll_s=30.0)}
    story = group_story(home, "2:3", fate=_slow, **slow)

    def interrupt() -> None:
        machine = story.cloud.machines[1]
        story.cloud.interrupt(machine)
        story.cloud.room_in[machine.instance.zone] = 2
        story.later(2400.0, lambda: story.cloud.room_in.clear())

    at_step(story, 400, interrupt)
    story.engine().run()
    state = check(story)
    assert state.state == "SUCCEEDED"
    assert [len(generation) for generation in generations(state)] == [3, 2, 3]
    shrunk = state.members(2)[0]
    ended = state.members(1)[0].trainer_exit
    assert ended is not None
    assert 15.0 <= shrunk.started_at - ended.at <= 900.0, "the wait for a replacement is bounded"


def _slow(number: int, machine: Machine) -> None:
    machine.steps, machine.checkpoint_every = 4000, 100


def test_a_group_of_a_fixed_size_moves_where_there_is_room_for_all(home: Path) -> None:
    story = group_story(home)

    def interrupt() -> None:
        machine = story.cloud.machines[1]
        story.cloud.interrupt(machine)
        story.cloud.room_in[machine.instance.zone] = 2

    at_step(story, 40, interrupt)
    story.engine().run()
    state = check(story)
    assert state.state == "SUCCEEDED"
    first, second = state.members(1), state.members(2)
    assert {one.zone for one in first} != {one.zone for one in second}
    assert sum(one.lost_cause == LossReason.MOVED for one in state.attempts) == 2


def test_a_machine_that_is_lost_during_the_set_up(home: Path) -> None:
    """A notice in the set-up is only seen as the end of the machine; the others are set up once."""

    def fate(number: int, machine: Machine) -> None:
        machine.setup_s = 60.0
        if number == 3:
            story.later(40.0, lambda: story.cloud.interrupt(machine, notice_s=0.0))

    story = group_story(home, fate=fate)
    story.engine().run()
    state = check(story)
    assert state.state == "SUCCEEDED"
    assert generations(state) == [["1", "2", "3"], ["1", "2", "4"]]


def test_a_stop_reaches_all_and_saves_once(home: Path) -> None:
    story = group_story(home)
    engine = story.engine()
    at_step(story, 40, lambda: engine.request_stop("as asked", "STOPPED"))
    with pytest.raises(PixelOrchError, match="as asked"):
        engine.run()
    state = check(story)
    assert state.state == "STOPPED"
    assert max(state.checkpoints) == state.step >= 40


def test_the_budget_counts_all_machines(home: Path) -> None:
    """Three machines are stopped after a third of the time that one could have."""
    spent = []
    for nodes in ("1", "3"):
        story = group_story(
            home / nodes,
            nodes,
            trainer=TrainConfig(steps=100_000, batch_size=24),
            fate=_endless,
            limits=Limits(budget_usd=Decimal("0.5")),
            recovery=RecoveryPolicy(poll_s=30.0),
        )
        with pytest.raises(PixelOrchError, match="budget"):
            story.engine().run()
        state = story.store.state()
        assert state.state == "STOPPED"
        assert total_usd(state.attempts, story.clock.now()) <= Decimal("0.5")
        spent.append(story.clock.now() - state.created_at)
    assert spent[1] == pytest.approx(spent[0] / 3, rel=0.25)


def _endless(number: int, machine: Machine) -> None:
    machine.steps, machine.checkpoint_every = 100_000, 1000


@pytest.mark.slow
def test_an_interruption_in_the_first_hour_is_free_in_all_generations_of_the_machine(home: Path) -> None:
    """Machine 3 goes on after the loss of 1, and is interrupted in its first hour: no second of it is billed."""
    story = group_story(
        home, trainer=TrainConfig(steps=1000, batch_size=24), fate=lambda n, m: setattr(m, "steps", 1000)
    )

    def first() -> None:
        story.cloud.interrupt(story.cloud.machines[0])
        story.later(400.0, lambda: story.cloud.interrupt(story.cloud.machines[2]))

    at_step(story, 100, first)
    story.engine().run()
    state = check(story)
    shares = [one for one in state.attempts if one.instance_id == story.cloud.machines[2].instance.instance_id]
    assert len(shares) > 1
    assert all(bill(one, story.clock.now()).instance_usd == 0 for one in shares)


@pytest.mark.parametrize("unheard", [True, False])
def test_a_process_that_dies_while_a_group_is_rented_finds_all_of_it_again(home: Path, unheard: bool) -> None:
    """Between the request and its answer, and between two of the events of the answer."""

    class Dies(Recorder):
        def event(self, event: Any) -> None:
            kind = "launch_requested" if unheard else "instance_started"
            if event.kind == kind and not self.events:
                self.events.append(event)
                raise KeyboardInterrupt

    story = group_story(home)
    if unheard:
        story.cloud.fail_after_serving = 1
    story.recorder = Recorder()
    first = story.engine(watchers=(Dies(),))
    with pytest.raises(KeyboardInterrupt):
        first.group.attempts()  # type: ignore[union-attr]
    story.cloud.fail_after_serving = 0
    story.engine().run()
    state = check(story)
    assert state.state == "SUCCEEDED"
    assert len(story.cloud.machines) == 3


def test_a_process_that_takes_over_leads_the_generation_on(home: Path) -> None:
    """The machines train on meanwhile; nothing is started twice."""

    class Killed(BaseException):
        pass

    story = group_story(home)

    def die() -> None:
        raise Killed

    at_step(story, 40, die)
    engine = story.engine()
    with pytest.raises(Killed):
        engine.group.attempts()  # type: ignore[union-attr]
    story.recorder.on_tick = None
    story.engine().run("attach")
    state = check(story)
    assert state.state == "SUCCEEDED"
    assert generations(state) == [["1", "2", "3"]]
    assert len([e for e in story.store.events() if isinstance(e, GroupFormed)]) == 1


def test_three_generations_without_a_new_step_end_the_run(home: Path) -> None:
    """A machine that freezes at once, each time: a fourth generation would only cost."""

    def fate(number: int, machine: Machine) -> None:
        machine.frozen_from = machine.ready_at + 1.0 if number >= 3 else None

    story = group_story(home, fate=fate)
    with pytest.raises(PixelOrchError, match="3 generations of the group in a row"):
        story.engine().run()
    assert check(story).state == "FAILED"


def test_a_machine_whose_gpu_fails_is_replaced_and_the_others_stay(home: Path) -> None:
    def fate(number: int, machine: Machine) -> None:
        if number == 2:
            machine.crashes_at_step, machine.gpu_problem = 45, "Xid 79: the GPU has fallen off the bus"

    story = group_story(home, fate=fate)
    story.engine().run()
    state = check(story)
    assert state.state == "SUCCEEDED"
    assert generations(state) == [["1", "2", "3"], ["1", "4", "3"]]
    assert lost(story) == [(2, LossReason.GPU_FAILED)]


def test_what_a_group_measures_is_exported_once(home: Path) -> None:
    """The other machines have no measurements; they take none of the first one's back."""
    story = group_story(home)
    at_step(story, 40, lambda: story.cloud.interrupt(story.cloud.machines[1]))
    story.engine().run()
    points = points_of(story.store, story.store.state())
    assert points["images_per_s"][-1].step == 100
