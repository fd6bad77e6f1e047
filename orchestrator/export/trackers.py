"""The trackers that a run can be written into, and the check that one can be used, before anything is rented."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from orchestrator.errors import PixelOrchError, SpecError
from orchestrator.export.contents import contents_of
from orchestrator.export.names import without_login
from orchestrator.formatting import nearest, one_line
from orchestrator.runs.store import RunStore

TRACKERS = ("mlflow", "wandb", "tensorboard")
"""Their names, which are those of their packages and of our extras too."""

_CAUSE = re.compile(r"\[Errno -?\d+\] ([A-Za-z][A-Za-z ,]+)")  # within the words of urllib3 and requests
MOST_WORDS = 180  # characters of an error of a tracker's own


@dataclass(frozen=True)
class Exported:
    """What came of an export: `place` is where the run is found; `problem` why it is not there."""

    tracker: str
    place: str = ""
    problem: str = ""

    def checked(self) -> str:
        """Return the place.

        Raises:
            ExportError: the run is not there.
        """
        if self.problem:
            raise ExportError(self.problem)
        return self.place


class ExportError(PixelOrchError):
    """A tracker did not take the run."""


def is_installed(package: str) -> bool:
    """Return whether a package is there, without importing it. A folder of that name is none: wandb makes one."""
    try:
        found = find_spec(package)
    except (ImportError, ValueError):
        return False
    return found is not None and found.origin is not None


def check_trackers(
    given: str | Iterable[str] | None, *, flag: str = "--export", has: Callable[[str], bool] = is_installed
) -> tuple[str, ...]:
    """Return the trackers that are asked for; () for none, and for "".

    Args:
        given: names, also several in one text with commas between them.
        flag: how it was given.
        has: whether a package is there.

    Raises:
        SpecError: a name is unknown, its package is missing, or the environment does not say where the tracker is.
    """
    texts = [given] if isinstance(given, str) else list(given or ())
    words = [word.strip().lower() for text in texts for word in str(text).split(",")]
    names = tuple(dict.fromkeys(word for word in words if word))
    for name in names:
        if name not in TRACKERS:
            near = nearest(name, TRACKERS)
            hint = f"did you mean {near}?" if near else f"use {', '.join(TRACKERS)}"
            raise SpecError(f"{flag}: {one_line(name)[:60]!r} is no tracker; {hint}")
        if not has(name):
            raise SpecError(f"{flag} {name}: the package {name} is missing; pip install 'pixel-orch[{name}]'")
        if name == "mlflow":
            from orchestrator.export.to_mlflow import check_place

            check_place(flag)
    return names


def export(store: RunStore, tracker: str, now: float) -> str:
    """Write a run into a tracker, as of now; return where it is found there.

    Args:
        store: of the run.
        tracker: one of `TRACKERS`.
        now: unix seconds.

    Raises:
        SpecError: the run cannot be read, or the tracker cannot be used.
        ExportError: the tracker does not answer, or refuses.
    """
    module = import_module(f"orchestrator.export.to_{tracker}")
    try:
        with _one_at_a_time(store):
            return str(module.write(contents_of(store, now), store.home))
    except PixelOrchError:
        raise
    except Exception as error:
        raise ExportError(words_of(error)) from error


@contextmanager
def _one_at_a_time(store: RunStore) -> Iterator[None]:
    """Wait for another export of the run: two at once would both write what neither has seen there."""
    folder = os.open(store.folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def words_of(error: BaseException) -> str:
    """Return an error of a tracker's library in one line: its cause, which is its last part, without a password."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = without_login(lines[0] if lines else type(error).__name__)
    cause = _CAUSE.search(text)
    if cause is not None and cause.start():
        return f"{text.partition(' with exception ')[0][: MOST_WORDS // 2]}: {cause[1]}"
    return text if len(text) <= MOST_WORDS else f"{text[: MOST_WORDS // 3]} … {text[-2 * MOST_WORDS // 3 :]}"


def folder_note(tracker: str, home: Path) -> str:
    """Return how what was written is looked at, "" where its place says it."""
    if tracker != "tensorboard":
        return ""
    from orchestrator.export.to_tensorboard import folder_for

    return f"tensorboard --logdir {folder_for(home)}"
