"""The policy of `--deadline`: what costs the least by a plan over the market's chain, decided anew at each change."""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np

from orchestrator.policy.base import NO_POOL, ON_DEMAND, SPOT, WAIT, Decision, Ints, Job, View
from orchestrator.policy.cells import STEP_S, Chain
from orchestrator.policy.plan import Plan, make_plan


class Known(Protocol):
    """What is known of a market at a moment; `forecast.Forecast` of a record, `live` of the market of now."""

    @property
    def on_demand_price(self) -> float:
        """The price of on-demand, an hour."""
        ...

    def season(self, at: Ints) -> Ints:
        """Return the number of the re-fit that holds at each of these points."""
        ...

    def chain(self, season: int) -> Chain:
        """Return the chain of a season."""
        ...

    def typical_price(self, season: int) -> float:
        """Return the price of spot, an hour, that a season is planned with."""
        ...

    def best_at(self, at: Ints) -> Ints:
        """Return the pool to take at each of these points, NO_POOL where there is none."""
        ...

    def cells_at(self, at: Ints) -> Ints:
        """Return the cell of the market at each of these points."""
        ...


class Planned:
    """Follows a plan that is made anew every two days from the record before.

    Args:
        forecast: of the market.
        is_first_hour_free: whether AWS bills nothing for an instance that it takes back in its first hour.
        keeps_values: whether each decision says what it compared.
    """

    name: ClassVar[str] = "planned"
    is_safe: ClassVar[bool] = True

    def __init__(self, forecast: Known, *, is_first_hour_free: bool = False, keeps_values: bool = False) -> None:
        self.forecast = forecast
        self.is_first_hour_free, self.keeps_values = is_first_hour_free, keeps_values
        self._plans: dict[tuple[Job, int], Plan] = {}

    def plan(self, job: Job, season: int) -> Plan:
        """Return the plan of a season."""
        if (job, season) not in self._plans:
            self._plans[job, season] = make_plan(
                self.forecast.chain(season),
                job,
                self.forecast.typical_price(season),
                self.forecast.on_demand_price,
                is_first_hour_free=self.is_first_hour_free,
                keeps_values=self.keeps_values,
            )
        return self._plans[job, season]

    def forget(self) -> None:
        """Drop the plans that were made."""
        self._plans.clear()

    def decide(self, job: Job, view: View) -> Decision:
        """Keep a live spot instance; else do what the plan says for the cell and the slack of now."""
        if not view.is_point:
            return Decision(view.mode, view.pool, {})
        seasons = self.forecast.season(view.at)
        mode: Ints = np.full(view.mode.shape, WAIT)
        values = np.full((3, len(mode)), np.nan)
        for season in np.unique(seasons):
            rows = np.flatnonzero(seasons == season)
            mode[rows], values[:, rows] = self._ways(self.plan(job, int(season)), view, rows)
        lives = view.mode == SPOT
        best = self.forecast.best_at(view.at)
        pool = np.where(lives, view.pool, best)
        mode = np.where(lives, SPOT, np.where((mode == SPOT) & (best == NO_POOL), WAIT, mode))
        told = {"wait": values[WAIT], "spot": values[SPOT], "on-demand": values[ON_DEMAND]}
        return Decision(mode, pool, told if self.keeps_values else {})

    def _ways(self, plan: Plan, view: View, rows: Ints) -> tuple[Ints, np.ndarray]:
        """Return what the plan says for some jobs, and what each way costs."""
        left = min(max(1, round(view.left_s / STEP_S)), len(plan.idle) - 1)
        is_on_demand = view.mode[rows] == ON_DEMAND
        slack_s = view.slack_s[rows] - np.where(is_on_demand, view.starting_s[rows], 0.0)
        slack = np.clip((slack_s / plan.unit_s + 1e-6).astype(int), 0, plan.idle.shape[2] - 1)
        cells = self.forecast.cells_at(view.at[rows])
        said = np.where(is_on_demand, plan.on_demand[left, cells, slack], plan.idle[left, cells, slack])
        if plan.values is None:
            return said, np.full((3, len(rows)), np.nan)
        return said, plan.values[left][:, cells, slack]
