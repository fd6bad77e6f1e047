"""States of a program's outputs: all its files as they were at one moment. The watch process makes them.

A state is made when something has changed and every changed file is complete (`complete_files.py`); what is written
line by line counts as far as its lines are whole. Files that may change later are copied before the state is announced,
so that the owner gets the files of that moment, however long the download takes. Once the owner has a state it says so
(`agent.py mirrored`); the next one is told as the difference from it.

    agent/outputs/sealed.json     the newest state: number, files by name, whether the program has ended
    agent/outputs/home.json       the state that the owner has
    agent/outputs/told.json       what `agent.py status` tells
    agent/outputs/copies/DIGEST   contents of sealed files that may change
    agent/outputs/allowed         bytes that the owner would download now
    agent/outputs/fetching        touched while the owner downloads: no new state replaces the one it reads

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from infra.instance.complete_files import CompleteFiles, open_to_write
from infra.instance.deadline import steady
from infra.instance.digests import NICENESS, alone
from infra.instance.output_files import MOST_LEFT, Found, Rules, Scan, mark_of, may_grow, whole_part
from infra.instance.trainer_files import read_json, touch, write_json

EVERY_S = 0.2  # between two looks at few files
MOST_SHARE, MOST_SHARE_BUSY = 0.01, 0.03  # of a core may go into looking for changes; while one is waited for
GROWTH_EVERY_S = 30.0  # between two states that differ in growing files only
RESTLESS_TIMES = 3  # a file that was seen closed so often, with another content each time, is not waited for
RESTLESS_EVERY_S = 10.0  # between two states that differ in such files, and growing ones, only
LOOK_OPEN_S = 0.5  # between two looks at which files are open
BUSY_S, BUSY_OVER_S = 600.0, 60.0  # a file that is open to write for so long is not waited for; after the program's end
FETCHING_S = 60.0  # without a sign of the download
ROOM_SHARE, ROOM_BYTES = 0.05, 1 << 30  # of the disk: copies leave it to the program
PIECE = 1 << 20
ZEROS = bytes(PIECE)

if TYPE_CHECKING:  # Python 3.8 has no `dict[...]`
    Entry = dict[str, Any]
    """Of one file: root, path, kind, size, mtime_ns, mode, sha256 or target; on this machine also mark and copied."""


def folder_of(root: str) -> str:
    """Return the folder of the mirror's own files."""
    return os.path.join(root, "agent", "outputs")


def sealed_state(root: str, name: str = "sealed.json") -> dict[str, Any]:
    """Return a state: `state` (its number), `files` (by name), `is_final`."""
    state: dict[str, Any] = read_json(os.path.join(folder_of(root), name), {})
    return state or {"state": 0, "files": {}, "is_final": False}


class Mirror:
    """Makes states in a thread of the watch process.

    Args:
        root: the run's folder.
        rules: what is an output.
        state: returns the state of the watch process.
        is_stored: whether the states go to S3 too, which costs nothing: then each one is made.
        clock: gives seconds that nobody can set.
        complete: tells which files are complete.
    """

    def __init__(
        self,
        root: str,
        rules: Rules,
        state: Callable[[], dict[str, Any]],
        *,
        is_stored: bool = False,
        clock: Callable[[], float] = steady,
        complete: CompleteFiles | None = None,
    ) -> None:
        self.root = root
        self.rules = rules
        self.state = state
        self.is_stored = is_stored
        self.clock = clock
        self.complete = complete or CompleteFiles(clock)
        self.folder = folder_of(root)
        os.makedirs(os.path.join(self.folder, "copies"), exist_ok=True)
        home = sealed_state(root, "home.json")
        self.number: int = home["state"]
        self.files: dict[str, Entry] = home["files"]  # of the newest state
        self.is_final = False
        self.sent: dict[str, list[Any]] = {}  # marks of what was there before the program started
        self.told: dict[str, Any] = {}
        self._waiting_since: dict[str, float] = {}
        self._closed: dict[str, tuple[int, list[Any]]] = {}  # how often a file was seen closed, and with which mark
        self._busy: set[tuple[int, int]] = set()
        self._busy_at = float("-inf")
        self._left_before: set[str] = set()
        self._sealed_at = float("-inf")
        self._is_waiting = False
        self._scan_s = 0.0  # of CPU time, for one look at all files
        self._home: tuple[int, dict[str, Entry]] = (home["state"], home["files"])

    def note_sent(self) -> None:
        """Note what is there before the program starts: sent, restored or linked."""
        scan = Scan(self.root, self.rules)
        self.sent = {name: found.mark for name, found in scan.files.items()}
        self._left_before = {name for name, _ in scan.left}

    def start(self) -> None:
        """Begin, until the process ends."""
        threading.Thread(target=self.run, name="mirror", daemon=True).start()

    def run(self) -> None:
        """Look for changes again and again."""
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)  # Linux: of this thread
        while True:
            with contextlib.suppress(OSError):  # the disk is full, or no more file can be opened: once more
                self.look()
            self.pause(self.pause_s())

    def pause_s(self) -> float:
        """Return the pause until the next look: looks take a small share of a core, however many files there are."""
        return max(EVERY_S, self._scan_s / (MOST_SHARE_BUSY if self._is_waiting else MOST_SHARE))

    def pause(self, seconds: float) -> None:
        """Wait until the next look; the end of the program, or a notice, is looked at soon."""
        over_at, was_hurried = self.clock() + seconds, self._is_hurried()
        while (left := over_at - self.clock()) > 0:
            time.sleep(min(left, EVERY_S))
            if self._is_hurried() and (not was_hurried or not self.is_final):
                return

    def _is_over(self) -> bool:
        return bool(self.state()["trainer"]["state"] == "exited")

    def _is_hurried(self) -> bool:
        return self._is_over() or self.state().get("notice") is not None

    def look(self) -> None:
        """Make a new state, if there is one to make; tell what there is."""
        self._note_home()
        is_over, is_hurried = self._is_over(), self._is_hurried()
        began = time.thread_time()
        scan = Scan(self.root, self.rules)
        self._scan_s = time.thread_time() - began
        files = {
            name: found for name, found in scan.files.items() if name in self.files or self.sent.get(name) != found.mark
        }
        changed = {name for name, found in files.items() if not self._is_sealed(name, found)}
        gone = [name for name in self.files if name not in files]
        ready, growing, waiting = self._sorted(files, changed, is_over=is_over)
        self._is_waiting = bool(waiting)
        if self._is_time(ready, growing, gone, is_hurried=is_hurried):
            is_allowed = is_hurried or self.is_stored or self._size(files, ready | growing) <= self._allowed()
            if not waiting and is_allowed and (is_hurried or not self._is_fetching()):
                self._seal(files, ready, growing, gone)
        elif is_over and not waiting and not self.is_final:
            self.is_final = True
            self._save()
        pending = {name for name in changed if not self._is_sealed(name, files[name])}
        busy = pending - waiting if is_over and self.is_final else set()
        scan.left += [(name.partition("/")[2], "a process still writes to it") for name in sorted(busy)]
        scan.left = [one for one in scan.left if one[0] not in self._left_before]
        self._tell(scan, len(pending | waiting), self._size(files, pending))

    def _sorted(
        self, files: dict[str, Found], changed: set[str], *, is_over: bool
    ) -> tuple[set[str], set[str], set[str]]:
        """Return the names that are complete, those that grow, and those that must be waited for."""
        links = {name for name in changed if files[name].status is None}
        statuses = {files[n].path: files[n].status for n in changed - links}
        complete = self.complete.of({p: s for p, s in statuses.items() if s is not None}, is_over=is_over)
        ready = links | {name for name in changed - links if files[name].path in complete}
        parts = {n for n in changed - ready if n in self.files and self.files[n]["mark"] == files[n].mark}  # as before
        growing = {name for name in changed - ready - parts if self._has_grown(name, files[name])}
        waiting = changed - ready - growing - parts
        now = self.clock()
        self._waiting_since = {name: self._waiting_since.get(name, now) for name in waiting}
        restless = self._restless(files, waiting)
        busy_s = BUSY_OVER_S if is_over else BUSY_S
        given_up = {name for name in waiting - restless if now - self._waiting_since[name] > busy_s}
        return ready | restless, growing, waiting - restless - given_up

    def _restless(self, files: dict[str, Found], waiting: set[str]) -> set[str]:
        """Return the files that stand still for no time, and are closed now: each of their contents is a whole one.

        One that takes long to be written is none of them: it is seen closed once.
        """
        self._closed = {name: known for name, known in self._closed.items() if name in files}
        if not waiting:
            return set()
        if self.clock() - self._busy_at >= LOOK_OPEN_S:
            self._busy_at, self._busy = self.clock(), open_to_write()
            for name in waiting:
                status, (times, mark) = files[name].status, self._closed.get(name, (0, []))
                is_open = status is None or (status.st_dev, status.st_ino) in self._busy
                if not is_open and mark != files[name].mark:
                    self._closed[name] = (times + 1, files[name].mark)
        return {n for n in waiting if self._closed.get(n, (0, []))[0] >= RESTLESS_TIMES and self._is_closed(files[n])}

    def _is_closed(self, found: Found) -> bool:
        return found.status is not None and (found.status.st_dev, found.status.st_ino) not in self._busy

    def _is_time(self, ready: set[str], growing: set[str], gone: list[str], *, is_hurried: bool) -> bool:
        """Return whether there is enough that is new: what changes all the time makes a state now and then."""
        restless = {name for name in ready if self._closed.get(name, (0, []))[0] >= RESTLESS_TIMES}
        if gone or ready - restless:
            return True
        if not restless and not growing:
            return False
        return is_hurried or self.clock() - self._sealed_at > (RESTLESS_EVERY_S if restless else GROWTH_EVERY_S)

    def _is_sealed(self, name: str, found: Found) -> bool:
        """Return whether the newest state has all of a file as it is now."""
        known = self.files.get(name)
        if known is None or known["mark"] != found.mark:
            return False
        return found.status is None or known["size"] == found.status.st_size

    def _has_grown(self, name: str, found: Found) -> bool:
        """Return whether a file is one that is written line by line: it is longer, and still the same file."""
        known = self.files.get(name)
        if not may_grow(name) or found.status is None:
            return False
        is_same = known is None or known["kind"] != "file" or known["mark"][3] == found.status.st_ino
        return is_same and (known is None or known["kind"] != "file" or found.status.st_size >= known["size"])

    def _size(self, files: dict[str, Found], names: set[str]) -> int:
        """Return how many bytes have changed, of a growing file what was added."""
        total = 0
        for name in names:
            status = files[name].status
            if status is not None:
                known = self._home[1].get(name, {}) if may_grow(name) else {}
                total += status.st_size - int(known.get("size", 0))
        return max(0, total)

    def _allowed(self) -> float:
        try:
            with open(os.path.join(self.folder, "allowed")) as file:
                return float(file.read())
        except (OSError, ValueError):
            return 0.0

    def _is_fetching(self) -> bool:
        try:
            age_s = time.time() - os.stat(os.path.join(self.folder, "fetching")).st_mtime
        except OSError:
            return False
        return -FETCHING_S < age_s < FETCHING_S

    # -- making a state

    def _seal(self, files: dict[str, Found], ready: set[str], growing: set[str], gone: list[str]) -> None:
        """Digest what has changed, copy what may change again; then see whether it was all of one moment."""
        entries: dict[str, Entry] = {}
        for name in sorted(ready | growing):
            entry = self._entry(name, files[name], is_growing=name in growing)
            if entry is None:
                return  # it was written to meanwhile: at the next look
            entries[name] = entry
        restless = {name for name in ready if name in self._waiting_since}
        still = {name: found for name, found in files.items() if name not in growing and name not in restless}
        if not all(self._is_as_found(found) for name, found in still.items() if name in entries or name in self.files):
            return
        kept = {name: entry for name, entry in self.files.items() if name in files}
        self.files = {**kept, **entries}
        self.number += 1
        self.is_final = False
        self._sealed_at = self.clock()
        self._save()
        if not self._is_fetching():
            self._drop_copies()

    @staticmethod
    def _is_as_found(found: Found) -> bool:
        try:
            if found.status is None:
                return os.path.islink(found.path)
            return mark_of(os.lstat(found.path)) == found.mark
        except OSError:
            return False

    def _entry(self, name: str, found: Found, *, is_growing: bool) -> Entry | None:
        """Return what a state says of a file; None if it has changed meanwhile."""
        root, _, path = name.partition("/")
        if found.status is None:
            return {"root": root, "path": path, "kind": "link", "target": found.target, "size": 0, "mark": found.mark}
        status, known = found.status, self._home[1].get(name)
        size = status.st_size
        try:
            if is_growing:
                size = whole_part(found.path, size, self._known_whole(name, found))
            had = known["size"] if known is not None and known["kind"] == "file" and known["size"] <= size else 0
            had = had if may_grow(name) else 0
            is_copied = not is_growing and not self._is_over() and self._has_room(size)
            with alone(self.root):
                read = self._digest(found.path, size, had, is_copied)
        except OSError:
            return None
        if read is None or (not is_growing and not self._is_as_found(found)):
            return None
        digest, digest_had = read
        entry = {
            "root": root,
            "path": path,
            "kind": "file",
            "size": size,
            "mtime_ns": status.st_mtime_ns,
            "mode": status.st_mode & 0o777,
            "sha256": digest,
            "mark": found.mark,
            "copied": is_copied,
            "is_part": is_growing,
        }
        if had and known is not None and digest_had == known["sha256"]:
            entry["after"] = had
        return entry

    def _known_whole(self, name: str, found: Found) -> int:
        known = self.files.get(name)
        is_same = known is not None and known["kind"] == "file" and known["mark"][3] == found.mark[3]
        return known["size"] if known is not None and is_same and known["is_part"] else 0

    def _has_room(self, size: int) -> bool:
        disk = shutil.disk_usage(self.folder)
        return disk.free - size > max(ROOM_BYTES, ROOM_SHARE * disk.total)

    def _digest(self, path: str, size: int, had: int, is_copied: bool) -> tuple[str, str] | None:
        """Return the SHA-256 of the first `size` bytes and of the first `had`; make a copy on the way.

        None if the file is shorter by now.
        """
        digest, digest_had, at = hashlib.sha256(), "", 0
        part = os.path.join(self.folder, "copies", ".part")
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(path, "rb"))
            copy = stack.enter_context(open(part, "wb")) if is_copied else None
            while at < size:
                piece = file.read(min(PIECE, size - at, had - at if at < had else PIECE))
                if not piece:
                    return None
                digest.update(piece)
                at += len(piece)
                if at == had:
                    digest_had = digest.hexdigest()
                if copy is not None:
                    if piece == ZEROS:
                        copy.seek(PIECE, os.SEEK_CUR)
                    else:
                        copy.write(piece)
            if copy is not None:
                copy.truncate(size)
        if is_copied:
            os.replace(part, os.path.join(self.folder, "copies", digest.hexdigest()))
        return digest.hexdigest(), digest_had

    def _save(self) -> None:
        state = {"state": self.number, "files": self.files, "is_final": self.is_final}
        write_json(os.path.join(self.folder, "sealed.json"), state)

    def _drop_copies(self) -> None:
        """Remove the copies that no state needs: neither the newest, nor the one that the owner may be reading."""
        needed = {entry.get("sha256") for entry in self.files.values()}
        for name in os.listdir(os.path.join(self.folder, "copies")):
            if name not in needed:
                os.unlink(os.path.join(self.folder, "copies", name))

    # -- telling

    def _tell(self, scan: Scan, pending_files: int, pending_bytes: int) -> None:
        """Write down what `agent.py status` says of the outputs."""
        there = {entry.get("sha256") for entry in self._home[1].values()}
        new = [entry for name, entry in self.files.items() if not _is_same(entry, self._home[1].get(name))]
        told = {
            "state": self.number,
            "home": self._home[0],
            "is_final": self.is_final and not pending_files,
            "new_files": len(new),
            "new_bytes": sum(e["size"] - e.get("after", 0) for e in new if e.get("sha256") not in there),
            "pending_files": pending_files,
            "pending_bytes": pending_bytes,
            "files": len(self.files),
            "bytes": sum(entry["size"] for entry in self.files.values()),
            "left": [list(one) for one in scan.left[:MOST_LEFT]],
            "left_files": len(scan.left),
            "is_cut": scan.is_cut,
        }
        if told != self.told:
            write_json(os.path.join(self.folder, "told.json"), told)
            self.told = told

    def _note_home(self) -> None:
        """Read what the owner has, if that has changed."""
        number = read_json(os.path.join(self.folder, "home"), self._home[0])
        if number != self._home[0]:
            home = sealed_state(self.root, "home.json")
            self._home = (home["state"], home["files"])
            self._drop_copies()


def _is_same(entry: Entry, other: Entry | None) -> bool:
    """Return whether two entries tell of the same content, time and mode."""
    keys = ("kind", "size", "sha256", "target", "mtime_ns", "mode")
    return other is not None and all(entry.get(key) == other.get(key) for key in keys)


# -- what the owner asks for


def changes(root: str, number: int, base: int) -> dict[str, Any]:
    """Return how a state differs from the one that the owner has; no files if it is not the newest any more.

    Where the owner has another base than we know of, it is told all files.
    """
    sealed, home = sealed_state(root), sealed_state(root, "home.json")
    if sealed["state"] != number:
        return {"state": sealed["state"], "base": home["state"], "files": [], "deleted": []}
    touch(os.path.join(folder_of(root), "fetching"))
    if base != home["state"]:
        every = [
            {key: value for key, value in shown(one).items() if key != "after"} for one in sealed["files"].values()
        ]
        return {"state": number, "base": 0, "is_final": sealed["is_final"], "files": every, "deleted": []}
    files = [shown(entry) for name, entry in sealed["files"].items() if not _is_same(entry, home["files"].get(name))]
    deleted = [name for name in home["files"] if name not in sealed["files"]]
    return {"state": number, "base": home["state"], "is_final": sealed["is_final"], "files": files, "deleted": deleted}


def shown(entry: Entry) -> Entry:
    """Return an entry without what concerns this machine only."""
    return {key: value for key, value in entry.items() if key not in ("mark", "copied", "is_part")}


def acknowledge(root: str, number: int) -> dict[str, Any]:
    """Note that the owner has a state."""
    folder = folder_of(root)
    sealed = sealed_state(root)
    if sealed["state"] != number:
        return {"acknowledged": False}
    write_json(os.path.join(folder, "home.json"), sealed)
    write_json(os.path.join(folder, "home"), number)
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(folder, "fetching"))
    return {"acknowledged": True}


def allow(root: str, size_bytes: str) -> None:
    """Note how many bytes the owner would download now."""
    folder = folder_of(root)
    with contextlib.suppress(OSError):  # the disk is full
        if os.path.isdir(folder):
            path = os.path.join(folder, "allowed")
            with open(path + ".new", "w") as file:
                file.write(size_bytes)
            os.replace(path + ".new", path)


def told(root: str) -> dict[str, Any] | None:
    """Return what `agent.py status` says of the outputs; None before the first look."""
    found: dict[str, Any] | None = read_json(os.path.join(folder_of(root), "told.json"), None)
    return found


def is_mirrored(root: str) -> bool:
    """Return whether the owner has all that an ended program left."""
    now = told(root)
    if now is None:
        return True
    home = read_json(os.path.join(folder_of(root), "home"), now["home"])
    is_all_here = home == now["state"] or (now["new_files"] == 0 and now["state"] == now["home"])
    return bool(now["is_final"] and is_all_here)
