"""A run's copy in S3: resumed from, heard of after this process was away, and never in the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine.engine import Engine
from orchestrator.engine.remote_store import is_uploaded
from orchestrator.errors import CloudError, TrainingError
from orchestrator.host.base import BucketPlace, Cursor, HostStatus
from orchestrator.runs.events import CheckpointStored, RemoteStoreTroubled, TrainerExited
from orchestrator.runs.outputs import Output
from tests.support.memory_host import MemoryHost, output_of
from tests.support.metrics import metrics_of
from tests.support.story import Story

PLACE = BucketPlace("b", "pixel-orch/story-1", "us-east-1")


class MemoryBucket:
    """The `RemoteStore` seam over the bucket of the in-memory cloud."""

    url = "s3://b/pixel-orch/story-1"

    def __init__(self, story: Story, words: dict[str, Any] | None = None) -> None:
        self.story = story
        self.words = words or {}
        self.fails: CloudError | None = None

    def checkpoints(self, instance_ids: Sequence[str], most: int = 20) -> list[Output]:
        if self.fails is not None:
            raise self.fails
        return [output_of(step) for step in sorted(self.story.cloud.bucket)][-most:]

    def fetch(self, output: Output, destination: Path) -> bool:
        destination.write_bytes(self.story.cloud.bucket[output.step])
        return True

    def file(self, instance_id: str, name: str) -> bytes:
        if self.fails is not None:
            raise self.fails
        lines = [
            {"step": step, "as_at_home": "and more" * 20}
            for step in range(1, max(self.story.cloud.bucket, default=0) + 1)
        ]
        return "".join(json.dumps(line) + "\n" for line in lines).encode() if name == "metrics.jsonl" else b"last words"

    def last_words(self, instance_id: str) -> dict[str, Any]:
        return self.words

    def output_state(self, instance_id: str) -> bytes:
        return b""

    def fetch_outputs(self, instance_id: str, files: Sequence[Any], folder: Path) -> frozenset[str]:
        return frozenset()


def engine_of(story: Story, words: dict[str, Any] | None = None) -> Engine:
    return story.engine(bucket=PLACE, remote_store=MemoryBucket(story, words))


def steps(story: Story, kind: type) -> list[int]:
    return [event.step for event in story.store.events() if isinstance(event, kind)]  # type: ignore[attr-defined]


def test_what_is_stored_is_written_down_once(home: Path) -> None:
    story = Story(home)
    engine_of(story).run()
    assert steps(story, CheckpointStored) == list(range(10, 101, 10))
    assert set(story.store.state().stored) == set(story.store.state().checkpoints)


def interrupted(story: Story) -> None:
    """The first machine is interrupted without a word after 55 steps."""
    story.later(75.0, lambda: story.cloud.interrupt(story.cloud.machines[0], notice_s=0))


def test_a_new_machine_resumes_from_s3_when_the_laptop_has_nothing_newer(home: Path) -> None:
    story = Story(home)
    interrupted(story)
    engine = engine_of(story)
    sent = record_sends(story)
    engine.run()
    first, second = story.cloud.machines
    assert second.resumed_from == max(story.store.state().stored) or second.resumed_from >= 40
    assert sent == [], "the way from S3 is shorter than ours"
    assert first.resumed_from == 0


def record_sends(story: Story) -> list[str]:
    """Note what is sent from home."""

    sent: list[str] = []
    connect = story.cloud.connect

    class Noting(MemoryHost):
        def send(self, job: Any, path: Path) -> None:
            sent.append(path.name)
            super().send(job, path)

    def noting(*words: Any) -> Any:
        host = connect(*words)
        host.__class__ = Noting
        return host

    story.cloud.connect = noting  # type: ignore[method-assign]
    return sent


def test_the_laptop_s_newer_checkpoint_wins(home: Path) -> None:
    story = Story(home)
    interrupted(story)
    sent = record_sends(story)

    def lose_the_newest() -> None:
        for step in [step for step in story.cloud.bucket if step > 20]:
            del story.cloud.bucket[step]

    story.later(76.0, lose_the_newest)
    engine_of(story).run()
    assert sent, "what S3 has is older than what is at home"
    assert story.cloud.machines[1].resumed_from > 20


def test_a_laptop_without_the_checkpoints_gets_them_from_s3(home: Path) -> None:
    story = Story(home)
    interrupted(story)

    def forget() -> None:
        for path in story.store.checkpoints.iterdir():
            path.unlink()

    story.later(75.5, forget)
    engine_of(story).run()
    assert story.cloud.machines[1].resumed_from >= 40
    assert story.store.state().state == "SUCCEEDED"
    assert (story.store.checkpoints / "checkpoint-100.pt").exists()


class Died(BaseException):
    """Our process is gone."""


def die_at(story: Story, step: int) -> None:
    def tick(attempt: Any, done: int) -> None:
        if done >= step:
            raise Died

    story.recorder.on_tick = tick


def leave(story: Story, at_step: int = 30, after_s: float = 7200.0) -> None:
    """Lead the run until that step, die without a word, and be away for hours."""
    engine = engine_of(story)
    engine.finish = lambda *_: None  # type: ignore[method-assign]  # a SIGKILL finishes nothing
    die_at(story, at_step)
    with pytest.raises(Died):
        engine.run()
    story.recorder.on_tick = None
    story.clock.sleep(after_s)
    story.cloud.carry()
    story.cloud.bucket.update({step: f"weights after step {step}".encode() for step in range(10, 101, 10)})


def ended(code: int, asked: bool = False) -> dict[str, Any]:
    return {"trainer": {"state": "exited", "exit_code": code, "asked": asked}}


def test_who_was_away_while_the_run_finished_finds_everything(home: Path) -> None:
    story = Story(home)
    leave(story)
    assert story.cloud.alive() == [], "the machine ended itself when all was done"
    state = engine_of(story, ended(0)).run("attach")
    assert (state.state, len(story.cloud.machines)) == ("SUCCEEDED", 1)
    assert state.attempts[0].ended_by == "instance"
    assert steps(story, CheckpointStored)[-1] == 100
    assert (story.store.checkpoints / "checkpoint-100.pt").read_bytes() == b"weights after step 100"
    assert metrics_of(story.store)[-1]["step"] == 100
    (end,) = (event for event in story.store.events() if isinstance(event, TrainerExited))
    assert (end.exit_code, end.last_step) == (0, 100)


def test_a_trainer_that_failed_while_we_were_away_is_not_started_again(home: Path) -> None:
    story = Story(home)
    leave(story)
    with pytest.raises(TrainingError, match="exit code 7; its last lines:\n  last words"):
        engine_of(story, ended(7)).run("attach")
    assert len(story.cloud.machines) == 1
    assert story.store.state().state == "FAILED"


def test_a_run_that_was_told_to_end_while_we_were_away_goes_on(home: Path) -> None:
    story = Story(home)
    leave(story)
    story.cloud.bucket = {step: content for step, content in story.cloud.bucket.items() if step <= 60}
    engine_of(story, ended(143, asked=True)).run("attach")
    assert [machine.resumed_from for machine in story.cloud.machines] == [0, 60]


def test_nothing_is_rented_while_it_is_not_known_whether_the_run_is_done(home: Path) -> None:
    story = Story(home)
    leave(story)
    engine = engine_of(story)
    engine.remote.place.fails = CloudError("S3 does not answer", code="EndpointConnectionError")  # type: ignore[union-attr]
    with pytest.raises(CloudError, match="S3 does not answer"):
        engine.run("attach")
    assert len(story.cloud.machines) == 1


def test_trouble_is_told_once_for_each_reason(home: Path) -> None:
    story = Story(home)
    engine = engine_of(story)
    for reason in ("AccessDenied", "AccessDenied", "", "SlowDown"):
        engine.remote.note_trouble(1, reason)
    told = [event.reason for event in story.store.events() if isinstance(event, RemoteStoreTroubled)]
    assert told == ["AccessDenied", "SlowDown"]


def test_carried_is_every_checkpoint_and_the_end_and_nothing_else() -> None:
    picture = Output("samples-20.png", 20, 3, "x")

    def status(outputs: list[Output], stored: list[Output], *, done: bool = True) -> HostStatus:
        return HostStatus(
            "exited", 0, False, None, False, "", True, "", "", Cursor(), tuple(outputs), tuple(stored), s3_done=done
        )

    assert is_uploaded(status([output_of(10), picture], [output_of(10)]))
    assert is_uploaded(status([], []))
    assert not is_uploaded(status([output_of(10), output_of(20)], [output_of(10)]))
    assert not is_uploaded(status([output_of(10)], [output_of(10)], done=False)), "S3 does not know how it ended"
