"""What each of several processes computes: shares of one order of images, parts of a step, batches of a validation."""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
import pytest
import torch

from model.config import TrainConfig, check_world
from model.data import Dataset
from model.data import load as load_data
from model.data.feed import Feed, eval_batches
from model.errors import ConfigError
from model.networks.build import choose_implementation
from model.training.distributed import interface_to
from model.training.state import Training
from model.world import ALONE, World

torch.set_num_threads(1)
CPU = torch.device("cpu")
SMALL = TrainConfig(batch_size=24, hidden=2, layers=1, head=3, steps=8, device="cpu")


def numbered(count: int) -> Dataset:
    """Images whose first value is their number."""
    levels = np.zeros((count, 1, 8, 8), np.uint8)
    levels[:, 0, 0, 0] = np.arange(count)
    return Dataset("digits", levels, levels[:5], levels[:5])


def shares(config: TrainConfig, position: int, size: int) -> list[int]:
    """Return the numbers of the images that all ranks get at a position, by rank."""
    found: list[int] = []
    for rank in range(size):
        world = World(rank, size, rank, size) if size > 1 else ALONE
        levels, _ = Feed(config, numbered(251), CPU, world).at(position)
        assert len(levels) == config.batch_size // size
        found += levels[:, 0, 0, 0].tolist()
    return found


def test_an_epoch_has_each_image_once_whatever_the_number_of_ranks_is_and_becomes() -> None:
    whole = [number for step in range(32) for number in shares(SMALL, 24 * step, 1)]
    sizes = [1, 2, 3, 4, 6, 8, 12, 24] * 4  # changes within the epoch
    shared = [number for step, size in enumerate(sizes) for number in shares(SMALL, 24 * step, size)]
    assert shared == whole
    for epoch in range(3):
        assert sorted(shared[251 * epoch : 251 * (epoch + 1)]) == list(range(251))


@pytest.mark.parametrize("most", [0, 3, 40])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_the_batches_of_a_validation_are_those_of_one_process(ranks: int, most: int) -> None:
    data = numbered(53)
    alone = [levels.tolist() for levels, _ in eval_batches(data, "train", CPU, size=8, most=most)]
    by_rank = [
        [levels.tolist() for levels, _ in eval_batches(data, "train", CPU, size=8, most=most, rank=rank, ranks=ranks)]
        for rank in range(ranks)
    ]
    assert [batch for turn in zip_longest(*by_rank) for batch in turn if batch is not None] == alone


def test_a_step_in_parts_is_the_same_step() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        states = []
        for parts in (1, 2, 8):
            run = Training(SMALL.model_copy(update={"accumulate": parts}), load_data("digits"), CPU)
            for _ in range(4):
                run.advance()
            states.append(
                (run.mean_nats(), torch.cat([weight.detach().reshape(-1) for weight in run.net.parameters()]))
            )
    finally:
        torch.set_default_dtype(torch.float32)
    for nats, weights in states[1:]:
        assert nats == pytest.approx(states[0][0], rel=1e-13)
        assert float((weights - states[0][1]).abs().max()) < 1e-12
    assert not torch.equal(states[1][1], states[0][1]), "the parts were not computed apart"


def test_a_batch_must_be_divisible_by_the_processes_and_parts() -> None:
    check_world(SMALL, 8)
    check_world(SMALL.model_copy(update={"accumulate": 3}), 8)
    with pytest.raises(ConfigError, match="batch_size = 24 is not divisible by 5 processes; give a multiple of 5"):
        check_world(SMALL, 5)
    with pytest.raises(ConfigError, match=r"by 8 processes times accumulate = 2; give a multiple of 16, such as"):
        check_world(SMALL.model_copy(update={"accumulate": 2}), 8)
    with pytest.raises(ValueError, match="a batch of 32 images cannot be cut into 5 equal parts; give a divisor of it"):
        TrainConfig(accumulate=5)


def test_less_memory_does_for_a_share_of_the_batch() -> None:
    config = TrainConfig(model="row-lstm", batch_size=64)
    memory = next(size for size in range(10**5, 10**9, 10**5) if choose_implementation(config, size) == "fast")
    less = memory // 3
    assert choose_implementation(config, less) == "reference"
    assert choose_implementation(config, less, ranks=4) == "fast"
    assert choose_implementation(config.model_copy(update={"accumulate": 4}), less) == "fast"


def test_a_process_alone_makes_no_group() -> None:
    run = Training(SMALL, load_data("digits"), CPU)
    run.advance()
    assert run.stopwatch is None
    assert not torch.distributed.is_initialized()


def test_the_interface_is_the_one_that_reaches_rank_0() -> None:
    """The members of the embedded cloud have addresses of their own, all of the loopback interface."""
    assert interface_to("127.0.0.1") == interface_to("127.0.0.2") == "lo"
    assert interface_to("no-such-host.invalid") is None
