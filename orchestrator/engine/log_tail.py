"""The end of a log that is too long to be here in time: the newest lines count most, for example a traceback."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from orchestrator.errors import HostError
from orchestrator.host.base import Cursor, Host, HostStatus

FIRST_OVER_BYTES = 4 << 20  # under notice the end comes first if more than this is left: two minutes may not do
TAIL_BYTES = 64 << 10


class LogTail:
    """Knows what is left of an attempt's log and metrics on the host, and keeps the log's end.

    Args:
        path: of the log here; its size is how much of it has been downloaded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log_left_bytes = 0
        self.metrics_left_bytes = 0
        self._begins_at = 0
        self._text = b""

    @property
    def left_bytes(self) -> int:
        """How many bytes of both files the host had beyond what is here, when it answered last."""
        return self.log_left_bytes + self.metrics_left_bytes

    def note(self, status: HostStatus) -> None:
        """Take over what an answer says."""
        self.log_left_bytes, self.metrics_left_bytes = status.log_left_bytes, status.metrics_left_bytes

    def fetch(self, host: Host, job_root: str, allow_s: float | None) -> None:
        """Ask for the end of the log, if much comes before it; a host that does not answer is left to the next poll.

        Args:
            host: of the attempt.
            job_root: the run's folder on it.
            allow_s: see `Host.poll`; each poll replaces what the one before allowed.
        """
        if self.log_left_bytes <= FIRST_OVER_BYTES:
            return
        end = self._here_bytes() + self.log_left_bytes
        with suppress(HostError):
            status = host.poll(job_root, Cursor(end, end - TAIL_BYTES), allow_s)
            self._begins_at, self._text = status.cursor.log - len(status.log), status.log

    def append(self) -> None:
        """Write down how much is missing, and then the end. The host is gone: nothing is appended after it.

        Raises:
            OSError: the disk of this machine is full.
        """
        if not self.log_left_bytes:
            return
        here = self._here_bytes()
        begins_at = max(self._begins_at, here) if self._text else here + self.log_left_bytes
        text = self._text[begins_at - self._begins_at :] if self._text else b""
        missing = begins_at - here
        words = f"\n[pixel-orch: {missing:,} bytes of the log are not here: they stayed on the instance]\n"
        with self.path.open("ab") as file:
            file.write((words.encode() if missing else b"") + text)

    def _here_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0
