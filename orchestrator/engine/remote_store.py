"""What a run does with its second home in S3: resume from it, hear what is stored there, catch up after we were away.

The instance itself carries checkpoints there (`infra/instance/checkpoint_uploader.py`), so that none of
this is needed for them to be safe.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.errors import CloudError, TrainingError
from orchestrator.host.base import Host, Look, Setup
from orchestrator.runs.events import CheckpointPulled, CheckpointStored, SecondHomeTroubled, TrainerExited
from orchestrator.runs.outputs import Output
from orchestrator.runs.state import Attempt

if TYPE_CHECKING:
    from orchestrator.engine.engine import Engine, Outcome

CARRY_WAIT_S = 60.0  # after the trainer's end: so long we wait until its last checkpoint is in S3 too
FETCHED = 2  # of what was stored while we were away, so many of the newest come home


class SecondHome(Protocol):
    """The place of one run in a bucket; `aws.s3.S3Home`. Every method may raise `CloudError`."""

    @property
    def url(self) -> str:
        """How people name it."""
        ...

    def checkpoints(self, most: int = 20) -> list[Output]:
        """Return the newest stored checkpoints, oldest first."""
        ...

    def fetch(self, output: Output, destination: Path) -> bool:
        """Bring one home, whole and compared by digest, or not at all."""
        ...

    def file(self, instance_id: str, name: str) -> bytes:
        """Return a small file that an instance stored, b"" if there is none."""
        ...

    def last_words(self, instance_id: str) -> dict[str, Any]:
        """Return the agent's state as it was stored last, {} if there is none."""
        ...


def restored(engine: Engine, host: Host, setup: Setup, attempt: Attempt, home_step: int) -> int:
    """Let the instance fetch the newest checkpoint from S3, unless ours is newer; return its step, 0 if it has none."""
    if engine.job.bucket is None:
        return 0
    found, problem = host.restore(engine.job, setup, max(1, home_step))
    if problem:
        tell_trouble(engine, attempt.number, problem)
    note_stored(engine, attempt.number, found)
    return max((output.step for output in found), default=0)


def note_stored(engine: Engine, number: int, stored: Sequence[Output]) -> None:
    """Write down what is in S3, once: from then on it is acknowledged, whether or not it is also at home."""
    known = {event.sha256 for event in engine.state().stored.values()}
    for output in stored:
        if output.sha256 not in known:
            known.add(output.sha256)
            engine.emit(
                CheckpointStored(
                    at=engine.clock.now(),
                    attempt=number,
                    step=output.step,
                    name=output.name,
                    sha256=output.sha256,
                    size_bytes=output.size_bytes,
                )
            )


def tell_trouble(engine: Engine, number: int, problem: str) -> None:
    """Write down that S3 refuses, once for each reason."""
    if problem and engine.state().s3_trouble != problem:
        engine.emit(SecondHomeTroubled(at=engine.clock.now(), attempt=number, reason=problem))


def is_carried(look: Look) -> bool:
    """Return whether all that an ended trainer left is stored too: each checkpoint, its metrics, and how it ended."""
    have = {output.sha256 for output in look.stored}
    return look.s3_done and all(output.sha256 in have for output in look.outputs if output.is_checkpoint)


# -- after we were away


def catch_up(engine: Engine) -> Outcome | None:
    """Hear from S3 how attempts ended that ended without us; return what the last of them amounts to, None if nothing.

    Raises:
        TrainingError: the trainer had failed by itself.
        CloudError: S3 cannot be read: then nothing must be rented, since the run may be done.
    """
    home = engine.second_home
    unheard = [a for a in engine.state().attempts if a.is_over and a.trainer_exit is None]
    return _heard(engine, home, unheard) if home is not None and unheard else None


def after_loss(engine: Engine, attempt: Attempt) -> Outcome | None:
    """Hear from S3 what an attempt did after we lost sight of it: it may have trained to the end; None if it has not.

    Raises:
        TrainingError: the trainer had failed by itself.
    """
    home = engine.second_home
    if home is None or attempt.trainer_exit is not None or attempt.trainer_started_at is None:
        return None
    try:
        return _heard(engine, home, [attempt])
    except CloudError:
        return None  # the next machine asks S3 itself


def _heard(engine: Engine, home: SecondHome, unheard: Sequence[Attempt]) -> Outcome | None:
    for attempt in unheard:
        _bring_files(engine, home, attempt)
    number = unheard[-1].number
    found = home.checkpoints()
    note_stored(engine, number, found)
    for output in found[-FETCHED:]:
        _bring_checkpoint(engine, home, output, number)
    return _conclusion(engine, unheard[-1], home.last_words(unheard[-1].instance_id))


def _bring_files(engine: Engine, home: SecondHome, attempt: Attempt) -> None:
    """Metrics and log: what S3 has may be longer than what came home, and begins the same."""
    folder = engine.store.attempt_folder(attempt.number)
    for name in ("metrics.jsonl", "trainer.log"):
        content = home.file(attempt.instance_id, name)
        path = folder / name
        if content and (not path.exists() or len(content) > path.stat().st_size):
            path.write_bytes(content)


def _bring_checkpoint(engine: Engine, home: SecondHome, output: Output, number: int) -> None:
    have = {pulled.sha256 for pulled in engine.state().checkpoints.values()}
    if output.sha256 in have or not home.fetch(output, engine.store.checkpoints / output.name):
        return
    engine.emit(
        CheckpointPulled(
            at=engine.clock.now(),
            attempt=number,
            step=output.step,
            name=output.name,
            sha256=output.sha256,
            size_bytes=output.size_bytes,
        )
    )


def _conclusion(engine: Engine, attempt: Attempt, words: dict[str, Any]) -> Outcome | None:
    from orchestrator.engine.engine import Outcome

    trainer = words.get("trainer") or {}
    if trainer.get("state") != "exited":
        return None
    code, asked = int(trainer.get("exit_code", -1)), bool(trainer.get("asked"))
    log = engine.store.attempt_folder(attempt.number) / "trainer.log"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:]) if log.exists() and code and not asked else ""
    last_step, finished = _told_by_metrics(engine, attempt)
    engine.emit(
        TrainerExited(
            at=engine.clock.now(), attempt=attempt.number, exit_code=code, asked=asked, last_step=last_step, tail=tail
        )
    )
    if code == 0 and (not asked or engine.job.is_bundled or finished):
        return Outcome("finished")
    if not asked:
        raise TrainingError(f"the trainer ended by itself with exit code {code}; its last lines:\n{tail}")
    return None


def _told_by_metrics(engine: Engine, attempt: Attempt) -> tuple[int, bool]:
    """(last step, whether it said that it had finished)."""
    step, finished = attempt.last_step, False
    path = engine.store.attempt_folder(attempt.number) / "metrics.jsonl"
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            told = line.get("step")
            step = max(step, told) if isinstance(told, int) else step
            finished = finished or (line.get("event") == "end" and line.get("reason") == "finished")
    return step, finished
