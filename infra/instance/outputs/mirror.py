"""States of a program's outputs: all its files as they were at one moment. The watch process makes them.

A state is made when something has changed and every changed file is complete (`complete_files.py`); what is written
line by line counts as far as its lines are whole. Files that may change later are copied before the state is announced,
so that the owner gets the files of that moment, however long the download takes. Once the owner has a state it says so
(`agent.py mirrored`); the next one is told as the difference from it.

    agent/outputs/sealed.json     the newest state: number, files by name, whether the program has ended
    agent/outputs/home.json       the state that the owner has
    agent/outputs/difference.json how the newest state differs from that one: short, where the states are long
    agent/outputs/told.json       what `agent.py status` tells
    agent/outputs/copies/DIGEST   contents of sealed files that may change
    agent/outputs/allowed         bytes that the owner would download now
    agent/outputs/room            takes some of the disk, which is given to the lists when the disk is full
    agent/outputs/fetching        touched while the owner downloads: no new state replaces the one it reads
    agent/outputs/fetched.json    with a copy in S3: the state that it reads; new ones are made all the same, for S3
    agent/outputs/uploading       touched while a state goes to S3: no new state replaces it

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from infra.instance.deadline import steady
from infra.instance.digests import NICENESS, alone
from infra.instance.outputs.complete_files import CompleteFiles
from infra.instance.outputs.files import MOST_LEFT, Found, Rules, Scan, mark_of, may_grow, whole_part
from infra.instance.outputs.readiness import Readiness
from infra.instance.trainer_files import read_json, write_json

EVERY_S = 0.2  # between two looks at few files
MOST_SHARE, MOST_SHARE_BUSY = 0.005, 0.03  # of a core may go into looking for changes; while one is waited for
GROWTH_EVERY_S = 30.0  # between two states that differ in growing files only
RESTLESS_EVERY_S = 10.0  # between two states that differ in such files, and growing ones, only
FETCHING_S = 60.0  # without a sign of the download
ROOM_SHARE, ROOM_BYTES = 0.05, 1 << 30  # of the disk: copies leave it to the program
LISTS_BYTES = 4 << 20  # of the disk, kept for the lists of files
PINNED = "fetched.json"
DIFFERENCE = "difference.json"
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


def number_of(path: str) -> int | None:
    """Return the number of the state in a file, which begins with it: the list of its files may be long."""
    with open(path) as file:
        found = re.match(r'\{"state": (\d+)[,}]', file.read(40))
    return int(found.group(1)) if found else None


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
        self.readiness = Readiness(clock, complete or CompleteFiles(clock))
        self.folder = folder_of(root)
        os.makedirs(os.path.join(self.folder, "copies"), exist_ok=True)
        self._keep_room()
        self._is_saved = True
        home = sealed_state(root, "home.json")
        is_newer = os.path.exists(os.path.join(self.folder, "sealed.json"))  # restored from S3, and not at home
        newest = sealed_state(root) if is_newer else home
        self.number: int = newest["state"]
        self.files: dict[str, Entry] = newest["files"]  # of the newest state
        self.began = self.number  # what was restored
        self.is_final = False
        self.sent: dict[str, list[Any]] = {}  # marks of what was there before the program started
        self.told: dict[str, Any] = {}
        self._restless: set[str] = set()
        self._left_before: set[str] = set()
        self._unmatched: list[str] = []  # patterns that named nothing when the program ended
        self._sealed_at = float("-inf")
        self._is_waiting = False
        self._look_s = 0.0  # of CPU time, for one look at all files
        self._home: tuple[int, dict[str, Entry]] = (home["state"], home["files"])

    def note_sent(self) -> None:
        """Note what is there before the program starts: sent, restored or linked."""
        for rules in (self.rules, self.rules.wide()):
            scan = Scan(self.root, rules)
            self.sent.update({name: found.mark for name, found in scan.files.items()})
            self._left_before.update(name for name, _ in scan.left)

    def start(self) -> None:
        """Begin, until the process ends."""
        threading.Thread(target=self.run, name="mirror", daemon=True).start()

    def run(self) -> None:
        """Look for changes again and again."""
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)  # Linux: of this thread
        while True:
            self.turn()
            self.pause(self.pause_s())

    def turn(self) -> None:
        """Look once, and note what that costs."""
        began, number = time.thread_time(), self.number
        try:
            self.look()
        except OSError:  # the disk is full, or no more file can be opened: once more
            self._give_room()
        if number == self.number:  # else digests took most of it
            self._look_s = time.thread_time() - began

    def _keep_room(self) -> None:
        """Keep some of the disk for the lists of files: a program that fills it has outputs to tell of all the more."""
        with contextlib.suppress(OSError), open(os.path.join(self.folder, "room"), "wb") as file:
            os.posix_fallocate(file.fileno(), 0, LISTS_BYTES)

    def _give_room(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.folder, "room"))

    def pause_s(self) -> float:
        """Return the pause until the next look: looks take a small share of a core, however many files there are."""
        return max(EVERY_S, self._look_s / (MOST_SHARE_BUSY if self._is_waiting else MOST_SHARE))

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
        if not self._is_saved:
            self._save()
        self._note_home()
        is_over, is_hurried = self._is_over(), self._is_hurried()
        scan = Scan(self.root, self.rules)
        files = {
            name: found for name, found in scan.files.items() if name in self.files or self.sent.get(name) != found.mark
        }
        if is_over and not files and self.rules.only:
            self._widen()
            return
        changed = {name for name, found in files.items() if not self._is_sealed(name, found)}
        gone = [name for name in self.files if name not in files]
        ready, growing, waiting, self._restless = self.readiness.sort(files, changed, self.files, is_over=is_over)
        self._is_waiting = bool(waiting)
        if self._is_time(ready, growing, gone, is_hurried=is_hurried):
            is_allowed = is_hurried or self.is_stored or self._size(files, ready | growing) <= self._allowed()
            if not waiting and is_allowed and (is_hurried or not self._is_held()):
                self._seal(files, ready, growing, gone)
        elif is_over and not waiting and not self.is_final:
            self._unmatched = self._unmatched or self.rules.unmatched(entry["path"] for entry in self.files.values())
            self.is_final = True
            self._save()
        pending = {name for name in changed if not self._is_sealed(name, files[name])}
        busy = pending - waiting if is_over and self.is_final else set()
        scan.left += [(name.partition("/")[2], "a process still writes to it") for name in sorted(busy)]
        scan.left = [one for one in scan.left if one[0] not in self._left_before]
        self._tell(scan, len(pending | waiting), self._size(files, pending))

    def _is_time(self, ready: set[str], growing: set[str], gone: list[str], *, is_hurried: bool) -> bool:
        """Return whether there is enough that is new: what changes all the time makes a state now and then."""
        if gone or ready - self._restless:
            return True
        if not self._restless and not growing:
            return False
        return is_hurried or self.clock() - self._sealed_at > (RESTLESS_EVERY_S if self._restless else GROWTH_EVERY_S)

    def _widen(self) -> None:
        """Take all outputs, since what was asked for names none: nothing is to be lost by a mistyped pattern."""
        self._unmatched = self.rules.only
        self.rules = self.rules.wide()

    def _is_sealed(self, name: str, found: Found) -> bool:
        """Return whether the newest state has all of a file as it is now."""
        known = self.files.get(name)
        if known is None or known["mark"] != found.mark:
            return False
        return found.status is None or known["size"] == found.status.st_size

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

    def _is_held(self) -> bool:
        """Return whether the newest state is being read. With S3 the owner, whose line may be slow, holds up none."""
        return self._is_signed("uploading") or (self._is_signed("fetching") and not self.is_stored)

    def _is_signed(self, name: str) -> bool:
        try:
            age_s = time.time() - os.stat(os.path.join(self.folder, name)).st_mtime
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
        still = {name: found for name, found in files.items() if name not in growing and name not in self._restless}
        if not all(self._is_as_found(found) for name, found in still.items() if name in entries or name in self.files):
            return
        kept = {name: entry for name, entry in self.files.items() if name in files}
        self.files = {**kept, **entries}
        self.number += 1
        self.is_final = False
        self._sealed_at = self.clock()
        self.readiness.note_sealed()
        self._save()
        if not self._is_signed("fetching") or self.is_stored:
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
            entry["after"], entry["after_sha256"] = had, digest_had
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
        self._is_saved = False
        state = {"state": self.number, "files": self.files, "is_final": self.is_final, "began": self.began}
        write_json(os.path.join(self.folder, "sealed.json"), state)
        number, home = self._home
        write_json(os.path.join(self.folder, DIFFERENCE), difference(state, {"state": number, "files": home}))
        self._is_saved = True

    def _drop_copies(self) -> None:
        """Remove the copies that no state needs: neither the newest, nor one that is being read."""
        if self._is_signed("uploading"):
            return
        needed = {entry.get("sha256") for entry in self.files.values()}
        if self._is_signed("fetching"):
            needed |= {entry.get("sha256") for entry in sealed_state(self.root, PINNED)["files"].values()}
        for name in os.listdir(os.path.join(self.folder, "copies")):
            if name not in needed:
                os.unlink(os.path.join(self.folder, "copies", name))

    # -- telling

    def _tell(self, scan: Scan, pending_files: int, pending_bytes: int) -> None:
        """Write down what `agent.py status` says of the outputs."""
        there = {entry.get("sha256") for entry in self._home[1].values()}
        new = [entry for name, entry in self.files.items() if not is_same(entry, self._home[1].get(name))]
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
            "unmatched": self._unmatched[:MOST_LEFT],
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


def difference(state: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Return how a state differs from another one: `files` by name, `deleted` names."""
    files, there = state["files"], base["files"]
    changed = {name: entry for name, entry in files.items() if not is_same(entry, there.get(name))}
    return {
        "state": state["state"],
        "base": base["state"],
        "is_final": state["is_final"],
        "files": {name: [entry, there.get(name)] for name, entry in changed.items()},
        "deleted": [name for name in there if name not in files],
    }


def is_same(entry: Entry, other: Entry | None) -> bool:
    """Return whether two entries tell of the same content, time and mode."""
    if other is None:
        return False
    if entry["kind"] == "link":
        return bool(other["kind"] == "link" and entry["target"] == other["target"])
    keys = ("sha256", "mtime_ns", "mode")
    return [entry.get(key) for key in keys] == [other.get(key) for key in keys]
