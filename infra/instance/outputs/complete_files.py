"""Which files are complete: they stand still, and nobody has them open to write.

A program may write a checkpoint straight to its final name, which takes seconds for gigabytes. Half of one must neither
be downloaded as a whole one nor be sent to the next machine.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from infra.instance.deadline import steady

STILL_S = 1.0  # between two looks at the same content
STILL_UNSEEN_S = 10.0  # where another user's process may write: what it has open cannot be seen


def open_to_write(processes: str = "/proc") -> set[tuple[int, int]]:
    """Return (device, inode) of the files that a process has open to write, or mapped to write.

    Only processes of the same user can be seen; for root all of them.
    """
    found: set[tuple[int, int]] = set()
    for pid in _names(processes):
        if not pid.isdigit():
            continue
        folder = os.path.join(processes, pid)
        for number in _names(os.path.join(folder, "fd")):
            if _may_write(os.path.join(folder, "fdinfo", number)):
                try:
                    status = os.stat(os.path.join(folder, "fd", number))
                except OSError:
                    continue  # closed meanwhile
                found.add((status.st_dev, status.st_ino))
        found.update(_mapped(os.path.join(folder, "maps")))
    return found


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []  # of another user, or gone


def _may_write(fdinfo: str) -> bool:
    """Return whether a file descriptor is open to write: the last octal digit of `flags` has the access mode."""
    try:
        with open(fdinfo) as file:
            for line in file:
                if line.startswith("flags:"):
                    return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    except (OSError, ValueError, IndexError):
        pass
    return False


def _mapped(maps: str) -> Iterable[tuple[int, int]]:
    """Yield the files of shared writable mappings; a program may close a file that it has mapped."""
    try:
        with open(maps, errors="replace") as file:
            for line in file:
                words = line.split(None, 5)
                if len(words) == 6 and words[1].startswith("rw") and words[1].endswith("s") and words[4] != "0":
                    major, minor = (int(part, 16) for part in words[3].split(":"))
                    yield os.makedev(major, minor), int(words[4])
    except (OSError, ValueError):
        return


class CompleteFiles:
    """Tells of files whether they are complete. It needs two looks, `STILL_S` apart.

    Args:
        clock: gives seconds that nobody can set.
        is_open: gives (device, inode) of the files that are open to write.
        user: whose processes can be seen; a file of another one has to stand still for longer.
    """

    def __init__(
        self,
        clock: Callable[[], float] = steady,
        is_open: Callable[[], set[tuple[int, int]]] = open_to_write,
        user: int = os.geteuid(),
    ) -> None:
        self._clock = clock
        self._is_open = is_open
        self._user = user
        self._seen: dict[str, tuple[Any, float]] = {}  # by path: what identifies the content, and since when

    def of(self, found: dict[str, os.stat_result], *, is_over: bool = False) -> set[str]:
        """Return the paths of the files that are complete.

        Args:
            found: all files in question, by path; what is not in it is forgotten.
            is_over: the program has ended, so that a file that nobody has open needs no second look.
        """
        now = self._clock()
        seen = {}
        for path, status in found.items():
            mark = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
            before = self._seen.get(path)
            seen[path] = before if before is not None and before[0] == mark else (mark, now)
        self._seen = seen
        still = [path for path in found if is_over or now - seen[path][1] >= self._needed_s(found[path])]
        busy = self._is_open() if still else set()
        return {path for path in still if (found[path].st_dev, found[path].st_ino) not in busy}

    def folders(self, found: dict[str, os.stat_result], folders: Iterable[str], *, is_over: bool = False) -> set[str]:
        """Return those of some folders whose files are all complete: a checkpoint may be a folder.

        Args:
            found: all files below all folders, by path.
            folders: paths without a slash at their end.
            is_over: see `of`.
        """
        complete = self.of(found, is_over=is_over)
        unfinished = [path for path in found if path not in complete]
        return {folder for folder in folders if not any(path.startswith(folder + os.sep) for path in unfinished)}

    def _needed_s(self, status: os.stat_result) -> float:
        return STILL_S if self._user in (0, status.st_uid) else STILL_UNSEEN_S
