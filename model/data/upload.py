"""Copies batches to a GPU without a wait: from pinned memory, which the GPU reads by itself.

A copy from ordinary memory makes the process wait until all queued work of the GPU is done, in each step. From a pinned
buffer the copy is queued like the rest. A buffer may be written again when its copy is done, which an event tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AHEAD = 4  # buffers of each shape: steps that are queued while the GPU is busy with the first


class Upload:
    """Copies arrays to a device, each through the next of a few pinned buffers of its shape.

    Args:
        device: of the results. On a CPU an array is not copied: the result shares its memory.
        pin: puts a tensor into pinned memory.
        event: makes an event that is recorded after a copy, such as `torch.cuda.Event`.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        pin: Callable[[Tensor], Tensor] = lambda tensor: tensor.pin_memory(),
        event: Callable[[], Any] | None = None,
    ) -> None:
        self._device, self._pin = device, pin
        self._event = event or torch.cuda.Event
        self._slots: dict[tuple[Any, ...], list[tuple[Tensor, Any]]] = {}
        self._turn: dict[tuple[Any, ...], int] = {}

    def __call__(self, array: NDArray[Any]) -> Tensor:
        """Copy an array; the array may be changed when this returns, except on a CPU."""
        given = torch.from_numpy(array)
        if self._device.type == "cpu":
            return given
        buffer, copied = self._slot(given)
        copied.synchronize()  # done long ago, unless more than AHEAD steps are queued
        np.copyto(buffer.numpy(), array)
        sent = buffer.to(self._device, non_blocking=True)
        copied.record()
        return sent

    def _slot(self, like: Tensor) -> tuple[Tensor, Any]:
        key = (tuple(like.shape), like.dtype)
        slots = self._slots.setdefault(key, [])
        turn = self._turn.get(key, 0)
        self._turn[key] = (turn + 1) % AHEAD
        if turn == len(slots):
            slots.append((self._pin(torch.empty(like.shape, dtype=like.dtype)), self._event()))
        return slots[turn]
