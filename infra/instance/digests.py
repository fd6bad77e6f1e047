"""Digests of the trainer's files: computed by the watch process, one file at a time, and read by all others.

A checkpoint of gigabytes takes longer to read than any answer may take. So `agent.py status` and the uploader take the
digests that are there, and know how many files still wait for theirs. A file that was written again has another
modification time, size or inode, and waits again. A file that is not complete waits too (`outputs/complete_files.py`).

The digests are in `agent/digests.json`; where the disk is full, in the targets of symbolic links, which take no block.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from infra.instance.outputs.complete_files import CompleteFiles
from infra.instance.trainer_files import CHECKPOINT, identity, listed, read_json, write_json

PIECE = 1 << 20
LOOK_AGAIN_BYTES = 64 << 20  # while a file is read: was it replaced?
LOOK_AGAIN_S = 1.0  # spent on digests of small files: is a newer checkpoint there?
EVERY_S = 0.2  # between two looks for new files
MOST_SHARE = 0.1  # of the time may go into looking, where there are very many
NICENESS = 10  # the trainer goes first
LINK = "digest:"  # begins the names of links that hold a digest


def cache_path(root: str) -> str:
    """Return the path of the file with the digests."""
    return os.path.join(root, "agent", "digests.json")


def lock_path(root: str) -> str:
    """Return the path of the file that is locked while a whole file is read."""
    return os.path.join(root, "agent", "hasher.lock")


def key_of(name: str, status: os.stat_result) -> str:
    """Return what a digest is kept under: a file with this name and this content."""
    return f"{name}:{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"


def known_digests(root: str) -> dict[str, str]:
    """Return the digests that were written down, by `key_of`."""
    known: dict[str, str] = read_json(cache_path(root), {})
    folder = os.path.join(root, "agent")
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(LINK):
                with contextlib.suppress(OSError, binascii.Error):
                    known[name[len(LINK) :]] = base64.b64decode(os.readlink(os.path.join(folder, name))).hex()
    return known


def save_digests(root: str, digests: dict[str, str], new: dict[str, str]) -> None:
    """Write the digests down; where there is no room, the new ones as links."""
    folder = os.path.join(root, "agent")
    try:
        write_json(cache_path(root), digests)
    except OSError:
        for key, digest in new.items():
            with contextlib.suppress(OSError):  # it is there, or there is no inode left
                os.symlink(base64.b64encode(bytes.fromhex(digest)).decode(), os.path.join(folder, LINK + key))
        raise
    for name in os.listdir(folder):
        if name.startswith(LINK):
            os.unlink(os.path.join(folder, name))


def outputs(root: str, state: dict[str, Any]) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the trainer's checkpoints and sample grids that have a digest, and the sizes of those that wait for one.

    Args:
        root: the run's folder.
        state: of the watch process.
    """
    known = known_digests(root)
    found: list[dict[str, Any]] = []
    waiting: list[int] = []
    for name, _, status in listed(root, state):
        digest = known.get(key_of(name, status))
        if digest is None:
            waiting.append(status.st_size)
        else:
            found.append({"name": name, "step": step_of(name), "size_bytes": status.st_size, "sha256": digest})
    return sorted(found, key=lambda entry: (entry["step"], entry["name"])), waiting


def step_of(name: str) -> int:
    """Return the step in the name of a checkpoint or sample grid."""
    return int(name.split("-")[1].split(".", maxsplit=1)[0])


def order_of(name: str) -> tuple[bool, int]:
    """Return what to sort by: checkpoints first, the newest before the others."""
    return CHECKPOINT.fullmatch(name) is None, -step_of(name)


@contextlib.contextmanager
def alone(root: str) -> Iterator[None]:
    """Keep every other process of this run from reading a whole file at the same time: the disk is the trainer's."""
    with open(lock_path(root), "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Hasher:
    """Computes the digests in a thread of the watch process. The newest checkpoint goes first.

    Args:
        root: the run's folder.
        state: returns the state of the watch process.
        complete: tells which files are complete.
    """

    def __init__(self, root: str, state: Callable[[], dict[str, Any]], complete: CompleteFiles | None = None) -> None:
        self.root = root
        self.state = state
        self.complete = complete or CompleteFiles()
        self.known = known_digests(root)
        self.unsaved: dict[str, str] = {}
        with contextlib.suppress(OSError), open(lock_path(root), "a"):
            pass  # there is room for it now

    def start(self) -> None:
        """Begin, until the process ends."""
        threading.Thread(target=self.run, name="hasher", daemon=True).start()

    def run(self) -> None:
        """Look for new files again and again."""
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)  # Linux: of this thread
        while True:
            began, is_idle = time.monotonic(), True
            with contextlib.suppress(OSError):  # the disk is full, or no more file can be opened: once more
                is_idle = not self.look()
            time.sleep(max(EVERY_S, (time.monotonic() - began) / MOST_SHARE) if is_idle else 0.0)

    def look(self) -> bool:
        """Compute missing digests for a while, and write them down; return whether any was missing.

        Then it is time for another look: a newer checkpoint may be there.
        """
        began, state = time.monotonic(), self.state()
        there: dict[str, str] = {}
        missing: dict[str, tuple[str, os.stat_result]] = {}
        for name, path, status in listed(self.root, state):
            digest = self.known.get(key_of(name, status))
            if digest is None:
                missing[path] = (name, status)
            else:
                there[key_of(name, status)] = digest
        is_over = state["trainer"]["state"] == "exited"
        complete = self.complete.of({path: status for path, (_, status) in missing.items()}, is_over=is_over)
        new: dict[str, str] = {}
        until = time.monotonic() + max(LOOK_AGAIN_S, (time.monotonic() - began) / MOST_SHARE)
        for path in sorted(complete, key=lambda path: order_of(missing[path][0])):
            name, status = missing[path]
            digest = self.digest_of(path, identity(status))
            if digest:
                new[key_of(name, status)] = digest
            if time.monotonic() > until:
                break
        is_changed = bool(new) or len(there) != len(self.known)
        self.known = {**there, **new}
        self.unsaved.update(new)
        if is_changed or self.unsaved:
            save_digests(self.root, self.known, self.unsaved)
            self.unsaved = {}
        return bool(new)

    def digest_of(self, path: str, mark: list[int]) -> str:
        """Return the SHA-256 of a file, "" if it is another one now, or was written to meanwhile."""
        digest = hashlib.sha256()
        left = LOOK_AGAIN_BYTES
        try:
            with alone(self.root), open(path, "rb") as file:
                while identity(os.fstat(file.fileno())) == mark:
                    piece = file.read(PIECE)
                    digest.update(piece)
                    left -= len(piece)
                    if not piece:
                        return digest.hexdigest() if identity(os.stat(path)) == mark else ""
                    if left < 0:
                        left = LOOK_AGAIN_BYTES
                        if identity(os.stat(path)) != mark:
                            break
        except OSError:
            pass  # the trainer has pruned it
        return ""
