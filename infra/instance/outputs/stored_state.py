"""A state of a program's outputs as it is written to S3: `outputs/state.json` in a machine's folder.

It is a JSON object: `number`, `is_final` (the program has ended, and nothing newer comes), `is_own` (false for the
state that was restored on this machine: an earlier one stored it, or the owner has it), `files` (all of them, as
`answers.shown` gives them). Another machine has written what is read here: each value is checked.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from infra.instance.outputs.files import FOLDERS, MOST_FILES

MOST_BYTES = 256 << 20
MOST_NUMBER = 1 << 40
MOST_SIZE = 1 << 50
MOST_TIME_NS = 1 << 63
MOST_PATH, MOST_PART = 1024, 255  # bytes
DIGEST = re.compile(r"[0-9a-f]{64}")
KEPT = ("root", "path", "kind", "size", "mtime_ns", "mode", "sha256", "target")


class StoredState(NamedTuple):
    """A state, with its files as `answers.shown` gives them."""

    number: int
    is_final: bool
    is_own: bool
    files: Any  # a list of entries


def to_bytes(number: int, is_final: bool, files: Iterable[Any], *, is_own: bool = True) -> bytes:
    """Return what `from_bytes` reads."""
    shown = [{key: entry[key] for key in KEPT if key in entry} for entry in files]
    return json.dumps({"number": number, "is_final": is_final, "is_own": is_own, "files": shown}).encode()


def from_bytes(raw: bytes) -> StoredState:
    """Return a state.

    Raises:
        ValueError: it makes no sense, or a file of it would lie outside of the run's folder.
    """
    if len(raw) > MOST_BYTES:
        raise ValueError(f"the list of files is longer than {MOST_BYTES} bytes")
    try:
        told = json.loads(raw)
    except RecursionError:
        raise ValueError("the list of files is nested too deep") from None
    if not isinstance(told, dict) or not isinstance(told.get("files"), list) or len(told["files"]) > MOST_FILES:
        raise ValueError("it is no list of files")
    number = _whole(told.get("number"), MOST_NUMBER)
    files = [_entry(raw_entry) for raw_entry in told["files"]]
    if len({(entry["root"], entry["path"]) for entry in files}) < len(files):
        raise ValueError("a file is listed twice")
    return StoredState(number, told.get("is_final") is True, told.get("is_own") is not False, files)


def _entry(raw: Any) -> Any:
    if not isinstance(raw, dict) or raw.get("root") not in list(FOLDERS):
        raise ValueError("a file is in no folder of a program")
    path = _path(raw.get("path"))
    entry = {"root": raw["root"], "path": path, "kind": raw.get("kind"), "size": 0}
    if entry["kind"] == "link":
        return {**entry, "target": _target(path, raw.get("target"))}
    digest = raw.get("sha256")
    if entry["kind"] != "file" or not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise ValueError(f"{path[:80]!r} is no file with a SHA-256")
    entry.update(size=_whole(raw.get("size"), MOST_SIZE), sha256=digest)
    return {**entry, "mtime_ns": _whole(raw.get("mtime_ns"), MOST_TIME_NS), "mode": _whole(raw.get("mode"), 0o777)}


def _whole(value: Any, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is no number from 0 to {most}")
    return value


def _path(path: Any) -> str:
    if not isinstance(path, str) or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"{str(path)[:80]!r} is not a path below its folder")
    raw = os.fsencode(path)
    if len(raw) > MOST_PATH or any(len(part) > MOST_PART for part in raw.split(b"/")):
        raise ValueError(f"{path[:80]!r}... is too long")
    return path


def _target(path: str, target: Any) -> str:
    if not isinstance(target, str) or not target or "\0" in target or len(target) > MOST_PATH:
        raise ValueError(f"{path[:80]!r} is a link to nothing")
    leads_to = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if target.startswith("/") or posixpath.normpath(target) != target or leads_to == ".." or leads_to.startswith("../"):
        raise ValueError(f"{path[:80]!r} is a link out of its folder")
    return target
