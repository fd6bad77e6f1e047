"""Polls the host of one attempt: metrics and log appended on this disk, files pulled, each fact written down once."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.engine.allowance import Allowance
from orchestrator.engine.journal import NO_ROOM, Journal
from orchestrator.engine.log_tail import LogTail
from orchestrator.engine.measurements import Measurements, ProgramFacts
from orchestrator.engine.output_mirror import OutputMirror
from orchestrator.engine.remote_store import MOST_WORDS, RemoteCopy
from orchestrator.errors import HostError
from orchestrator.host.base import Cursor, Host, HostStatus, Job
from orchestrator.runs import bounded_json
from orchestrator.runs.checked import is_figure, is_step
from orchestrator.runs.events import (
    CheckpointPulled,
    CheckpointRefused,
    DataReceived,
    GpuSeen,
    InterruptionNoticed,
    LogLeft,
    MetadataSilent,
    Progress,
    RebalanceRecommended,
    TrainerStarted,
)
from orchestrator.runs.outputs import MOST_FILES, Output, path_below
from orchestrator.runs.state import Attempt

PROGRESS_EVERY_S = 10.0
GPU_EVERY_S = 15.0
MOST_NAME = 100  # characters of a device's name
MOST_STARTS = 100  # of the trainer on one machine that are written down
NOTICE_S = 120.0  # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html


class AttemptMonitor:
    """What one attempt has told so far.

    Args:
        journal: where facts are written down.
        job: what runs on the host.
        attempt: whose host is polled.
        allowance: how long the instance may go on by itself; each poll tells it anew.
        remote: the run's copy in S3.
        outputs: the states of the program's outputs.
    """

    def __init__(
        self,
        journal: Journal,
        job: Job,
        attempt: Attempt,
        *,
        allowance: Allowance,
        remote: RemoteCopy,
        outputs: OutputMirror,
    ) -> None:
        self.journal = journal
        self.job = job
        self.attempt = attempt
        self.allowance = allowance
        self.remote = remote
        self.outputs = outputs
        journal.store.attempt_folder(attempt.number)  # makes it
        self.metrics_path = journal.store.metrics_path(attempt.number)
        self.log_path = journal.store.log_path(attempt.number)
        self.cursor = Cursor(_size(self.metrics_path), _size(self.log_path))
        self.tail = LogTail(self.log_path)
        self.step = max(attempt.last_step, attempt.resumed_from)
        self.images_per_s: float | None = None
        self.measured = Measurements()
        self._gpu_noted_at = 0.0
        self.facts = ProgramFacts(journal, job, attempt.number)
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
        self.status: HostStatus | None = None  # the last answer
        self.outputs_problem = ""  # why the last outputs of an ended program cannot be written here
        self._counted_bytes = 0  # of what this connection has brought: those that an event tells
        self._host: Host | None = None
        self._new_files = self._starts = 0
        pulled = [event for event in journal.events if isinstance(event, CheckpointPulled)]
        refused = {event.name for event in journal.events if isinstance(event, CheckpointRefused)}
        self._have = {one.identity for one in pulled if one.name not in refused}  # also several of one step
        self._have |= {one.identity for one in journal.state().checkpoints.values()}

    def poll(self, host: Host) -> HostStatus:
        """Ask the host once, and do all that follows from its answer."""
        if self._host is not host:
            self._host, self._counted_bytes = host, 0
            self.outputs.counted_bytes = 0
        allow_s = self.allowance.alone_s(self.attempt)
        status = host.poll(self.job.root, self.cursor, allow_s, self.outputs.allowed_bytes())
        self.has_more = bool(status.metrics or status.log)
        if self.has_more:
            self.heard_at = self.journal.clock.now()
        self._append_both(status)
        self.cursor = status.cursor
        self.status = status
        self.tail.note(status)
        for line in bounded_json.objects(status.metrics.splitlines()):
            self._read(line)
        self._note_interruption(status)
        if self.noticed:
            self.tail.fetch(host, self.job.root, allow_s)
        self._note_metadata(status.metadata_trouble)
        self.facts.note(status, (self._current() or self.attempt).trainer_started_at)
        self.note_progress(force=status.trainer == "exited")
        self._note_gpu(status)
        self._tick()
        self._count_new(status)
        self.remote.note_stored(self.attempt.number, status.stored)
        self.remote.note_trouble(self.attempt.number, status.s3_trouble)
        try:
            self._pull_all(host, status)
            if not self.has_more or not self.noticed:
                self._take_outputs(host, status)
                self.has_more = self.has_more or self.outputs.has_more
                self._pull_kept(host, status)
        finally:
            self.note_received(host)
        return status

    def _count_new(self, status: HostStatus) -> None:
        """Bound what a machine can make this one write down and download.

        Raises:
            HostError: it lists more new files than any training writes.
        """
        stored = {event.identity for event in self.journal.state().stored.values()} if status.stored else set()
        new = {one.identity for one in status.outputs} - self._have | {one.identity for one in status.stored} - stored
        self._new_files += len(new)
        if self._new_files > MOST_FILES:
            raise HostError(f"{self.attempt.instance_id}: lists more than {MOST_FILES} new files")

    def note_received(self, host: Host, *, least_bytes: int = 1 << 20) -> None:
        """Write down the bytes that came beside the downloaded files, once they are `least_bytes`: AWS bills them."""
        size_bytes = host.received_bytes - self._counted_bytes - self.outputs.counted_bytes
        if size_bytes >= least_bytes:
            self._counted_bytes += size_bytes
            now = self.journal.clock.now()
            self.journal.emit(DataReceived(at=now, attempt=self.attempt.number, size_bytes=size_bytes))

    def _current(self) -> Attempt | None:
        """Return the attempt as the events tell it now."""
        return self.journal.state().attempt(self.attempt.number)

    def _pull_all(self, host: Host, status: HostStatus) -> None:
        """Download what is new, the newest checkpoint first: should the machine go, it is the one that counts.

        Under notice one file, and then another poll: the trainer is about to save a newer one.
        """
        wanted = sorted(status.outputs, key=lambda output: (not output.is_checkpoint, -output.step))
        best = self.outputs.best_checkpoint() if status.trainer == "exited" else ""
        is_hurried = self.noticed or status.trainer == "exited"
        is_over = status.trainer == "exited" and self.outputs.downloads.mode != "none"
        grid = next((output for output in wanted if not output.is_checkpoint and is_over), None)  # the last samples
        for output in [output for output in wanted if output.identity not in self._have]:
            is_newest = output.is_checkpoint and output.step == wanted[0].step  # it may be of several files
            is_first = output in (wanted[0], grid) or is_newest or output.name == best
            if not (is_first and is_hurried) and output.size_bytes > self.outputs.allowed_bytes():
                continue
            self._pull(host, output)
            if self.noticed and status.trainer != "exited":
                self.has_more = True
                return

    def _pull_kept(self, host: Host, status: HostStatus) -> None:
        """Download the older checkpoints that an ended program of the user's has kept: they are its outputs too.

        The bundled trainer's older ones are only there to resume from. With a bucket they are in S3.
        """
        is_wanted = not self.job.is_bundled and self.job.bucket is None and self.outputs.downloads.mode != "none"
        if is_wanted and status.trainer == "exited":
            for output in sorted(status.outputs, key=lambda output: -output.step):
                self._pull(host, output)

    def close(self) -> None:
        """Say what is left on the instance, which answers no more."""
        if not self.tail.left_bytes:
            return
        left = LogLeft(
            at=self.journal.clock.now(),
            attempt=self.attempt.number,
            log_bytes=self.tail.log_left_bytes,
            metrics_bytes=self.tail.metrics_left_bytes,
        )
        with suppress(OSError):  # the disk is full: how the attempt ended matters more
            self.tail.append()
            self.journal.emit(left)

    def _take_outputs(self, host: Host, status: HostStatus) -> None:
        self.outputs_problem = ""
        try:
            self.outputs.take(host, status)
        except OSError as error:
            if status.trainer != "exited" or error.errno not in NO_ROOM:
                raise
            self.outputs_problem = f"the disk of this machine is full ({self.journal.store.folder})"

    def close_outputs(self) -> None:
        """Say which outputs are left on a machine whose program was not seen to end."""
        if self.status is not None and self.status.trainer != "exited":
            with suppress(OSError):  # the disk is full
                self.outputs.close(self.status, "the machine was lost", is_loss=False)

    def _append_both(self, status: HostStatus) -> None:
        """Write both or none: what a full disk refuses comes again with the next poll, from the same place on."""
        texts = {self.metrics_path: status.metrics, self.log_path: status.log}
        sizes = {path: _size(path) for path in texts}
        try:
            for path, text in texts.items():
                if text:
                    with path.open("ab") as file:
                        file.write(text)
        except OSError:
            for path, size in sizes.items():
                with suppress(OSError):
                    os.truncate(path, size)
            raise

    def _read(self, line: dict[str, Any]) -> None:
        """Take over what one line of the metrics says."""
        self.measured.read(line)
        step = _step(line.get("step"))
        if step is not None and "event" not in line and line.get("split") != "valid":
            self._note_first_step(step)
            self.step = max(self.step, step)
            speed = line.get("images_per_s")
            self.images_per_s = float(speed) if speed and is_figure(speed) else self.images_per_s
        if line.get("event") == "start":
            self._read_start(line)
        if line.get("event") == "end":
            self.finished = line.get("reason") == "finished"
            if step is not None:
                self.step = max(self.step, step)  # steps after the last measurement

    def _note_first_step(self, step: int) -> None:
        """Write down where a program that resumes from its outputs goes on: it does not say so, its first line does."""
        current = self._current()
        is_first = current is not None and current.first_step_at is None and self.step == current.resumed_from
        if self.job.is_bundled or current is None or not is_first or current.restored is None:
            return
        known = max((one.last_step for one in self.journal.state().attempts if one.number < current.number), default=0)
        resumed_from = min(step - 1, known)
        if resumed_from > current.resumed_from:
            self.step = self._noted_step = resumed_from
            now = self.journal.clock.now()
            self.journal.emit(TrainerStarted(at=now, attempt=current.number, resumed_from=resumed_from, is_own=True))

    def _read_start(self, line: dict[str, Any]) -> None:
        now = self.journal.clock.now()
        self.device = str(line.get("device_name") or line.get("device") or "")[:MOST_NAME] or None
        refusals = line.get("refused")
        for refused in refusals if isinstance(refusals, list) else []:
            if isinstance(refused, dict):
                self._note_refusal(str(refused.get("name")), str(refused.get("reason"))[:MOST_WORDS])
        resumed_from = _step(line.get("resumed_from"))
        current, state = self._current(), self.journal.state()
        self._starts += 1
        if current is None or self._starts > MOST_STARTS or resumed_from in (None, current.resumed_from):
            return
        known = [current.resumed_from, *state.checkpoints, *state.stored]
        if current.kept_from is not None:  # the machine may have saved what was not downloaded
            known.append(current.kept_from.last_step)
        if resumed_from <= max(known):  # it cannot begin later
            self.step = self._noted_step = resumed_from
            self.journal.emit(TrainerStarted(at=now, attempt=self.attempt.number, resumed_from=resumed_from))

    def _note_refusal(self, name: str, reason: str) -> None:
        """Write down that the trainer did not take a checkpoint, once for each that there is.

        The fold drops a checkpoint that was refused, so that its name is not found again.
        """
        if any(pulled.name == name for pulled in self.journal.state().checkpoints.values()):
            self.journal.emit(CheckpointRefused(at=self.journal.clock.now(), name=name, reason=reason))

    def _note_interruption(self, status: HostStatus) -> None:
        current = self._current()
        now, number, name = self.journal.clock.now(), self.attempt.number, self.attempt.instance_id
        if status.notice_ends_at is not None and current is not None and current.noticed_ends_at is None:
            self.noticed = True
            ends_at = min(max(status.notice_ends_at, now), now + NOTICE_S)  # the host's clock may differ from ours
            self.journal.emit(InterruptionNoticed(at=now, attempt=number, instance_id=name, ends_at=ends_at))
        if status.rebalance and not any(
            isinstance(e, RebalanceRecommended) and e.attempt == number for e in self.journal.events
        ):
            self.journal.emit(RebalanceRecommended(at=now, attempt=number, instance_id=name))

    def _note_metadata(self, problem: str) -> None:
        """Write down, once for each attempt, that the host cannot see an interruption notice."""
        if problem and not self._told_of_metadata:
            self._told_of_metadata = True
            self.journal.emit(
                MetadataSilent(at=self.journal.clock.now(), attempt=self.attempt.number, reason=problem[:MOST_WORDS])
            )

    def note_progress(self, *, force: bool = False) -> None:
        """Write the step down: the first one at once, later ones every few seconds, the last one in any case."""
        now = self.journal.clock.now()
        if self.step == self._noted_step:
            return
        if force or self._noted_at is None or now - self._noted_at >= PROGRESS_EVERY_S:
            self._noted_at, self._noted_step = now, self.step
            self.journal.emit(self._progress(now))

    def _progress(self, now: float) -> Progress:
        return Progress(
            at=now,
            attempt=self.attempt.number,
            step=self.step,
            images_per_s=self.images_per_s,
            device=self.device,
            steps_per_s=self.measured.steps_per_s,
            unit=self.measured.unit,
            total=self.facts.total if self.facts.total >= self.step else None,
            values=self.measured.values,
        )

    def _tick(self) -> None:
        """Tell the watchers of the step and the values as they are now, and not as they were written down last."""
        newest = self._progress(self.journal.clock.now())
        self.journal.tick(replace(self._current() or self.attempt, newest=newest), self.step, self.images_per_s)

    def _note_gpu(self, status: HostStatus) -> None:
        """Write the GPU's facts down once its name is known, every 15 s, and again when the trainer has ended."""
        known = (self._current() or self.attempt).gpu
        if not status.gpu or status.gpu == known:
            return
        now = self.journal.clock.now()
        if not known or status.trainer == "exited" or now - self._gpu_noted_at >= GPU_EVERY_S:
            self._gpu_noted_at = now
            self.journal.emit(GpuSeen(at=now, attempt=self.attempt.number, facts=dict(status.gpu)))

    def _pull(self, host: Host, output: Output) -> None:
        """Download one file, once. A checkpoint counts as ours from the moment that the event is written."""
        if output.identity in self._have:
            return
        store = self.journal.store
        folder = store.checkpoints if output.is_checkpoint else store.folder
        if not host.fetch(self.job.root, output, path_below(folder, output.name)):
            self.has_more = True
            return
        self._have.add(output.identity)
        self.outputs.note_taken()
        if output.is_checkpoint:
            self.step = max(self.step, output.step)
            uncounted_bytes = host.received_bytes - self._counted_bytes - self.outputs.counted_bytes
            self._counted_bytes += min(output.size_bytes, max(0, uncounted_bytes))
            self.journal.emit(CheckpointPulled.of(output, self.attempt.number, self.journal.clock.now()))


def _step(value: Any) -> int | None:
    """Return a step of the metrics, None for what is none."""
    return value if is_step(value) else None


def _size(path: Path) -> int:
    return int(path.stat().st_size) if path.exists() else 0
