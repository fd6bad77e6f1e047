"""One machine of a group while it is led: its connection, what it said last, and why it is of no more use."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.engine.monitor import AttemptMonitor
from orchestrator.engine.outcome import Outcome
from orchestrator.errors import UnreachableError
from orchestrator.host.base import Host, HostStatus, Setup
from orchestrator.runs.state import Attempt


class MemberMonitor(AttemptMonitor):
    """Polls a machine that is not the first of its group: it has a log and outputs, and no metrics or checkpoints.

    Those are the first machine's. What a program of the user's own writes on the others is kept by node.
    """

    def poll(self, host: Host) -> HostStatus:
        """Ask the host once; download the log, and note an interruption, the GPU and the metadata."""
        if self._host is not host:
            self._host, self._counted_bytes = host, 0
            self.outputs.counted_bytes = 0
        allow_s, allow_bytes = self.allowance.alone_s(self.attempt), self.outputs.allowed_bytes()
        status = host.poll(self.job.root, self.cursor, allow_s, 0.0 if self.job.is_bundled else allow_bytes)
        self.has_more = bool(status.log or status.metrics)
        self._append_both(status)
        self.cursor, self.status = status.cursor, status
        self.tail.note(status)
        self._note_interruption(status)
        self._note_metadata(status.metadata_trouble)
        self._note_gpu(status)
        try:
            if not self.job.is_bundled:
                self._take_outputs(host, status)
                self.has_more = self.has_more or self.outputs.has_more
        finally:
            self.note_received(host)
        return status


@dataclass
class Member:
    """A machine of the group that is being led.

    Args:
        attempt: the machine's share of this generation.
        host: the connection, None before it answers.
        setup: what the bootstrap chose, None where the trainer runs already.
        monitor: polls it.
        silent_since: since when it does not answer (unix seconds).
        gone: why it is of no more use, None while it is.
        is_told: it was told to stop.
        left: why outputs of its ended program are not here, "" if they are.
    """

    attempt: Attempt
    host: Host | None = None
    setup: Setup | None = None
    monitor: AttemptMonitor | None = None
    silent_since: float | None = None
    gone: Outcome | None = None
    is_told: bool = False
    left: str = ""

    @property
    def connected(self) -> Host:
        """The connection of a machine that was reached."""
        if self.host is None:
            raise UnreachableError(f"{self.attempt.instance_id} was not reached")
        return self.host

    @property
    def watched(self) -> AttemptMonitor:
        """The monitor of a machine that is watched."""
        if self.monitor is None:
            raise UnreachableError(f"{self.attempt.instance_id} is not watched")
        return self.monitor

    @property
    def status(self) -> HostStatus | None:
        """What it answered last."""
        return self.monitor.status if self.monitor is not None else None

    @property
    def has_ended(self) -> bool:
        """Whether its program has exited."""
        return self.status is not None and self.status.trainer == "exited"

    @property
    def exit_code(self) -> int | None:
        """The exit code of its program, None while it runs."""
        return self.status.exit_code if self.status is not None and self.has_ended else None

    @property
    def is_noticed(self) -> bool:
        """Whether it is under an interruption notice."""
        return self.status is not None and self.status.notice_ends_at is not None

    @property
    def is_asked(self) -> bool:
        """Whether its program was told to stop, by us or by its agent."""
        return self.is_told or (self.status is not None and self.status.asked)
