"""The life of one machine: brought up, watched until its trainer ends or it is lost."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass

from orchestrator.engine.bring_up import BringUp
from orchestrator.engine.collect import pull_extra_outputs
from orchestrator.engine.last_outputs import LastOutputs
from orchestrator.engine.local_trouble import CredentialsWatch, FullDisk
from orchestrator.engine.monitor import AttemptMonitor
from orchestrator.engine.older_checkpoint import refuse_newest
from orchestrator.engine.outcome import Outcome, TrainerEnd, gpu_failed, outputs_lost, verdict
from orchestrator.engine.output_mirror import OutputMirror
from orchestrator.engine.output_restore import refuse_restored
from orchestrator.engine.parts import Parts
from orchestrator.engine.remote_store import UPLOAD_WAIT_S, is_uploaded
from orchestrator.engine.stop import Cancelled, MoveOn
from orchestrator.errors import (
    BrokenMachineError,
    CloudError,
    CommandTimeoutError,
    HostError,
    TrainingError,
    UnreachableError,
)
from orchestrator.host.base import Host, HostStatus
from orchestrator.runs.events import LossReason, TrainerExited
from orchestrator.runs.spec import Limits
from orchestrator.runs.state import Attempt

POLL_UNDER_NOTICE_S = 0.5
REST_S, REST_TRIES = 300.0, 3  # for a log and metrics of gigabytes after the trainer's end; polls without news
REST_POLL_S = 0.1  # while a part of a long log is left
DIGEST_S, DIGEST_BYTES_S, DIGEST_MOST_S = 60.0, 20e6, 3600.0  # for digests after the trainer's end, by a slow disk
SLOW_S, SLOW_BYTES = 30.0, 256 << 10  # 8 KiB/s


@dataclass
class StopPassedOn:
    """When the trainer was told to stop, and how fast what it left comes since then."""

    at: float | None = None  # unix seconds; None: it was not
    _since: float = -math.inf
    _received_bytes: int = 0

    def is_slow(self, now: float, received_bytes: int) -> bool:
        """Return whether less came in the last `SLOW_S` seconds than any network that is of use brings."""
        if received_bytes - self._received_bytes >= SLOW_BYTES or self._since == -math.inf:
            self._since, self._received_bytes = now, received_bytes
        return now - self._since >= SLOW_S


class AttemptLeader:
    """Leads one attempt after the other, each to its outcome.

    Args:
        parts: of the run's engine.
        bring_up: makes an instance train.
        disk: bears a full disk of this machine.
        credentials: warns before the AWS credentials expire.
    """

    def __init__(self, parts: Parts, *, bring_up: BringUp, disk: FullDisk, credentials: CredentialsWatch) -> None:
        self.spec = parts.spec
        self.policy = parts.spec.recovery
        self.job = parts.job
        self.journal = parts.journal
        self.clock = parts.journal.clock
        self.stop = parts.stop
        self.allowance = parts.allowance
        self.reaper = parts.reaper
        self.provisioner = parts.provisioner
        self.remote = parts.remote
        self.deadline = parts.deadline
        self.bring_up = bring_up
        self.disk = disk
        self.credentials = credentials

    def lead(self, attempt: Attempt) -> Outcome:
        """Boot, set up, start, watch: until the trainer ends or the instance is lost.

        Raises:
            HostError: a command failed on a machine that is well; another machine would not help.
            TrainingError: the trainer failed by itself.
            Cancelled: a stop was asked for before the trainer ran.
        """
        host: Host | None = None
        try:
            with self.stop.interruptible(), self._move_on_in_time(attempt):
                host = self.bring_up.ready(attempt)
            self.journal.is_training = True
            return self._watch(attempt, host)
        except BrokenMachineError as error:
            return Outcome("lost", str(error), LossReason.GPU_FAILED)
        except MoveOn as error:
            return Outcome("lost", str(error), LossReason.MOVED)
        except HostError as error:
            is_of_machine = isinstance(error, (UnreachableError, CommandTimeoutError))
            if not is_of_machine and self.reaper.is_running(attempt):
                raise
            return self._lost(attempt, error)  # a command died with its machine
        finally:
            self.journal.is_training = False
            if host is not None:
                host.close()

    def _move_on_in_time(self, attempt: Attempt) -> AbstractContextManager[None]:
        """Give a machine up that does not begin while there is still time for another one."""
        return nullcontext() if self.deadline is None else self.deadline.move_on_in_time(attempt)

    # -- watch

    def _watch(self, attempt: Attempt, host: Host) -> Outcome:
        """Poll, pull what is new, poll again."""
        outputs = OutputMirror(self.journal, self.job, attempt.number, self.spec.downloads)
        monitor = AttemptMonitor(
            self.journal, self.job, attempt, allowance=self.allowance, remote=self.remote, outputs=outputs
        )
        try:
            outcome = self._poll_to_the_end(monitor, attempt, host)
        except HostError:
            monitor.close_outputs()
            raise
        finally:
            monitor.close()
        monitor.close_outputs()
        return outcome

    def _poll_to_the_end(self, monitor: AttemptMonitor, attempt: Attempt, host: Host) -> Outcome:
        silent_since: float | None = None
        stopping = StopPassedOn()
        host.look_with(lambda: self._look(monitor, host, stopping))
        while True:
            self.reaper.poll()
            now = self.clock.now()
            try:
                self._pass_stop_on(host, stopping)
                status = monitor.poll(host)
                silent_since = None
                self.disk.clear()
                if status.trainer == "exited":
                    return self._ended(monitor, host, status)
                if not status.agent_alive and status.trainer != "absent":
                    return Outcome("lost", "the agent on the instance is gone", LossReason.AGENT_GONE)
            except HostError as error:
                silent_since = self._silent_since(attempt, silent_since or now)
                if silent_since is not None and silent_since > 0 and self.provisioner.readmit(attempt.region):
                    silent_since = None  # the security group did not admit the address that we have now
                if silent_since is not None and now - silent_since > self.policy.unreachable_after_s:
                    return self._silent(monitor, error, is_stopping=stopping.at is not None)
            except OSError as error:
                self.disk.bear(error)
            self._keep_to_limits(monitor)
            self.credentials.check()
            stopping_for_s = None if stopping.at is None else now - stopping.at
            if stopping_for_s is not None and self._is_stop_over(monitor, stopping_for_s):
                return self._stopped()
            self.clock.sleep(self._pause_s(monitor, stopping_for_s))

    def _pass_stop_on(self, host: Host, stopping: StopPassedOn) -> None:
        """Tell the trainer to save and end, once, if the run is to stop, or to go on elsewhere."""
        if (self.stop.reason or self._moves_because()) and stopping.at is None:
            stopping.at = self.clock.now()
            host.stop(self.job.root)

    def _look(self, monitor: AttemptMonitor, host: Host, stopping: StopPassedOn) -> None:
        """Keep to the limits and to a stop while a transfer runs, which may take hours.

        The last checkpoint is given its time. A transfer that only trickles is not.

        Raises:
            Cancelled: the run is to end at once, or the transfer does not get on.
        """
        self._keep_to_limits(monitor)
        self._pass_stop_on(host, stopping)
        if stopping.at is None:
            return
        now = self.clock.now()
        is_slow = stopping.is_slow(now, host.received_bytes) and now - stopping.at > self.policy.stop_timeout_s
        if is_slow or self._is_stop_over(monitor, 0.0):
            raise Cancelled(self.stop.reason) if self.stop.reason else MoveOn(self._moves_because())

    def _pause_s(self, monitor: AttemptMonitor, stopping_for_s: float | None) -> float:
        """Return the pause before the next poll."""
        if monitor.has_more and monitor.tail.left_bytes:
            return min(self.policy.poll_s, REST_POLL_S)
        if monitor.noticed:
            return min(self.policy.poll_s, POLL_UNDER_NOTICE_S)
        if stopping_for_s is not None:  # soon, then less and less so: hundreds of runs may be stopped at once
            return min(self.policy.poll_s, max(0.5, stopping_for_s / 4))
        return self.policy.poll_s

    def _is_stop_over(self, monitor: AttemptMonitor, stopping_for_s: float) -> bool:
        """Return whether a trainer that was told to stop gets no more time to save."""
        if self.stop.is_urgent or stopping_for_s > self.policy.stop_timeout_s:
            return True
        return self.stop.limit is not None and self.allowance.is_budget_reached_at(
            self.clock.now() + self.policy.poll_s
        )

    def _keep_to_limits(self, monitor: AttemptMonitor) -> None:
        """Begin to stop so early that the checkpoint is written before the money, or the time, is gone."""
        if self.deadline is not None and not self.stop.reason:
            self.deadline.look(monitor.attempt, saves_at_stop=self._saves_at_stop(monitor))
        if self.stop.reason or self.spec.limits == Limits():
            return
        for one in self._billed_with(monitor.attempt):
            self.reaper.note_prices(one.number)
        moment = self.clock.now() + self.allowance.ahead_s(monitor.attempt)
        reached = self.allowance.reached_at(moment, monitor.heard_at)
        if reached is not None:
            self.stop.request_by_limit(reached)

    def _billed_with(self, attempt: Attempt) -> list[Attempt]:
        """Return the attempts whose price in force the budget counts."""
        return [attempt]

    def _moves_because(self) -> str:
        """Return why the run leaves a machine that is well, "" if it stays."""
        return "" if self.deadline is None else self.deadline.moves_because

    def _saves_at_stop(self, monitor: AttemptMonitor) -> bool:
        """Return whether the trainer saves when it is told to stop, as far as that is known."""
        return self.job.is_bundled or (monitor.status is not None and monitor.status.catches_stop is True)

    def _stopped(self) -> Outcome:
        """Return the outcome of a trainer that was told to stop: the run ends, or goes on elsewhere."""
        if self.stop.reason:
            return Outcome("stopped", self.stop.reason)
        return Outcome("lost", self._moves_because(), LossReason.MOVED)

    # -- the end of a machine

    def _ended(self, monitor: AttemptMonitor, host: Host, status: HostStatus) -> Outcome:
        """Decide what the end of the trainer means, after all that it left is downloaded."""
        status = self._poll_the_rest(monitor, host, status)
        status = self._wait_for_digests(monitor, host, status)
        status, left = self._wait_for_outputs(monitor, host, status)
        status = self._as_judged(self._wait_for_s3(monitor, host, status))
        code = -1 if status.exit_code is None else status.exit_code
        number = monitor.attempt.number
        tail = "" if code == 0 or status.asked else self._tail(number)
        monitor.note_received(host, least_bytes=1)
        self.journal.emit(
            TrainerExited(
                at=self.clock.now(),
                attempt=number,
                exit_code=code,
                asked=status.asked,
                last_step=monitor.step,
                tail=tail,
                gpu_problem=status.gpu_trouble,
            )
        )
        is_noticed = status.notice_ends_at is not None
        if status.tree is None:  # of an agent of 0.1.0
            pull_extra_outputs(self.journal, self.job, host, number, is_hurried=is_noticed)
        end = TrainerEnd(code, status.asked, monitor.finished, tail, status.ending, status.gpu_trouble)
        try:
            outcome = verdict(end, is_bundled=self.job.is_bundled)
        except TrainingError as error:
            refused = refuse_newest(self.journal, number, monitor.step, error.reason)
            refused = refused or refuse_restored(self.journal, number, error.reason)
            if not refused:
                raise
            return Outcome("lost", refused, LossReason.RESUME_FAILED)
        if outcome is not None and left and not is_noticed:
            raise outputs_lost(self.journal.state().attempt(number))
        if outcome is not None and not left:
            return outcome
        if self.stop.reason or (self._moves_because() and not is_noticed):
            return self._stopped()
        if is_noticed:
            return Outcome("lost", "interruption notice", LossReason.INTERRUPTED)
        if status.gpu_trouble:
            return gpu_failed(status.gpu_trouble)
        return Outcome("lost", status.ending or "the trainer was told to end", LossReason.TRAINER_TOLD_TO_END)

    def _as_judged(self, status: HostStatus) -> HostStatus:
        """Return what the end of the trainer is judged by: its own status, where it is alone."""
        return status

    def _tail(self, number: int) -> str:
        """Return the last lines of the log of a trainer that failed."""
        return self.journal.store.log_tail(number)

    def _poll_the_rest(self, monitor: AttemptMonitor, host: Host, status: HostStatus) -> HostStatus:
        """Poll until the log, the metrics and the files are here, however long they are."""
        give_up_at = self.clock.now() + REST_S
        tries_left = REST_TRIES
        while tries_left and self.clock.now() < give_up_at:
            self._keep_to_limits(monitor)
            if self.stop.reason and self._is_stop_over(monitor, 0.0):
                break
            try:
                status = monitor.poll(host)
            except UnreachableError:
                tries_left -= 1
            else:
                if not monitor.has_more:
                    break
                is_on_its_way = monitor.tail.left_bytes and (status.metrics or status.log)
                tries_left = REST_TRIES if is_on_its_way else tries_left - 1
            self.clock.sleep(min(self.policy.poll_s, REST_POLL_S if tries_left == REST_TRIES else 0.5))
        return status

    def _wait_for_digests(self, monitor: AttemptMonitor, host: Host, status: HostStatus) -> HostStatus:
        """Poll until the last checkpoint is listed and here: the machine may have to read gigabytes for its digest."""
        give_up_at = self.clock.now() + min(DIGEST_S + status.waiting_bytes / DIGEST_BYTES_S, DIGEST_MOST_S)
        while status.waiting_files and status.agent_alive and self.clock.now() < give_up_at:
            self._keep_to_limits(monitor)
            if self.stop.reason and self._is_stop_over(monitor, 0.0):
                break
            self.clock.sleep(min(self.policy.poll_s, 0.5))
            try:
                status = monitor.poll(host)
            except HostError:
                break
        return status

    def _wait_for_outputs(self, monitor: AttemptMonitor, host: Host, status: HostStatus) -> tuple[HostStatus, str]:
        """Wait until all outputs are here; return also why some are left, "" if none is."""

        def is_over() -> bool:
            self._keep_to_limits(monitor)
            self._stay_in_touch(monitor)
            return bool(self.stop.reason) and self._is_stop_over(monitor, 0.0)

        keep_s = self.spec.downloads.keep_s
        last = LastOutputs(monitor, self.reaper, keep_s=keep_s, poll_s=self.policy.poll_s, is_over=is_over)
        status, left = last.wait(host, status)
        if left and self.remote.has_last_outputs(monitor.attempt, status.tree):
            left = ""
        if left:
            monitor.outputs.close(status, left, is_loss=status.notice_ends_at is None)
        return status, left

    def _stay_in_touch(self, monitor: AttemptMonitor) -> None:
        """Show the run's other machines that they are still led, while one of them is waited for: it has none."""

    def _wait_for_s3(self, monitor: AttemptMonitor, host: Host, status: HostStatus) -> HostStatus:
        """Give the last checkpoint the time to reach S3 too; it is downloaded already, so this may be given up."""
        give_up_at = self.clock.now() + UPLOAD_WAIT_S
        while self.job.bucket is not None and not is_uploaded(status):
            if self.clock.now() > give_up_at or status.s3_trouble or status.notice_ends_at is not None:
                break
            self.clock.sleep(min(self.policy.poll_s, 1.0))
            try:
                status = monitor.poll(host)
            except HostError:
                break
        return status

    def _silent(self, monitor: AttemptMonitor, error: HostError, *, is_stopping: bool) -> Outcome:
        monitor.note_progress(force=True)
        if is_stopping:
            return self._stopped()
        return self._lost(monitor.attempt, error)

    def _silent_since(self, attempt: Attempt, since: float) -> float | None:
        """Return since when the host is silent by its own fault.

        For ever if EC2 says that it is gone; not at all if EC2 does not answer either: then our own network is away.
        """
        try:
            instance = self.reaper.instance(attempt.instance_id)
        except CloudError:
            return None
        return -math.inf if instance is not None and instance.state not in ("running", "pending") else since

    def _lost(self, attempt: Attempt, error: HostError) -> Outcome:
        """Return why the instance can no longer be used: EC2's reason where it has ended, else the silence."""
        instance = None
        with suppress(CloudError):
            instance = self.reaper.instance(attempt.instance_id)
        if instance is None or instance.state not in ("shutting-down", "terminated"):
            if isinstance(error, CommandTimeoutError):
                return Outcome("lost", f"too slow: {error}", LossReason.TOO_SLOW)
            is_silent = isinstance(error, UnreachableError)
            return Outcome("lost", f"no answer: {error}" if is_silent else str(error), LossReason.UNREACHABLE)
        if instance.is_spot_interruption:
            current = self.journal.state().attempt(attempt.number)
            had_notice = current is not None and current.noticed_ends_at is not None
            reason = "interrupted" if had_notice else "interrupted without notice"
            return Outcome("lost", reason, LossReason.INTERRUPTED)
        return Outcome("lost", f"ended: {instance.end_text or instance.state}", LossReason.INSTANCE_ENDED)
