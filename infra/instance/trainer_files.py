"""The trainer's files: their list, digests and content.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import sys
import tarfile
from typing import Any, Callable, Iterator

CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,12})\.[A-Za-z0-9]{1,20}")
SAMPLES = re.compile(r"samples-([0-9]{1,12})\.png")  # the same names as in `orchestrator/runs/outputs.py`
OWN_FILES = ("metrics.jsonl", "trainer.log")  # sent to the owner line by line
HEAD_BYTES = 4096  # of the metrics: they tell one file from another
MOST_BYTES_A_POLL = 256 * 1024  # limit of metrics and of log in the answer to one poll


def write_json(path: str, value: Any) -> None:
    """Replace the file at `path` atomically: a reader sees the old or the new content, never a part."""
    temporary = "%s.%d.tmp" % (path, os.getpid())
    try:
        with open(temporary, "w") as file:
            file.write(json.dumps(value))  # `json.dump` takes ten times as long: it encodes in Python
    except OSError:
        os.unlink(temporary)
        raise
    os.replace(temporary, path)


def link_outputs(root: str, *, has_metrics: bool, say: Callable[[str], None]) -> None:
    """Link `out/` into the working folder, for a program that reads and writes its files only there.

    What the user's folder had under such a name is from an earlier run: it would hide the metrics of this one, and
    the checkpoint to resume from. It is set aside.

    Args:
        root: the run's folder.
        has_metrics: whether the program's own metrics are read in both places: then their file is not linked.
        say: is told what was set aside.
    """
    out, code = os.path.join(root, "out"), os.path.join(root, "code")
    metrics = [] if has_metrics else ["metrics.jsonl"]
    for name in metrics + [n for n in os.listdir(out) if CHECKPOINT.fullmatch(n)]:
        link, target = os.path.join(code, name), os.path.join(out, name)
        if os.path.isdir(link) or (os.path.islink(link) and os.readlink(link) == target):
            continue
        if os.path.lexists(link):
            aside = os.path.join(root, "agent", "set-aside")
            os.makedirs(aside, exist_ok=True)
            os.replace(link, os.path.join(aside, name))
            say("%s of the sent folder is set aside: the run's own file has this name" % name)
        os.symlink(target, link)


def read_json(path: str, default: Any) -> Any:
    """Return the JSON in `path`, or `default` if the file is missing or not valid JSON."""
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return default


def touch(path: str, text: str | None = None) -> None:
    """Create the file or set its time to now; `text` replaces its content."""
    with open(path, "a" if text is None else "w") as file:
        file.write(text or "")
    os.utime(path)


def sha256_of(path: str) -> str:
    """Return the SHA-256 of a file as hex digits; the file is read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def identity(status: os.stat_result) -> list[int]:
    """Return what tells whether a file was written again."""
    return [status.st_mtime_ns, status.st_size, status.st_ino]


def found_in_code(root: str) -> dict[str, list[int]]:
    """Return the files in `code/` that are named like the trainer's, before it starts: code sync put them there.

    Their times do not tell: the clock of a machine may be set back, for example by chrony, after the trainer's start.
    """
    code, found = os.path.join(root, "code"), {}
    for name in os.listdir(code):
        if CHECKPOINT.fullmatch(name) or SAMPLES.fullmatch(name):
            try:
                found[name] = identity(os.stat(os.path.join(code, name)))
            except OSError:
                continue
    return found


def own_path(root: str, state: dict[str, Any], name: str) -> tuple[str, os.stat_result] | None:
    """Return (path, stat) of one of the trainer's files: in `out/`, or written since its start in `code/`.

    If it is in both, the newer one counts: a program that replaces its file, as `os.replace` does, replaces our link
    to the one in `out/` too.

    Args:
        root: the run's folder.
        state: of the watch process.
        name: of the file.
    """
    before = state.get("code_before")  # an agent of 0.1.0 wrote down its start only
    found = []
    for folder in ("out", "code"):
        path = root + os.sep + folder + os.sep + name  # `os.path.join` of 100,000 files takes a tenth of a second
        try:
            status = os.stat(path)
        except OSError:
            continue  # the trainer has just pruned it
        if not stat.S_ISREG(status.st_mode):
            continue  # to open a pipe would wait for its writer
        if folder == "code":
            is_old = (
                status.st_mtime < state.get("started_at", 0.0) - 1
                if before is None
                else before.get(name) == identity(status)
            )
            if is_old or os.path.islink(path):
                continue  # code sync or the agent put it there, not the trainer
        found.append((path, status))
    return max(found, key=lambda one: one[1].st_mtime_ns) if found else None


def listed(root: str, state: dict[str, Any]) -> Iterator[tuple[str, str, os.stat_result]]:
    """Yield (name, path, stat) of the trainer's checkpoints and sample grids; see `own_path`."""
    names: dict[str, None] = {}
    for folder in ("out", "code"):
        try:
            names.update(dict.fromkeys(os.listdir(os.path.join(root, folder))))
        except OSError:
            continue
    for name in names:
        if CHECKPOINT.fullmatch(name) or SAMPLES.fullmatch(name):
            found = own_path(root, state, name)
            if found is not None:
                yield (name, *found)


def metrics_path(root: str, state: dict[str, Any]) -> str:
    """Return the path of the trainer's metrics, where they would be if there are none yet."""
    found = own_path(root, state, "metrics.jsonl")
    return found[0] if found is not None else os.path.join(root, "out", "metrics.jsonl")


def new_metrics(root: str, state: dict[str, Any], offset: int, whole_lines: bool) -> tuple[str, int, int]:
    """Return what `new_text` does for the metrics, also if the trainer has begun them anew.

    The owner appends what it gets to a file whose size is `offset`: the new file follows the one before. A file that
    begins like the one before is that file, with its history written again.
    """
    path = metrics_path(root, state)
    kept = os.path.join(root, "agent", "metrics.begin.json")
    known = read_json(kept, {"at": 0, "head": ""})
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES).decode("latin-1")
    except OSError:
        return "", offset, offset
    common = min(len(head), len(known["head"]))
    begins_at = known["at"] if head[:common] == known["head"][:common] and known["at"] <= offset else offset
    now = {"at": begins_at, "head": head if begins_at != known["at"] or len(head) > common else known["head"]}
    if now != known:
        try:
            write_json(kept, now)
        except OSError:
            if begins_at != known["at"]:
                return "", offset, offset  # the disk is full: without the mark it would be sent again and again
    text, end, size = new_text(path, offset - begins_at, whole_lines)
    return text, begins_at + end, begins_at + size


def new_text(path: str, offset: int, whole_lines: bool) -> tuple[str, int, int]:
    """Return (text, new offset, size of the file in bytes): what a growing file has from byte `offset` on.

    Args:
        path: of the file.
        offset: in bytes.
        whole_lines: whether a last line without an end waits for the rest of it.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(offset)
            data = file.read(MOST_BYTES_A_POLL)
    except OSError:
        return "", offset, 0
    end = data.rfind(b"\n") + 1
    if not whole_lines or (end == 0 and len(data) == MOST_BYTES_A_POLL):
        end = len(data)  # a line longer than the limit is sent in pieces
    text = data[:end].decode(errors="surrogateescape")  # the owner restores the same bytes
    return text, offset + end, max(size, offset + end)


def read(root: str, name: str, offset: int) -> None:
    """Write one of the trainer's files to standard output, from byte `offset` on."""
    if not (CHECKPOINT.fullmatch(name) or SAMPLES.fullmatch(name)):
        raise SystemExit("read: %r is not a checkpoint or sample file of the trainer" % name)
    found = own_path(root, read_json(os.path.join(root, "agent", "state.json"), {}), name)
    if found is None:
        raise SystemExit("read: %s does not exist any more" % name)
    with open(found[0], "rb") as file:
        file.seek(offset)
        for piece in iter(lambda: file.read(1 << 22), b""):
            touch(os.path.join(root, "agent", "heard"))  # a long download counts as a sign of life of the owner
            sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def others(root: str) -> list[dict[str, Any]]:
    """Return the extra outputs: all files in `out/` but checkpoints, sample grids, metrics and log."""
    out, found = os.path.join(root, "out"), []
    for folder, folders, names in os.walk(out):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, out)
            is_known = CHECKPOINT.fullmatch(relative) or SAMPLES.fullmatch(relative) or relative in OWN_FILES
            if name.startswith(".") or is_known or os.path.islink(path) or not os.path.isfile(path):
                continue
            try:
                found.append({"name": relative, "size_bytes": os.stat(path).st_size})
            except OSError:
                continue
    return sorted(found, key=lambda entry: str(entry["name"]))


def pack(root: str, names: list[str]) -> None:
    """Write files of `out/` to standard output as a tar. A file that is missing or outside `out/` is skipped."""
    there = {entry["name"] for entry in others(root)}
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            if name in there:
                touch(os.path.join(root, "agent", "heard"))
                try:
                    tar.add(os.path.join(root, "out", name), arcname=name, recursive=False)
                except OSError:
                    continue
    sys.stdout.buffer.flush()
