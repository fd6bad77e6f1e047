"""The processes of the embedded instances: marked at their start, found by the mark, reaped, frozen and killed.

On EC2 no process outlives its instance. An embedded instance is a folder and some processes, so its end requires
finding all of them, including those that called setsid or daemonised. Each is started with the variable `MARK` in its
environment, which its children inherit. The server is also the subreaper of all its descendants (Linux), so that an
orphaned daemon becomes its child instead of init's.
"""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

MARK = "PIXEL_ORCH_LOCAL_INSTANCE"
"""`<cloud id>/<instance id>`: the cloud id is random for each start of the server."""
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform.startswith("linux")


def become_subreaper() -> None:
    """Make orphaned descendants children of this process instead of init's. Linux only; elsewhere the mark is used."""
    if _LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _stat_fields(pid)[:1] != ["Z"]


def process_start(pid: int) -> str:
    """Return the start time of a process in the kernel's clock ticks; "" if it is unknown.

    Together with the pid it identifies a process uniquely.
    """
    fields = _stat_fields(pid)
    return fields[19] if len(fields) > 19 else ""


def _stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; empty on systems without it."""
    if not _LINUX:
        return []
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


@dataclass(frozen=True)
class Seen:
    """One process of the machine from /proc or ps; `mark` is None if its environment cannot be read."""

    pid: int
    parent: int
    zombie: bool
    mark: str | None


def seen_processes() -> list[Seen]:
    """Return all processes of the machine with their marks."""
    return _seen_in_proc() if _LINUX else _seen_by_ps()


def _seen_in_proc() -> list[Seen]:
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            # The command's name may contain blanks and parentheses: the other fields follow the last parenthesis.
            fields = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()
            mark = _mark_in(Path(f"/proc/{name}/environ").read_bytes().split(b"\0"))
        except PermissionError:
            mark = None
        except OSError:
            continue  # the process has just ended
        found.append(Seen(int(name), int(fields[1]), fields[0] == "Z", mark))
    return found


def _mark_in(environment: Iterable[bytes]) -> str | None:
    wanted = MARK.encode() + b"="
    return next(
        (entry[len(wanted) :].decode("utf-8", "replace") for entry in environment if entry.startswith(wanted)), None
    )


def _seen_by_ps() -> list[Seen]:
    listing = subprocess.run(
        ["ps", "-axEww", "-o", "pid=,ppid=,stat=,command="], capture_output=True, text=True, check=False
    ).stdout
    found = []
    for line in listing.splitlines():
        pid, parent, state, *words = line.split()
        found.append(Seen(int(pid), int(parent), state.startswith("Z"), _mark_in(word.encode() for word in words)))
    return found


def belonging(mark: str, *, home: Path | None = None, roots: Iterable[int] = ()) -> list[int]:
    """Return the pids of the running processes of an instance (or, with a mark that ends in "/", of a whole cloud).

    These are the processes with the mark, the `roots`, all their descendants, and adopted children of this process
    without a mark whose working folder is in `home` (they cleared their environment before they daemonised).
    """
    everyone = seen_processes()
    me = os.getpid()
    members = {
        seen.pid
        for seen in everyone
        if seen.mark == mark
        or (mark.endswith("/") and seen.mark is not None and seen.mark.startswith(mark))
        or (home is not None and seen.parent == me and seen.mark is None and _works_in(seen.pid, home))
    }
    members.update(roots)
    grew = True
    while grew:
        children = {seen.pid for seen in everyone if seen.parent in members} - members
        members |= children
        grew = bool(children)
    members.discard(me)
    return sorted(seen.pid for seen in everyone if seen.pid in members and not seen.zombie)


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(folder)
    except OSError:
        return False


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each process; one that has ended is skipped."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def kill_all(mark: str, *, home: Path | None = None, roots: Iterable[int] = (), limit_s: float = 10) -> list[int]:
    """Send SIGKILL to every process of an instance until none is left.

    Returns the pids that survived `limit_s` seconds, normally none.
    """
    give_up = time.monotonic() + limit_s
    while pids := belonging(mark, home=home, roots=roots):
        send(pids, signal.SIGKILL)
        if time.monotonic() > give_up:
            return pids
        time.sleep(0.005)  # the kernel needs some time; the next scan finds a process that forked during this one
    return []


class Children:
    """Starts processes from the event loop's thread and reaps all children of this process.

    asyncio's subprocesses wait for their own pids only, so adopted orphans would stay zombies. One SIGCHLD handler for
    both also avoids a thread for each command, and Popen uses vfork.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[int, tuple[subprocess.Popen[bytes], asyncio.Future[int]]] = {}
        loop.add_signal_handler(signal.SIGCHLD, self.reap)

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.DEVNULL,
    ) -> tuple["subprocess.Popen[bytes]", "asyncio.Future[int]"]:
        """Start a process in its own session; the future is its exit code (negative: the signal). Raises OSError."""
        process: subprocess.Popen[bytes] = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=dict(env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            bufsize=0,
            start_new_session=True,
        )
        exit_code: asyncio.Future[int] = self._loop.create_future()
        self._waiting[process.pid] = (process, exit_code)
        self._loop.call_soon(self.reap)  # it may have ended before it was listed
        return process, exit_code

    def reap(self) -> None:
        """Reap every child that has ended; the exit code of an adopted orphan is discarded."""
        while (pid := _ended_child()) is not None:
            if pid not in self._waiting:
                os.waitpid(pid, 0)
                continue
            process, exit_code = self._waiting.pop(pid)
            code = process.wait()
            if not exit_code.done():
                exit_code.set_result(code)


class InstanceChildren:
    """The children of one instance. While its disk is full, their files cannot grow.

    A small file system needs privileges, so the limit of a file's size is set to 0 instead: a write fails with EFBIG
    ("File too large"), while a full disk gives ENOSPC.
    """

    _NO_WRITE = ("/bin/sh", "-c", "trap '' XFSZ; ulimit -S -f 0; exec \"$@\"", "sh")

    def __init__(self, children: Children) -> None:
        self._all = children
        self.may_write = True

    def start(self, argv: Sequence[str], **how: Any) -> tuple["subprocess.Popen[bytes]", "asyncio.Future[int]"]:
        """Start a process; see Children.start. Raises OSError."""
        return self._all.start([*(() if self.may_write else self._NO_WRITE), *argv], **how)


def limit_files(pids: Iterable[int], size_bytes: int | None) -> None:
    """Limit the size of files that running processes write, in bytes; None is no limit. Linux only."""
    if not _LINUX:
        return
    import resource

    for pid in pids:
        try:
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size_bytes is None else size_bytes, hard))
        except (ProcessLookupError, PermissionError):
            continue


def _ended_child() -> int | None:
    try:
        ended: Any = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if ended is None else int(ended.si_pid)
