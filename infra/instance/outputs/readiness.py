"""Which changed files can be in a state of the outputs now, and which must be waited for.

A file that stands still, and that nobody has open, is complete. Some programs never stand still:

- One that writes the same file again and again, and closes it in between: each of its contents is a whole one.
- One that writes a new checkpoint as soon as the last one is done: the state of the moment before it began is taken.
- One that keeps a file open to write: after ten minutes it is not waited for any more.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from infra.instance.outputs.complete_files import CompleteFiles, open_to_write
from infra.instance.outputs.files import Found, may_grow

RESTLESS_TIMES = 3  # a file that was seen closed so often, with another content each time, is not waited for
LOOK_OPEN_S = 0.5  # between two looks at which files are open
LATE_S = 3.0  # waited for without a pause: then the moment before the new files is taken
GROUP_S = 1.0  # files that began to change within so long belong together
BUSY_S, BUSY_OVER_S = 600.0, 60.0  # a file that is open to write for so long is not waited for; after the program's end


class Sorted(NamedTuple):
    """Changed files, by what can be done with them."""

    ready: set[str]
    growing: set[str]  # taken as far as their lines are whole
    waiting: set[str]
    restless: set[str]  # of those that are ready


class Readiness:
    """Sorts changed files at each look.

    Args:
        clock: gives seconds that nobody can set.
        complete: tells which files are complete.
    """

    def __init__(self, clock: Callable[[], float], complete: CompleteFiles) -> None:
        self._clock = clock
        self._complete = complete
        self._waiting_since: dict[str, float] = {}
        self._changed_since: dict[str, float] = {}
        self._blocked_since: float | None = None  # something was waited for at each look since then
        self._closed: dict[str, tuple[int, list[Any]]] = {}  # how often a file was seen closed, and with which mark
        self._busy: set[tuple[int, int]] = set()
        self._busy_at = float("-inf")

    def sort(
        self, files: dict[str, Found], changed: set[str], sealed: dict[str, dict[str, Any]], *, is_over: bool
    ) -> Sorted:
        """Return the changed files, sorted.

        Args:
            files: all outputs, by name.
            changed: the names of those that the newest state does not have as they are.
            sealed: the files of the newest state.
            is_over: the program has ended.
        """
        now = self._clock()
        self._changed_since = {name: self._changed_since.get(name, now) for name in changed}
        links = {name for name in changed if files[name].status is None}
        statuses = {files[n].path: files[n].status for n in changed - links}
        complete = self._complete.of({p: s for p, s in statuses.items() if s is not None}, is_over=is_over)
        ready = links | {name for name in changed - links if files[name].path in complete}
        parts = {n for n in changed - ready if n in sealed and sealed[n]["mark"] == files[n].mark}  # as before
        growing = {name for name in changed - ready - parts if has_grown(files[name], name, sealed.get(name))}
        waiting = changed - ready - growing - parts
        self._waiting_since = {name: self._waiting_since.get(name, now) for name in waiting}
        restless = self._restless(files, waiting)
        busy_s = BUSY_OVER_S if is_over else BUSY_S
        given_up = {name for name in waiting - restless if now - self._waiting_since[name] > busy_s}
        waiting -= restless | given_up
        ready |= restless
        self._blocked_since = None if not waiting else now if self._blocked_since is None else self._blocked_since
        if waiting and not is_over and self._blocked_since is not None and now - self._blocked_since > LATE_S:
            ready, waiting = self._before(ready, waiting, set(sealed))
        every = {name for name in ready if self._closed.get(name, (0, []))[0] >= RESTLESS_TIMES}
        return Sorted(ready, growing, waiting, every)

    def note_sealed(self) -> None:
        """Note that a state was made: what changes from now on has not been waited for."""
        self._blocked_since = None

    def _before(self, ready: set[str], waiting: set[str], sealed: set[str]) -> tuple[set[str], set[str]]:
        """Return (ready, waiting) for the moment before the files that are waited for began to be written.

        Left out are the folders that they are in, if those are new, and what began to change with them. Where one of
        all these is in the newest state already, there is no such moment.
        """
        known = folders_of(sealed)
        own = {name: new_folder(name, known) for name in ready | waiting}
        out = set(waiting)
        before: set[str] = set()
        while out != before:
            before = set(out)
            folders = {own[name] for name in out} - {""}
            out |= {name for name in ready if own[name] in folders}
            loose = [self._changed_since[name] for name in out if not own[name]]
            since = min([*loose, min(self._changed_since[name] for name in waiting)]) - GROUP_S
            out |= {name for name in ready if self._changed_since[name] >= since and (loose or not own[name])}
        if out & sealed:
            return ready, waiting
        return ready - out, set()

    def _restless(self, files: dict[str, Found], waiting: set[str]) -> set[str]:
        """Return the files that stand still for no time, and are closed now.

        One that takes long to be written is none of them: it is seen closed once.
        """
        self._closed = {name: known for name, known in self._closed.items() if name in files}
        if not waiting:
            return set()
        if self._clock() - self._busy_at >= LOOK_OPEN_S:
            self._busy_at, self._busy = self._clock(), open_to_write()
            for name in waiting:
                times, mark = self._closed.get(name, (0, []))
                if self._is_closed(files[name]) and mark != files[name].mark:
                    self._closed[name] = (times + 1, files[name].mark)
        return {n for n in waiting if self._closed.get(n, (0, []))[0] >= RESTLESS_TIMES and self._is_closed(files[n])}

    def _is_closed(self, found: Found) -> bool:
        return found.status is not None and (found.status.st_dev, found.status.st_ino) not in self._busy


def folders_of(names: Iterable[str]) -> set[str]:
    """Return all folders that some files are in."""
    found: set[str] = set()
    for name in names:
        folder = posixpath.dirname(name)
        while folder and folder not in found:
            found.add(folder)
            folder = posixpath.dirname(folder)
    return found


def new_folder(name: str, known: set[str]) -> str:
    """Return the highest folder of a file that is not known, "" if it is in none.

    Where none is known it is the file's own folder, but not the top.
    """
    folder = posixpath.dirname(name)
    if not known:
        return folder if "/" in folder else ""
    found = ""
    while "/" in folder and folder not in known:
        found, folder = folder, posixpath.dirname(folder)
    return found


def has_grown(found: Found, name: str, known: dict[str, Any] | None) -> bool:
    """Return whether a file is one that is written line by line: it is longer, and still the same file."""
    if not may_grow(name) or found.status is None:
        return False
    if known is None or known["kind"] != "file":
        return True
    return bool(known["mark"][3] == found.status.st_ino and found.status.st_size >= known["size"])
