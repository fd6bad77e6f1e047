"""The lock of a run's folder: who holds it may rent for the run, and nobody else.

It is a lock of the kernel (flock), which is dropped when the last process that holds it has died, however it died. The
file's content names the holder, for other commands: `<pid>[ shared] @<start of that process>`.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from pathlib import Path
from types import TracebackType

from orchestrator.errors import PixelOrchError

NAME = "lock"
SHARED = "shared"
STARTING = "starting"
MOST_BYTES = 100


class RunBusyError(PixelOrchError):
    """Another process owns the run."""


class RunLock:
    """A lock that is held.

    Args:
        descriptor: an open file with the lock on it. A child process that inherits it holds the same lock.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, folder: Path, *, shared: bool = False) -> RunLock:
        """Take the lock of a run's folder, and sign it.

        Args:
            folder: of the run.
            shared: as in `sign`: no moment may pass in which `stop` would send a leader of several runs a signal.

        Raises:
            RunBusyError: another living process holds it.
        """
        try:
            descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o600)
        except IsADirectoryError:
            raise RunBusyError(f"{folder.name} cannot be led: its lock is a folder; remove {folder / NAME}") from None
        if not _is_file(descriptor):
            os.close(descriptor)
            raise RunBusyError(f"{folder.name} cannot be led: its lock is not a file; remove {folder / NAME}")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunBusyError(f"{folder.name} is led by process {Holder.of(folder).pid or '?'}") from None
        lock = cls(descriptor)
        lock.sign(shared=shared)
        return lock

    def sign(self, *, shared: bool = False, starting: bool = False) -> None:
        """Write down that this process holds it.

        Args:
            shared: this process leads other runs too: it is stopped by a file in the folder, never by a signal.
            starting: it does not lead the run yet.
        """
        marks = {SHARED: shared, STARTING: starting}
        words = [str(os.getpid()), *(word for word, is_so in marks.items() if is_so), f"@{_started(os.getpid())}"]
        text = " ".join(words).encode()
        old_size = os.fstat(self.descriptor).st_size
        os.pwrite(self.descriptor, text.ljust(min(old_size, MOST_BYTES)), 0)  # one write: a reader sees no mixture
        os.ftruncate(self.descriptor, len(text))

    def release(self) -> None:
        """Let go of it, in this process only: a child that inherited it holds it still."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Holder:
    """Who holds a lock.

    Args:
        pid: None if no process does, or one that cannot be told.
        is_shared: whether it leads other runs too.
        is_starting: whether it does not lead the run yet.
    """

    def __init__(self, pid: int | None = None, *, is_shared: bool = False, is_starting: bool = False) -> None:
        self.pid = pid
        self.is_shared = is_shared
        self.is_starting = is_starting

    @classmethod
    def of(cls, folder: Path) -> Holder:
        """Return the holder of a folder's lock. A process that merely has the number of an old one is not it."""
        words = _held_text(folder).split()
        if not words or not re.fullmatch(r"[1-9][0-9]{0,9}", words[0]):
            return cls()
        pid, started = int(words[0]), words[-1].partition("@")[2]
        if started and started != _started(pid):
            return cls()
        return cls(pid, is_shared=SHARED in words, is_starting=STARTING in words)


def is_held(folder: Path) -> bool:
    """Return whether a process holds the lock of a folder."""
    try:
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if _is_file(descriptor):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _held_text(folder: Path) -> str:
    if not is_held(folder):
        return ""
    try:
        with (folder / NAME).open("rb") as file:
            return file.read(MOST_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _is_file(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def _started(pid: int) -> str:
    """Return when a process was started (clock ticks since the boot), "" where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
