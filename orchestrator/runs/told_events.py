"""Events that are told to those who watch a run, and not written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.runs.events import Event


@dataclass(frozen=True, kw_only=True)
class SetUpGoesOn(Event):
    """A set-up takes long: a sign of life, with the last line that it printed."""

    kind: ClassVar[str] = "set_up_goes_on"
    instance_id: str
    waited_s: float
    words: str
