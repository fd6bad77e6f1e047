"""A run's state as it can be at a moment: what is dated later, by a clock that was ahead, is clamped and said. Pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from orchestrator.clock import iso
from orchestrator.runs.state import Attempt, RunState

AHEAD_S = 86400.0  # a clock that was off by less is not worth a remark
SLACK_S = 60.0  # two processes may differ by so much


@dataclass(frozen=True)
class Seen:
    """A state without times that are still to come.

    `is_estimate`: an event is dated later than now, so that lengths of time and bills are estimates.
    """

    state: RunState
    is_estimate: bool
    remarks: tuple[str, ...]


def seen_at(state: RunState, now: float) -> Seen:
    """Return the state with no attempt that ends after `now` (unix seconds), and with the remark that this needs.

    An attempt that begins and ends in the future keeps its length: one clock has dated both.
    """
    latest = max([state.updated_at, *(attempt.ended_at or 0.0 for attempt in state.attempts)])
    if latest <= now:
        return Seen(state, is_estimate=False, remarks=())
    updated_at = state.updated_at if state.created_at > now else min(state.updated_at, now)
    shown = dataclasses.replace(
        state, attempts=[_clamped(attempt, now) for attempt in state.attempts], updated_at=updated_at
    )
    dated = f"an event is dated {iso(latest)[:16]}Z"
    remark = f"the clock of this machine was ahead ({dated}): times and cost are estimates"
    return Seen(shown, latest > now + SLACK_S, (remark,) if latest > now + AHEAD_S else ())


def _clamped(attempt: Attempt, now: float) -> Attempt:
    if attempt.started_at > now:
        return attempt
    ended_at = None if attempt.ended_at is None else min(attempt.ended_at, now)
    first_step_at = None if attempt.first_step_at is None else min(attempt.first_step_at, ended_at or now)
    return dataclasses.replace(attempt, ended_at=ended_at, first_step_at=first_step_at)
