"""The files that a trainer writes: checkpoints, samples, and others; and which of their names can be taken."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import HostError

CHECKPOINT_NAME = re.compile(r"checkpoint-([0-9]{1,12})\.[A-Za-z0-9]{1,20}")
SAMPLES_NAME = re.compile(r"samples-([0-9]{1,12})\.png")
"""The same names as in `infra/instance/trainer_files.py`; group 1 is the step."""

MOST_SIZE_BYTES = 1 << 50
MOST_FILES = 500_000  # of one list
MOST_PART_BYTES = 255  # of a file's name, on every common file system
MOST_PATH_BYTES = 1_024


@dataclass(frozen=True)
class Output:
    """A file that the trainer finished: a checkpoint or a sample grid."""

    name: str
    step: int
    size_bytes: int
    sha256: str
    key: str = field(default="", compare=False)  # of its object, where it was found in S3

    @property
    def identity(self) -> tuple[str, str]:
        """Name and content: a program may write the same content under two names."""
        return self.name, self.sha256

    @property
    def is_checkpoint(self) -> bool:
        """Whether a run can be resumed from it."""
        return self.name.startswith("checkpoint-")


@dataclass(frozen=True)
class ExtraOutput:
    """A file that the trainer wrote and whose content is unknown."""

    name: str  # its path below the trainer's folder
    size_bytes: int
    problem: str = ""  # why it cannot be downloaded: its name cannot be a path on this machine


def step_in_name(name: str) -> int | None:
    """Return the step in the name of a checkpoint or a sample grid, None for another name."""
    match = CHECKPOINT_NAME.fullmatch(name) or SAMPLES_NAME.fullmatch(name)
    return int(match[1]) if match else None


def check_relative_path(name: str) -> str:
    """Return a relative POSIX path that stays below its folder.

    Raises:
        ValueError: it is absolute, leads upwards, is too long, or has a control character.
    """
    if not name or name.startswith("/"):
        raise ValueError(f"{name[:80]!r} is not a relative path")
    if any(ord(each) < 32 or 127 <= ord(each) < 160 for each in name):
        raise ValueError(f"{name[:80]!r} has a control character")
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{name[:80]!r} leads out of its folder, or is not in its shortest form")
    try:
        too_long = any(len(part.encode()) > MOST_PART_BYTES for part in parts) or len(name.encode()) > MOST_PATH_BYTES
    except UnicodeEncodeError:
        raise ValueError(f"{name[:80]!r} is not Unicode") from None
    if too_long:
        raise ValueError(f"{name[:80]!r}... is too long")
    return name


def path_below(folder: Path, name: str) -> Path:
    """Return the path of a file of a machine in a folder of this machine, with no link on its way.

    Raises:
        HostError: it would lie outside of the folder, whatever its name is.
    """
    try:
        check_relative_path(name)
    except ValueError as error:
        raise HostError(f"a file of the instance is not taken: {error}") from None
    target = folder / name
    root = folder.resolve()
    if target.is_symlink() or not target.parent.resolve().is_relative_to(root):
        raise HostError(f"a file of the instance is not taken: {name[:80]!r} would lie outside of {folder}")
    return target
