"""Which files are a program's outputs: what it wrote below its working folder, and into `PIXEL_ORCH_OUT`.

A file of the working folder that was sent, and was not written to since, is no output. Names here begin with the folder
that they are in: `work/` (the working folder) or `out/`.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from infra.instance.trainer_files import CHECKPOINT, SAMPLES

WORK, OUT = "work", "out"
FOLDERS = {WORK: "code", OUT: "out"}  # of the run's folder on this machine
MOST_FILES = 200_000
MOST_LEFT = 20  # that are named
OWN = ("metrics.jsonl", "trainer.log")  # in `out/`, of the bundled trainer
GROWS = re.compile(r".*(?:\.(?:log|csv|tsv|jsonl|ndjson|txt|out|err)|tfevents[^/]*)")
"""Names of files that are written line by line, or record by record, in general."""

if TYPE_CHECKING:  # Python 3.8 has no `list[...]`
    Mark = list[Any]  # what tells whether a file was written again


class Found(NamedTuple):
    """A file or a link below one of the folders."""

    path: str
    mark: Mark
    status: os.stat_result | None
    target: str = ""  # of a link, relative


def mark_of(status: os.stat_result) -> Mark:
    """Return what tells whether a file was written again."""
    return [status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino]


class Rules:
    """Which names are outputs.

    Args:
        only: patterns; where there are any, no other file is an output. They also take what `ignored` leaves out.
        ignored: patterns of what is left out where `only` does not name it.
        never: patterns of what is left out in any case.
        takes_metrics: whether `metrics.jsonl` is a file like any other.

    A pattern is matched with the path below the folder, and with each folder on its way. `*` matches no slash, `**` any
    number of folders; a pattern without a slash matches at any depth.
    """

    def __init__(
        self,
        only: Sequence[str] = (),
        ignored: Sequence[str] = (),
        never: Sequence[str] = (),
        *,
        takes_metrics: bool = False,
    ) -> None:
        self.only = list(only)
        self.own = OWN[1:] if takes_metrics else OWN
        self._only = _compiled(only)
        self._wide = (tuple(ignored), tuple(never))
        self._ignored = _compiled(ignored)
        self._never = _compiled(never)
        self._known: dict[str, bool] = {}

    def wide(self) -> Rules:
        """Return the rules without `only`."""
        return Rules((), *self._wide, takes_metrics=self.own != OWN)

    def unmatched(self, paths: Iterable[str]) -> list[str]:
        """Return those of the patterns of `only` that name none of these paths."""
        left = {pattern: re.compile(_regex(pattern)) for pattern in self.only}
        for path in paths:
            left = {pattern: regex for pattern, regex in left.items() if regex.fullmatch(path) is None}
            if not left:
                break
        return list(left)

    def is_output(self, path: str) -> bool:
        """Return whether a file at this path is one."""
        if path not in self._known:
            if len(self._known) > 2 * MOST_FILES:
                self._known.clear()
            self._known[path] = self._decide(path)
        return self._known[path]

    def _decide(self, path: str) -> bool:
        if _matches(self._never, path):
            return False
        if self._only is not None:
            return _matches(self._only, path)
        return not _matches(self._ignored, path)

    def may_enter(self, folder: str) -> bool:
        """Return whether there can be outputs below a folder."""
        if _matches(self._never, folder):
            return False
        return self._only is not None or not _matches(self._ignored, folder)


def _compiled(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(_regex(pattern) for pattern in patterns)) if patterns else None


def _regex(pattern: str) -> str:
    """Return a regular expression for the paths, and folders on the way to them, that a pattern names."""
    text = pattern.rstrip("/")
    text = text[2:] if text.startswith("./") else text
    anywhere = "/" not in text
    found, at = [], 0
    text = text.lstrip("/")
    while at < len(text):
        if text.startswith("**/", at):
            found.append("(?:[^/]+/)*")
            at += 3
        elif text.startswith("**", at):
            found.append(".*")
            at += 2
        elif text[at] == "[" and _class_end(text, at):
            end = _class_end(text, at)
            found.append(_class(text[at + 1 : end]))
            at = end + 1
        else:
            found.append({"*": "[^/]*", "?": "[^/]"}.get(text[at], re.escape(text[at])))
            at += 1
    return f"(?:{'(?:.*/)?' if anywhere else ''}{''.join(found)}(?:/.*)?)"


def _class_end(text: str, at: int) -> int:
    """Return where the `]` of the `[` at this place is, 0 without one. Right after `[` or `[!` it is a letter."""
    begin = at + 2 if text[at + 1 : at + 2] in ("!", "^") else at + 1
    return max(0, text.find("]", begin + 1))


def _class(inner: str) -> str:
    """Return one letter of those in the brackets; a range that ends before it begins has none, as in a shell."""
    is_not, inner = inner[0] in "!^", inner[1:] if inner[0] in "!^" else inner
    letters, at = [], 0
    while at < len(inner):
        if inner[at + 1 : at + 2] == "-" and at + 2 < len(inner):
            first, last = inner[at], inner[at + 2]
            letters += [re.escape(first) + "-" + re.escape(last)] if first <= last else []
            at += 3
        else:
            letters.append(re.escape(inner[at]))
            at += 1
    if not letters:
        return "[^/]" if is_not else "(?!)"
    some = "".join(letters)
    return "[^/" + some + "]" if is_not else "(?:(?!/)[" + some + "])"


def _matches(pattern: re.Pattern[str] | None, path: str) -> bool:
    return pattern is not None and pattern.fullmatch(path) is not None


class Scan:
    """One look at both folders: `files` by name, and `left`: (name, why) of what cannot be an output."""

    def __init__(self, root: str, rules: Rules) -> None:
        self.files: dict[str, Found] = {}
        self.left: list[tuple[str, str]] = []
        self.is_cut = False  # there are more files than are taken
        self._rules = rules
        for name, folder in FOLDERS.items():
            self._top = os.path.join(root, folder)
            self._walk(self._top, name, "")

    def _walk(self, folder: str, root: str, below: str) -> None:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            return  # removed, or not to be read
        for entry in entries:
            path = below + entry.name
            if len(self.files) >= MOST_FILES:
                self.is_cut = True
                return
            try:
                if entry.is_symlink():
                    if not self._is_own(root, path) and self._rules.is_output(path):
                        self._take_link(entry.path, root, path)
                elif entry.is_dir():
                    if self._rules.may_enter(path):
                        self._walk(entry.path, root, path + "/")
                elif not self._is_own(root, path) and self._rules.is_output(path):
                    self._take_file(entry, root, path)
            except OSError:
                continue  # removed meanwhile

    def _is_own(self, root: str, path: str) -> bool:
        """Return whether pixel-orch carries this file in another way: metrics and log by line, checkpoints by step."""
        if "/" in path:
            return False
        return bool(CHECKPOINT.fullmatch(path) or SAMPLES.fullmatch(path)) or (root == OUT and path in self._rules.own)

    def _take_file(self, entry: os.DirEntry[str], root: str, path: str) -> None:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            self.files[root + "/" + path] = Found(entry.path, mark_of(status), status)
        else:
            self.left.append((path, "a pipe, a socket or a device"))

    def _take_link(self, path: str, root: str, name: str) -> None:
        target = os.readlink(path)
        folder = os.path.dirname(path)
        leads_to = os.path.normpath(os.path.join(folder, target))
        if leads_to != self._top and not leads_to.startswith(self._top + os.sep):
            self.left.append((name, "a link out of the folder"))
            return
        relative = target if not os.path.isabs(target) else os.path.relpath(leads_to, folder)
        self.files[root + "/" + name] = Found(path, ["->" + relative], None, relative)


def may_grow(name: str) -> bool:
    """Return whether a file of this name is, in general, written line by line, or record by record."""
    return GROWS.fullmatch(name) is not None


def whole_part(path: str, size_bytes: int, from_bytes: int = 0) -> int:
    """Return how many bytes of a growing file are whole lines, or whole records of a TensorBoard event file.

    Args:
        path: of the file.
        size_bytes: as far as it is looked at.
        from_bytes: so much is known to be whole.
    """
    with open(path, "rb") as file:
        if "tfevents" in os.path.basename(path):
            return _whole_records(file, size_bytes, from_bytes)
        at = size_bytes
        while at > from_bytes:
            begin = max(from_bytes, at - (1 << 16))
            file.seek(begin)
            found = file.read(at - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            at = begin
    return from_bytes


def _whole_records(file: Any, size_bytes: int, at: int) -> int:
    """Return where the last whole record ends: 8 bytes of length, 4 of its checksum, the record, 4 of its checksum.

    https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """
    while at + 12 <= size_bytes:
        file.seek(at)
        length = int.from_bytes(file.read(8), "little")
        if at + 16 + length > size_bytes:
            break
        at += 16 + length
    return at
