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

from orchestrator.errors import SpecError
from orchestrator.host.sync import LINK, Tree, manifest
from orchestrator.runs import bounded_json
from orchestrator.runs.files import check_room, sync_folder, write_atomically
from orchestrator.runs.store import RunStore

LIST = "code.json"
MOST_LIST_BYTES = 256 << 20
PIECE = 1 << 20
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
                digests = {name: copier.copy(tree.folder / name, name) for name in tree.files}
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
        self.folder = folder
        self.objects = objects
        self._part = objects / f".part.{os.getpid()}.{threading.get_ident()}"
        self._part.unlink(missing_ok=True)
        self._made: set[Path] = set()

    def copy(self, source: Path, name: str) -> str:
        """Copy one file or link; return its digest in the agent's form."""
        target = self.folder / name
        self._make(target.parent)
        if source.is_symlink():
            link = os.readlink(source)
            os.symlink(link, target)
            return LINK + link
        digest = self._stream(source)
        content = self.objects / digest[:2] / digest
        self._make(content.parent)
        if content.exists():
            self._part.unlink()
        else:
            self._part.rename(content)
        try:
            os.link(content, target)
        except OSError:  # no hard links, or too many of them to this content
            shutil.copy2(content, target)
        return digest

    def _make(self, folder: Path) -> None:
        if folder not in self._made:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._made.add(folder)

    def _stream(self, source: Path) -> str:
        """Copy a file in pieces to the part; return its digest, with an x if it is executable."""
        digest = hashlib.sha256()
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # waits for the writer of no pipe
        with os.fdopen(descriptor, "rb") as file, self._part.open("wb") as copy:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(0, "it is not a file any more", str(source))
            while piece := file.read(PIECE):
                digest.update(piece)
                copy.write(piece)
            is_executable = bool(status.st_mode & 0o111)
            os.fchmod(copy.fileno(), 0o500 if is_executable else 0o400)
        return digest.hexdigest() + ("x" if is_executable else "")

    def close(self) -> None:
        """Remove what a failed copy has left."""
        self._part.unlink(missing_ok=True)


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
