"""The outputs of a run on this disk: the newest whole state in `outputs/`, and the one before it until there is a next.

    outputs/                   the files of the newest state, with their times
    states/newest.json         what it is
    states/older.json          the state before it
    states/next.json           a state that is being put in place; after a crash it is finished
    states/incoming/DIGEST     contents that are here and belong to no state yet
    states/older/NUMBER/...    files that the newest state replaced or removed
    set-aside/NUMBER/...       files in `outputs/` that were not as they were put there: someone has changed them

The disk never holds a mixture: `next.json` is written when all contents of the new state are here, and what follows
can be done again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from orchestrator.runs.files import read_bounded, sha256_of, sync_folder, write_atomically
from orchestrator.runs.output_tree import (
    MOST_STATE_BYTES,
    TreeChanges,
    TreeFile,
    TreeState,
    below,
    check_tree,
    places,
)

SYNC_EACH = 50  # files; of more the whole disk is synced once


class OutputStates:
    """The states of one run. The caller holds the run's lock.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.outputs = folder / "outputs"
        self.folder = folder / "states"
        self.incoming = self.folder / "incoming"
        self.set_aside = folder / "set-aside"
        self._newest: TreeState | None = None
        self._older: TreeState | None = None

    # -- reading

    def newest(self) -> TreeState:
        """Return the newest whole state; number 0 while there is none."""
        if self._newest is None:
            self._finish()
            self._newest = self._read("newest.json")
        return self._newest

    def older(self) -> TreeState:
        """Return the state before it; number 0 if there is none."""
        self.newest()
        if self._older is None:
            self._older = self._read("older.json")
        return self._older

    def _read(self, name: str) -> TreeState:
        try:
            return TreeState.from_json(read_bounded(self.folder / name, MOST_STATE_BYTES))
        except (OSError, ValueError):
            return TreeState()  # there is none, or it is damaged: the files stay where they are

    def path_of(self, state: TreeState, file: TreeFile) -> Path:
        """Return where the content of a file of the newest state, or of the older one, is."""
        newest = self.newest()
        place = places(state.files.values())[file.name] if state is not newest else self._places(newest)[file.name]
        return self._path_of(state, file, place)

    def contents(self, state: TreeState) -> Iterator[tuple[TreeFile, Path]]:
        """Yield each file of the newest state, or of the older one, with the path of its content."""
        placed = places(state.files.values())
        for file in state.files.values():
            yield file, self._path_of(state, file, placed[file.name])

    def _path_of(self, state: TreeState, file: TreeFile, place: str) -> Path:
        newest = self.newest()
        if state.number != newest.number:
            replaced = below(self.folder / "older" / str(newest.number), place)
            if os.path.lexists(replaced):
                return replaced
        return below(self.outputs, place)

    def _places(self, state: TreeState) -> dict[str, str]:
        return places(state.files.values())

    def damaged(self, state: TreeState) -> list[str]:
        """Return the names of the files of a state that are not as they came: changed here, or lost."""
        return [file.name for file, path in self.contents(state) if not _is_whole(path, file)]

    def here(self, digests: Collection[str]) -> dict[str, Path]:
        """Return where contents are, by their SHA-256; those that are not here are missing."""
        found = {}
        for state in (self.older(), self.newest()):
            if any(file.sha256 in digests for file in state.files.values()):
                for file, path in self.contents(state):
                    if file.kind == "file" and file.sha256 in digests and _is_whole(path, file):
                        found[file.sha256] = path
        for digest in digests:
            if (self.incoming / digest).exists():
                found[digest] = self.incoming / digest
        return found

    # -- a new state

    def commit(self, base: TreeState, changes: TreeChanges, attempt: int) -> TreeState:
        """Make a state the newest one: all its contents are here.

        Args:
            base: what the changes refer to.
            changes: as a machine told them.
            attempt: whose machine.

        Raises:
            ValueError: the files contradict each other.
            OSError: the disk takes no more, or a content is missing; the newest state is as before.
        """
        files = base.after(changes)
        check_tree(files)
        return self._become(TreeState(self.newest().number + 1, files, {attempt: changes.state}))

    def swap(self) -> TreeState:
        """Make the older state the newest one, under a new number; the newest one is the older one then."""
        return self._become(TreeState(self.newest().number + 1, self.older().files))

    def note_on(self, attempt: int, number: int) -> None:
        """Note the number that a machine knows the newest state by."""
        state = self.newest().known_on(attempt, number)
        self._write("newest.json", state)
        self._newest = state

    def put_aside(self) -> None:
        """Move all outputs away: the next machine begins without them."""
        number = self.newest().number
        if os.path.lexists(self.outputs):
            target = _free(self.set_aside / str(number))
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.outputs, target)
        self._write("newest.json", TreeState(number + 1))
        self._write("older.json", TreeState())
        shutil.rmtree(self.folder / "older", ignore_errors=True)
        self._newest = self._older = None

    def keep_incomplete(self, changes: TreeChanges) -> tuple[int, Path]:
        """Keep what has arrived of a state that will never be whole; return how many files, and where."""
        folder = _free(self.set_aside / f"incomplete-{self.newest().number + 1}")
        placed = places(changes.files)
        count = 0
        for file in changes.files:
            content = self.incoming / file.sha256
            if file.kind == "file" and content.exists():
                target = below(folder, placed[file.name])
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(content, target)
                os.utime(target, ns=(file.mtime_ns, file.mtime_ns))
                count += 1
        return count, folder

    def _become(self, state: TreeState) -> TreeState:
        self.folder.mkdir(exist_ok=True)
        self.incoming.mkdir(exist_ok=True)
        self._gather(state)
        self._write("next.json", state)
        self._finish()
        return self.newest()

    def _write(self, name: str, state: TreeState) -> None:
        self.folder.mkdir(exist_ok=True)
        write_atomically(self.folder / name, state.to_json())

    def _gather(self, state: TreeState) -> None:
        """See that each new content is in `incoming/`, and on the disk."""
        newest = self.newest()
        placed, there = places(state.files.values()), self._places(newest)
        wanted = {
            file.sha256: file
            for name, file in state.files.items()
            if file.kind == "file" and (newest.files.get(name) != file or there.get(name) != placed[name])
        }
        missing = [digest for digest in wanted if not (self.incoming / digest).exists()]
        found = self.here(set(missing)) if missing else {}
        for digest in missing:
            if digest not in found:
                raise FileNotFoundError(2, "the content is not here", wanted[digest].path)
            part = self.incoming / f".{digest}.copy"
            shutil.copyfile(found[digest], part)
            os.replace(part, self.incoming / digest)
        if len(wanted) > SYNC_EACH:
            os.sync()
        else:
            for digest in wanted:
                with (self.incoming / digest).open("rb") as file:
                    os.fsync(file.fileno())
            sync_folder(self.incoming)

    # -- putting it in place

    def _finish(self) -> None:
        """Put the state of `next.json` in place; a crash at any point lets this be done once more."""
        path = self.folder / "next.json"
        if not path.exists():
            return
        new, old = self._read("next.json"), self._read("newest.json")
        if new.number > old.number:
            self._put(new, old)
            self._write("older.json", old)
        elif new.number == old.number:  # newest.json was written, and next.json not removed
            old = self._read("older.json")
        self._write("newest.json", new)
        path.unlink()
        self._newest, self._older = new, old
        for folder in (self.folder / "older").glob("*"):
            if folder.name != str(new.number):
                shutil.rmtree(folder, ignore_errors=True)
        for content in self.incoming.iterdir() if self.incoming.is_dir() else ():
            content.unlink(missing_ok=True)

    def _put(self, new: TreeState, old: TreeState) -> None:
        new_places, old_places = self._places(new), self._places(old)
        stays = {n for n, f in new.files.items() if old.files.get(n) == f and old_places.get(n) == new_places[n]}
        for name, file in old.files.items():
            if name not in stays:
                self._replace(new.number, file, old_places[name], new, new_places)
        uses: dict[str, int] = {}
        for name, file in new.files.items():
            if name not in stays and file.kind == "file":
                uses[file.sha256] = uses.get(file.sha256, 0) + 1
        for name, file in new.files.items():
            if name not in stays:
                uses[file.sha256] = uses.get(file.sha256, 0) - 1
                self._place(new.number, file, new_places[name], is_last=uses[file.sha256] <= 0)
        touched = {(self.outputs / new_places[name]).parent for name in new.files if name not in stays}
        if len(touched) > SYNC_EACH:
            os.sync()
        else:
            for folder in touched:
                sync_folder(folder)

    def _replace(self, number: int, file: TreeFile, place: str, new: TreeState, new_places: Mapping[str, str]) -> None:
        """Move a file of the state before out of the way."""
        path = below(self.outputs, place)
        if not os.path.lexists(path):
            return
        here = new.files.get(file.name)
        if here is not None and new_places[file.name] == place and self._is_placed(path, here):
            return  # a crash came after it was put in place
        is_ours = _looks_whole(path, file)
        target = self.folder / "older" / str(number) / place if is_ours else _free(self.set_aside / str(number) / place)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
        _remove_empty(path.parent, self.outputs)

    def _place(self, number: int, file: TreeFile, place: str, *, is_last: bool) -> None:
        """Put a new file in its place."""
        path = below(self.outputs, place)
        if self._is_placed(path, file):
            return  # a crash came after it
        self._make_folder(number, path.parent)
        if os.path.lexists(path):  # nobody put it there but the user, or version 0.1.0
            target = _free(self.set_aside / str(number) / place)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        if file.kind == "link":
            path.symlink_to(file.target)
            return
        content = self.incoming / file.sha256
        part = path.with_name(f".{file.sha256[:16]}.placed") if not is_last else content
        if not is_last:
            shutil.copyfile(content, part)
        os.chmod(part, file.mode | 0o600)
        os.utime(part, ns=(file.mtime_ns, file.mtime_ns))
        os.replace(part, path)

    def _is_placed(self, path: Path, file: TreeFile) -> bool:
        """Return whether a file of the new state is in its place. Another content may have its size and its time."""
        if file.kind == "file" and (self.incoming / file.sha256).exists():
            return _looks_whole(path, file) and _is_whole(path, file)
        return _looks_whole(path, file)

    def _make_folder(self, number: int, folder: Path) -> None:
        """Make a folder; a file of the user that has the name of one on the way is set aside."""
        at = self.outputs
        for part in folder.relative_to(self.outputs).parts:
            at /= part
            if os.path.lexists(at) and (at.is_symlink() or not at.is_dir()):
                target = _free(self.set_aside / str(number) / at.relative_to(self.outputs))
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(at, target)
        folder.mkdir(parents=True, exist_ok=True)


def _looks_whole(path: Path, file: TreeFile) -> bool:
    """Return whether a file is here with its size and its time; its content is not read."""
    try:
        status = path.lstat()
    except OSError:
        return False
    if file.kind == "link":
        return path.is_symlink() and os.readlink(path) == file.target
    return not path.is_symlink() and (status.st_size, status.st_mtime_ns) == (file.size_bytes, file.mtime_ns)


def _is_whole(path: Path, file: TreeFile) -> bool:
    if file.kind == "link":
        return _looks_whole(path, file)
    try:
        return not path.is_symlink() and path.is_file() and sha256_of(path) == file.sha256
    except OSError:
        return False


def _free(path: Path) -> Path:
    """Return the path, or one beside it that nothing has."""
    number = 1
    found = path
    while os.path.lexists(found):
        number += 1
        found = path.with_name(f"{path.name}~{number}")
    return found


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and those above it, as far as nothing is left in them."""
    with suppress(OSError):
        while folder != top:
            folder.rmdir()
            folder = folder.parent
