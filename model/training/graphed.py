"""The forward and backward pass of a training step, recorded as one CUDA graph.

A step of a small network is thousands of short kernels, and a GPU finishes each one before Python launches the next.
The recorded kernels are launched together. Only the gradients of this process's images are recorded: the sum over the
ranks, the clipping, the optimizer and the running mean stay outside.

A recorded step is used only if its nats and gradients have the same bits as those of the plain step. A resumed training
begins with plain steps, and would otherwise differ from one that was not interrupted.

NOTE: this has not run on a GPU yet. Its tests drive it on a CPU, with a recorder that runs the same work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from model.errors import TrainingError
from model.networks.buffers import free_buffers

WARM_UP = 3  # plain steps: cuBLAS and cuDNN choose their kernels, and the buffers are made
Compute = Callable[[Tensor, Tensor | None], Tensor]
Record = Callable[[Callable[[], None]], Callable[[], None]]


class Gradients:
    """Computes the gradients of a batch, plainly or by a recorded graph.

    Args:
        compute: levels and conditioning values -> nats; adds the gradients to those of `parameters`, which are None.
        parameters: of the network.
        mode: the setting: "auto" records if that gives the same bits, "on" raises if it does not, "off" does not.
        record: captures work and returns its replay; None where nothing can be recorded.
    """

    def __init__(
        self,
        compute: Compute,
        parameters: Sequence[Tensor],
        *,
        mode: Literal["auto", "on", "off"],
        record: Record | None,
    ) -> None:
        self._compute, self._parameters, self._mode = compute, list(parameters), mode
        self._record = None if mode == "off" else record
        self._plain_steps = 0
        self._replay: Callable[[], None] | None = None
        self._given: tuple[Tensor, Tensor | None] | None = None
        self._nats: Tensor | None = None
        self._gradients: list[Tensor | None] = []
        self._buffers: list[Any] = []  # that the graph writes to; they must outlive it

    @property
    def recorded(self) -> bool:
        """Whether steps are replayed."""
        return self._replay is not None

    def __call__(self, levels: Tensor, values: Tensor | None) -> Tensor:
        """Compute the gradients of a batch and return its part of the mean nats.

        Raises:
            TrainingError: mode "on", and the step cannot be recorded.
        """
        if self._replay is not None and self._fits(levels, values):
            return self._replayed(levels, values)
        nats = self._plainly(levels, values)
        if self._record is not None and self._replay is None:
            self._plain_steps += 1
            if self._plain_steps > WARM_UP:
                self._try_to_record(self._record, levels, values, nats)
        return nats

    def release(self) -> None:
        """Give up the recorded step and its buffers; another one is recorded after some plain steps."""
        self._replay = self._given = self._nats = None
        self._gradients, self._buffers, self._plain_steps = [], [], 0
        for parameter in self._parameters:
            parameter.grad = None

    def _plainly(self, levels: Tensor, values: Tensor | None) -> Tensor:
        for parameter in self._parameters:
            parameter.grad = None
        return self._compute(levels, values)

    def _fits(self, levels: Tensor, values: Tensor | None) -> bool:
        assert self._given is not None  # noqa: S101 - set by the recording
        shapes = [None if some is None else (some.shape, some.dtype) for some in (levels, values, *self._given)]
        return shapes[:2] == shapes[2:]

    def _replayed(self, levels: Tensor, values: Tensor | None) -> Tensor:
        assert self._given is not None and self._replay is not None and self._nats is not None  # noqa: S101, PT018
        self._given[0].copy_(levels)
        if self._given[1] is not None and values is not None:
            self._given[1].copy_(values)
        self._replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient  # the sum over the ranks may have put another one in its place
        return self._nats

    def _try_to_record(self, record: Record, levels: Tensor, values: Tensor | None, nats: Tensor) -> None:
        """Record this step, and compare its replay with what the plain step gave."""
        wanted = [parameter.grad for parameter in self._parameters]
        self._given = (levels.clone(), None if values is None else values.clone())

        def work() -> None:
            assert self._given is not None  # noqa: S101 - set above
            self._nats = self._compute(*self._given)

        why = None
        try:
            for parameter in self._parameters:
                parameter.grad = None
            self._replay = record(work)
            self._gradients = [parameter.grad for parameter in self._parameters]
            self._buffers = [list(free) for free in free_buffers.values()]
            again = self._replayed(levels, values)
            if not torch.equal(again, nats) or not _same(self._gradients, wanted):
                why = "its gradients are not the same bits"
        except RuntimeError as error:  # also memory: the recorded step has buffers of its own
            why = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        if why is None:
            return
        self._replay = self._record = self._given = self._nats = None
        self._gradients, self._buffers = [], []
        for parameter, gradient in zip(self._parameters, wanted, strict=True):
            parameter.grad = gradient
        if self._mode == "on":
            raise TrainingError(f"graph=on: a step cannot be recorded as a CUDA graph: {why}; set graph=auto or off")
        print(f"steps run without a CUDA graph, which is slower: {why}", file=sys.stderr)


def _same(ours: Sequence[Tensor | None], theirs: Sequence[Tensor | None]) -> bool:
    return all(
        (one is None and other is None) or (one is not None and other is not None and torch.equal(one, other))
        for one, other in zip(ours, theirs, strict=True)
    )
