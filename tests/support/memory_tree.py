"""The outputs of the in-memory trainer: files below its working folder that are a function of the step.

They contradict each other if they are not of one moment: each holds the step that it was written at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra.instance.outputs.stored_state import to_bytes
from orchestrator.runs.output_tree import TreeChanges, TreeFile, TreeState, TreeStatus

if TYPE_CHECKING:
    from tests.support.memory_host import Machine

KEPT = 2  # folders of checkpoints: the trainer deletes the older ones


def tree_at(step: int, every: int) -> dict[str, bytes]:
    """Return the outputs of a trainer that has done so many steps, and saves so often."""
    saved = step // every * every
    if not saved:
        return {}
    lines = b"".join(b"%d,0.5\n" % mark for mark in range(every, saved + 1, every))
    folders = range(max(every, saved - (KEPT - 1) * every), saved + 1, every)
    return {
        "work/model.pt": b"the model after step %d" % saved,
        "out/history.csv": lines,
        **{f"work/checkpoint-{mark}/model.bin": b"weights of step %d" % mark for mark in folders},
    }


def step_of(files: Mapping[str, bytes], every: int) -> int:
    """Return the step that a state of the outputs is of.

    Raises:
        AssertionError: it is a mixture.
    """
    if not files:
        return 0
    step = int(files["work/model.pt"].rsplit(b" ", 1)[-1])
    assert files == tree_at(step, every), f"a mixture of states was sent: {sorted(files)} with a model of step {step}"
    return step


def file_of(name: str, content: bytes, after: int = 0) -> TreeFile:
    """Return a file as a machine lists it."""
    root, _, path = name.partition("/")
    return TreeFile(
        root=root,  # type: ignore[arg-type]  # one of two words
        path=path,
        size_bytes=len(content),
        mtime_ns=1_700_000_000_000_000_000 + len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        after_bytes=after,
    )


@dataclass(frozen=True)
class StoredTree:
    """A state in S3."""

    number: int
    is_final: bool
    files: Mapping[str, bytes]
    is_own: bool = True

    def raw(self) -> bytes:
        """Return it as the uploader writes it."""
        entries = []
        for name, content in self.files.items():
            file = file_of(name, content)
            entries.append(
                {"root": file.root, "path": file.path, "kind": "file", "size": file.size_bytes,
                 "mtime_ns": file.mtime_ns, "mode": file.mode, "sha256": file.sha256}
            )  # fmt: skip
        return to_bytes(self.number, self.is_final, entries, is_own=self.is_own)


class MemoryTree:
    """What `outputs/mirror.py` does on a machine: states by number, and which one the owner has."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.sealed: dict[str, bytes] = {}
        self.number = self.home = 0
        self.home_files: dict[str, bytes] = {}
        self.first = (0, 0)  # number and step of the state that it began with

    def status(self, step: int, *, is_over: bool, is_hurried: bool, allowed: float) -> TreeStatus:
        """Make a new state if there is one to make; return what is told of it."""
        now = tree_at(step, self.machine.checkpoint_every)
        if self._is_stored:  # in S3: each state is made, and costs nothing
            self.sealed, self.number = now, self.number_at(step)
        changed = {name: content for name, content in now.items() if self.sealed.get(name) != content}
        size = sum(map(len, changed.values()))
        if now != self.sealed and (is_hurried or is_over or size <= allowed):
            self.sealed, self.number = now, self.number + 1
            changed = {}
        new = {name: c for name, c in self.sealed.items() if self.home_files.get(name) != c}
        return TreeStatus(
            state=self.number,
            home=self.home,
            is_final=is_over and not changed,
            new_files=len(new),
            new_bytes=sum(map(len, new.values())),
            pending_files=len(changed),
            pending_bytes=size if changed else 0,
            files=len(self.sealed),
            size_bytes=sum(map(len, self.sealed.values())),
        )

    @property
    def _is_stored(self) -> bool:
        return self.machine.job is not None and self.machine.job.bucket is not None

    def number_at(self, step: int) -> int:
        """Return the number of the state after so many steps, where each one is made."""
        every = self.machine.checkpoint_every
        return self.first[0] + (step // every * every - self.first[1]) // every

    def stored_at(self, step: int, *, is_over: bool) -> StoredTree | None:
        """Return what S3 has after so many steps; None for nothing."""
        number = self.number_at(step)
        is_new = number != self.home or is_over
        if not number or not is_new:
            return None
        return StoredTree(number, is_over, tree_at(step, self.machine.checkpoint_every), number != self.first[0])

    def changes(self, state: int, base: int) -> TreeChanges:
        """Return how the newest state differs from the base."""
        if state != self.number:
            return TreeChanges(self.number, self.home, False, (), ())
        if base != self.home:
            files = [file_of(name, content) for name, content in self.sealed.items()]
            return TreeChanges(state, 0, False, tuple(files), ())
        files = []
        for name, content in self.sealed.items():
            before = self.home_files.get(name)
            if before != content:
                grows = name.endswith(".csv") and before is not None and content.startswith(before)
                files.append(file_of(name, content, len(before) if grows and before else 0))
        deleted = tuple(name for name in self.home_files if name not in self.sealed)
        return TreeChanges(state, base, False, tuple(files), deleted)

    def content(self, file: TreeFile) -> bytes | None:
        """Return what is downloaded of a file, None if it was replaced."""
        found = self.sealed.get(file.name)
        return found if found is not None and hashlib.sha256(found).hexdigest() == file.sha256 else None

    def acknowledge(self, state: int) -> None:
        """Note that the owner has a state."""
        if state == self.number:
            self.home, self.home_files = self.number, dict(self.sealed)

    def restore(self, state: TreeState, contents: Callable[[TreeFile], Path]) -> None:
        """Take over a state; it must be of one moment."""
        files = {}
        for name, file in state.files.items():
            files[name] = contents(file).read_bytes()
            assert hashlib.sha256(files[name]).hexdigest() == file.sha256, f"{name} was sent damaged"
        self.begin_with(state.number, files, is_home=True)

    def begin_with(self, number: int, files: Mapping[str, bytes], *, is_home: bool) -> None:
        """Take over a state, which the owner has, or which is in S3 only."""
        self.machine.tree_step = step_of(files, self.machine.checkpoint_every)
        self.sealed, self.number = dict(files), number
        self.home_files, self.home = (dict(files), number) if is_home else ({}, 0)
        self.first = number, self.machine.tree_step


def downloaded(files: Sequence[TreeFile], tree: MemoryTree, write: Callable[[str, bytes], None]) -> frozenset[str]:
    """Write what is downloaded, by digest; return what is there."""
    found = set()
    for file in files:
        content = tree.content(file)
        if content is not None:
            write(file.sha256, content)
            found.add(file.sha256)
    return frozenset(found)
