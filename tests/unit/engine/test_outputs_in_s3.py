"""Outputs that went to S3, in virtual time: restored from there, brought home, and no run succeeds without its last."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine.engine import Engine
from orchestrator.engine.journal import Journal
from orchestrator.engine.pull_outputs import outputs_from_host, outputs_from_s3
from orchestrator.engine.remote_outputs import RemoteOutputs
from orchestrator.engine.remote_store import RemoteCopy, is_uploaded
from orchestrator.errors import CloudError, HostError, OutputsLostError, TrainingError
from orchestrator.host import tree_answers
from orchestrator.host.base import Cursor, HostStatus, RestoredOutputs
from orchestrator.report.event_text import event_words
from orchestrator.runs.events import AttemptLost, LossReason, RemoteStoreTroubled, StateChanged
from orchestrator.runs.output_events import (
    OutputsLeft,
    OutputsPulled,
    OutputsRefused,
    OutputsRestored,
    OutputsWaiting,
)
from orchestrator.runs.output_states import OutputStates
from orchestrator.runs.output_tree import TreeFile, TreeStatus
from orchestrator.runs.spec import Downloads, ProgramSpec
from tests.support.memory import Machine
from tests.support.memory_bucket import PLACE, MemoryS3
from tests.support.memory_host import MemoryHost
from tests.support.memory_tree import StoredTree, step_of, tree_at
from tests.support.run_checks import check_invariants
from tests.support.story import Story


def writes(number: int, machine: Machine) -> None:
    machine.has_tree, machine.has_checkpoints = True, False


def on_a_slow_line(number: int, machine: Machine) -> None:
    """S3 is near, and home is far."""
    writes(number, machine)
    machine.pull_s = 33.0 if number == 1 else 0.0


def engine_of(story: Story, **changes: Any) -> Engine:
    return story.engine(bucket=PLACE, **{"remote_store": MemoryS3(story.cloud), **changes})


def told(story: Story, kind: type[Any]) -> list[Any]:
    return [event for event in story.store.events() if isinstance(event, kind)]


def outputs(story: Story) -> dict[str, bytes]:
    states = OutputStates(story.store.folder)
    return {file.name: path.read_bytes() for file, path in states.contents(states.newest())}


def all_at_the_end(story: Story) -> None:
    assert outputs(story) == tree_at(100, 10)
    check_invariants(story)


def vanish(story: Story, after_s: float = 75.0) -> None:
    """The first machine is taken away without a word after 55 steps."""
    story.later(after_s, lambda: story.cloud.interrupt(story.cloud.machines[0], notice_s=0))


# -- the next machine


def test_the_next_machine_begins_with_what_s3_has_though_less_came_home(home: Path) -> None:
    story = Story(home, on_a_slow_line)
    vanish(story)
    assert engine_of(story).run().state == "SUCCEEDED"
    assert [machine.tree_step for machine in story.cloud.machines] == [0, 50]
    (restored,) = told(story, OutputsRestored)
    assert (restored.source, restored.files) == ("S3", len(tree_at(50, 10)))
    assert "restored from S3" in event_words(restored, 0.0)
    all_at_the_end(story)


def test_it_does_though_what_s3_has_is_too_much_to_come_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.engine.remote_outputs.affordable_bytes", lambda *_: 0.0)
    story = Story(home, on_a_slow_line)
    vanish(story)
    assert engine_of(story).run().state == "SUCCEEDED"
    assert [machine.tree_step for machine in story.cloud.machines] == [0, 50]
    pulled = told(story, OutputsPulled)
    assert all(event.attempt != 1 or event.all_files < len(tree_at(50, 10)) for event in pulled)
    all_at_the_end(story)


def test_what_is_newer_here_is_sent_from_here(home: Path) -> None:
    def fate(number: int, machine: Machine) -> None:
        writes(number, machine)
        machine.carry_s = 40.0

    story = Story(home, fate)
    vanish(story)
    assert engine_of(story).run().state == "SUCCEEDED"
    assert [event.source for event in told(story, OutputsRestored)] == [""]
    assert story.cloud.machines[1].tree_step >= 40
    all_at_the_end(story)


def test_what_was_changed_here_comes_from_s3_unchanged(home: Path) -> None:
    story = Story(home, writes)

    def edit() -> None:
        (story.store.outputs / "model.pt").write_bytes(b"edited")
        story.cloud.end(story.cloud.machines[0], "Server.SpotInstanceTermination")

    story.later(75, edit)
    assert engine_of(story).run().state == "SUCCEEDED"
    assert story.cloud.machines[1].tree_step == 50, "the newest, and not the state before it"
    assert told(story, OutputsRefused) == []
    all_at_the_end(story)


def answering(story: Story, *answers: RestoredOutputs | Exception) -> Any:
    """Return what connects to hosts that answer so when they are to restore from S3, and write nothing."""
    left = list(answers)

    def connect(*words: Any) -> MemoryHost:
        host = story.cloud.connect(*words)
        restore = host.restore_outputs

        def restoring(*more: Any) -> RestoredOutputs:
            if host.machine is story.cloud.machines[0] or not left:
                return restore(*more)
            answer = left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        host.restore_outputs = restoring  # type: ignore[method-assign]
        return host

    return connect


def test_a_state_that_is_damaged_in_s3_is_said_and_that_of_home_is_used(home: Path) -> None:
    story = Story(home, writes)
    vanish(story)
    damaged = RestoredOutputs(refused=("the outputs of i-1 in S3: model.pt has another SHA-256",))
    assert engine_of(story, connect=answering(story, damaged)).run().state == "SUCCEEDED"
    assert [event.source for event in told(story, OutputsRestored)] == [""]
    assert "model.pt has another SHA-256" in told(story, OutputsRefused)[0].reason
    all_at_the_end(story)


def test_s3_that_cannot_be_read_there_is_said_and_that_of_home_is_used(home: Path) -> None:
    story = Story(home, writes)
    vanish(story)
    refusal = RestoredOutputs(problem="AccessDenied: no")
    assert engine_of(story, connect=answering(story, refusal)).run().state == "SUCCEEDED"
    assert [event.reason for event in told(story, RemoteStoreTroubled)] == ["AccessDenied: no"]
    all_at_the_end(story)


def test_a_program_that_dies_at_what_is_only_in_s3_gets_once_what_is_here(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RemoteCopy, "after_loss", lambda *_: None)

    def fate(number: int, machine: Machine) -> None:
        on_a_slow_line(number, machine)
        machine.crashes_at_outputs_of = 50 if number > 1 else None

    story = Story(home, fate)
    vanish(story)
    assert engine_of(story).run().state == "SUCCEEDED"
    begun = [machine.tree_step for machine in story.cloud.machines]
    assert (begun[:2], len(begun)) == ([0, 50], 3)
    assert 0 < begun[2] < 50
    assert [event.cause for event in told(story, AttemptLost)][-1] == LossReason.RESUME_FAILED
    all_at_the_end(story)


def test_if_that_does_not_help_what_is_in_s3_counts_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RemoteCopy, "after_loss", lambda *_: None)

    def fate(number: int, machine: Machine) -> None:
        on_a_slow_line(number, machine)
        machine.crashes_at_outputs_of = -1 if 1 < number < 4 else None

    story = Story(home, fate)
    vanish(story)
    with pytest.raises(TrainingError):
        engine_of(story).run()
    assert [machine.tree_step for machine in story.cloud.machines][1] == 50
    assert engine_of(story).run("resume").state == "SUCCEEDED"
    assert story.cloud.machines[3].tree_step == 50
    all_at_the_end(story)


# -- --download none


NONE = ProgramSpec(downloads=Downloads(mode="none", keep_s=300.0))


def test_without_downloads_all_goes_through_s3(home: Path) -> None:
    story = Story(home, writes, program=NONE)
    vanish(story)
    assert engine_of(story).run().state == "SUCCEEDED"
    assert [machine.tree_step for machine in story.cloud.machines] == [0, 50]
    assert told(story, OutputsPulled) == []
    last = story.cloud.bucket_trees[story.cloud.machines[1].instance.instance_id]
    assert (last.files, last.is_final) == (tree_at(100, 10), True)


def test_without_downloads_the_machine_is_kept_until_s3_has_the_last_outputs(home: Path) -> None:
    def slow(number: int, machine: Machine) -> None:
        writes(number, machine)
        machine.carry_s = 120.0

    story = Story(home, slow, program=NONE)
    state = engine_of(story).run()
    assert state.state == "SUCCEEDED"
    (waiting,) = told(story, OutputsWaiting)
    assert waiting.reason == "they are on their way to S3"
    reasons = [event.reason for event in told(story, StateChanged)]
    assert any("outputs waiting" in reason for reason in reasons)
    assert story.cloud.bucket_trees[story.cloud.machines[0].instance.instance_id].is_final


def test_without_downloads_a_run_whose_last_outputs_s3_does_not_take_has_failed(home: Path) -> None:
    story = Story(home, writes, program=NONE)
    story.later(110.0, lambda: story.cloud.s3_refusals.append((story.clock.now(), story.clock.now() + 1e6)))
    with pytest.raises(OutputsLostError, match="AccessDenied"):
        engine_of(story).run()
    (left,) = told(story, OutputsLeft)
    assert left.is_loss
    assert left.files == len(tree_at(100, 10))
    ended = story.cloud.machines[0].gone_at or 0.0
    assert 300.0 <= ended - (story.cloud.machines[0].command_started_at or 0.0) - 100.0 < 330.0
    assert story.store.state().state == "FAILED"


# -- after an absence


class Died(BaseException):
    """Our process is gone."""


def leave(story: Story, at_step: int = 30, after_s: float = 7200.0) -> None:
    """Lead the run until that step, die without a word, and be away for hours."""
    engine = engine_of(story)
    engine.finish = lambda *_: None  # type: ignore[method-assign]  # a SIGKILL finishes nothing

    def tick(attempt: Any, done: int) -> None:
        if done >= at_step:
            raise Died

    story.recorder.on_tick = tick
    with pytest.raises(Died):
        engine.run()
    story.recorder.on_tick = None
    story.clock.sleep(after_s)
    story.cloud.carry()


def test_the_outputs_of_a_run_that_finished_alone_come_home(home: Path) -> None:
    story = Story(home, writes)
    leave(story)
    assert step_of(outputs(story), 10) < 100
    state = engine_of(story).run("attach")
    assert (state.state, len(story.cloud.machines)) == ("SUCCEEDED", 1)
    all_at_the_end(story)


def first_tree(story: Story) -> tuple[str, StoredTree]:
    instance_id = story.cloud.machines[0].instance.instance_id
    return instance_id, story.cloud.bucket_trees[instance_id]


def not_final(story: Story) -> None:
    instance_id, tree = first_tree(story)
    story.cloud.bucket_trees[instance_id] = StoredTree(tree.number - 1, False, tree_at(90, 10))


def none_at_all(story: Story) -> None:
    story.cloud.bucket_trees.clear()


@pytest.mark.parametrize("what", [not_final, none_at_all])
@pytest.mark.parametrize("program", [ProgramSpec(), NONE])
def test_a_run_that_finished_alone_without_its_last_outputs_in_s3_has_failed(
    home: Path, what: Callable[[Story], None], program: ProgramSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(home, writes, program=program)
    leave(story)
    what(story)
    monkeypatch.setattr(story.cloud, "carry", lambda: None)
    with pytest.raises(OutputsLostError, match="S3 did not get them before the machine ended"):
        engine_of(story).run("attach")
    assert story.store.state().state == "FAILED"
    assert [event.is_loss for event in told(story, OutputsLeft)] == [True]
    assert len(story.cloud.machines) == 1
    if what is not_final and program is not NONE:
        assert step_of(outputs(story), 10) == 90, "what there is came home"


class Damaging(MemoryS3):
    """S3 with one content that is another one now."""

    def fetch_outputs(self, instance_id: str, files: Sequence[TreeFile], folder: Path) -> frozenset[str]:
        return super().fetch_outputs(instance_id, [file for file in files if file.path != "model.pt"], folder)


class Senseless(MemoryS3):
    """S3 with a list that makes no sense."""

    def output_state(self, instance_id: str) -> bytes:
        return b'{"number": 99, "is_final": true, "files": [{"root": "work", "path": "../../.ssh/authorized_keys"}]}'


@pytest.mark.parametrize(
    ("store", "words"), [(Damaging, r"model\.pt .* damaged in S3"), (Senseless, "makes no sense: path")]
)
def test_last_outputs_that_are_damaged_in_s3_are_lost_and_it_is_said(
    home: Path, store: type[MemoryS3], words: str
) -> None:
    story = Story(home, writes)
    leave(story)
    before = outputs(story)
    with pytest.raises(OutputsLostError, match=words):
        engine_of(story, remote_store=store(story.cloud)).run("attach")
    assert outputs(story) == before, "whole or not at all"
    assert any(words.split()[-1] in event.reason for event in told(story, OutputsLeft))
    check_invariants(story)


def test_a_full_disk_here_is_said_and_nothing_is_half(home: Path) -> None:
    story = Story(home, writes)
    leave(story)
    before = outputs(story)

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    story.cloud.write = full
    with pytest.raises(OutputsLostError, match=r"No space left on device \(on this machine\); they are in S3"):
        engine_of(story).run("attach")
    assert outputs(story) == before


def test_a_process_that_dies_while_they_come_lets_the_next_one_go_on(home: Path) -> None:
    story = Story(home, writes)
    leave(story)

    def die(path: Path, content: bytes) -> None:
        raise Died

    story.cloud.write, write = die, story.cloud.write
    engine = engine_of(story)
    engine.finish = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(Died):
        engine.run("attach")
    story.cloud.write = write
    assert engine_of(story).run("attach").state == "SUCCEEDED"
    all_at_the_end(story)


def test_a_machine_that_is_gone_before_its_last_outputs_came_is_no_loss_if_s3_has_them(home: Path) -> None:
    story = Story(home, writes)
    story.cloud.write, gone = Path.write_bytes, []

    def fragile(*words: Any) -> MemoryHost:
        host = story.cloud.connect(*words)
        fetch = host.fetch_tree

        def failing(*more: Any) -> Any:
            if host.trainer_at(story.clock.now())[0] == "exited" and not gone:
                gone.append(1)
                story.clock.sleep(10.0)
                story.cloud.end(host.machine, "Server.InternalError")
            return fetch(*more)

        host.fetch_tree = failing  # type: ignore[method-assign]
        return host

    state = engine_of(story, connect=fragile).run()
    assert (gone, state.state, len(state.attempts)) == ([1], "SUCCEEDED", 1)
    assert told(story, OutputsLeft) == []
    all_at_the_end(story)


def test_nothing_is_rented_while_s3_cannot_be_read(home: Path) -> None:
    story = Story(home, writes)
    leave(story)
    engine = engine_of(story)

    def fails(*_: Any) -> bytes:
        raise CloudError("S3 does not answer", code="EndpointConnectionError")

    engine.remote.place.output_state = fails  # type: ignore[union-attr, method-assign]
    with pytest.raises(CloudError, match="S3 does not answer"):
        engine.run("attach")
    assert len(story.cloud.machines) == 1


# -- pull


def test_pull_brings_what_s3_has_of_a_run_that_nobody_leads(home: Path) -> None:
    story = Story(home, writes, program=NONE)
    leave(story)
    assert outputs_from_s3(Journal(story.store, story.clock), MemoryS3(story.cloud)) == ""
    assert outputs(story) == tree_at(100, 10)


def test_pull_says_what_is_damaged_in_s3(home: Path) -> None:
    story = Story(home, writes, program=NONE)
    leave(story)
    assert "damaged in S3" in outputs_from_s3(Journal(story.store, story.clock), Damaging(story.cloud))
    assert outputs(story) == {}


def test_pull_brings_what_the_machine_has_and_leaves_it_its_limits(home: Path) -> None:
    story = Story(home, writes)
    leave(story, after_s=25.0)
    (machine,) = story.cloud.machines
    before = step_of(outputs(story), 10)
    host = MemoryHost(story.cloud, machine)
    outputs_from_host(Journal(story.store, story.clock), story.spec, host, 1, 600.0)
    assert step_of(outputs(story), 10) > before
    assert machine.allow_s == 600.0
    assert engine_of(story).run("attach").state == "SUCCEEDED"
    all_at_the_end(story)


# -- what is asked


def test_what_is_as_new_here_is_not_asked_for(home: Path) -> None:
    story = Story(home, writes)
    assert engine_of(story).run().state == "SUCCEEDED"
    store = MemoryS3(story.cloud)
    remote = RemoteOutputs(Journal(story.store, story.clock), store, Downloads())
    assert remote.newer() is None
    assert remote.bring_newest() == ""


def test_a_run_is_stored_once_s3_has_the_newest_state() -> None:
    tree = TreeStatus(7, 7, True, 0, 0, 0, 0, 1, 1)

    def status(state: int, *, done: bool = True) -> HostStatus:
        return HostStatus(
            "exited", 0, False, None, False, "", True, b"", b"", Cursor(), (), s3_done=done, tree=tree,
            stored_state=state,
        )  # fmt: skip

    assert is_uploaded(status(7))
    assert not is_uploaded(status(6))
    assert not is_uploaded(status(7, done=False))


@pytest.mark.parametrize(
    "answer",
    [
        {"instance": "i-1; rm -rf ~", "number": 1, "files": 1, "bytes": 1},
        {"instance": "i-1", "number": -1, "files": 1, "bytes": 1},
        {"instance": "i-1", "number": 1, "files": "x", "bytes": 1},
        {"number": 1},
        [],
    ],
)
def test_an_answer_of_a_machine_that_makes_no_sense_is_an_error(answer: Any) -> None:
    good = {"instance": "i-0a", "number": 3, "files": 2, "bytes": 10, "refused": ["x"], "problem": ""}
    raw = b"a warning\n" + json.dumps(good).encode()
    assert tree_answers.restored_outputs(raw, where="i-1") == RestoredOutputs("i-0a", 3, 2, 10, ("x",))
    with pytest.raises(HostError, match=r"i-1: the answer of checkpoint_uploader\.py restore-outputs makes no sense"):
        tree_answers.restored_outputs(json.dumps(answer).encode(), where="i-1")


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"[]", b"nonsense", b'{"number": 1, "is_final": true}', b'{"number": 1, "is_final": 1, "files": []}',
        b'{"number": -1, "is_final": true, "files": []}', b"[" * 100_000,
        b'{"number": 1, "is_final": true, "files": [{"root": "work", "path": "/a", "sha256": "%s"}]}' % (b"0" * 64),
        b'{"number": 1, "is_final": true, "files": [%s, %s]}'
        % ((b'{"root": "work", "path": "a", "size": 1, "sha256": "%s"}' % (b"0" * 64),) * 2),
        b'{"number": 1, "is_final": true, "files": [%s, %s]}'
        % tuple(b'{"root": "work", "path": "%s", "size": 1, "sha256": "%s"}' % (p, b"0" * 64) for p in (b"a", b"a/b")),
    ],
)  # fmt: skip
def test_a_list_in_s3_that_makes_no_sense_is_an_error(raw: bytes) -> None:
    assert tree_answers.stored_state(StoredTree(2, True, tree_at(30, 10)).raw(), where="i-1").state == 2
    with pytest.raises(HostError, match="i-1: the list of its outputs in S3 makes no sense"):
        tree_answers.stored_state(raw, where="i-1")
