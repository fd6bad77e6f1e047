"""Batches go to a GPU from pinned memory, queued, and no buffer is written while a copy of it may still run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.config import TrainConfig
from model.data import load as load_data
from model.data.feed import Feed
from model.data.upload import AHEAD, Upload

META = torch.device("meta")


class Event:
    """Counts what is asked of it, in a list that all events share."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def record(self) -> None:
        self.told.append("recorded")

    def synchronize(self) -> None:
        self.told.append("waited")


class Copies(TorchDispatchMode):
    """Notes each copy to another device: whether it is queued."""

    def __init__(self) -> None:
        super().__init__()
        self.queued: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default:
            self.queued.append(bool((kwargs or {}).get("non_blocking")))
        return func(*args, **(kwargs or {}))


def test_each_copy_is_queued_from_a_pinned_buffer_of_a_few() -> None:
    pinned: list[Tensor] = []
    told: list[str] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor

    upload = Upload(META, pin=pin, event=lambda: Event(told))
    with Copies() as copies:
        for _ in range(3 * AHEAD):
            assert upload(np.zeros((5, 2), np.int64)).device.type == "meta"
    assert copies.queued == [True] * 3 * AHEAD
    assert len(pinned) == AHEAD
    assert told == ["waited", "recorded"] * 3 * AHEAD  # an event that was never recorded is not waited for
    upload(np.zeros((6, 2), np.int64))
    assert len(pinned) == AHEAD + 1


def test_the_arrays_memory_is_free_when_it_returns() -> None:
    buffers: list[Tensor] = []
    upload = Upload(META, pin=lambda tensor: buffers.append(tensor) or tensor, event=lambda: Event([]))  # type: ignore[func-returns-value]
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    upload(array)
    array[:] = 9
    assert buffers[0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_on_a_cpu_nothing_is_copied() -> None:
    array = np.zeros((2, 2), np.uint8)
    given = Upload(torch.device("cpu"))(array)
    array[0, 0] = 7
    assert given[0, 0] == 7


def test_a_step_makes_no_copy_that_waits() -> None:
    feed = Feed(TrainConfig(batch_size=8), load_data("digits"), META)
    feed._upload = Upload(META, pin=lambda tensor: tensor, event=lambda: Event([]))
    feed.at(0)
    with Copies() as copies:
        feed.at(8)
    assert copies.queued == [True]


def test_a_validation_makes_no_copy_that_waits() -> None:
    feed = Feed(TrainConfig(batch_size=8), load_data("digits"), META)
    feed._upload = Upload(META, pin=lambda tensor: tensor, event=lambda: Event([]))
    with Copies() as copies:
        batches = list(feed.eval_batches("valid", 40, 100))
    assert [len(levels) for levels, _ in batches] == [40, 40, 20]
    assert copies.queued == [True] * 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
def test_what_arrives_on_a_gpu_is_what_was_given() -> None:
    upload = Upload(torch.device("cuda"))
    arrays = [np.random.default_rng(i).integers(0, 255, (64, 3, 32, 32), dtype=np.uint8) for i in range(3 * AHEAD)]
    sent = [upload(array.copy()) for array in arrays]
    for one, array in zip(sent, arrays, strict=True):
        assert np.array_equal(one.cpu().numpy(), array)
