"""Polls the host of one attempt: metrics and log appended on this disk, files pulled, each fact written down once."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.engine.allowance import Allowance
from orchestrator.engine.journal import Journal
from orchestrator.engine.remote_store import RemoteCopy
from orchestrator.host.base import Cursor, Host, HostStatus, Job
from orchestrator.runs.events import (
    CheckpointPulled,
    CheckpointRefused,
    GpuSeen,
    InterruptionNoticed,
    MetadataSilent,
    Progress,
    RebalanceRecommended,
    TrainerStarted,
)
from orchestrator.runs.files import json_objects
from orchestrator.runs.outputs import Output
from orchestrator.runs.state import Attempt

PROGRESS_EVERY_S = 10.0
NOTICE_S = 120.0  # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html


class AttemptMonitor:
    """What one attempt has told so far.

    Args:
        journal: where facts are written down.
        job: what runs on the host.
        attempt: whose host is polled.
        allowance: how long the instance may go on by itself; each poll tells it anew.
        remote: the run's copy in S3.
    """

    def __init__(
        self, journal: Journal, job: Job, attempt: Attempt, *, allowance: Allowance, remote: RemoteCopy
    ) -> None:
        self.journal = journal
        self.job = job
        self.attempt = attempt
        self.allowance = allowance
        self.remote = remote
        journal.store.attempt_folder(attempt.number)  # makes it
        self.metrics_path = journal.store.metrics_path(attempt.number)
        self.log_path = journal.store.log_path(attempt.number)
        self.cursor = Cursor(_size(self.metrics_path), _size(self.log_path))
        self.step = max(attempt.last_step, attempt.resumed_from)
        self.images_per_s: float | None = None
        self.device: str | None = None
        self.finished = False
        self.has_more = False
        self.noticed = attempt.noticed_ends_at is not None
        self._told_of_metadata = any(
            isinstance(e, MetadataSilent) and e.attempt == attempt.number for e in journal.events
        )
        self._noted_at: float | None = None if attempt.first_step_at is None else 0.0
        self._noted_step = self.step
        self.heard_at = journal.clock.now()
        self._have = {pulled.sha256 for pulled in journal.state().checkpoints.values()}

    def poll(self, host: Host) -> HostStatus:
        """Ask the host once, and do all that follows from its answer."""
        status = host.poll(self.job.root, self.cursor, self.allowance.alone_s(self.attempt))
        self.has_more = bool(status.metrics or status.log)
        if self.has_more:
            self.heard_at = self.journal.clock.now()
        self._append_both(status)
        self.cursor = status.cursor
        for line in json_objects(status.metrics.splitlines()):
            self._read(line)
        self._note_interruption(status)
        self._note_metadata(status.metadata_trouble)
        self.note_progress(force=status.trainer == "exited")
        self._note_gpu(status)
        self.journal.tick(self._current() or self.attempt, self.step, self.images_per_s)
        self.remote.note_stored(self.attempt.number, status.stored)
        self.remote.note_trouble(self.attempt.number, status.s3_trouble)
        self._pull_all(host, status)
        return status

    def _current(self) -> Attempt | None:
        """Return the attempt as the events tell it now."""
        return self.journal.state().attempt(self.attempt.number)

    def _pull_all(self, host: Host, status: HostStatus) -> None:
        """Download what is new, the newest checkpoint first: should the machine go, it is the one that counts.

        Under notice one file, and then another poll: the trainer is about to save a newer one.
        """
        wanted = sorted(status.outputs, key=lambda output: (not output.is_checkpoint, -output.step))
        for output in [output for output in wanted if output.sha256 not in self._have]:
            self._pull(host, output)
            if self.noticed and status.trainer != "exited":
                self.has_more = True
                return

    def _append_both(self, status: HostStatus) -> None:
        """Write both or none: what a full disk refuses comes again with the next poll, from the same place on."""
        texts = {self.metrics_path: status.metrics, self.log_path: status.log}
        sizes = {path: _size(path) for path in texts}
        try:
            for path, text in texts.items():
                if text:
                    with path.open("ab") as file:
                        file.write(text.encode(errors="surrogateescape"))
        except OSError:
            for path, size in sizes.items():
                with suppress(OSError):
                    os.truncate(path, size)
            raise

    def _read(self, line: dict[str, Any]) -> None:
        """Take over what one line of the metrics says."""
        step = line.get("step")
        is_step = isinstance(step, int) and not isinstance(step, bool)
        if is_step and "event" not in line and line.get("split") != "valid":
            self.step = max(self.step, int(step))  # type: ignore[arg-type]  # is_step
            speed = line.get("images_per_s")
            self.images_per_s = float(speed) if isinstance(speed, (int, float)) else self.images_per_s
        if line.get("event") == "start":
            self._read_start(line)
        if line.get("event") == "end":
            self.finished = line.get("reason") == "finished"
            if isinstance(step, int):
                self.step = max(self.step, step)  # steps after the last measurement

    def _read_start(self, line: dict[str, Any]) -> None:
        now = self.journal.clock.now()
        self.device = str(line.get("device_name") or line.get("device") or "") or None
        for refused in line.get("refused") or []:
            if isinstance(refused, dict):
                event = CheckpointRefused(at=now, name=str(refused.get("name")), reason=str(refused.get("reason")))
                self.journal.emit(event)
        resumed_from = line.get("resumed_from")
        current = self._current()
        if isinstance(resumed_from, int) and current is not None and resumed_from != current.resumed_from:
            self.step = self._noted_step = resumed_from
            self.journal.emit(TrainerStarted(at=now, attempt=self.attempt.number, resumed_from=resumed_from))

    def _note_interruption(self, status: HostStatus) -> None:
        current = self._current()
        now, number, name = self.journal.clock.now(), self.attempt.number, self.attempt.instance_id
        if status.notice_ends_at is not None and current is not None and current.noticed_ends_at is None:
            self.noticed = True
            ends_at = min(status.notice_ends_at, now + NOTICE_S)  # the host's clock may be ahead of ours
            self.journal.emit(InterruptionNoticed(at=now, attempt=number, instance_id=name, ends_at=ends_at))
        if status.rebalance and not any(
            isinstance(e, RebalanceRecommended) and e.attempt == number for e in self.journal.events
        ):
            self.journal.emit(RebalanceRecommended(at=now, attempt=number, instance_id=name))

    def _note_metadata(self, problem: str) -> None:
        """Write down, once for each attempt, that the host cannot see an interruption notice."""
        if problem and not self._told_of_metadata:
            self._told_of_metadata = True
            self.journal.emit(MetadataSilent(at=self.journal.clock.now(), attempt=self.attempt.number, reason=problem))

    def note_progress(self, *, force: bool = False) -> None:
        """Write the step down: the first one at once, later ones every few seconds, the last one in any case."""
        now = self.journal.clock.now()
        if self.step == self._noted_step:
            return
        if force or self._noted_at is None or now - self._noted_at >= PROGRESS_EVERY_S:
            self._noted_at, self._noted_step = now, self.step
            self.journal.emit(
                Progress(
                    at=now,
                    attempt=self.attempt.number,
                    step=self.step,
                    images_per_s=self.images_per_s,
                    device=self.device,
                )
            )

    def _note_gpu(self, status: HostStatus) -> None:
        """Write the GPU's facts down once its name is known, and again when the trainer has ended."""
        known = (self._current() or self.attempt).gpu
        if status.gpu and (not known or (status.trainer == "exited" and status.gpu != known)):
            now = self.journal.clock.now()
            self.journal.emit(GpuSeen(at=now, attempt=self.attempt.number, facts=dict(status.gpu)))

    def _pull(self, host: Host, output: Output) -> None:
        """Download one file, once. A checkpoint counts as ours from the moment that the event is written."""
        if output.sha256 in self._have:
            return
        store = self.journal.store
        folder = store.checkpoints if output.is_checkpoint else store.folder
        if not host.fetch(self.job.root, output, folder / output.name):
            self.has_more = True
            return
        self._have.add(output.sha256)
        if output.is_checkpoint:
            self.step = max(self.step, output.step)
            self.journal.emit(CheckpointPulled.of(output, self.attempt.number, self.journal.clock.now()))


def _size(path: Path) -> int:
    return int(path.stat().st_size) if path.exists() else 0
