"""A program's outputs as states: all files as they were at one moment, and how a state differs from another."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from orchestrator.runs import bounded_json
from orchestrator.runs.checked import UNIX_TIMES
from orchestrator.runs.outputs import MOST_PART_BYTES, MOST_PATH_BYTES, MOST_SIZE_BYTES

MOST_TREE_FILES = 200_000
MOST_STATE = 1 << 40
MOST_STATE_BYTES = 256 << 20
CLASH = "PIXEL_ORCH_OUT"  # the folder at home of what both folders on the machine have

TEMPORARY = (
    *(".git", ".hg", ".svn", "__pycache__", "*.pyc", ".ipynb_checkpoints", ".venv", "venv", "node_modules"),
    *(".pytest_cache", ".mypy_cache", ".ruff_cache", ".cache", ".DS_Store", "._*", ".nfs*", "*.swp"),
    *("*.tmp", "*.temp", "*.part", "*.partial", "tmp-checkpoint-*"),
)
"""Patterns of what is no output unless `--outputs` names it: caches, environments, unfinished files."""

Root = Literal["work", "out"]
"""work: below the program's working folder. out: below `PIXEL_ORCH_OUT`."""


@dataclass(frozen=True)
class TreeFile:
    """A file, or a link, of a state."""

    root: Root
    path: str  # as the machine names it, with surrogate escapes where that is not Unicode
    kind: Literal["file", "link"] = "file"
    size_bytes: int = 0
    mtime_ns: int = 0
    mode: int = 0o644
    sha256: str = ""
    target: str = ""  # of a link, relative to its folder
    after_bytes: int = field(default=0, compare=False)  # so many of the first bytes are those of the base's file

    @property
    def name(self) -> str:
        """The path with its root: what identifies it within a state."""
        return f"{self.root}/{self.path}"


@dataclass(frozen=True)
class TreeStatus:
    """What one poll tells of the outputs."""

    state: int  # number of the newest state on the machine, 0 while there is none
    home: int  # number of the one that the machine thinks is here
    is_final: bool  # the program has ended, and nothing newer will come
    new_files: int  # that differ from those of `home`
    new_bytes: int
    pending_files: int  # that are not in any state yet: they are written to, or nothing may be downloaded now
    pending_bytes: int
    files: int
    size_bytes: int
    left: tuple[tuple[str, str], ...] = ()  # (path, why) of what cannot be taken; the first of `left_files`
    left_files: int = 0
    is_cut: bool = False  # there are more files than a state can have
    unmatched: tuple[str, ...] = ()  # patterns of `--outputs` that named no file when the program had ended


@dataclass(frozen=True)
class TreeChanges:
    """How a state differs from its base."""

    state: int
    base: int  # 0: from nothing
    is_final: bool
    files: tuple[TreeFile, ...]
    deleted: tuple[str, ...]
    is_own: bool = True  # in S3: the machine's program has made it; False for what was restored on the machine


@dataclass(frozen=True)
class TreeState:
    """A state as it is kept here.

    Args:
        number: counts the states of a run.
        files: by name.
        on: by attempt: the number that the machine knows this state by.
    """

    number: int = 0
    files: Mapping[str, TreeFile] = field(default_factory=dict)
    on: Mapping[int, int] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files.values())

    def known_on(self, attempt: int, number: int) -> TreeState:
        """Return the state with the number that a machine knows it by."""
        return replace(self, on={**self.on, attempt: number})

    def after(self, changes: TreeChanges) -> dict[str, TreeFile]:
        """Return the files of the state that follows by some changes."""
        gone = set(changes.deleted)
        kept = {name: file for name, file in self.files.items() if name not in gone}
        return {**kept, **{file.name: file for file in changes.files}}

    def to_json(self) -> bytes:
        """Return what `from_json` reads."""
        files = [vars(file) for file in self.files.values()]
        return json.dumps({"number": self.number, "on": self.on, "files": files}).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> TreeState:
        """Read a state.

        Raises:
            ValueError: it is damaged.
        """
        kept = _Kept.model_validate(bounded_json.loads(raw, most_bytes=MOST_STATE_BYTES, keeps_surrogates=True))
        return cls(kept.number, {file.name: file for file in map(_file_of, kept.files)}, kept.on)


def check_tree_path(path: str) -> str:
    """Return a relative POSIX path of a machine that stays below its folder; any byte but NUL may be in it.

    Raises:
        ValueError: it is absolute, leads upwards, or is too long.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in path:
        raise ValueError(f"{path[:80]!r} is not a path below its folder")
    raw = path.encode(errors="surrogateescape")
    if len(raw) > MOST_PATH_BYTES or any(len(part) > MOST_PART_BYTES for part in raw.split(b"/")):
        raise ValueError(f"{path[:80]!r}... is too long")
    return path


def check_target(path: str, target: str) -> str:
    """Return the target of a link at a path, if it stays in the folder that both are in.

    Only leading `..` are allowed: after the name of another link they would lead elsewhere.

    Raises:
        ValueError: it does not.
    """
    leads_to = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    is_short = bool(target) and posixpath.normpath(target) == target and not target.startswith("/")
    if not is_short or leads_to == ".." or leads_to.startswith("../") or "\0" in target:
        raise ValueError(f"{path[:80]!r} is a link out of its folder")
    return target


class TreeEntry(BaseModel):
    """A file of a state, as a machine tells it, or as it is kept here."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, populate_by_name=True)

    root: Root
    path: Annotated[str, AfterValidator(check_tree_path)]
    kind: Literal["file", "link"] = "file"
    size_bytes: Annotated[int, Field(alias="size", ge=0, le=MOST_SIZE_BYTES)] = 0
    mtime_ns: Annotated[int, Field(ge=0, le=int(UNIX_TIMES[1]) * 10**9)] = 0
    mode: Annotated[int, Field(ge=0, le=0o777)] = 0o644
    sha256: Annotated[str, Field(pattern=r"^(?:[0-9a-f]{64})?\z")] = ""
    target: Annotated[str, Field(max_length=MOST_PATH_BYTES)] = ""
    after_bytes: Annotated[int, Field(alias="after", ge=0, le=MOST_SIZE_BYTES)] = 0

    def file(self) -> TreeFile:
        """Return the same, checked as a whole.

        Raises:
            ValueError: a file has no digest, or more first bytes than bytes; a link leads out of its folder.
        """
        found = _file_of(self)
        if self.kind == "link":
            check_target(self.path, self.target)
        elif not self.sha256 or self.after_bytes > self.size_bytes:
            raise ValueError(f"{self.path[:80]!r} has no SHA-256, or more first bytes than bytes")
        return found


def _file_of(entry: TreeEntry) -> TreeFile:
    return TreeFile(**{name: getattr(entry, name) for name in TreeEntry.model_fields})


def _numbers(on: object) -> object:
    return {int(key): value for key, value in on.items()} if isinstance(on, dict) else on


class _Kept(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    number: Annotated[int, Field(ge=0, le=MOST_STATE)]
    on: Annotated[dict[int, int], BeforeValidator(_numbers)] = {}
    files: Annotated[list[TreeEntry], Field(max_length=MOST_TREE_FILES)]


def check_tree(files: Mapping[str, TreeFile]) -> None:
    """Check that no file lies below another one, or below a link.

    Raises:
        ValueError: one does.
    """
    for name in files:
        parent = posixpath.dirname(name)
        while parent not in ("work", "out"):
            if parent in files:
                raise ValueError(f"{name[:80]!r} lies below {parent[:80]!r}, which is no folder")
            parent = posixpath.dirname(parent)


def places(files: Iterable[TreeFile]) -> dict[str, str]:
    """Return where each file lies below `outputs/`, by its name. Pure.

    Both folders of the machine are laid over each other. What `PIXEL_ORCH_OUT` has under a path that is taken by the
    working folder lies in a folder of that name. What no path may have here is written as %XX.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for file in sorted(files, key=lambda file: (file.root != "work", file.path)):
        place = "/".join(_escaped(part) for part in file.path.split("/"))
        if file.root == "out" and not _is_free(place, taken):
            place = f"{CLASH}/{place}"
        while not _is_free(place, taken):
            place = f"{place}~"
        found[file.name] = place
        taken.add(place)
        while "/" in place:
            place = posixpath.dirname(place)
            taken.add(f"{place}/")
    return found


def _is_free(place: str, taken: set[str]) -> bool:
    """Return whether no file has this place, and none of its folders is a file."""
    if place in taken or f"{place}/" in taken:
        return False
    while "/" in place:
        place = posixpath.dirname(place)
        if place in taken:
            return False
    return True


def _escaped(part: str) -> str:
    if part.isprintable():
        return part
    raw = "".join(
        one if one.isprintable() else "".join(f"%{b:02X}" for b in one.encode(errors="surrogateescape")) for one in part
    )
    return raw if len(raw.encode()) <= MOST_PART_BYTES else raw[:200]


def read_entry(raw: object) -> TreeFile:
    """Return a file of a state as a machine tells it.

    Raises:
        ValueError: it makes no sense.
    """
    try:
        return TreeEntry.model_validate(raw).file()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def below(folder: Path, place: str) -> Path:
    """Return the path of a place in a folder of this machine; no link may be on the way to it.

    Raises:
        ValueError: one is.
    """
    target = folder / place
    at = folder
    for part in place.split("/")[:-1]:
        at /= part
        if at.is_symlink():
            raise ValueError(f"{at} is a link")
    return target
