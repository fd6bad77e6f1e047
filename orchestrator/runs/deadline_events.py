"""Events: what a run with a deadline decides, and when the deadline is in danger."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from orchestrator.runs.events import Event


@dataclass(frozen=True, kw_only=True)
class DeadlineDecided(Event):
    """Where the run goes on, why, and what was compared. Written where that changes."""

    kind: ClassVar[str] = "deadline_decided"
    mode: Literal["wait", "spot", "on-demand"]
    policy: str
    is_forced: bool  # by the safety rule: another way could be late
    left_s: float  # until the deadline; below zero after it
    work_s: float  # training that is left, as measured so far
    margin_s: float  # what the safety rule keeps for a change-over
    costs: dict[str, Any] = dataclasses.field(default_factory=dict)  # US dollars until the end, by the ways


@dataclass(frozen=True, kw_only=True)
class DeadlineEndangered(Event):
    """The deadline, or deadline and budget together, cannot be kept any more; `remedy` is what would help."""

    kind: ClassVar[str] = "deadline_endangered"
    reason: str
    remedy: str
