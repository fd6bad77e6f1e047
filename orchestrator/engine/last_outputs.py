"""After a program's end: waits until all that it left is here, and keeps its machine as long as was asked for."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.engine.monitor import AttemptMonitor
from orchestrator.engine.reaper import Reaper
from orchestrator.errors import HostError, UnreachableError
from orchestrator.formatting import counted, megabytes, span
from orchestrator.host.base import Host, HostStatus
from orchestrator.runs.events import StateChanged
from orchestrator.runs.output_events import OutputsWaiting

TOLD_AFTER_S = 15.0  # without anything that came
PAUSE_S = 0.5


class LastOutputs:
    """Waits for the outputs of one ended program.

    Args:
        monitor: of its attempt.
        reaper: knows whether the machine is still there.
        keep_s: how long the machine is kept while nothing comes.
        poll_s: between two polls at most.
        is_over: whether the run is to end now, outputs or not.
    """

    def __init__(
        self, monitor: AttemptMonitor, reaper: Reaper, *, keep_s: float, poll_s: float, is_over: Callable[[], bool]
    ) -> None:
        self.monitor = monitor
        self.journal = monitor.journal
        self.reaper = reaper
        self.keep_s = keep_s
        self.pause_s = min(poll_s, PAUSE_S)
        self.is_over = is_over
        self._moved_at = self.journal.clock.now()
        self._is_working = False  # the machine still reads what the program left
        self._seen: object = None
        self._is_told = False

    def wait(self, host: Host, status: HostStatus) -> tuple[HostStatus, str]:
        """Return the last status, and why outputs are left ("" if all are here)."""
        problem = self.monitor.outputs_problem
        while not self.monitor.outputs.is_all_here(status):
            now = self.journal.clock.now()
            self._note_movement(host, status, now)
            reason = self._given_up(status, problem, now)
            if reason:
                return status, reason
            if now - self._moved_at > TOLD_AFTER_S and status.notice_ends_at is None:
                self._tell(status, problem, now)
            self.journal.clock.sleep(self.pause_s)
            try:
                status = self.monitor.poll(host)
                problem = self.monitor.outputs_problem
            except HostError as error:
                problem = str(error)
                if status.notice_ends_at is not None and isinstance(error, UnreachableError):
                    return status, "the machine was taken away"
        self.monitor.outputs.tell_left(status)
        if self._is_told:
            self._emit_reason("")
        return status, ""

    def _note_movement(self, host: Host, status: HostStatus, now: float) -> None:
        seen = (host.received_bytes >> 16, status.tree, status.stored_bytes)
        if seen != self._seen:
            self._seen = seen
            if not self.monitor.outputs_problem:  # what comes again and again, and cannot be written, is no progress
                self._moved_at = now
        self._is_working = status.agent_alive and status.tree is not None and status.tree.pending_files > 0

    @property
    def _most_s(self) -> float:
        """How long nothing may come: a machine that reads gigabytes for their digests is given twice the time."""
        return 2 * self.keep_s if self._is_working else self.keep_s

    def _given_up(self, status: HostStatus, problem: str, now: float) -> str:
        """Return why no more is waited for, "" if it is."""
        self.reaper.poll()
        attempt = self.journal.state().attempt(self.monitor.attempt.number)
        if attempt is not None and attempt.is_over:
            return problem or "the machine is gone"
        if self.is_over():
            return problem or "the run had to end"
        if not status.agent_alive and status.tree is not None and not status.tree.is_final:
            return "the agent on the instance is gone"
        if now - self._moved_at > self._most_s:
            return problem or status.ending or status.s3_trouble or f"nothing came for {span(self._most_s)}"
        return ""

    def _tell(self, status: HostStatus, problem: str, now: float) -> None:
        if self._is_told or status.tree is None:
            return
        self._is_told = True
        files, size_bytes = status.tree.new_files + status.tree.pending_files, status.tree.new_bytes
        reason = problem or self.monitor.outputs.awaited(status)
        until = self._moved_at + self._most_s
        number = self.monitor.attempt.number
        self.journal.emit(
            OutputsWaiting(at=now, attempt=number, files=files, size_bytes=size_bytes, reason=reason, until=until)
        )
        run = self.journal.store.run
        words = f"outputs waiting: {counted(files, 'file')}, {megabytes(size_bytes)} ({reason})"
        self._emit_reason(f"{words}; they come by themselves, or look at them: pixel-orch ssh {run}")

    def _emit_reason(self, reason: str) -> None:
        self.journal.emit(StateChanged(at=self.journal.clock.now(), state="RUNNING", reason=reason))
