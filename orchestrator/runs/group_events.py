"""Events of a group: which machines make up one generation of a run, in the order of their ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.runs.events import Event


@dataclass(frozen=True, kw_only=True)
class GroupFormed(Event):
    """A generation of a group is complete: its trainers start together, and end together.

    attempts: the numbers of its members' attempts, by node rank.
    kept_from: for each of them the attempt in which its machine was before, 0 for a machine that is new.
    """

    kind: ClassVar[str] = "group_formed"
    generation: int  # from 1
    attempts: tuple[int, ...]
    kept_from: tuple[int, ...]
