"""What the run may still use: which limit is reached at a moment, and how long a machine may go on by itself."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from orchestrator.clock import Clock
from orchestrator.market import budget
from orchestrator.market.budget import Limit, Reached
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.state import Attempt, RunState

SMALLEST_SHARE = 5  # of a limit, kept for saving: one in so many seconds


class Allowance:
    """Judges the limits of one run.

    Args:
        spec: has the limits.
        clock: the time.
        state: gives the fold of all events so far.
    """

    def __init__(self, spec: RunSpec, clock: Clock, state: Callable[[], RunState]) -> None:
        self.spec = spec
        self.clock = clock
        self.state = state

    def reached_at(self, moment: float, heard_at: float) -> Reached | None:
        """Return which limit is reached at `moment` (unix seconds), None if none is.

        Args:
            moment: now, or a moment ahead.
            heard_at: when the trainer last wrote something. It may write again before a moment that lies ahead, so
                only the silence until now counts.
        """
        state = self.state()
        attempts = budget.worst_case(self.spec, state.attempts, moment)
        silent_s = self.clock.now() - heard_at
        return budget.reached(
            self.spec.limits, attempts, led_since=state.led_since, heard_at=moment - silent_s, now=moment
        )

    def is_budget_reached_at(self, moment: float) -> bool:
        """Return whether no second is left to pay for at `moment` (unix seconds), whatever the trainer still does."""
        reached = self.reached_at(moment, heard_at=self.clock.now())
        return reached is not None and reached.limit == Limit.BUDGET

    def alone_s(self, attempt: Attempt) -> float | None:
        """Return how long the instance of an attempt may go on without hearing from us; None without a limit.

        Its group goes on just as long: the budget pays for all of them, also for those that are yet to come.
        """
        cap_usd_h = budget.price_cap_usd_h(self.spec, budget.offer_of(attempt))
        return self.alone_at_price_s(max(self.spec.group.max_nodes * cap_usd_h, self.burn_cap_usd_h()))

    def burn_cap_usd_h(self) -> Decimal:
        """Return the most that an hour of all machines of a group that the run has now can cost; 0 without a group."""
        open_attempts = self.state().open_attempts()
        caps = (budget.price_cap_usd_h(self.spec, budget.offer_of(one)) for one in open_attempts)
        return sum(caps, Decimal(0)) if self.spec.is_group else Decimal(0)

    def alone_at_price_s(self, cap_usd_h: Decimal) -> float | None:
        """Return how long an instance of that price cap may go on without hearing from us; None without a limit."""
        now = self.clock.now()
        attempts = budget.worst_case(self.spec, self.state().attempts, now)
        ends = [budget.guaranteed_s(self.spec.limits, attempts, cap_usd_h, now), self.left_s()]
        return min((each for each in ends if each is not None), default=None)

    def left_s(self) -> float | None:
        """Return how long a machine may live by the run's time limit, with the time to save; None without a limit."""
        most_s = self.spec.limits.max_duration_s
        if most_s is None:
            return None
        over_at = self.state().led_since + most_s + self.spec.recovery.stop_timeout_s
        return max(0.0, over_at - self.clock.now())

    def ahead_s(self, attempt: Attempt) -> float:
        """Return how long before a limit the trainer is told to save: a fifth of a small limit at most."""
        limits_s = [self.spec.recovery.stop_timeout_s / 3 * SMALLEST_SHARE]
        asked = self.spec.limits
        if asked.max_duration_s is not None:
            limits_s.append(asked.max_duration_s)
        if asked.budget_usd is not None:
            cap_usd_h = budget.price_cap_usd_h(self.spec, budget.offer_of(attempt))
            cap_usd_h = max(cap_usd_h, self.burn_cap_usd_h())
            limits_s.append(float(asked.budget_usd / cap_usd_h) * 3600)
        return min(limits_s) / SMALLEST_SHARE
