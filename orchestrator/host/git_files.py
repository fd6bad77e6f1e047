"""Asks git which files of a folder it does not ignore, so that the folder's own configuration cannot run anything.

A cloned repository is a stranger's: its `.git/config` may name programs (`core.fsmonitor`, hooks, filters, a remote's
`uploadpack` that a missing object starts). Only `rev-parse` and `ls-files` are called; what these two could start is
switched off on the command line, which wins over every file, and no transport is allowed.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import SpecError
from orchestrator.formatting import one_line

SAFE = (
    ("core.fsmonitor", "false"),  # a program that git asks for changed files
    ("core.useBuiltinFSMonitor", "false"),
    ("core.hooksPath", os.devnull),
    ("core.sshCommand", "false"),
    ("core.untrackedCache", "false"),
    ("core.bare", "false"),
    ("safe.bareRepository", "explicit"),  # a folder that looks like a bare repository is not one
    ("protocol.allow", "never"),
    ("submodule.recurse", "false"),
)
"""Settings of git that win over those of the folder (https://git-scm.com/docs/git-config)."""

OTHER_REPOSITORY = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_LITERAL_PATHSPECS",
    "GIT_GLOB_PATHSPECS",
    "GIT_NOGLOB_PATHSPECS",
    "GIT_ICASE_PATHSPECS",
    "GIT_EXTERNAL_DIFF",
)
"""Variables that point git to another repository than the folder's, as in a hook of git, or that change `.`."""

QUIET = {
    "LC_ALL": "C",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}
"""Variables of git: English messages, no network, no question, nothing written."""

TIMEOUT_S = 120.0  # a folder's configuration may name a pipe that nobody writes to
DEEPEST = 20  # repositories inside of repositories
UNREAD = re.compile(rb"^warning: could not open directory '(.+)/': ", re.MULTILINE)  # with LC_ALL=C
NO_REPOSITORY = "not a git repository (or any"  # with LC_ALL=C; "not a git repository: PATH" is a broken one


@dataclass(frozen=True)
class Listing:
    """What git names in a folder: files, and repositories inside of it, as paths relative to the folder."""

    files: tuple[str, ...]
    repositories: tuple[str, ...]  # submodules and clones, whether checked out or not


def is_in_git(folder: Path) -> bool:
    """Return whether git manages a folder.

    Raises:
        SpecError: git refuses or fails (the message has git's words), or is not installed where it is needed.
    """
    try:
        asked = _git(folder, "rev-parse", "--is-inside-work-tree", "--show-toplevel")
    except FileNotFoundError:
        if any(os.path.exists(place / ".git") for place in (folder, *folder.parents)):
            raise SpecError(
                f"--workdir: {folder} is in a git repository, and git is not installed; install it: it decides what "
                "is not sent"
            ) from None
        return False
    if asked.returncode == 0:
        if asked.stdout.split(b"\n")[0] == b"true":
            return True
        raise SpecError(f"--workdir: {folder} is not in the work tree of its git repository; give its work tree")
    words = asked.stderr.decode(errors="replace")
    if NO_REPOSITORY in words and not _has_remains(folder):
        return False
    raise _refusal(folder, words)


def listed_by_git(folder: Path) -> Listing:
    """Ask git itself: an imitation of its ignore rules gets corner cases wrong.

    Raises:
        SpecError: git refuses or fails; the message has git's words.
    """
    words = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate", ".")
    asked = _git(folder, *words, settings=(*SAFE, ("core.excludesFile", _own_excludes_file())))
    if asked.returncode != 0:
        raise _refusal(folder, asked.stderr.decode(errors="replace"))
    files, repositories = [], []
    for raw in asked.stdout.split(b"\0"):
        name = os.fsdecode(raw)
        path = f"{folder}/{name}"
        if not name:
            continue
        if name.endswith("/") or (os.path.isdir(path) and not os.path.islink(path)):
            repositories.append(name.rstrip("/"))
        else:
            files.append(name)
    return Listing((*files, *_unread(folder, asked.stderr)), tuple(dict.fromkeys(repositories)))


def _unread(folder: Path, words: bytes) -> list[str]:
    """Return the folders that git could not read: it only warns, with paths from the top of the repository."""
    found = [os.fsdecode(name) for name in UNREAD.findall(words)]
    if not found:
        return []
    top = os.fsdecode(_git(folder, "rev-parse", "--show-toplevel").stdout.rstrip(b"\n"))
    return [os.path.relpath(os.path.join(top, name), os.path.realpath(folder)) for name in found]


def is_repository(folder: Path) -> bool:
    """Return whether a folder is the top of a repository of its own."""
    return os.path.lexists(folder / ".git")


def _has_remains(folder: Path) -> bool:
    """Return whether there is a repository that git does not see: damaged, and its ignore rules would be lost."""
    git = folder / ".git"
    return os.path.isfile(git) or any(os.path.exists(git / name) for name in ("HEAD", "index", "objects"))


def _own_excludes_file() -> str:
    """Return the user's own file of ignore rules: the folder's configuration could name another one in its place."""
    asked = _git(Path("/"), "config", "--get", "--type=path", "core.excludesFile", environment={"GIT_DIR": os.devnull})
    own = os.fsdecode(asked.stdout).rstrip("\n") if asked.returncode == 0 else ""
    config = Path(os.path.expanduser(os.environ.get("XDG_CONFIG_HOME") or "~/.config"))
    return own or str(config / "git" / "ignore")  # where git looks by default


def _refusal(folder: Path, words: str) -> SpecError:
    return SpecError(f"--workdir: git cannot list {folder}: {one_line(' '.join(words.split())) or 'it says nothing'}")


def _git(
    folder: Path,
    *words: str,
    settings: Sequence[tuple[str, str]] = SAFE,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "--no-pager", "--literal-pathspecs"]
    for name, value in settings:
        command += ["-c", f"{name}={value}"]
    own = {name: value for name, value in os.environ.items() if name not in OTHER_REPOSITORY}
    try:
        return subprocess.run(
            [*command, "-C", str(folder), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env={**own, **QUIET, **(environment or {})},
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise SpecError(f"--workdir: git does not answer about {folder} within {TIMEOUT_S:.0f} s") from None
