"""What each policy does, on records that are made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.policy.base import NO_POOL, ON_DEMAND, SPOT, WAIT, Job, View
from orchestrator.policy.baselines import Greedy, TimeSliced
from orchestrator.policy.cells import CELLS, IS_UP, Chain, Counts, cells_over_time
from orchestrator.policy.forecast import Forecast, Prior
from orchestrator.policy.generated import RECIPES, generated
from orchestrator.policy.optimum import optimum
from orchestrator.policy.plan import make_plan
from orchestrator.policy.planned import Planned
from orchestrator.policy.simulator import simulate
from orchestrator.policy.uniform_progress import LoweredUniformProgress, UniformProgress
from tests.unit.policy.markets import Recorded, job, market_of, random_market, run


def view(elapsed_h: float, done_h: float, what: Job, mode: int = WAIT, *, is_up: bool = False) -> View:
    """Return what one job sees."""
    return View(
        elapsed_s=elapsed_h * 3600, left_s=what.deadline_s - elapsed_h * 3600, tick_s=60.0, at=np.array([0]),
        work_s=np.array([what.work_s - done_h * 3600]), at_risk_s=np.zeros(1), mode=np.array([mode]),
        pool=np.array([0 if mode == SPOT else NO_POOL]), starting_s=np.zeros(1), available=np.array([[is_up]]),
        price=np.array([[0.3]]), on_demand_price=1.0,
    )  # fmt: skip


# -- Uniform Progress as in the paper: 10 h of work in 20 h, the line rises by half an hour of work an hour


@pytest.mark.parametrize(
    ("elapsed_h", "done_h", "mode", "is_up", "does"),
    [
        (4, 2.1, WAIT, False, WAIT),  # ahead of the line: it waits
        (4, 1.9, WAIT, False, ON_DEMAND),  # behind it
        (4, 1.9, WAIT, True, SPOT),  # takes a risk: spot whenever there is, behind or not
        (4, 9.0, SPOT, True, SPOT),  # stays on it until it is lost
        (4, 2.05, ON_DEMAND, False, ON_DEMAND),  # hysteresis: two change-overs (10 min: 5 min of work) ahead
        (4, 2.09, ON_DEMAND, False, WAIT),
        (4, 1.5, ON_DEMAND, True, SPOT),
    ],
)
def test_uniform_progress_is_that_of_the_paper(
    elapsed_h: float, done_h: float, mode: int, is_up: bool, does: int
) -> None:
    what = job(10, 1)
    decision = UniformProgress().decide(what, view(elapsed_h, done_h, what, mode, is_up=is_up))
    assert decision.mode.tolist() == [does]


def test_the_lowered_line_waits_where_the_line_itself_does_not() -> None:
    what = job(10, 1)
    assert UniformProgress().decide(what, view(8, 1, what)).mode[0] == ON_DEMAND
    assert LoweredUniformProgress().decide(what, view(8, 1, what)).mode[0] == WAIT
    assert LoweredUniformProgress().share(job(10, 0.1)) == pytest.approx(1.0)


def test_a_slice_that_is_late_goes_on_demand_and_the_job_waits_in_the_next_one() -> None:
    what = job(12, 1)
    assert TimeSliced.slices(what) == 6
    policy = Recorded(TimeSliced())
    run(market_of("0" * 200), what, policy)
    modes = [mode[0] for elapsed_s, mode, _ in policy.told if elapsed_s < 4 * 3600]
    assert modes[0] == WAIT
    assert modes[-1] == ON_DEMAND
    assert modes.count(ON_DEMAND) * 60 == pytest.approx(2 * 3600 + 300, abs=120), "its share, and a change-over"
    next_slice = [mode[0] for elapsed_s, mode, _ in policy.told if 4 * 3600 <= elapsed_s < 5 * 3600]
    assert WAIT in next_slice


# -- cells, chains and plans


def test_a_cell_tells_of_state_age_and_share_and_of_nothing_later() -> None:
    record = np.array([[True], [True], [False], [False], [True]] * 20)
    cells = cells_over_time(record, 600.0)
    assert (IS_UP[cells[:, 0]] == record[:, 0]).all()
    for until in (1, 7, 40):
        assert (cells_over_time(record[:until], 600.0) == cells[:until]).all()


def test_a_chain_sums_to_one_and_learns_from_its_own_past() -> None:
    calm, scarce = (generated(name, spot_price=0.3, seed=1) for name in ("calm", "scarce"))
    prior = Prior.shipped()
    chains = [Chain.of(Forecast(market).counts(market.points), prior.one, 100.0) for market in (calm, scarce)]
    for chain in chains:
        assert np.allclose(chain.moves.sum(axis=1), 1)
        assert (chain.moves >= 0).all()
        assert ((chain.switch >= 0) & (chain.switch <= 1)).all()
    lives = [chain.life_s()[IS_UP].max() for chain in chains]
    assert lives[0] > 2 * lives[1]
    assert np.allclose(Chain.of(Counts.none(), Counts.none(), 100.0).moves, np.eye(CELLS)), "nothing known: it stays"


def test_a_plan_takes_spot_where_it_lasts_and_on_demand_where_there_is_none() -> None:
    what = job(4, 0.5)
    stays = Chain.of(Counts.none(), Counts.none(), 1.0)
    plan = make_plan(stays, what, 0.3, 1.0, keeps_values=True)
    left, slack = len(plan.idle) - 1, plan.idle.shape[2] - 1
    up, down = int(np.flatnonzero(IS_UP)[0]), int(np.flatnonzero(~IS_UP)[0])
    assert plan.idle[left, up, slack] == SPOT
    assert plan.idle[left, down, slack] in (WAIT, ON_DEMAND), "nothing comes: both cost the same in the end"
    assert plan.idle[left, down, 1] == ON_DEMAND
    assert plan.values is not None
    assert plan.values[left, SPOT, up, slack] == pytest.approx(0.3 * (4 + 5 / 60), rel=0.02)
    assert plan.values[left, ON_DEMAND, down, slack] == pytest.approx(4 + 5 / 60, rel=0.02)


def test_planned_is_better_than_its_baselines_on_a_market_that_it_has_watched() -> None:
    market = generated("mixed", spot_price=0.33, seed=3)
    what = job(12, 0.25)
    starts = market.starts(80, what.deadline_s, 5) // 2 + market.points // 3
    least = optimum(market, what, starts)
    mean = {
        policy.name: float((simulate(market, what, policy, starts).cost / least).mean())
        for policy in (Greedy(), UniformProgress(), Planned(Forecast(market, 300.0, Prior.shipped())))
    }
    assert mean["planned"] - 1 < 0.68 * (min(mean["greedy"], mean["uniform-progress"]) - 1), mean


@pytest.mark.parametrize("pools", [1, 3])
def test_no_decision_depends_on_what_comes_after_it(pools: int) -> None:
    market = random_market(7, points=1200, pools=pools, stays=0.93)
    what = job(12, 0.5)
    cut = 700
    other = random_market(8, points=1200, pools=pools, stays=0.6)
    changed = replace(
        market,
        available=np.concatenate([market.available[:cut], other.available[cut:]]),
        price=np.concatenate([market.price[:cut], other.price[cut:]]),
    )
    starts = np.array([cut - 30, cut - 50])
    told = []
    for one in (market, changed):
        policy = Recorded(Planned(Forecast(one, what.changeover_s, Prior.shipped())))
        simulate(one, what, policy, starts)
        told.append([entry for entry in policy.told if entry[0] < 30 * market.gap_s])
    assert told[0] == told[1]
    assert any(SPOT in modes for _, modes, _ in told[0])


def test_a_wrong_forecast_makes_no_job_late() -> None:
    market = random_market(3, points=600, stays=0.9)
    what = job(6, 0.25)
    random = np.random.default_rng(0)
    noise = Counts(random.random((CELLS, CELLS)) * 1000, np.zeros((CELLS, CELLS)))
    forecast = Forecast(market, what.changeover_s, Prior(noise, noise, "noise"))
    outcome = simulate(market, what, Planned(forecast), market.starts(50, what.deadline_s, 1))
    assert not outcome.is_late.any()


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_generated_market_is_the_same_each_time_and_differs_by_its_seed(name: str) -> None:
    first, again, other = (generated(name, spot_price=0.3, seed=seed) for seed in (1, 1, 2))
    assert (first.available == again.available).all()
    assert (first.available != other.available).any()
    assert 0.05 < first.available.mean() < 0.99
