"""Groups of machines: the ring against published measurements, and what must hold of every estimate."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import TrainConfig, config_from_settings, cost_of
from orchestrator.market import catalog
from orchestrator.market.scaling import (
    Estimate,
    Group,
    all_reduce_s,
    expected_interruptions,
    gradient_bytes,
    group,
    reduction,
    refusal,
    waste_usd,
    work_of_rank,
)
from orchestrator.market.throughput import bound_s, predict, work_of

GIB = float(1 << 30)
ROW_LSTM = config_from_settings({"model": "row-lstm", "dataset": "cifar10", "hidden": 128, "layers": 12})
SPEED = Estimate(100.0, 80.0, 125.0)
KNOWN = [known.name for known in catalog.all_types() if known.network.gbit_s is not None]


def config(batch: int = 64, **changes: object) -> TrainConfig:
    return config_from_settings({"model": "row-lstm", "dataset": "cifar10", "batch_size": batch, **changes})


def made(name: str, nodes: int, batch: int = 64, speed: Estimate = SPEED) -> Group:
    return group(catalog.find(name), nodes, config(batch), speed)


# -- the all-reduce


def test_the_ring_sends_twice_all_but_one_share() -> None:
    inside, outside = all_reduce_s(8e9, 4, 1, inside_gb_s=None, network_gbit_s=8, e_out=1.0, latency_s=0.0)
    assert (inside, outside) == (0.0, pytest.approx(2 * 3 / 4 * 8))
    inside, outside = all_reduce_s(8e9, 1, 4, inside_gb_s=10, network_gbit_s=None, e_in=0.5)
    assert (inside, outside) == (pytest.approx(2 * 3 / 4 * 8 / 5), 0.0)
    assert sum(all_reduce_s(8e9, 1, 1, inside_gb_s=None, network_gbit_s=None)) == 0
    latency = all_reduce_s(0, 5, 1, inside_gb_s=None, network_gbit_s=8, latency_s=1e-4)[1]
    assert latency == pytest.approx(8e-4)


@pytest.mark.parametrize(("machines", "measured_ms"), [(1, 8.14), (2, 35.2), (3, 64.8), (4, 70.3)])
def test_the_interval_holds_what_nccl_tests_measured_on_p4d(machines: int, measured_ms: float) -> None:
    """nccl issue 527: 1 GiB of float, four network cards with EFA."""
    found = reduction(catalog.find("p4d.24xlarge"), machines, GIB, network_gbit_s=400)
    assert found.low <= measured_ms / 1e3 <= found.high
    if machines > 2:
        assert found.mid == pytest.approx(measured_ms / 1e3, rel=0.1), "the default is that of more than two machines"


def test_the_interval_holds_the_bandwidth_seen_on_two_p4de() -> None:
    """skypilot issue 8391: a bus bandwidth of 77.9 GB/s over 16 GPUs."""
    measured_s = 2 * 15 / 16 * GIB / 77.9e9
    found = reduction(catalog.find("p4de.24xlarge"), 2, GIB, network_gbit_s=400)
    assert found.low <= measured_s <= found.high


def test_the_row_lstm_on_the_small_and_the_large_machine() -> None:
    """The published sizes of the network, and its all-reduce by hand: 30.4 MB over 2.5 Gbit/s, half of it reached."""
    size = gradient_bytes(ROW_LSTM)
    assert size == 4 * cost_of(ROW_LSTM).parameters
    small = reduction(catalog.find("g5.xlarge"), 2, size, network_gbit_s=2.5)
    assert small.mid == pytest.approx(size / (2.5e9 / 8 * 0.5), rel=0.01)
    large = all_reduce_s(size, 2, 4, inside_gb_s=20, network_gbit_s=40)
    assert large[1] == pytest.approx(small.mid / 16, rel=0.02)


def test_an_unknown_rate_is_said_and_not_guessed() -> None:
    assert "baseline" in refusal(catalog.find("p3.2xlarge"), 2, config())
    assert refusal(catalog.find("p3.2xlarge"), 1, config()) == ""
    with pytest.raises(ValueError, match="baseline"):
        made("p3.2xlarge", 2)
    with pytest.raises(ValueError, match="between the GPUs"):
        all_reduce_s(1.0, 1, 2, inside_gb_s=None, network_gbit_s=None)


# -- a group


def test_one_machine_with_one_gpu_is_exactly_the_prediction() -> None:
    known, trained = catalog.find("g5.xlarge"), config(32)
    prediction = predict([], [known], work_of(trained)).of_types[0]
    found = group(known, 1, trained, Estimate.of(prediction))
    assert found.images_per_s == Estimate(
        *map(pytest.approx, (prediction.images_per_s, prediction.low, prediction.high))
    )  # type: ignore[arg-type]
    assert found.reduce_s == Estimate(0.0, 0.0, 0.0)
    assert found.efficiency.mid == pytest.approx(1)


def test_a_step_lies_between_full_overlap_and_none() -> None:
    exact = Estimate(100.0, 100.0, 100.0)
    found = made("g5.xlarge", 4, speed=exact)
    assert found.step_s.mid == pytest.approx(found.compute_s.mid + found.reduce_s.mid)
    assert found.step_s.low == pytest.approx(max(found.compute_s.mid, found.reduce_s.low))
    assert found.step_s.high == pytest.approx(found.compute_s.mid + found.reduce_s.high)
    assert found.images_per_s.mid == pytest.approx(64 / found.step_s.mid)


def test_a_share_of_the_batch_takes_its_share_of_the_work_and_all_of_the_launches() -> None:
    whole, own = work_of(config(64)), work_of_rank(config(64), 4)
    assert own.flops == whole.flops
    assert own.kernels == pytest.approx(4 * whole.kernels)
    assert own.bytes > whole.bytes
    known = catalog.find("g5.xlarge")
    found = made("g5.xlarge", 4)
    assert found.compute_s.mid == pytest.approx(64 / 4 / 100 * bound_s(own, known) / bound_s(whole, known))


def test_launches_that_are_not_shortened_are_named() -> None:
    tiny = config_from_settings({"model": "diagonal-bilstm", "dataset": "digits", "batch_size": 32})
    found = group(catalog.find("p5.48xlarge"), 1, tiny, SPEED)
    assert found.limit == "kernels"
    assert found.efficiency.mid < 0.2, "eight GPUs launch as many kernels as one"


def test_the_network_is_named_where_it_takes_longer_than_the_gpus() -> None:
    assert made("g5.xlarge", 8, speed=SPEED.scaled(1e4)).limit == "network"
    assert made("g5.xlarge", 2, speed=SPEED.scaled(0.01)).limit in ("compute", "kernels")


def test_one_machine_of_four_gpus_beats_four_of_one() -> None:
    assert made("g5.12xlarge", 1).images_per_s.mid > made("g5.xlarge", 4).images_per_s.mid


def test_a_batch_that_does_not_divide_is_refused() -> None:
    assert "does not divide by 6 GPUs" in refusal(catalog.find("g5.xlarge"), 6, config(64))
    with pytest.raises(ValueError, match="does not divide"):
        made("g5.xlarge", 6)


def test_money_is_of_all_machines() -> None:
    found = made("g5.xlarge", 2, speed=Estimate(100.0, 100.0, 100.0))
    assert found.usd_per_images(3600, 1.5).mid == pytest.approx(3600 / found.images_per_s.mid * 3.0 / 3600)
    assert found.usd_per_step(1.5).mid == pytest.approx(found.usd_per_images(64, 1.5).mid)
    assert waste_usd(4, 1.5, 600) == pytest.approx(1.0)


def test_the_mean_time_between_interruptions_is_a_share_of_one_machines() -> None:
    assert expected_interruptions(10, 4, 20) == pytest.approx(4 * expected_interruptions(10, 1, 20))


# -- of every group


groups = st.tuples(
    st.sampled_from(KNOWN), st.sampled_from([1, 2, 4, 8]), st.sampled_from([256, 512]), st.floats(0.1, 1e5)
)


@settings(deadline=None, max_examples=60)
@given(groups)
def test_every_estimate_is_ordered_and_no_faster_than_all_gpus_alone(asked: tuple[str, int, int, float]) -> None:
    name, nodes, batch, speed = asked
    found = made(name, nodes, batch, Estimate(speed, speed / 2, speed * 2))
    for figure in (found.compute_s, found.reduce_s, found.step_s, found.images_per_s, found.efficiency):
        assert 0 <= figure.low <= figure.mid <= figure.high
    assert found.efficiency.high <= 1 + 1e-9
    assert found.images_per_s.mid <= speed * found.ranks * (1 + 1e-9)
    cost, alone = found.usd_per_images(1e6, 2.0), 1e6 / (speed * found.gpus) * 2.0 / 3600
    assert cost.mid >= alone * (1 - 1e-9), "a group is never cheaper an image than GPUs without a network"


@settings(deadline=None, max_examples=60)
@given(groups)
def test_more_machines_never_raise_the_efficiency(asked: tuple[str, int, int, float]) -> None:
    name, nodes, batch, speed = asked
    few, more = (made(name, count, batch, Estimate(speed, speed, speed)) for count in (nodes, 2 * nodes))
    assert more.efficiency.mid <= few.efficiency.mid * (1 + 1e-9)
    assert more.reduce_s.mid >= few.reduce_s.mid


@settings(deadline=None, max_examples=40)
@given(st.floats(1e3, 1e10), st.integers(2, 64), st.floats(1, 400), st.floats(1.01, 10))
def test_a_faster_network_is_never_slower(size: float, nodes: int, gbit_s: float, factor: float) -> None:
    slow, fast = (
        all_reduce_s(size, nodes, 1, inside_gb_s=None, network_gbit_s=rate)[1] for rate in (gbit_s, factor * gbit_s)
    )
    assert fast < slow
