"""What one attempt tells: metrics and log appended at home, files pulled, and each fact written down once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.engine import remote_store as second_home
from orchestrator.host.base import Cursor, Host, Look
from orchestrator.runs.events import (
    CheckpointPulled,
    CheckpointRefused,
    GpuSeen,
    InterruptionNoticed,
    Progress,
    RebalanceRecommended,
    TrainerStarted,
)
from orchestrator.runs.outputs import Output
from orchestrator.runs.state import Attempt

if TYPE_CHECKING:
    from orchestrator.engine.engine import Engine

PROGRESS_EVERY_S = 10.0
NOTICE_S = 120.0  # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html


class Ear:
    """What one attempt has told us so far: metrics and log appended at home, files pulled, facts written down."""

    def __init__(self, engine: Engine, attempt: Attempt) -> None:
        self.engine = engine
        self.attempt = attempt
        self.folder = engine.store.attempt_folder(attempt.number)
        self.cursor = Cursor(_size(self.folder / "metrics.jsonl"), _size(self.folder / "trainer.log"))
        self.step = max(attempt.last_step, attempt.resumed_from)
        self.images_per_s: float | None = None
        self.device: str | None = None
        self.finished = False
        self.has_more = False
        self.noticed = attempt.noticed_ends_at is not None
        self._noted_at: float | None = None if attempt.first_step_at is None else 0.0
        self._noted_step = self.step
        self.heard_at = engine.clock.now()
        self._have = {pulled.sha256 for pulled in engine.state().checkpoints.values()}

    def listen(self, host: Host) -> Look:
        """One look, and all that follows from it."""
        engine = self.engine
        look = host.look(engine.job.root, self.cursor, engine.allowed_s(self.attempt))
        if look.metrics or look.log:
            self.heard_at = engine.clock.now()
        self._append_both(look)
        self.has_more = bool(look.metrics or look.log)
        self.cursor = look.cursor
        for line in _json_lines(look.metrics):
            self._hear(line)
        self._hear_of_interruption(look)
        self.note_progress(force=look.trainer == "exited")
        self._note_gpu(look)
        attempt = engine.state().attempt(self.attempt.number) or self.attempt
        for watcher in engine.watchers:
            watcher.tick(attempt, self.step, self.images_per_s)
        second_home.note_stored(engine, self.attempt.number, look.stored)
        second_home.tell_trouble(engine, self.attempt.number, look.s3_trouble)
        self._pull_all(host, look)
        return look

    def _pull_all(self, host: Host, look: Look) -> None:
        """Bring home what is new, the newest checkpoint first: should the machine go, it is the one that counts.

        Under notice one file, and then another look: the trainer is about to save a newer one.
        """
        wanted = sorted(look.outputs, key=lambda output: (not output.is_checkpoint, -output.step))
        for output in [output for output in wanted if output.sha256 not in self._have]:
            self._pull(host, output)
            if self.noticed and look.trainer != "exited":
                self.has_more = True
                return

    def _append_both(self, look: Look) -> None:
        """Write both or none: what a full disk refuses comes again with the next look, from the same place on."""
        texts = {"metrics.jsonl": look.metrics, "trainer.log": look.log}
        sizes = {name: _size(self.folder / name) for name in texts}
        try:
            for name, text in texts.items():
                if text:
                    with (self.folder / name).open("ab") as file:
                        file.write(text.encode(errors="surrogateescape"))
        except OSError:
            for name, size in sizes.items():
                with suppress(OSError):
                    os.truncate(self.folder / name, size)
            raise

    def _hear(self, line: dict[str, Any]) -> None:
        step = line.get("step")
        if (
            isinstance(step, int)
            and not isinstance(step, bool)
            and "event" not in line
            and line.get("split") != "valid"
        ):
            self.step = max(self.step, step)
            speed = line.get("images_per_s")
            self.images_per_s = float(speed) if isinstance(speed, (int, float)) else self.images_per_s
        if line.get("event") == "start":
            self._hear_start(line)
        if line.get("event") == "end":
            self.finished = line.get("reason") == "finished"
            if isinstance(step, int):
                self.step = max(self.step, step)  # steps after the last measurement

    def _hear_start(self, line: dict[str, Any]) -> None:
        now = self.engine.clock.now()
        self.device = str(line.get("device_name") or line.get("device") or "") or None
        for refused in line.get("refused") or []:
            if isinstance(refused, dict):
                event = CheckpointRefused(at=now, name=str(refused.get("name")), reason=str(refused.get("reason")))
                self.engine.emit(event)
        resumed_from = line.get("resumed_from")
        current = self.engine.state().attempt(self.attempt.number)
        if isinstance(resumed_from, int) and current is not None and resumed_from != current.resumed_from:
            self.step = self._noted_step = resumed_from
            self.engine.emit(TrainerStarted(at=now, attempt=self.attempt.number, resumed_from=resumed_from))

    def _hear_of_interruption(self, look: Look) -> None:
        current = self.engine.state().attempt(self.attempt.number)
        now, number, name = self.engine.clock.now(), self.attempt.number, self.attempt.instance_id
        if look.notice_ends_at is not None and current is not None and current.noticed_ends_at is None:
            self.noticed = True
            ends_at = min(look.notice_ends_at, now + NOTICE_S)  # the host's clock may be ahead of ours
            self.engine.emit(InterruptionNoticed(at=now, attempt=number, instance_id=name, ends_at=ends_at))
        if look.rebalance and not any(
            isinstance(e, RebalanceRecommended) and e.attempt == number for e in self.engine.events
        ):
            self.engine.emit(RebalanceRecommended(at=now, attempt=number, instance_id=name))

    def note_progress(self, *, force: bool = False) -> None:
        """Write the step down: the first one at once, later ones every few seconds, the last one in any case."""
        now = self.engine.clock.now()
        if self.step == self._noted_step:
            return
        if force or self._noted_at is None or now - self._noted_at >= PROGRESS_EVERY_S:
            self._noted_at, self._noted_step = now, self.step
            self.engine.emit(
                Progress(
                    at=now,
                    attempt=self.attempt.number,
                    step=self.step,
                    images_per_s=self.images_per_s,
                    device=self.device,
                )
            )

    def _note_gpu(self, look: Look) -> None:
        """Write the GPU's facts down once its name is known, and again when the trainer has ended."""
        known = (self.engine.state().attempt(self.attempt.number) or self.attempt).gpu
        if look.gpu and (not known or (look.trainer == "exited" and look.gpu != known)):
            event = GpuSeen(at=self.engine.clock.now(), attempt=self.attempt.number, facts=dict(look.gpu))
            self.engine.emit(event)

    def _pull(self, host: Host, output: Output) -> None:
        """Bring one file home, once. A checkpoint counts as ours from the moment that the event is written."""
        if output.sha256 in self._have:
            return
        engine = self.engine
        folder = engine.store.checkpoints if output.is_checkpoint else engine.store.folder
        destination = folder / output.name
        if not host.fetch(engine.job.root, output, destination):
            self.has_more = True
            return
        self._have.add(output.sha256)
        if output.is_checkpoint:
            self.step = max(self.step, output.step)
            engine.emit(
                CheckpointPulled(
                    at=engine.clock.now(),
                    attempt=self.attempt.number,
                    step=output.step,
                    name=output.name,
                    sha256=output.sha256,
                    size_bytes=output.size_bytes,
                )
            )


def _size(path: Path) -> int:
    return int(path.stat().st_size) if path.exists() else 0


def _json_lines(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        with suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield value
