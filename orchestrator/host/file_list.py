"""The files of a folder that may be sent: by git where git manages it, by a walk elsewhere; links stay inside."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import SpecError
from orchestrator.host.git_files import DEEPEST, is_in_git, is_repository, listed_by_git

# Left out where git does not say what to ignore.
USUAL = (
    ".venv",
    "venv",
    "env",
    "node_modules",
    "__pycache__",
    "*.pyc",
    "*.egg-info",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".ipynb_checkpoints",
    ".DS_Store",
    ".tox",
    "wandb",
)
MOST_LINKS = 40  # in one chain, as Linux follows them
HOME_ID = re.compile(rb"[0-9a-f]{12}\s*")  # as `home_id` makes them

UNREAD = {errno.EACCES: "files that you may not read", errno.ENAMETOOLONG: "paths that are too long"}
"""Why a path that is there cannot be looked at."""


@dataclass(frozen=True)
class FileList:
    """The names of files and links as paths relative to a folder, and what is missing, for people."""

    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


def list_files(folder: Path, *, depth: int = 0) -> FileList:
    """Return what git does not ignore, or without git what `USUAL` does not name.

    A repository inside (a submodule, a clone) is listed by its own rules, at any depth.

    Raises:
        SpecError: git refuses or fails.
    """
    if depth > DEEPEST:
        raise SpecError(f"--workdir: {folder} is the {DEEPEST}th repository inside of another; leave them out with git")
    if is_in_git(folder):
        listing = listed_by_git(folder)
        names, inner = list(listing.files), listing.repositories
    else:
        walked = list(walk(folder, ".", leave_out=USUAL))
        inner = tuple(name.rstrip("/") for name in walked if name.endswith("/"))
        names = [name for name in walked if not name.endswith("/")]
    notes: list[str] = []
    for name in inner:
        if os.path.isdir(folder / name) and not _may_list(folder / name):
            names.append(name)
            continue
        below = _inner_files(folder, name, depth)
        names += [f"{name}/{file}" for file in below.files]
        notes += below.notes
    return FileList(tuple(names), tuple(notes))


def _inner_files(folder: Path, name: str, depth: int) -> FileList:
    """Return the files of a submodule or of a clone, relative to it."""
    path = folder / name
    if os.path.islink(path) or not os.path.isdir(path):
        return FileList(())
    if is_repository(path):
        below = list_files(path, depth=depth + 1)
        return FileList(below.files, below.notes)
    if not any(path.iterdir()):
        note = f"{name} is a submodule that is not checked out, so that nothing of it is sent"
        return FileList((), (f"{note}: git submodule update --init",))
    return FileList(tuple(file for file in walk(path, ".", leave_out=USUAL) if not file.endswith("/")))


def walk(folder: Path, start: str, leave_out: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield files and links below `start` as paths relative to `folder`; no link is followed.

    A folder that cannot be read is yielded too, for `Inside` to name it.

    Args:
        folder: what the paths are relative to.
        start: a folder in it; "." for itself.
        leave_out: globs of names that are left out, and with them everything below. With some, a repository inside is
            not entered, and yielded with a slash at its end.
    """
    unread: list[OSError] = []
    for here, folders, files in os.walk(folder / start, onerror=unread.append):
        relative = os.path.relpath(here, folder)
        place = "" if relative == "." else f"{relative}/"
        enter = []
        for name in sorted(folders):
            if name == ".git" or any(fnmatch.fnmatch(name, pattern) for pattern in leave_out):
                continue
            if os.path.islink(os.path.join(here, name)):
                yield place + name
            elif leave_out and is_repository(Path(here, name)):
                yield f"{place}{name}/"
            else:
                enter.append(name)
        folders[:] = enter
        for name in files:
            if not any(fnmatch.fnmatch(name, pattern) for pattern in leave_out):
                yield place + name
    yield from (os.path.relpath(error.filename, folder) for error in unread)


def _may_list(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def _is_home(folder: str) -> bool:
    """Return whether a folder is a home of pixel-orch: it has the keys of the runs and what they sent."""
    try:
        with open(os.path.join(folder, "id"), "rb") as file:
            return os.path.isdir(os.path.join(folder, "runs")) and HOME_ID.fullmatch(file.read(64)) is not None
    except OSError:
        return False


class Inside:
    """Tells which names of a folder lead to nothing outside of it, over the whole path and each link of a chain.

    Args:
        folder: of which files are sent.
        asked: relative paths that are wanted by name.
    """

    def __init__(self, folder: Path, asked: Sequence[str] = ()) -> None:
        self.folder = folder
        self.root = os.path.realpath(folder)
        self.asked = asked
        self._plain: dict[str, bool] = {"": True}
        self._of_home: dict[str, bool] = {"": _is_home(self.root)}

    def may_send(self, name: str) -> bool:
        """Return whether a name is that of a file, or of a link that stays inside, which no link leads to."""
        return self.why_not(name) is None

    def why_not(self, name: str) -> str | None:
        """Return why a name is not sent: a plural for people, "" where nobody expects it; None if it is."""
        parts = name.split("/")
        if os.path.isabs(name) or {"..", ".", ""} & set(parts) or ".git" in (part.lower() for part in parts):
            return ""
        if not self._is_plain("/".join(parts[:-1])):
            return ""  # what the link leads to is sent under its own name, if it is inside
        try:
            status = os.lstat(self._path(name))
        except OSError as error:
            return UNREAD.get(error.errno or 0, "")  # git still lists what is gone
        if self._is_of_home("/".join(parts[:-1])) and not self._is_asked_for(name):
            return "files of a home of pixel-orch"
        return self._why_not_of_kind(self._path(name), status.st_mode)

    def _why_not_of_kind(self, path: str, mode: int) -> str | None:
        if stat.S_ISLNK(mode):
            return None if self._stays(path) else "links that lead out of the folder, or in a circle"
        if stat.S_ISDIR(mode):
            return "" if _may_list(Path(path)) else "folders that you may not read"
        if not stat.S_ISREG(mode):
            return "pipes, sockets or devices"
        return None if os.access(path, os.R_OK) else UNREAD[errno.EACCES]

    def _is_plain(self, folder: str) -> bool:
        """Return whether no part of a relative folder is a link."""
        return _of_all_parts(folder, self._plain, lambda above, part: above and not os.path.islink(self._path(part)))

    def _is_of_home(self, folder: str) -> bool:
        """Return whether a relative folder is a home of pixel-orch, or in one."""
        return _of_all_parts(folder, self._of_home, lambda above, part: above or _is_home(self._path(part)))

    def _is_asked_for(self, name: str) -> bool:
        """Return whether a name of a home is wanted: who includes a folder that has a home in it does not mean that."""
        return any(f"{name}/".startswith(f"{one}/") and self._is_of_home(one) for one in self.asked)

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _stays(self, path: str) -> bool:
        """Return whether each link of a chain is relative and leads below the folder, also to what is not there yet."""
        for _ in range(MOST_LINKS):
            if not os.path.islink(path):
                return self._is_below(os.path.realpath(path))
            target = os.readlink(path)
            if os.path.isabs(target):
                return False
            joined = os.path.join(os.path.dirname(path), target.rstrip("/"))
            name = os.path.basename(joined)
            if name in ("", ".", ".."):
                path = os.path.realpath(joined)
            else:
                path = os.path.join(os.path.realpath(os.path.dirname(joined)), name)
            if not self._is_below(path):
                return False
        return False

    def _is_below(self, path: str) -> bool:
        return path.startswith(self.root.rstrip("/") + "/")


def _of_all_parts(folder: str, known: dict[str, bool], found: Callable[[bool, str], bool]) -> bool:
    """Return what holds for a relative folder, from what holds for the folder above it; keep it in `known`."""
    unknown = []
    while folder not in known:
        unknown.append(folder)
        folder = folder.rpartition("/")[0]
    holds = known[folder]
    for each in reversed(unknown):
        holds = known[each] = found(holds, each)
    return holds
