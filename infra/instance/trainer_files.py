"""The files of a trainer: which there are, whether they are whole, and their content.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tarfile
from typing import Any, Iterator

CHECKPOINT = re.compile(r"checkpoint-(\d+)\.[A-Za-z0-9]+")
SAMPLES = re.compile(r"samples-(\d+)\.png")
OWN_FILES = ("metrics.jsonl", "trainer.log")  # which come home line by line
MOST_BYTES_A_LOOK = 256 * 1024  # of metrics and of log: what one poll may carry home


def write_json(path: str, value: Any) -> None:
    """Replace the file at `path`: a reader sees the old or the new, never a part."""
    temporary = "%s.%d.tmp" % (path, os.getpid())
    try:
        with open(temporary, "w") as file:
            json.dump(value, file)
    except OSError:
        os.unlink(temporary)
        raise
    os.replace(temporary, path)


def read_json(path: str, default: Any) -> Any:
    """Return the JSON in `path`, or `default` if there is none that is whole."""
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return default


def touch(path: str, text: str | None = None) -> None:
    """Make the file, or make it new; with `text` that is its content."""
    with open(path, "a" if text is None else "w") as file:
        file.write(text or "")
    os.utime(path)


def sha256_of(path: str) -> str:
    """Return the hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def listed(root: str, started_at: float) -> Iterator[tuple[str, str, os.stat_result]]:
    """Yield (name, path) of what the trainer wrote: in `out/`, and in its working folder since it was started."""
    out = os.path.join(root, "out")
    code = os.path.join(root, "code")
    seen = set()
    for folder in (out, code):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            path = os.path.join(folder, name)
            if name in seen or not (CHECKPOINT.fullmatch(name) or SAMPLES.fullmatch(name)):
                continue
            try:
                status = os.stat(path)
            except OSError:
                continue  # pruned in this moment
            if folder == code and (os.path.islink(path) or status.st_mtime < started_at - 1):
                continue  # what was synced or sent by us is not the trainer's
            seen.add(name)
            yield name, path, status


def outputs(root: str, started_at: float) -> list[dict[str, Any]]:
    """Return the trainer's checkpoints and sample grids with size and digest; digests are remembered."""
    cache_path = os.path.join(root, "agent", "digests.json")
    cache: dict[str, str] = read_json(cache_path, {})
    fresh: dict[str, str] = {}
    found: list[dict[str, Any]] = []
    for name, path, status in listed(root, started_at):
        key = "%s:%d:%d:%d" % (name, status.st_size, status.st_mtime_ns, status.st_ino)
        try:
            fresh[key] = cache.get(key) or sha256_of(path)
        except OSError:
            continue
        step = int(name.split("-")[1].split(".")[0])
        found.append({"name": name, "step": step, "size_bytes": status.st_size, "sha256": fresh[key]})
    if fresh != cache:
        try:
            write_json(cache_path, fresh)
        except OSError:
            pass  # the disk is full: they are counted again next time
    return sorted(found, key=lambda entry: (entry["step"], entry["name"]))


def whole_lines(path: str, offset: int) -> tuple[str, int]:
    """Return (text, new offset): the whole lines of a growing file from byte `offset` on."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(MOST_BYTES_A_LOOK)
    except OSError:
        return "", offset
    end = data.rfind(b"\n") + 1
    if end == 0 and len(data) == MOST_BYTES_A_LOOK:
        end = len(data)  # one line longer than a look: it comes in pieces
    return data[:end].decode(errors="surrogateescape"), offset + end  # the owner writes the same bytes again


def read(root: str, name: str, offset: int) -> None:
    """Write one of the trainer's files to standard output, from byte `offset` on."""
    if not (CHECKPOINT.fullmatch(name) or SAMPLES.fullmatch(name)):
        raise SystemExit("read: %r is none of the trainer's files" % name)
    for folder in ("out", "code"):
        path = os.path.join(root, folder, name)
        if os.path.isfile(path):
            with open(path, "rb") as file:
                file.seek(offset)
                for piece in iter(lambda: file.read(1 << 22), b""):
                    touch(os.path.join(root, "agent", "heard"))  # a long pull is a sign of life
                    sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
    raise SystemExit("read: %s is gone" % name)


def others(root: str) -> list[dict[str, Any]]:
    """Return what else lies in `out/`: results, logs of its own, whatever the program wrote there."""
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
    """Write files of `out/` to standard output, as a tar; one that is gone, or lies elsewhere, is left out."""
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
