"""The files of a run that a page offers, and the part of a log that it asks for.

Offered are checkpoints, outputs, samples, logs and metrics: never the run's key, nor what was asked for, which may hold
secrets. A file is opened part by part of its path from the run's folder on, and no link is followed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.dashboard.rows import spelled
from orchestrator.formatting import uncoloured, visible
from orchestrator.runs.files import open_regular
from orchestrator.runs.outputs import MOST_PATH_BYTES, SAMPLES_NAME

MOST_SHOWN = 400  # files in the list of a page
MOST_LOOKED_AT = 20_000  # entries of the outputs; a folder may hold 200,000 files
MOST_DEPTH = 24
LOG_BYTES = 1 << 16  # of one answer
LONGEST_REST = 2_000  # letters of a line without an end
ATTEMPT_FILE = re.compile(r"attempts/[1-9][0-9]{0,8}/(trainer\.log|metrics\.jsonl)")
FOLDERS = ("checkpoints", "outputs")


def is_offered(name: str) -> bool:
    """Return whether a path relative to the run's folder is one that a page may offer; the file may be missing."""
    try:
        if not 0 < len(name.encode()) <= MOST_PATH_BYTES or "\0" in name:
            return False
    except UnicodeEncodeError:
        return False
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return False
    is_below = parts[0] in FOLDERS and 1 < len(parts) <= MOST_DEPTH
    return is_below or SAMPLES_NAME.fullmatch(name) is not None or ATTEMPT_FILE.fullmatch(name) is not None


def open_offered(folder: Path, name: str) -> BinaryIO:
    """Open a file of a run to send it.

    Raises:
        OSError: it is not offered, there is none, it is no regular file, or a link is on its way.
    """
    if not is_offered(name):
        raise FileNotFoundError(name)
    *parents, last = name.split("/")
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parents:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held)
            os.close(held)
            held = inner
        found = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=held)
    finally:
        os.close(held)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise FileNotFoundError(name)
    return os.fdopen(found, "rb")


def files_of(folder: Path) -> dict[str, Any]:
    """Return the files to offer: `shown` (path, size in bytes; at most `MOST_SHOWN`), and how many `more` there are."""
    found: list[tuple[str, int]] = []
    more = 0
    for top in FOLDERS:
        for name, size in _below(folder, top):
            if len(found) >= MOST_SHOWN or not is_offered(name):
                more += 1
            else:
                found.append((name, size))
    return {"shown": [{"path": name, "name": spelled(name), "size": size} for name, size in found], "more": more}


def _below(folder: Path, top: str) -> Iterator[tuple[str, int]]:
    """Yield (path, size) of the regular files below a folder, by name; a link is passed over."""
    left = MOST_LOOKED_AT
    waiting = [top]
    while waiting and left > 0:
        place = waiting.pop()
        try:
            if (folder / place).is_symlink():
                continue
            entries = sorted(os.scandir(folder / place), key=lambda one: one.name)
        except OSError:
            continue
        inner = []
        for entry in entries[:left]:
            left -= 1
            name = f"{place}/{entry.name}"
            try:
                if entry.is_dir(follow_symlinks=False):
                    inner.append(name)
                elif entry.is_file(follow_symlinks=False):
                    yield name, entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue
        if place.count("/") < MOST_DEPTH:
            waiting += inner[::-1]


def log_part(path: Path, start: int) -> dict[str, Any]:
    """Return a part of a log as text without control characters.

    Args:
        path: the log; a missing one is empty.
        start: the byte to begin at; below zero, or behind the end of the file: its last part.

    Returns:
        start (where the part begins), next (where the next one does), size (of the file, bytes), text (whole lines),
        rest (a last line without an end; the next part has it again).
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            is_tail = start < 0 or start > size
            start = max(0, size - LOG_BYTES) if is_tail else start
            data = os.pread(file.fileno(), LOG_BYTES, start)
    except OSError:
        return {"start": 0, "next": 0, "size": 0, "text": "", "rest": ""}
    if is_tail and start:
        cut, found, whole = data.partition(b"\n")
        if found:
            start, data = start + len(cut) + 1, whole
    head, found, rest = data.rpartition(b"\n")
    lines = head + found
    if not found and len(data) == LOG_BYTES:  # a line that is longer than a part
        lines, rest = data, b""
    return {
        "start": start,
        "next": start + len(lines),
        "size": size,
        "text": "".join(f"{_newest(line)}\n" for line in lines.decode(errors="replace").split("\n")[:-1])
        if found
        else visible(lines.decode(errors="replace")),
        "rest": _newest(rest.decode(errors="replace"))[-LONGEST_REST:],
    }


def _newest(line: str) -> str:
    """Return a line as a terminal shows it in the end: a progress bar writes its newest state over the one before."""
    states = [state for state in line.split("\r") if state]
    return visible(uncoloured(states[-1]) if states else "")
