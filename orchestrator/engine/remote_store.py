"""A run's copy in S3: resume from it, hear what is stored there, catch up after this process was away.

The instance itself uploads checkpoints and outputs (`infra/instance/checkpoint_uploader.py`), so that they are safe
without us.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.engine.journal import Journal
from orchestrator.engine.outcome import Outcome, TrainerEnd, outputs_lost, verdict
from orchestrator.engine.remote_outputs import RemoteOutputs
from orchestrator.engine.remote_place import RemoteStore
from orchestrator.errors import CloudError, TrainingError
from orchestrator.host.answers import Trainer
from orchestrator.host.base import Host, HostStatus, Job, Setup
from orchestrator.host.tree_answers import last_outputs
from orchestrator.runs.checked import is_step
from orchestrator.runs.events import CheckpointPulled, CheckpointStored, RemoteStoreTroubled, TrainerExited
from orchestrator.runs.files import read_jsonl
from orchestrator.runs.output_events import OutputsLeft
from orchestrator.runs.output_tree import TreeStatus
from orchestrator.runs.outputs import Output, path_below
from orchestrator.runs.spec import Downloads
from orchestrator.runs.state import Attempt

UPLOAD_WAIT_S = 60.0  # after the trainer's end: wait at most so long until its last checkpoint is in S3 too
MOST_WORDS = 300  # characters of a reason
FETCHED = 2  # so many of the newest checkpoints that were stored while we were away are downloaded


def is_uploaded(status: HostStatus) -> bool:
    """Return whether S3 has all that an ended trainer left: each checkpoint, outputs, metrics, and how it ended."""
    have = {output.identity for output in status.stored}
    is_listed = all(output.identity in have for output in status.outputs if output.is_checkpoint)
    is_newest = status.tree is None or status.stored_state == status.tree.state
    return status.s3_done and not status.waiting_files and is_listed and is_newest


class RemoteCopy:
    """Keeps the journal and this disk in step with the run's copy in S3.

    Args:
        journal: where facts are written down.
        job: what runs; its `bucket` is None where the run has no copy in S3.
        place: the copy, None if there is none.
        downloads: which outputs come here.
    """

    def __init__(
        self, journal: Journal, job: Job, place: RemoteStore | None, downloads: Downloads | None = None
    ) -> None:
        self.journal = journal
        self.job = job
        self.place = place
        self.downloads = downloads or Downloads()

    def restore_on(self, host: Host, setup: Setup, attempt: Attempt, local_step: int) -> int:
        """Let the instance fetch the newest checkpoint from S3, unless the local one is newer.

        Returns its step, 0 if the instance has fetched none.
        """
        if self.job.bucket is None:
            return 0
        found, problem = host.restore(self.job, setup, max(1, local_step), self.journal.state().instance_ids)
        self.note_trouble(attempt.number, problem)
        self.note_stored(attempt.number, found)
        return max((output.step for output in found), default=0)

    def note_stored(self, number: int, stored: Sequence[Output]) -> None:
        """Write down what is in S3, once: from then on it is acknowledged, whether or not it is downloaded too."""
        known = {event.identity for event in self.journal.state().stored.values()}
        for output in stored:
            if output.identity not in known:
                known.add(output.identity)
                self.journal.emit(CheckpointStored.of(output, number, self.journal.clock.now()))

    def note_trouble(self, number: int, problem: str) -> None:
        """Write down that S3 refuses, once for each reason; the reason is cut, or no reader would take the event."""
        problem = problem[:MOST_WORDS]
        if problem and self.journal.state().s3_trouble != problem:
            self.journal.emit(RemoteStoreTroubled(at=self.journal.clock.now(), attempt=number, reason=problem))

    def has_last_outputs(self, attempt: Attempt, told: TreeStatus | None) -> bool:
        """Bring the last outputs of an ended program from S3, where its machine is gone; return whether they are safe.

        Args:
            attempt: of the program.
            told: what the machine said of them last.
        """
        if self.place is None or told is None:
            return False
        try:
            return not RemoteOutputs(self.journal, self.place, self.downloads).bring_last(attempt, told)
        except CloudError:
            return False

    # -- after this process was away

    def catch_up(self) -> Outcome | None:
        """Read from S3 how attempts ended that ended without us; return what the last of them amounts to.

        Raises:
            TrainingError: the trainer had failed by itself.
            CloudError: S3 cannot be read: then nothing must be rented, since the run may be done.
        """
        ended = [a for a in self.journal.state().attempts if (a.is_over or a.is_lost) and a.rank == 0]
        unheard = [a for a in ended if a.trainer_exit is None]
        return self._read(self.place, unheard) if self.place is not None and unheard else None

    def after_loss(self, attempt: Attempt) -> Outcome | None:
        """Read from S3 what an attempt did after contact was lost: it may have trained to the end; None if not.

        Raises:
            TrainingError: the trainer had failed by itself.
        """
        if self.place is None or attempt.trainer_exit is not None or attempt.trainer_started_at is None:
            return None
        try:
            return self._read(self.place, [attempt])
        except CloudError:
            return None  # the next machine asks S3 itself

    def _read(self, place: RemoteStore, unheard: Sequence[Attempt]) -> Outcome | None:
        for attempt in unheard:
            self._download_files(place, attempt)
        last = unheard[-1]
        found = place.checkpoints(self.journal.state().instance_ids)
        self.note_stored(last.number, found)
        for output in found[-FETCHED:]:
            self._download_checkpoint(place, output, last.number)
        return self._conclusion(place, last)

    def _download_files(self, place: RemoteStore, attempt: Attempt) -> None:
        """Metrics and log: what S3 has may be longer than what was downloaded, and begins the same."""
        store = self.journal.store
        store.attempt_folder(attempt.number)  # makes it
        for path in (store.metrics_path(attempt.number), store.log_path(attempt.number)):
            content = place.file(attempt.instance_id, path.name)
            if content and (not path.exists() or len(content) > path.stat().st_size):
                path.write_bytes(content)

    def _download_checkpoint(self, place: RemoteStore, output: Output, number: int) -> None:
        have = {pulled.identity for pulled in self.journal.state().checkpoints.values()}
        if output.identity in have or not place.fetch(output, path_below(self.journal.store.checkpoints, output.name)):
            return
        self.journal.emit(CheckpointPulled.of(output, number, self.journal.clock.now()))

    def _conclusion(self, place: RemoteStore, attempt: Attempt) -> Outcome | None:
        """Return what the agent's last state in S3 amounts to; a state that makes no sense is none.

        The outputs come before the end is written down: a process that takes over must not take it for the whole.
        """
        words = place.last_words(attempt.instance_id)
        outputs = RemoteOutputs(self.journal, place, self.downloads)
        try:
            trainer: Trainer | None = Trainer.model_validate(words.get("trainer"))
        except ValueError:
            trainer = None
        if trainer is None or trainer.state != "exited":
            outputs.bring_meanwhile(attempt)
            return None
        code, asked = -1 if trainer.exit_code is None else trainer.exit_code, trainer.asked
        tail = self.journal.store.log_tail(attempt.number) if code and not asked else ""
        last_step, finished = self._read_metrics(attempt)
        gpu_problem = str(words.get("gpu_problem") or "")[:MOST_WORDS]
        end = TrainerEnd(code, asked, finished, tail, gpu_problem=gpu_problem)
        is_finished = self._is_finished(end)
        lost = ""
        if is_finished:
            lost = self._last_outputs(outputs, attempt, last_outputs(words))
        else:
            outputs.bring_meanwhile(attempt, goes_on=asked or bool(gpu_problem))
        self.journal.emit(
            TrainerExited(
                at=self.journal.clock.now(),
                attempt=attempt.number,
                exit_code=code,
                asked=asked,
                last_step=last_step,
                tail=tail,
                gpu_problem=gpu_problem,
            )
        )
        if lost:
            raise outputs_lost(self.journal.state().attempt(attempt.number))
        outcome = verdict(end, is_bundled=self.job.is_bundled, in_group=self.journal.state().generation > 0)
        return outcome if is_finished else None

    def _is_finished(self, end: TrainerEnd) -> bool:
        try:
            outcome = verdict(end, is_bundled=self.job.is_bundled, in_group=self.journal.state().generation > 0)
        except TrainingError:
            return False
        return outcome is not None and outcome.kind == "finished"

    def _last_outputs(self, outputs: RemoteOutputs, attempt: Attempt, told: TreeStatus | None) -> str:
        """Bring the last outputs; write down, and return, why they are lost, "" if they are not."""
        lost = outputs.bring_last(attempt, told)
        if lost and told is not None:
            self.journal.emit(
                OutputsLeft(
                    at=self.journal.clock.now(),
                    attempt=attempt.number,
                    files=max(1, told.new_files + told.pending_files),
                    size_bytes=told.new_bytes + told.pending_bytes,
                    names="",
                    reason=lost[:MOST_WORDS],
                    is_loss=True,
                )
            )
        return lost

    def _read_metrics(self, attempt: Attempt) -> tuple[int, bool]:
        """Return (last step, whether the trainer wrote that it had finished)."""
        step, finished = attempt.last_step, False
        for line in read_jsonl(self.journal.store.metrics_path(attempt.number)):
            written = line.get("step")
            step = max(step, written) if is_step(written) else step
            finished = finished or (line.get("event") == "end" and line.get("reason") == "finished")
        return step, finished
