"""The files that a trainer writes: checkpoints, samples, and others."""

from __future__ import annotations

import re
from dataclasses import dataclass

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d{1,12})\.[A-Za-z0-9]+")
"""The same names as in `infra/instance/trainer_files.py`; group 1 is the step."""


@dataclass(frozen=True)
class Output:
    """A file that the trainer finished: a checkpoint or a sample grid."""

    name: str
    step: int
    size_bytes: int
    sha256: str

    @property
    def is_checkpoint(self) -> bool:
        """Whether a run can be resumed from it."""
        return self.name.startswith("checkpoint-")


@dataclass(frozen=True)
class ExtraOutput:
    """A file that the trainer wrote and whose content is unknown."""

    name: str  # its path below the trainer's folder
    size_bytes: int
