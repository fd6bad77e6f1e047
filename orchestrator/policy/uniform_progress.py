"""Uniform Progress: never behind a straight line from the start to the deadline.

Wu et al., "Can't Be Late: Optimizing Spot Instance Savings under Deadlines", NSDI 2024, sections 4 and 5: a spot
instance is taken whenever there is one and kept until it is lost; a job that is idle and behind the line goes to
on-demand, and leaves it only when it is two change-overs ahead of the line. It needs no forecast.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from orchestrator.policy.base import ON_DEMAND, WAIT, Decision, Floats, Job, View, on_spot

SLACKS = (0.1, 0.25, 0.5, 1.0)
THETAS = (1.0, 0.78, 0.4, 0.1)
"""How far the line is lowered by the slack: measured on real traces of p3.2xlarge (docs/deadline.md)."""


class UniformProgress:
    """Uniform Progress as the paper defines it."""

    name: ClassVar[str] = "uniform-progress"
    is_safe: ClassVar[bool] = True

    def decide(self, job: Job, view: View) -> Decision:
        """Return spot where there is some, on-demand for those behind the line, else to wait."""
        done_s: Floats = job.work_s - view.work_s
        rate = self.share(job) * job.work_s / job.deadline_s
        is_behind = done_s < view.elapsed_s * rate
        is_ahead = done_s >= (view.elapsed_s + 2 * job.changeover_s) * rate
        stays = (view.mode == ON_DEMAND) & ~is_ahead
        return on_spot(view, np.where(is_behind | stays, ON_DEMAND, WAIT))

    def share(self, job: Job) -> float:
        """Return how much of the line's progress is asked for."""
        return 1.0


class LoweredUniformProgress(UniformProgress):
    """Uniform Progress with a line that is the lower the more slack there is: it waits where it can."""

    name: ClassVar[str] = "uniform-progress-lowered"

    def share(self, job: Job) -> float:
        """Return how much of the line's progress is asked for, by the slack."""
        return float(np.interp(job.slack, SLACKS, THETAS))
