"""The processes that the trainer has started, also those that left its process group.

A launcher may start its workers in sessions of their own: torchrun 2.13 does, so that SIGKILL to torchrun's process
group leaves them training. The watch process becomes the reaper of its descendants (PR_SET_CHILD_SUBREAPER, Linux 3.4):
a process whose parent has ended becomes its child, however it was started. So every child of the watch process that it
has not started itself is of the trainer.

A Docker daemon that became its child stays: containers of others may run in it, and it has to remove ours.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from infra.instance.deadline import steady
from infra.instance.programs import run_as_root

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h
GONE_S = 1.0  # until SIGKILL has ended all; what hangs in the kernel is left behind
PAUSE_S = 0.01
AS_ROOT_S = 2.0  # for `sudo kill`
DAEMONS = ("dockerd", "containerd")  # and containerd-shim


class Process(NamedTuple):
    """One process of the machine, as /proc lists it. `start` is in the kernel's ticks: with the pid it names it."""

    parent: int
    is_zombie: bool
    name: str
    start: str


def processes() -> dict[int, Process]:
    """Return all processes of the machine by their pids; {} without /proc."""
    found = {}
    for pid in _numbers("/proc"):
        try:
            with open("/proc/%d/stat" % pid, "rb") as file:
                head, _, rest = file.read().decode(errors="replace").rpartition(")")
            fields = rest.split()
            found[pid] = Process(int(fields[1]), fields[0] in ("Z", "X"), head.partition("(")[2], fields[19])
        except (OSError, IndexError, ValueError):
            continue  # it has just ended
    return found


def _numbers(folder: str) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder) if name.isdigit()]
    except OSError:
        return []


def below(roots: Iterable[int], table: dict[int, Process]) -> set[int]:
    """Return the roots that exist and all that descends from them, without Docker daemons and what is below those."""
    children: dict[int, list[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
    found: set[int] = set()
    ahead = list(roots)
    while ahead:
        pid = ahead.pop()
        if pid in found or pid not in table or table[pid].name.startswith(DAEMONS):
            continue
        found.add(pid)
        ahead += children.get(pid, [])
    return found


class Descendants:
    """What descends from the trainer.

    Args:
        helpers: gives the pids of the processes that this one has started besides the trainer.
        say: is told what goes wrong.
    """

    def __init__(self, helpers: Callable[[], Iterable[int]], say: Callable[[str], None]) -> None:
        self.adopts = False
        self._helpers = helpers
        self._say = say
        self._has_told = False
        self._seen: dict[int, str] = {}  # the start of each that was below the trainer, by pid

    def adopt(self) -> None:
        """Become the parent of each descendant whose own has ended, for this process's life."""
        try:
            import ctypes  # not in every Python

            libc = ctypes.CDLL(None, use_errno=True)
            self.adopts = libc.prctl(SUBREAPER, 1, 0, 0, 0) == 0
            why = "" if self.adopts else os.strerror(ctypes.get_errno())
        except (ImportError, OSError, AttributeError) as error:
            why = str(error)
        if why:
            self._say("what the trainer starts in a session of its own may outlive it: %s" % why)

    def note(self, trainer: int | None) -> None:
        """Remember what is below the trainer now, for where a process whose parent ends becomes another one's child."""
        table = processes()
        for pid in self._members(trainer, table):
            self._seen[pid] = table[pid].start

    def _members(self, trainer: int | None, table: dict[int, Process]) -> set[int]:
        """Return the pids of what descends from the trainer, itself included, and still runs.

        Args:
            trainer: its pid; None once its end was asked for, since the number may be another process's then.
            table: all processes.
        """
        roots = [pid for pid, start in self._seen.items() if pid in table and table[pid].start == start]
        roots += [] if trainer is None else [trainer]
        if self.adopts:
            own = set(self._helpers())
            roots += [pid for pid, one in table.items() if one.parent == os.getpid() and pid not in own]
        return {pid for pid in below(roots, table) if not table[pid].is_zombie} - {os.getpid()}

    def kill(self, trainer: int | None, within_s: float = GONE_S) -> list[int]:
        """Send SIGKILL until none is left; return those that do not end in that time: they hang in the kernel."""
        give_up_at = steady() + within_s
        while True:
            self.note(trainer)  # each turn finds what was started since the one before
            left = sorted(self._members(trainer, processes()))
            if not left:
                self.reap(trainer)
                self._seen.clear()
                return []
            foreign = [pid for pid in left if not _is_killed(pid)]
            if foreign:  # started with sudo
                run_as_root(["kill", "-KILL", *("%d" % pid for pid in foreign)], AS_ROOT_S)
            self.reap(trainer)
            if steady() > give_up_at:
                if not self._has_told:
                    self._say("%d processes of the trainer do not end by SIGKILL" % len(left))
                self._has_told = True
                return left
            time.sleep(PAUSE_S)

    def reap(self, trainer: int | None) -> None:
        """Take the exit codes of adopted processes that have ended; the others' are asked for where they are used."""
        if not self.adopts:
            return
        own = {*self._helpers(), trainer}
        for thread in _numbers("/proc/self/task"):
            try:
                with open("/proc/self/task/%d/children" % thread) as file:
                    children = [int(word) for word in file.read().split()]
            except (OSError, ValueError):
                continue  # a kernel without this list: they stay zombies until this process ends
            for pid in children:
                if pid not in own:
                    _wait(pid)


def _is_killed(pid: int) -> bool:
    """Send SIGKILL; return False if that needs another user's rights."""
    try:
        os.kill(pid, signal.SIGKILL)
    except PermissionError:
        return False
    except OSError:
        pass  # it has ended
    return True


def _wait(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except OSError:
        pass  # it is not a child of this process any more
