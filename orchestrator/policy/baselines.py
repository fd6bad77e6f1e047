"""The policies that a better one is measured against, each in a few lines."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from orchestrator.policy.base import NO_POOL, ON_DEMAND, WAIT, Decision, Floats, Job, View, on_spot

SLICE_S = 4 * 3600.0  # of `time-sliced`, at most
LEAST_SLICES = 2


class OnDemand:
    """On-demand from the beginning: what a deadline costs without a market."""

    name: ClassVar[str] = "on-demand"
    is_safe: ClassVar[bool] = True

    def decide(self, job: Job, view: View) -> Decision:
        """Return on-demand."""
        everywhere = np.full(view.work_s.shape, ON_DEMAND)
        return Decision(everywhere, np.full(everywhere.shape, NO_POOL), {})


class Spot:
    """Spot whenever there is, and never anything else: it may be late."""

    name: ClassVar[str] = "spot"
    is_safe: ClassVar[bool] = False

    def decide(self, job: Job, view: View) -> Decision:
        """Return spot where there is some."""
        return on_spot(view, np.full(view.work_s.shape, WAIT))


class Greedy(Spot):
    """Spot whenever there is, with the safety rule: on-demand when nothing else is in time."""

    name: ClassVar[str] = "greedy"
    is_safe: ClassVar[bool] = True

    def decide(self, job: Job, view: View) -> Decision:
        """Return spot where there is some; what has moved to on-demand stays there."""
        is_moved = view.mode == ON_DEMAND
        decision = on_spot(view, np.full(view.work_s.shape, WAIT))
        return Decision(np.where(is_moved, ON_DEMAND, decision.mode), decision.pool, {})


class TimeSliced:
    """Slices of equal length with equal shares of the work; in each of them greedy, with a deadline of its own.

    The time-sliced policy of Wu et al., "Can't Be Late", NSDI 2024. Progress is spread over the time, so that the end
    has no long stretch of on-demand; what a slice does beyond its share counts for the next one.
    """

    name: ClassVar[str] = "time-sliced"
    is_safe: ClassVar[bool] = True

    def decide(self, job: Job, view: View) -> Decision:
        """Return spot where there is some, else on-demand where the slice has no time to wait."""
        slice_s = job.deadline_s / self.slices(job)
        slice_end_s = (np.floor(view.elapsed_s / slice_s + 1e-9) + 1) * slice_s
        done_s: Floats = job.work_s - view.work_s
        due_s = slice_end_s * job.work_s / job.deadline_s - done_s  # work of this slice that is left
        slice_slack_s = slice_end_s - view.elapsed_s - due_s
        is_late = (due_s > 0) & (slice_slack_s - view.tick_s < job.changeover_s)
        stays = (view.mode == ON_DEMAND) & is_late  # to the end of the slice
        decision = on_spot(view, np.where(is_late, ON_DEMAND, WAIT))
        return Decision(np.where(stays, ON_DEMAND, decision.mode), decision.pool, {})

    @staticmethod
    def slices(job: Job) -> int:
        """Return how many slices there are: of four hours at most, each with slack for two change-overs."""
        wanted = int(np.ceil(job.deadline_s / SLICE_S))
        slack_s = job.deadline_s - job.work_s
        most = int(slack_s / (2 * job.changeover_s)) if job.changeover_s > 0 else wanted
        return max(LEAST_SLICES, min(wanted, most))
