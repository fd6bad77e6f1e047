"""The simulator, its optimum and the safety rule."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from orchestrator.policy import safety
from orchestrator.policy.base import Job, Policy
from orchestrator.policy.baselines import Greedy, OnDemand, Spot, TimeSliced
from orchestrator.policy.forecast import Forecast, Prior
from orchestrator.policy.market import Market
from orchestrator.policy.optimum import optimum
from orchestrator.policy.planned import Planned
from orchestrator.policy.simulator import Draws, simulate
from orchestrator.policy.uniform_progress import LoweredUniformProgress, UniformProgress
from tests.unit.policy.markets import GAP_S, Erratic, job, market_of, random_market, run


def policies(market: Market, what: Job) -> list[Policy]:
    forecast = Forecast(market, what.changeover_s, Prior.shipped())
    return [OnDemand(), Greedy(), TimeSliced(), UniformProgress(), LoweredUniformProgress(), Planned(forecast)]


# -- how a job goes


def test_on_demand_costs_its_change_over_and_its_work() -> None:
    outcome = run(market_of("0" * 20), job(1, 1), OnDemand())
    assert outcome.cost[0] == pytest.approx((3600 + 300) / 3600)
    assert outcome.finish_s[0] == pytest.approx(3900)
    assert (outcome.attempts[0], outcome.losses[0], outcome.is_late[0]) == (1, 0, False)


def test_a_loss_costs_its_change_over_again_and_no_work_of_a_program_that_saves() -> None:
    outcome = run(market_of("110111111111"), job(1, 1), Spot())  # 15 min of work, a loss, 45 min of work
    assert outcome.cost[0] == pytest.approx(0.3 * (1200 + 300 + 2700) / 3600)
    assert (outcome.attempts[0], outcome.losses[0]) == (2, 1)
    assert outcome.finish_s[0] == pytest.approx(1800 + 300 + 2700)


def test_a_loss_takes_the_training_since_the_newest_checkpoint() -> None:
    outcome = run(market_of("110111111111"), job(1, 1, checkpoint_every_s=600.0), Spot())
    assert outcome.lost_s[0] == pytest.approx(300)  # 15 minutes were trained, ten of them saved
    assert outcome.finish_s[0] == pytest.approx(1800 + 300 + 3000)


def test_a_first_hour_that_aws_ends_is_free_where_that_is_asked_for() -> None:
    market = market_of("110111111111")
    outcome = run(market, job(1, 1), Spot(), is_first_hour_free=True)
    assert outcome.cost[0] == pytest.approx(0.3 * (300 + 2700) / 3600)
    late_loss = run(market_of("1111111" + "0" + "1" * 12), job(2, 0.6), Spot(), is_first_hour_free=True)
    assert late_loss.cost[0] == pytest.approx(0.3 * (4200 + 300 + 7200 - 3900) / 3600), "after 70 minutes it is billed"


def test_spot_may_be_late_and_is_told_to_be_and_the_others_are_not() -> None:
    market = market_of("0" * 30)
    assert run(market, job(1, 1), Spot()).is_late[0]
    greedy = run(market, job(1, 1), Greedy())
    assert not greedy.is_late[0]
    assert greedy.finish_s[0] == pytest.approx(7200), "it waits as long as it can"


def test_the_cheapest_pool_is_taken_and_kept_until_it_is_lost() -> None:
    outcome = run(market_of("0001111111111", "1111101111111", price=[0.2, 0.4]), job(1, 1), Spot())
    assert outcome.cost[0] == pytest.approx((0.4 * 3000 + 0.2 * (300 + 3600 - 2700)) / 3600)
    assert outcome.losses[0] == 1


def test_prices_are_those_of_the_moment() -> None:
    prices = [[0.2]] * 3 + [[0.5]] * 9
    outcome = run(market_of("1" * 12, price=prices), job(1, 1), Spot())  # type: ignore[arg-type]
    assert outcome.cost[0] == pytest.approx((0.2 * 1800 + 0.5 * 2100) / 3600)


# -- the optimum


def plans_cost(market: Market, what: Job, modes: tuple[int, ...], unit_s: float) -> float:
    """Return what a plan costs, one mode a unit of time: -1 waits, 0 is on-demand, n is pool n - 1; inf: it is late."""
    work_s, cost, starting_s, before = what.work_s, 0.0, 0.0, -1
    for number, mode in enumerate(modes):
        point = int(number * unit_s / market.gap_s)
        if mode > 0 and not market.available[point, mode - 1]:
            return np.inf
        if mode >= 0:
            starting_s = what.changeover_s if mode != before else starting_s
            price = 1.0 if mode == 0 else float(market.price[point, mode - 1])
            trained_s = max(0.0, unit_s - starting_s)
            used_s = unit_s if trained_s < work_s else starting_s + work_s
            cost += price * used_s / 3600
            work_s -= trained_s
            starting_s = max(0.0, starting_s - unit_s)
            if work_s <= 1e-9:
                return cost
        before = mode
    return np.inf


@pytest.mark.parametrize("pools", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_the_optimum_is_the_least_of_all_plans(seed: int, pools: int) -> None:
    market = random_market(seed, points=8, pools=pools, stays=0.6)
    what = Job(work_s=3 * GAP_S, deadline_s=6 * GAP_S, changeover_s=GAP_S if seed % 2 else 0.0)
    found = optimum(market, what, np.array([0, 1]))
    for start, least in enumerate(found):
        moved = market_of(*("1" for _ in range(pools)))
        moved = Market("x", market.pools, GAP_S, market.available[start:], market.price[start:])
        ways = itertools.product(range(-1, pools + 1), repeat=6)
        assert least == pytest.approx(min(plans_cost(moved, what, modes, GAP_S) for modes in ways))


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_no_policy_is_under_the_optimum_and_none_with_the_safety_rule_is_late(seed: int, free: bool) -> None:
    market = random_market(seed, points=200, pools=1 + seed % 3, stays=0.8 + 0.05 * (seed % 4))
    what = job(2 + seed % 2, (0.2, 0.5, 1.0)[seed % 3], (300.0, 600.0, 0.0, 420.0)[seed % 4])
    starts = market.starts(12, what.deadline_s, seed)
    least = optimum(market, what, starts, is_first_hour_free=free)
    for policy in policies(market, what):
        outcome = simulate(market, what, policy, starts, is_first_hour_free=free)
        assert not outcome.is_late.any(), policy.name
        assert (outcome.cost >= least - 1e-9).all(), policy.name
        assert outcome.finish_s.max() <= what.deadline_s + 1e-6


def test_what_cannot_be_in_time_has_no_optimum() -> None:
    with pytest.raises(ValueError, match="no plan is in time"):
        optimum(market_of("1" * 20), job(1, 0.05), np.array([0]))


def test_many_starts_at_the_same_points_are_computed_once_and_a_grid_without_end_is_refused() -> None:
    market, what = random_market(3), job(2, 0.5)
    some = np.array([5, 2, 5, 9])
    assert (optimum(market, what, np.tile(some, 25_000))[:4] == optimum(market, what, some)).all()
    fine = Market("fine", ("a",), 7.0, np.ones((200_000, 1), bool), np.full((200_000, 1), 0.3))
    with pytest.raises(ValueError, match="takes too long in steps of 1 s"):
        optimum(fine, job(48, 1), np.arange(300))


def test_a_free_first_hour_is_free_for_an_instance_that_is_lost_and_not_for_one_that_is_done_before() -> None:
    market = market_of("1" * 6 + "0" * 20)
    least = optimum(market, job(0.5, 1), np.array([0]), is_first_hour_free=True)
    assert least[0] == pytest.approx(0.3 * (1800 + 300) / 3600)
    assert run(market, job(0.5, 1), Greedy(), is_first_hour_free=True).cost[0] == pytest.approx(least[0])


def test_an_hour_that_is_no_whole_number_of_gaps_is_free_to_the_second() -> None:
    market = market_of("1" * 6 + "0" * 30, gap_s=660.0)  # lost after 3,960 s: free for one that began at 360 s
    what = Job(work_s=6600.0, deadline_s=19800.0, changeover_s=660.0)
    least = optimum(market, what, np.array([0]), is_first_hour_free=True)
    assert least[0] == pytest.approx((6600.0 - (3600 - 660) + 660) / 3600), "the rest is done on on-demand"


# -- the safety rule


@pytest.mark.parametrize("seed", range(30))
def test_no_policy_and_no_change_over_up_to_its_quantile_makes_a_job_late(seed: int) -> None:
    random = np.random.default_rng(1000 + seed)
    market = random_market(seed, points=200, pools=1 + seed % 2, stays=random.choice([0.5, 0.9, 0.97]))
    mean_s = float(random.choice([30.0, 200.0, 330.0, 900.0]))
    what = job(
        float(random.choice([1, 2.5])), float(random.choice([1.1, 1.5, 2.0])), mean_s, margin_s=2 * mean_s,
        checkpoint_every_s=float(random.choice([0.0, 900.0])),
    )  # fmt: skip
    starts = market.starts(20, what.deadline_s, seed)
    draws = Draws(mean_s, sigma=0.7, most_s=what.margin_s, seed=seed)
    outcome = simulate(market, what, Erratic(seed), starts, draws=draws)
    assert not outcome.is_late.any()


def test_the_rule_moves_at_the_last_moment_and_not_before() -> None:
    outcome = run(market_of("0" * 30), job(1, 1, 300.0, margin_s=300.0), Greedy())
    assert outcome.on_demand_s[0] == pytest.approx(3900)
    assert outcome.finish_s[0] == pytest.approx(7200)


def test_the_rule_works_on_plain_numbers() -> None:
    slack_s = safety.slack(7200.0, 3600.0, 0.0)
    assert not safety.must_move(slack_s, safety.burnt(60.0, 300.0, saves_at_notice=True), 3500.0)
    assert safety.must_move(slack_s, safety.burnt(60.0, 300.0, saves_at_notice=True), 3550.0)
    assert safety.burnt(60.0, 20.0, saves_at_notice=True) == 20.0
    assert safety.burnt(60.0, 20.0, saves_at_notice=False) == 60.0


def test_the_rule_needs_no_numpy() -> None:
    assert {"np", "numpy"}.isdisjoint(vars(safety))


def test_a_live_instance_is_not_begun_anew() -> None:
    outcome = run(market_of("1" * 20), job(1, 1), Greedy())
    assert (outcome.attempts[0], outcome.spot_s[0]) == (1, pytest.approx(3900))
