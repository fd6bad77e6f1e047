"""A run's state as it can be at a moment: what is dated later, by a clock that was ahead, is clamped and said. Pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from orchestrator.clock import iso
from orchestrator.runs.state import Attempt, RunState

AHEAD_S = 86400.0  # a clock that was off by less is not worth a remark


@dataclass(frozen=True)
class Seen:
    """A state without times that are still to come.

    `is_ahead`: an event is dated more than a day after now, so that lengths of time and bills are estimates.
    """

    state: RunState
    is_ahead: bool
    remarks: tuple[str, ...]


def seen_at(state: RunState, now: float) -> Seen:
    """Return the state with no attempt that ends after `now` (unix seconds), and with the remark that this needs.

    An attempt that begins and ends in the future keeps its length: one clock has dated both.
    """
    latest = max([state.updated_at, *(attempt.ended_at or 0.0 for attempt in state.attempts)])
    if latest <= now:
        return Seen(state, is_ahead=False, remarks=())
    attempts = [_clamped(attempt, now) for attempt in state.attempts]
    is_ahead = latest > now + AHEAD_S
    began_ahead = state.created_at > now
    shown = dataclasses.replace(
        state, attempts=attempts, updated_at=state.updated_at if began_ahead else min(state.updated_at, now)
    )
    remark = (
        f"the clock of this machine was ahead (an event is dated {iso(latest)[:16]}Z): times and cost are estimates"
    )
    return Seen(shown, is_ahead, (remark,) if is_ahead else ())


def _clamped(attempt: Attempt, now: float) -> Attempt:
    if attempt.ended_at is None or attempt.ended_at <= now or attempt.started_at > now:
        return attempt
    return dataclasses.replace(attempt, ended_at=now)
