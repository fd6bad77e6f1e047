"""Finds the files of measurements, and the saves, in the folders that a program writes to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

LEFT_OUT = frozenset(
    (".git", "__pycache__", "node_modules", ".venv", "venv", "site-packages", ".cache", ".tox", ".mypy_cache")
)
MOST_ENTRIES = 200_000  # of one look
MOST_DEPTH = 24
MOST_FILES = 1000  # of one kind
LEAST_GAP_S = 2.0
GAP = 300.0  # times as long as a look took: a third of a percent of a core
SAVED = (".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".h5", ".hdf5", ".keras", ".pkl", ".npz", ".npy", ".msgpack",
         ".joblib", ".orbax", ".tar", ".zip", ".onnx", ".weights", ".model", ".params")  # fmt: skip


class Found:
    """What one look at the folders found: paths by kind, and when files were saved."""

    def __init__(self) -> None:
        self.paths: dict[str, list[str]] = {"tensorboard": [], "csv": [], "trainer_state": []}
        self.saved_at: list[float] = []  # unix seconds, by the machine's clock

    def take(self, entry: os.DirEntry[str]) -> None:
        """Take over a file, if it is of a known kind."""
        name = entry.name
        kind = "tensorboard" if "tfevents" in name else KINDS.get(name)
        if kind is not None and len(self.paths[kind]) < MOST_FILES:
            self.paths[kind].append(entry.path)
        elif kind is None and name.endswith(SAVED) and len(self.saved_at) < MOST_ENTRIES:
            self.saved_at.append(entry.stat(follow_symlinks=False).st_mtime)


KINDS = {"metrics.csv": "csv", "trainer_state.json": "trainer_state"}


def look(folders: tuple[str, ...]) -> Found:
    """Look through the folders; links to folders are not followed, and what cannot be read is passed over."""
    found, left = Found(), MOST_ENTRIES
    for entry in _files(folders):
        left -= 1
        if left < 0:
            break
        try:
            found.take(entry)
        except OSError:
            continue
    return found


def _files(folders: tuple[str, ...]) -> Iterator[os.DirEntry[str]]:
    waiting = [(folder, 0) for folder in reversed(folders)]
    while waiting:
        folder, depth = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        yield entry
                    elif entry.name not in LEFT_OUT and depth < MOST_DEPTH:
                        waiting.append((entry.path, depth + 1))
        except OSError:
            continue


class Finder:
    """Looks again from time to time: the less often, the longer a look takes.

    Args:
        folders: that are looked through.
    """

    def __init__(self, folders: tuple[str, ...]) -> None:
        self.folders = folders
        self.found = Found()
        self._next_at = float("-inf")

    def look(self, *, is_last: bool = False) -> Found:
        """Return what there is, as of now or of a short while ago."""
        now = time.monotonic()
        if is_last or now >= self._next_at:
            self.found = look(self.folders)
            took_s = time.monotonic() - now
            self._next_at = now + took_s + max(LEAST_GAP_S, GAP * took_s)
        return self.found
