"""What the training loop asks of the other processes of its training; a process alone has the answers itself.

`model.training.distributed` has the group of several processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from model.training.stop import StopFlag, Stopped
from model.world import ALONE, World

T = TypeVar("T")


class Group:
    """A process alone: no process group is made, and nothing is sent."""

    world: World = ALONE
    patience_s = math.inf  # a rank that waits longer for data says so, before the others give it up

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes files and prints."""
        return self.world.rank == 0

    def stop_of(self, flag: StopFlag) -> StopFlag:
        """Return the stop request of the whole group, given that of this process."""
        return flag

    def agree(self, **facts: Any) -> None:
        """Check that all processes have the same facts.

        Raises:
            SetupError: they differ; the message names two of the ranks and their values.
        """

    def from_first(self, value: T) -> T:
        """Return rank 0's value on each rank. The values of other ranks are ignored."""
        return value

    def of_all(self, value: T) -> list[T]:
        """Return the values of all ranks, by rank, on each of them."""
        return [value]

    def of_all_or_stop(self, value: T | None) -> list[T]:
        """Return the values of all ranks, by rank.

        Args:
            value: None if this rank has given up its work for a stop request.

        Raises:
            Stopped: a rank has given up; it is raised on every rank.
        """
        if value is None:
            raise Stopped
        return [value]

    def keep_waiting(self) -> None:
        """Tell the others now and then that this rank's value for `of_all_or_stop` is still to come."""

    def first_does(self, work: Callable[[], None]) -> None:
        """Let rank 0 do the work, however long it takes; the others wait.

        Raises:
            Stopped: the work was given up for a stop request, on every rank.
        """
        work()

    def sum_step(self, parameters: Sequence[Tensor], nats: Tensor, rows: int, batch: int) -> Tensor | None:
        """Sum the gradients and the nats of one step over the ranks.

        Args:
            parameters: their gradients are replaced by the sums.
            nats: this rank's part of the mean nats, a scalar.
            rows: images that this rank has computed: 0 if its data have not come yet, or for a stop request.
            batch: images of the whole step.

        Returns:
            The mean nats of the whole batch; None if a rank still waits for its data, so that all repeat the step.

        Raises:
            Stopped: a rank has given up its step for a stop request: none may take it.
        """
        return nats

    def blame(self, error: Exception) -> Exception:
        """Return what this rank raises when a loss or gradient of the group is not finite: `error` if it is its own."""
        return error

    def close(self) -> None:
        """Leave after the last step. Waits for the others."""


class Stopwatch:
    """Measures the seconds of a step until its gradients are to be summed. On a GPU nothing waits for the result."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []
        self._began: Any = None
        self._seconds, self._count = 0.0, 0

    def start(self) -> None:
        """Begin a step."""
        self._began = self._now()

    def stop(self) -> None:
        """End the step."""
        self._count += 1
        if self._gpu:
            self._spans.append((self._began, self._now()))
        else:
            self._seconds += self._now() - self._began

    def mean_s(self) -> float:
        """Return the mean seconds of a step since the last call. This waits for the GPU."""
        for began, ended in self._spans:
            ended.synchronize()
            self._seconds += began.elapsed_time(ended) / 1000
        mean = self._seconds / max(1, self._count)
        self._spans, self._seconds, self._count = [], 0.0, 0
        return mean

    def _now(self) -> Any:
        if not self._gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def of_the_world(group: Group, name: str) -> dict[str, Any]:
    """Return what the `start` line says of several processes: their number, and the name of each one's device."""
    return {} if group.world.size == 1 else {"world": group.world.size, "ranks": group.of_all(name)}
