"""The rule that keeps a deadline, apart from every policy: it sees no forecast, and no policy overrides it.

It works on numbers and on arrays of them alike, and needs no numpy. All times are in seconds.

The slack of a job is the time until its deadline less the work that is left. It shrinks by each second in which nothing
is trained. As long as it is no less than the longest change-over that is to be expected, the job can still be moved to
on-demand and be in time, whatever happens to its spot instance in this moment.
"""

from __future__ import annotations

from typing import Any


def slack(left_s: Any, work_s: Any, at_risk_s: Any) -> Any:
    """Return the slack that is left if the instance is lost now.

    Args:
        left_s: until the deadline.
        work_s: useful seconds of training that are left.
        at_risk_s: training since the newest checkpoint, which a loss would take.
    """
    return left_s - work_s - at_risk_s


def burnt(tick_s: Any, starting_s: Any, *, saves_at_notice: bool) -> Any:
    """Return how much slack a spot instance uses up until the next decision, at most.

    Args:
        tick_s: until the next decision.
        starting_s: what is left of its change-over, in which nothing is trained.
        saves_at_notice: whether a loss takes no training: each second that is trained counts then.
    """
    if not saves_at_notice:
        return tick_s
    return tick_s - _above_zero(tick_s - starting_s)


def must_move(slack_s: Any, burnt_s: Any, margin_s: Any) -> Any:
    """Return whether the job must go to on-demand now: later it could be too late.

    Args:
        slack_s: as `slack` gives it.
        burnt_s: what is used up until the next decision, if it does not move now.
        margin_s: a high quantile of change-overs to on-demand: boot, set-up and restore.
    """
    return slack_s - burnt_s < margin_s


def _above_zero(value: Any) -> Any:
    return value * (value > 0)
