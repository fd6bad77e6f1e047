"""Events of a program's outputs: what was downloaded, restored, refused, waited for, and left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.runs.events import Event


@dataclass(frozen=True, kw_only=True)
class ExtraOutputsPulled(Event):
    """The extra outputs are downloaded to `outputs/`. `left` names those that are not, with their sizes."""

    kind: ClassVar[str] = "rest_pulled"
    attempt: int
    files: int
    size_bytes: int
    left: str = ""


@dataclass(frozen=True, kw_only=True)
class OutputsPulled(Event):
    """A whole state of the outputs is in `outputs/`: it is acknowledged, and must never be lost."""

    kind: ClassVar[str] = "outputs_pulled"
    attempt: int
    number: int  # of the state
    files: int  # that are new or changed
    size_bytes: int  # of these
    deleted: int  # files that the program removed
    all_files: int
    all_bytes: int
    received_bytes: int = 0  # over the network, for these: data out


@dataclass(frozen=True, kw_only=True)
class OutputsRestored(Event):
    """The newest state was written on a machine, before the program started."""

    kind: ClassVar[str] = "outputs_restored"
    attempt: int
    number: int
    files: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class OutputsRefused(Event):
    """A state is not used any more: damaged here, or the program failed right after it; `reason` says it for people."""

    kind: ClassVar[str] = "outputs_refused"
    number: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class OutputsWaiting(Event):
    """The program has ended, and its machine is kept because outputs are not downloaded yet.

    until: unix seconds; then the machine ends, and they are lost.
    """

    kind: ClassVar[str] = "outputs_waiting"
    attempt: int
    files: int
    size_bytes: int
    reason: str
    until: float


@dataclass(frozen=True, kw_only=True)
class OutputsLeft(Event):
    """Outputs that were not downloaded, and are gone with their machine. `names` are some of them, with their sizes.

    is_loss: the program had ended and was promised that they would come; else they are superseded or cannot be taken.
    """

    kind: ClassVar[str] = "outputs_left"
    attempt: int
    files: int
    size_bytes: int
    names: str
    reason: str
    is_loss: bool = False
