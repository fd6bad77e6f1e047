"""Predictions: the three roofs, calibration, the interval, and the error of leaving one out."""

from __future__ import annotations

import math
import random

import pytest

from model.config import TrainConfig, cost_of
from orchestrator.market import catalog
from orchestrator.market.throughput import KERNEL_S, Observation, Work, bound_s, predict, work_of

TYPES = ["p2.xlarge", "p3.2xlarge", "g4dn.xlarge", "g5.xlarge", "g6.xlarge", "g6e.xlarge", "p4d.24xlarge"]
COMPUTE = Work(flops=1e10, bytes=1e3, kernels=0)
TRAFFIC = Work(flops=1e3, bytes=1e9, kernels=0)


def observed(name: str, slowdown: float, work: Work = COMPUTE) -> Observation:
    known = catalog.find(name)
    return Observation(known, 1 / (bound_s(work, known) * slowdown), work)


def test_the_slowest_of_three_roofs_bounds() -> None:
    t4 = catalog.find("g4dn.xlarge")
    assert bound_s(COMPUTE, t4) == pytest.approx(1e10 / 8.1e12)
    assert bound_s(TRAFFIC, t4) == pytest.approx(1e9 / 320e9)
    assert bound_s(Work(1, 1, 1000), t4) == pytest.approx(1000 * KERNEL_S)


def test_the_work_is_counted_from_the_network() -> None:
    small = TrainConfig(hidden=16)
    large = TrainConfig(hidden=32)
    assert work_of(small).flops == cost_of(small).training_flops
    assert 1.5 < work_of(large).bytes / work_of(small).bytes < 3
    assert work_of(TrainConfig(model="diagonal-bilstm")).kernels > work_of(TrainConfig(model="row-lstm")).kernels
    assert work_of(TrainConfig(batch_size=64)).kernels == work_of(small).kernels / 2


def test_a_machine_that_is_k_times_slower_than_the_bound_predicts_the_others_so() -> None:
    found = predict([observed("g4dn.xlarge", 4), observed("p2.xlarge", 4)], [catalog.find("g5.xlarge")], COMPUTE)
    (made,) = found.of_types
    assert made.images_per_s == pytest.approx(1 / (4 * bound_s(COMPUTE, catalog.find("g5.xlarge"))))
    assert made.low == pytest.approx(made.high)
    assert "g4dn.xlarge, p2.xlarge" in made.basis
    assert [check.error for check in found.left_out] == pytest.approx([0, 0])


def test_the_interval_widens_with_the_scatter_and_narrows_with_more_types() -> None:
    target = [catalog.find("g6e.xlarge")]

    def width(slowdowns: list[float]) -> float:
        seen = [observed(name, k) for name, k in zip(TYPES, slowdowns, strict=False)]
        made = predict(seen, target, COMPUTE).of_types[0]
        return made.high / made.low

    assert width([3, 5]) > width([3.9, 4.1])
    assert width([3, 5, 3, 5, 3, 5]) < width([3, 5])


def test_the_interval_holds_nine_times_of_ten() -> None:
    dice = random.Random(7)
    held = 0
    for _ in range(400):
        slowdowns = {name: math.exp(dice.gauss(1.5, 0.3)) for name in TYPES}
        seen = [observed(name, slowdowns[name]) for name in TYPES[:-1]]
        last = TYPES[-1]
        made = predict(seen, [catalog.find(last)], COMPUTE).of_types[0]
        held += made.low <= observed(last, slowdowns[last]).images_per_s <= made.high
    assert 0.85 < held / 400 < 0.95


def test_the_error_of_leaving_one_out_is_that_of_a_prediction_from_the_others() -> None:
    seen = [observed("g4dn.xlarge", 4), observed("p2.xlarge", 4), observed("g5.xlarge", 8)]
    found = predict(seen, [], COMPUTE)
    errors = {check.instance_type: check.error for check in found.left_out}
    assert errors["g5.xlarge"] == pytest.approx(1.0), "predicted twice as fast as it was"
    assert errors["g4dn.xlarge"] == pytest.approx(1 / math.sqrt(2) - 1)
    assert found.typical_error == pytest.approx(1 - 1 / math.sqrt(2))


def test_without_a_run_on_a_gpu_it_says_so_and_claims_little() -> None:
    found = predict([], [catalog.find("g5.xlarge")], COMPUTE)
    (made,) = found.of_types
    assert "no run on a GPU" in made.basis
    assert made.high / made.low == pytest.approx(9)
    assert found.typical_error is None


def test_one_type_gives_an_interval_of_a_factor_two() -> None:
    (made,) = predict([observed("g4dn.xlarge", 4)], [catalog.find("g5.xlarge")], COMPUTE).of_types
    assert made.high / made.images_per_s == pytest.approx(2)


def test_a_program_of_ones_own_lies_between_the_ratios_of_rates() -> None:
    t4, l4 = catalog.find("g4dn.xlarge"), catalog.find("g6.xlarge")
    (made,) = predict([Observation(t4, 100.0)], [l4]).of_types
    assert made.low == pytest.approx(100 * 300 / 320)
    assert made.high == pytest.approx(100 * 30.3 / 8.1)
    assert made.low < made.images_per_s < made.high
    assert predict([], [l4]).of_types == ()
