"""What a run sends, fixed at its launch: a copy of the files in the run's folder, from which every attempt is served.

A file that is edited or deleted while the run goes on changes nothing for a later attempt.

    runs/<name>/code/          the files, under their relative paths; read-only
    runs/<name>/code.json      their list with digests, and the folder that they are from
    objects/<aa>/<digest>      one copy of each content; equal files of all runs of the home are hard links to it
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.errors import SpecError
from orchestrator.host.sync import LINK, Tree, manifest
from orchestrator.runs import bounded_json
from orchestrator.runs.files import check_room, sync_folder, write_atomically
from orchestrator.runs.store import RunStore

LIST = "code.json"
MOST_LIST_BYTES = 256 << 20
PIECE = 1 << 20
ZEROS = bytes(PIECE)
PART_S = 86400.0  # an older part is of no living process


@dataclass(frozen=True)
class Difference:
    """What has changed in a folder since a snapshot of it: relative paths, each sorted."""

    changed: tuple[str, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing has."""
        return not (self.changed or self.new or self.gone)


def take(store: RunStore, tree: Tree) -> Tree:
    """Copy the files of a tree into a run's folder; return the copy. One that is there already is replaced.

    Raises:
        SpecError: a file cannot be read, has changed meanwhile, or there is no room for the copies.
    """
    old = store.folder / "code"
    objects = store.home / "objects"
    try:
        objects.mkdir(mode=0o700, exist_ok=True)
        check_room(objects, tree.size_bytes())
        with tempfile.TemporaryDirectory(prefix=".code.", dir=store.folder) as made:
            folder = Path(made) / "code"
            folder.mkdir()
            with closing(_Copier(folder, objects)) as copier:
                digests = {name: copier.copy(f"{tree.folder}/{name}", name) for name in tree.files}
            _remove(old)
            folder.rename(old)
    except OSError as error:
        where = error.filename or store.folder
        raise SpecError(f"--workdir: cannot copy {where} for the run: {error.strerror}") from None
    text = json.dumps({"version": 1, "folder": str(tree.folder), "files": digests})
    write_atomically(store.folder / LIST, text.encode(errors="surrogateescape"), mode=0o600)
    sync_folder(store.folder)
    return Tree(old, tree.files, tree.left_out, tree.notes, digests)


def stored(store: RunStore) -> Tree | None:
    """Return the snapshot of a run; None for a run of version 0.1.0, which has none.

    Raises:
        SpecError: it is damaged.
    """
    path = store.folder / LIST
    if not path.is_file():
        return None
    try:
        raw = bounded_json.loads(path.read_text(errors="surrogateescape"), most_bytes=MOST_LIST_BYTES,
                                 keeps_surrogates=True)  # fmt: skip
        digests = {_checked(name): str(digest) for name, digest in raw["files"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SpecError(f"{path} is damaged ({str(error)[:80]}); launch the run anew") from None
    return Tree(store.folder / "code", tuple(sorted(digests)), digests=digests)


def source_of(store: RunStore) -> Path | None:
    """Return the folder that a run's snapshot was taken of, None without one."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        text = (store.folder / LIST).read_text(errors="surrogateescape")
        return Path(bounded_json.loads(text, most_bytes=MOST_LIST_BYTES, keeps_surrogates=True)["folder"])
    return None


def difference(before: Tree, now: Tree) -> Difference:
    """Return what has changed between a snapshot and the folder as it is now; reads the files of the latter."""
    then, today = dict(before.digests or manifest(before)), manifest(now)
    return Difference(
        changed=tuple(sorted(name for name in then.keys() & today.keys() if then[name] != today[name])),
        new=tuple(sorted(today.keys() - then.keys())),
        gone=tuple(sorted(then.keys() - today.keys())),
    )


def clear_objects(home: Path) -> int:
    """Remove the contents that no run has any more; return how many bytes that frees."""
    freed = 0
    for part in (home / "objects").glob(".part.*"):  # of a process that died
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > PART_S:
                part.unlink()
    for path in _objects(home):
        with suppress(OSError):
            status = path.lstat()
            if status.st_nlink == 1:
                path.unlink()
                freed += status.st_size
    return freed


def _checked(name: str) -> str:
    """Return a path of the list; any name that a file of the user may have is one."""
    if name.startswith("/") or {"", ".", ".."} & set(name.split("/")):
        raise ValueError(f"{name[:80]!r} is not a path below the folder")
    return name


def _objects(home: Path) -> Iterator[Path]:
    with suppress(OSError):
        for folder in sorted((home / "objects").iterdir()):
            if folder.is_dir():
                yield from sorted(folder.iterdir())


class _Copier:
    """Copies files into a folder, as links to the one copy of each content.

    Args:
        folder: where the copies go.
        objects: has the contents by digest.
    """

    def __init__(self, folder: Path, objects: Path) -> None:
        self.folder = str(folder)
        self.objects = str(objects)
        self._part = f"{objects}/.part.{os.getpid()}.{threading.get_ident()}"
        with suppress(FileNotFoundError):
            os.unlink(self._part)
        self._made: set[str] = set()

    def copy(self, source: str, name: str) -> str:
        """Copy one file or link; return its digest in the agent's form."""
        target = f"{self.folder}/{name}"
        self._make(os.path.dirname(target))
        if os.path.islink(source):
            link = os.readlink(source)
            os.symlink(link, target)
            return LINK + link
        with _opened(source) as file:
            status = os.fstat(file.fileno())
            mark = "x" if status.st_mode & 0o111 else ""
            if status.st_size <= PIECE:
                return self._copy_small(file.read(status.st_size), mark, target)
            digest = _digest(file, status.st_size) + mark
            if self._link(digest, status.st_size, target):
                return digest
            file.seek(0)
            return self._copy_large(file, status.st_size, mark, target)

    def _copy_small(self, content: bytes, mark: str, target: str) -> str:
        digest = hashlib.sha256(content).hexdigest() + mark
        if not self._link(digest, len(content), target):
            with open(target, "xb", buffering=0, opener=_MODES[mark]) as copy:
                copy.write(content)
            self._share(digest, target)
        return digest

    def _copy_large(self, file: IO[bytes], most_bytes: int, mark: str, target: str) -> str:
        """Copy a file in pieces. It counts as what this pass reads, and holes of a sparse file stay holes."""
        found = hashlib.sha256()
        with open(self._part, "xb", buffering=0, opener=_MODES[mark]) as copy:
            for piece in _pieces(file, most_bytes):
                found.update(piece)
                if piece == ZEROS:
                    copy.seek(PIECE, os.SEEK_CUR)
                else:
                    _write_all(copy, piece)
            size_bytes = copy.tell()
            copy.truncate(size_bytes)
        os.rename(self._part, target)
        digest = found.hexdigest() + mark
        self._share(digest, target)
        return digest

    def _link(self, digest: str, size_bytes: int, target: str) -> bool:
        """Make the target a link to a content that is there; return False if there is none."""
        content = self._content(digest)
        try:
            if os.lstat(content).st_size == size_bytes:
                os.link(content, target)
                return True
            os.unlink(content)  # a crash of the machine has cut it short
        except OSError:  # none; or no hard links here, or too many of this content
            pass
        return False

    def _share(self, digest: str, target: str) -> None:
        """Let later copies of this content be links to the target; without hard links each is a copy."""
        content = self._content(digest)
        self._make(os.path.dirname(content))
        with suppress(OSError):
            os.link(target, content)

    def _content(self, digest: str) -> str:
        return f"{self.objects}/{digest[:2]}/{digest}"

    def _make(self, folder: str) -> None:
        if folder not in self._made:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            self._made.add(folder)

    def close(self) -> None:
        """Remove what a failed copy has left."""
        with suppress(FileNotFoundError):
            os.unlink(self._part)


_MODES = {
    "": lambda path, flags: os.open(path, flags, 0o400),
    "x": lambda path, flags: os.open(path, flags, 0o500),
}
"""Copies are read-only: a link to the same content is in other runs."""


def _opened(source: str) -> IO[bytes]:
    """Open a regular file, without waiting for the writer of a pipe.

    Raises:
        OSError: it cannot be read, or is no regular file any more.
    """
    number = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(0, "it is not a file any more", source)
    return open(number, "rb", buffering=0)


def _pieces(file: IO[bytes], most_bytes: int) -> Iterator[bytes]:
    """Yield what a file had when it was opened: of a log that grows as fast as it is read there is no end."""
    while most_bytes > 0 and (piece := file.read(min(PIECE, most_bytes))):
        most_bytes -= len(piece)
        yield piece


def _digest(file: IO[bytes], most_bytes: int) -> str:
    found = hashlib.sha256()
    for piece in _pieces(file, most_bytes):
        found.update(piece)
    return found.hexdigest()


def _write_all(file: IO[bytes], piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[file.write(view) :]


def _remove(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)


def changed_words(found: Difference, most: int = 5) -> str:
    """Return a difference for people: `2 changed (a.py, b.py), 1 new (c.py)`; "" for none."""
    parts: Mapping[str, tuple[str, ...]] = {"changed": found.changed, "new": found.new, "gone": found.gone}
    told = []
    for word, names in parts.items():
        if names:
            more = f" and {len(names) - most} more" if len(names) > most else ""
            told.append(f"{len(names)} {word} ({', '.join(names[:most])}{more})")
    return ", ".join(told)
