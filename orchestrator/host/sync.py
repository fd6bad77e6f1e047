"""Code sync: which files of a folder are sent, and the one tar stream with those that changed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from orchestrator.errors import LocalFaultError, SpecError
from orchestrator.host.file_list import Inside, list_files, walk
from orchestrator.host.secret_names import is_asked_for, is_secret
from orchestrator.runs.files import sha256_of

LINK = "link:"  # begins the digest of a link; its target follows


@dataclass(frozen=True)
class Tree:
    """What is sent: a folder, and its files as sorted paths relative to the folder."""

    folder: Path
    files: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # not sent, since such a file usually holds credentials
    notes: tuple[str, ...] = ()  # what is missing, for people: a submodule that is not checked out
    digests: Mapping[str, str] | None = None  # of the files, where they are known: of a snapshot

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
    """Return the files of a user's folder that are sent.

    Left out is what git ignores (where no git is: `USUAL`), `.git`, what usually holds credentials
    (`secret_names.py`), and each link that leads out of the folder. `include` adds files and folders all the same,
    but nothing from outside. Submodules and clones inside are listed by their own ignore rules.

    Raises:
        SpecError: nothing is left to send, an included path is outside, or git refuses or fails.
    """
    asked = [place for entry in include for place in _included(folder, entry)]
    listed = list_files(folder)
    names = set(listed.files)
    for entry in asked:
        path = folder / entry
        names.update(walk(folder, entry) if os.path.isdir(path) and not os.path.islink(path) else [entry])
    inside = Inside(folder, asked)
    why_not = {name: inside.why_not(name) for name in sorted(names)}
    sendable = [name for name, why in why_not.items() if why is None]
    left_out = tuple(name for name in sendable if is_secret(name) and not is_asked_for(name, asked))
    files = tuple(name for name in sendable if name not in set(left_out))
    if not files:
        why = "it is empty, or git ignores all of it"
        if left_out:
            why = f"it holds only what may be secret ({left_out[0]!r})"
        raise SpecError(f"--workdir: {folder} has no file to send: {why}; name files with --include")
    return Tree(folder, files, left_out, (*listed.notes, *_notes(why_not)))


def _notes(why_not: Mapping[str, str | None], most: int = 3) -> list[str]:
    """Return a line for each cause for which something is not sent, with the number and some names."""
    lines = []
    for cause in sorted({why for why in why_not.values() if why}):
        names = [name for name, why in why_not.items() if why == cause]
        more = f" and {len(names) - most:,} more" if len(names) > most else ""
        lines.append(f"Not sent, {len(names):,} {cause}: {', '.join(names[:most])}{more}.")
    return lines


def _included(folder: Path, entry: str) -> list[str]:
    """Return an entry of `include` as a relative path without links in its folders; of a link, its target too.

    Raises:
        SpecError: it is outside of the folder.
    """
    root, (above, name) = os.path.realpath(folder), os.path.split(entry.rstrip("/"))
    if name in ("", ".", ".."):
        path = os.path.realpath(folder / entry)
    else:
        path = os.path.join(os.path.realpath(folder / above), name)
    found = list(dict.fromkeys((path, os.path.realpath(path))))
    if any(place != root and not place.startswith(root.rstrip("/") + "/") for place in found):
        raise SpecError(f"--include: {entry} is outside of {folder}; only files below it are sent")
    return [os.path.relpath(place, root) for place in found]


def manifest(tree: Tree) -> dict[str, str]:
    """Return {path: digest} in the agent's form: sha256, plus "x" if executable; a link as `link:<target>`."""
    if tree.digests is not None:
        return dict(tree.digests)
    found = {}
    for name in tree.files:
        path = tree.folder / name
        if path.is_symlink():
            found[name] = LINK + os.readlink(path)
        else:
            found[name] = sha256_of(path) + ("x" if path.stat().st_mode & 0o111 else "")
    return found


def changes(ours: Mapping[str, str], theirs: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return (to send, to delete), each sorted. Pure."""
    send = sorted(name for name, digest in ours.items() if theirs.get(name) != digest)
    delete = sorted(name for name in theirs if name not in ours)
    return send, delete


def digest_of_sent(digests: Mapping[str, str], send: Sequence[str]) -> str:
    """Return what `agent.py apply` says of the files that it has written: links are not among them."""
    written = hashlib.sha256()
    for name in send:
        if not digests[name].startswith(LINK):
            written.update(f"{digests[name].removesuffix('x')} {name}\n".encode(errors="surrogateescape"))
    return written.hexdigest()


def check_copies(tree: Tree, digests: Mapping[str, str], send: Sequence[str]) -> None:
    """Compare the files of a tree with their digests.

    Raises:
        LocalFaultError: one has another content: the copy of a run was changed, or the disk has lost it.
    """
    for name in send:
        path = tree.folder / name
        if not path.is_symlink() and sha256_of(path) != digests[name].removesuffix("x"):
            raise LocalFaultError(f"{path} is not what was copied at the launch; `launch --resume` copies it anew")


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
            _add(tar, tree.folder / name, name)
            tar.members = []  # type: ignore[attr-defined]  # a stream is written once; the list would only grow


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """Add one file or link. Hard links become files: the agent, and a later sync, know each file by itself."""
    member = tarfile.TarInfo(name)
    status = path.lstat()
    member.mtime = int(status.st_mtime)
    if path.is_symlink():
        member.type, member.linkname = tarfile.SYMTYPE, os.readlink(path)
        tar.addfile(member)
        return
    member.mode = 0o755 if status.st_mode & 0o111 else 0o644
    with path.open("rb") as file:
        member.size = os.fstat(file.fileno()).st_size
        tar.addfile(member, file)
