"""States of the outputs in virtual time: downloaded, restored, waited for, and never lost once acknowledged."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import BudgetError, OutputsLostError, TrainingError, UnreachableError
from orchestrator.runs.events import AttemptLost, LossReason, StateChanged
from orchestrator.runs.output_events import (
    OutputsLeft,
    OutputsPulled,
    OutputsRefused,
    OutputsRestored,
    OutputsWaiting,
)
from orchestrator.runs.output_states import OutputStates
from orchestrator.runs.spec import Downloads, Limits, ProgramSpec
from tests.support.memory import Machine
from tests.support.memory_host import MemoryHost
from tests.support.memory_tree import step_of, tree_at
from tests.support.run_checks import check_invariants
from tests.support.story import Story


def writes(number: int, machine: Machine) -> None:
    machine.has_tree, machine.has_checkpoints = True, False


def told(story: Story, kind: type[Any]) -> list[Any]:
    return [event for event in story.store.events() if isinstance(event, kind)]


def outputs(story: Story) -> dict[str, bytes]:
    """Return the newest state here, by the names of the machine."""
    states = OutputStates(story.store.folder)
    return {file.name: path.read_bytes() for file, path in states.contents(states.newest())}


def all_at_the_end(story: Story) -> None:
    assert outputs(story) == tree_at(100, 10)
    assert (story.store.outputs / "model.pt").read_bytes() == b"the model after step 100"
    check_invariants(story)


def test_each_state_comes_while_the_program_runs(home: Path) -> None:
    story = Story(home, writes)
    assert story.engine().run().state == "SUCCEEDED"
    pulled = told(story, OutputsPulled)
    assert len(pulled) == 10
    assert pulled[3].deleted == 1
    assert (pulled[-1].all_files, pulled[-1].files) == (4, 3)
    all_at_the_end(story)


@pytest.mark.parametrize("at", [15, 40, 41, 55, 73, 95, 101])
def test_an_interruption_goes_on_from_a_state_of_one_moment(home: Path, at: int) -> None:
    story = Story(home, writes)
    story.later(at + 20, lambda: story.cloud.interrupt(story.cloud.machines[0]))
    assert story.engine().run().state == "SUCCEEDED"
    if len(story.cloud.machines) > 1:
        assert told(story, OutputsRestored)[0].files == len(tree_at(story.cloud.machines[1].tree_step, 10))
    all_at_the_end(story)


def test_without_a_notice_what_was_acknowledged_is_what_the_next_machine_gets(home: Path) -> None:
    def fate(number: int, machine: Machine) -> None:
        writes(number, machine)
        machine.pull_s = 3.0

    story = Story(home, fate)
    story.later(70, lambda: story.cloud.end(story.cloud.machines[0], "Server.SpotInstanceTermination"))
    assert story.engine().run().state == "SUCCEEDED"
    before = [e for e in told(story, OutputsPulled) if e.attempt == 1][-1]
    assert told(story, OutputsRestored)[0].number == before.number
    all_at_the_end(story)


def test_a_process_that_takes_over_goes_on_with_the_states(home: Path) -> None:
    story = Story(home, writes)

    class KilledError(BaseException):
        pass

    def kill(attempt: Any, step: int) -> None:
        if step >= 45 and not killed:
            killed.append(step)
            raise KilledError

    killed: list[int] = []
    story.recorder.on_tick = kill
    engine = story.engine()
    engine.finish = lambda *words: None  # type: ignore[method-assign]  # SIGKILL ends nothing
    with pytest.raises(KilledError):
        engine.run()

    def started(*words: Any) -> Any:
        host: Any = story.cloud.connect(*words)
        host.set_up = lambda job: pytest.fail("what was sent may be the program's output by now")
        return host

    assert story.engine(connect=started).run("attach").state == "SUCCEEDED"
    assert len(story.cloud.machines) == 1
    assert not told(story, OutputsRestored)
    all_at_the_end(story)


@pytest.mark.parametrize(
    ("downloads", "states"),
    [
        (Downloads(mode="all"), 10),
        (Downloads(every_s=50.0), 3),
        (Downloads(mode="none"), 0),
    ],
)
def test_how_often(home: Path, downloads: Downloads, states: int) -> None:
    story = Story(home, writes, program=ProgramSpec(downloads=downloads))
    assert story.engine().run().state == "SUCCEEDED"
    assert len(told(story, OutputsPulled)) == states
    assert not told(story, OutputsLeft)


def test_large_outputs_come_as_often_as_a_tenth_of_the_price_pays_for(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.engine.output_mirror.affordable_bytes", lambda attempt, now: 0.0)
    story = Story(home, writes)
    story.later(61, lambda: story.cloud.interrupt(story.cloud.machines[0]))
    assert story.engine().run().state == "SUCCEEDED"
    first, last = told(story, OutputsPulled)
    assert (first.attempt, last.attempt) == (1, 2), "at the notice, and at the end"
    all_at_the_end(story)


def test_all_checkpoints_that_a_program_of_the_users_has_kept_come_at_its_end(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another name they would be among its outputs. Of the bundled trainer the newest one is enough."""
    monkeypatch.setattr("orchestrator.engine.output_mirror.affordable_bytes", lambda attempt, now: 0.0)
    found = {}
    for name, config in (("own", None), ("bundled", b"{}")):
        (home / name).mkdir()
        story = Story(home / name)
        assert story.engine(config_json=config).run().state == "SUCCEEDED"
        found[name] = sorted(story.store.state().checkpoints)
    assert found == {"own": list(range(10, 101, 10)), "bundled": [100]}


def test_all_files_of_one_checkpoint_go_to_the_next_machine_and_come_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may write `checkpoint-40.json` beside `checkpoint-40.pt`."""
    sent, fetched = [], []
    own, send, fetch = MemoryHost._outputs, MemoryHost.send, MemoryHost.fetch

    def pairs(self: MemoryHost, step: int, **words: Any) -> Any:
        for one in own(self, step, **words):
            yield from (replace(one, name=one.name.replace(".pt", ".json")), one)

    monkeypatch.setattr(MemoryHost, "_outputs", pairs)
    monkeypatch.setattr(MemoryHost, "send", lambda self, job, path: (sent.append(path.name), send(self, job, path))[1])
    monkeypatch.setattr(MemoryHost, "fetch", lambda *words: (fetched.append(words[2].name), fetch(*words))[1])
    story = Story(home)
    story.later(75, lambda: story.cloud.interrupt(story.cloud.machines[0]))
    assert story.engine(config_json=None).run().state == "SUCCEEDED"
    assert len(story.cloud.machines) == 2
    step = story.cloud.machines[1].resumed_from
    assert {name for name in sent if name.split(".")[0] == f"checkpoint-{step}"} == {
        f"checkpoint-{step}.json",
        f"checkpoint-{step}.pt",
    }
    assert len(fetched) == len(set(fetched))


def test_a_full_disk_keeps_the_machine_until_there_is_room(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(home, writes)
    commit = OutputStates.commit
    until = story.clock.now() + 400

    def full(self: OutputStates, *words: Any) -> Any:
        if story.clock.now() < until:
            raise OSError(errno.ENOSPC, "No space left on device")
        return commit(self, *words)

    monkeypatch.setattr(OutputStates, "commit", full)
    assert story.engine().run().state == "SUCCEEDED"
    (waiting,) = told(story, OutputsWaiting)
    assert "disk of this machine is full" in waiting.reason
    moves = [(event.state, event.reason) for event in told(story, StateChanged)]
    assert any(state == "RUNNING" and reason.startswith("outputs waiting: ") for state, reason in moves)
    all_at_the_end(story)


def test_outputs_that_never_come_fail_the_run_and_are_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(home, writes, program=ProgramSpec(downloads=Downloads(keep_s=120.0)))

    def full(self: OutputStates, *words: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(OutputStates, "commit", full)
    with pytest.raises(OutputsLostError, match=r"finished, and \d+ outputs .* the disk of this machine is full"):
        story.engine().run()
    state = story.store.state()
    assert state.state == "FAILED"
    (left,) = told(story, OutputsLeft)
    assert left.is_loss
    assert "model.pt" in left.names
    assert list((story.store.folder / "set-aside").rglob("model.pt")), "what had arrived is kept"
    assert story.cloud.alive() == []
    ended = state.attempts[0].ended_at
    assert ended is not None
    assert state.attempts[0].trainer_exit is not None
    with pytest.raises(OutputsLostError):
        story.engine().run("attach")


def test_a_machine_that_goes_while_its_last_outputs_come_is_replaced(home: Path) -> None:
    """It had finished; the next one goes on from the last whole state and finishes again."""
    story = Story(home, writes)
    connect = story.cloud.connect
    gone: list[int] = []

    def fragile(*words: Any) -> Any:
        host: Any = connect(*words)
        fetch = host.fetch_tree

        def failing(*more: Any) -> Any:
            if host.trainer_at(story.clock.now())[0] == "exited" and not gone:
                gone.append(1)
                story.cloud.end(host.machine, "Server.SpotInstanceTermination")
                raise UnreachableError("cut")
            return fetch(*more)

        host.fetch_tree = failing
        return host

    state = story.engine(connect=fragile).run()
    assert state.state == "SUCCEEDED"
    assert len(state.attempts) == 2
    all_at_the_end(story)


def dies_at(step: int) -> Any:
    """Return a fate: a program dies at the outputs of that step, before it has written anything."""

    def fate(number: int, machine: Machine) -> None:
        writes(number, machine)
        if number > 1:
            machine.crashes_at_outputs_of = step

    return fate


def test_a_program_that_dies_at_its_restored_files_gets_the_older_ones_once(home: Path) -> None:
    story = Story(home, dies_at(50), program=ProgramSpec())
    story.later(75, lambda: story.cloud.end(story.cloud.machines[0], "Server.SpotInstanceTermination"))
    assert story.engine().run().state == "SUCCEEDED"
    assert [machine.tree_step for machine in story.cloud.machines] == [0, 50, 40]
    (refused,) = told(story, OutputsRefused)
    assert "right after the outputs were restored" in refused.reason
    assert [event.cause for event in told(story, AttemptLost)][-1] == LossReason.RESUME_FAILED
    all_at_the_end(story)


def test_if_the_older_ones_do_not_help_the_newer_ones_count_again(home: Path) -> None:
    def fate(number: int, machine: Machine) -> None:
        writes(number, machine)
        if number > 1:
            machine.crashes_at_outputs_of = -1

    story = Story(home, fate)
    story.later(75, lambda: story.cloud.end(story.cloud.machines[0], "Server.SpotInstanceTermination"))
    with pytest.raises(TrainingError):
        story.engine().run()
    assert len(story.cloud.machines) == 3
    assert step_of(outputs(story), 10) == 50


def test_outputs_that_were_changed_here_are_not_sent(home: Path) -> None:
    story = Story(home, writes)

    def edit() -> None:
        (story.store.outputs / "model.pt").write_bytes(b"edited")
        story.cloud.end(story.cloud.machines[0], "Server.SpotInstanceTermination")

    story.later(75, edit)
    assert story.engine().run().state == "SUCCEEDED"
    assert story.cloud.machines[1].tree_step == 40, "the state before it"
    assert "model.pt in" in told(story, OutputsRefused)[0].reason
    aside = [path.read_bytes() for path in (story.store.folder / "set-aside").rglob("model.pt")]
    assert aside == [b"edited"]
    all_at_the_end(story)


def test_a_stop_and_a_resume_go_on_with_the_outputs(home: Path) -> None:
    story = Story(home, writes, limits=Limits(max_duration_s=60.0))
    with pytest.raises(BudgetError):
        story.engine().run()
    step = step_of(outputs(story), 10)
    assert step > 0
    story.spec = story.spec.model_copy(update={"limits": Limits()})
    assert story.engine().run("resume").state == "SUCCEEDED"
    assert story.cloud.machines[1].tree_step == step
    all_at_the_end(story)
