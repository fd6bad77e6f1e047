"""Code sync: which files of a folder are sent, and the one tar stream with those that changed."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from orchestrator.errors import SpecError

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


@dataclass(frozen=True)
class Tree:
    """What is sent: a folder, and its files as sorted paths relative to the folder."""

    folder: Path
    files: tuple[str, ...]

    def size_bytes(self) -> int:
        """Return the size of all files."""
        return sum((self.folder / name).lstat().st_size for name in self.files)


def bundled_tree() -> Tree:
    """Return the bundled trainer as it is installed: the package `model`, its Python and data files, nothing else."""
    package = Path(str(resources.files("model")))
    found = [path for kind in ("*.py", "*.json") for path in package.rglob(kind) if "__pycache__" not in path.parts]
    files = sorted(str(path.relative_to(package.parent)) for path in found)
    return Tree(package.parent, tuple(files))


def workdir_tree(folder: Path, include: Sequence[str] = ()) -> Tree:
    """Return a folder of the user without what git ignores (or, without git, without `USUAL`), plus what `include`
    names.

    `.git` is never sent. A link is sent as a link if it points to something inside the folder, and left out if not.

    Raises:
        SpecError: nothing is left to send, or git cannot list the folder.
    """
    names = set(_listed_by_git(folder) if _is_in_git(folder) else _walk(folder, USUAL))
    for entry in include:
        path = folder / entry
        names.update(_walk(path, (), prefix=entry.rstrip("/") + "/") if path.is_dir() else [os.path.normpath(entry)])
    files = sorted(name for name in names if _is_sendable(folder, name))
    if not files:
        raise SpecError(
            f"--workdir: {folder} has no file to send: it is empty, or git ignores all of it; name files with --include"
        )
    return Tree(folder, tuple(files))


def _is_in_git(folder: Path) -> bool:
    try:
        asked = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--is-inside-work-tree"], capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return asked.returncode == 0 and asked.stdout.strip() == b"true"


def _listed_by_git(folder: Path) -> list[str]:
    """Ask git itself: an imitation of its ignore rules gets corner cases wrong."""
    asked = subprocess.run(
        [
            "git",
            "-C",
            str(folder),
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "--deduplicate",
            ".",
        ],
        capture_output=True,
        check=False,
    )
    if asked.returncode != 0:
        raise SpecError(f"--workdir: git cannot list {folder}: {asked.stderr.decode(errors='replace').strip()}")
    return [os.fsdecode(name) for name in asked.stdout.split(b"\0") if name]


def _walk(folder: Path, leave_out: Sequence[str], prefix: str = "") -> Iterator[str]:
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(d for d in folders if d != ".git" and not any(fnmatch.fnmatch(d, p) for p in leave_out))
        relative = os.path.relpath(here, folder)
        for name in files + [d for d in folders if os.path.islink(os.path.join(here, d))]:
            if not any(fnmatch.fnmatch(name, pattern) for pattern in leave_out):
                yield prefix + (name if relative == "." else os.path.join(relative, name))


def _is_sendable(folder: Path, name: str) -> bool:
    path = folder / name
    parts = Path(name).parts
    if ".git" in parts or ".." in parts or os.path.isabs(name):
        return False
    if path.is_symlink():
        target = Path(os.readlink(path))
        return not target.is_absolute() and folder.resolve() in (path.parent / target).resolve().parents
    return path.is_file()


def manifest(tree: Tree) -> dict[str, str]:
    """Return {path: digest} in the agent's form: sha256, plus "x" if executable; a link as `link:<target>`."""
    found = {}
    for name in tree.files:
        path = tree.folder / name
        if path.is_symlink():
            found[name] = "link:" + os.readlink(path)
        else:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[name] = digest + ("x" if os.access(path, os.X_OK) else "")
    return found


def changes(ours: Mapping[str, str], theirs: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return (to send, to delete), each sorted. Pure."""
    send = sorted(name for name, digest in ours.items() if theirs.get(name) != digest)
    delete = sorted(name for name in theirs if name not in ours)
    return send, delete


def write_tar(tree: Tree, send: Sequence[str], delete: Sequence[str], write: Callable[[bytes], object]) -> None:
    """Write the tar stream that `agent.py apply` reads: `.sync.json` first, then the files."""

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            piece = bytes(data)  # type: ignore[call-overload]  # a buffer, which the stubs call object
            write(piece)
            return len(piece)

    plan = json.dumps({"delete": list(delete), "all": list(tree.files)}).encode()
    with tarfile.open(fileobj=Pipe(), mode="w|", bufsize=1 << 18) as tar:
        head = tarfile.TarInfo(".sync.json")
        head.size = len(plan)
        tar.addfile(head, io.BytesIO(plan))
        for name in send:
            tar.add(tree.folder / name, arcname=name, recursive=False, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
