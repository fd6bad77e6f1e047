"""Buffers that later passes through a network reuse.

A pass of the fast networks writes tens of megabytes. The kernel clears and maps newly allocated memory page by page;
on a CPU this took a third of the Row LSTM's time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from threading import RLock
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from model.device import memory_bytes

KEPT_SHAPES = 8  # network and softmax: of a training and a validation batch, and of the last, smaller one of each
IDLE_SHARE = 0.1  # fraction of the memory for idle buffers of other shapes when new buffers are allocated

T = TypeVar("T")
_Key = tuple[object, ...]
free_buffers: dict[_Key, list[dict[str, Any]]] = {}  # the most recently used shape is last
_lock = RLock()  # a workspace may be deleted while this thread is in here


class Workspace:
    """The buffers of one pass, by name. The next pass can reuse them once this object is deleted.

    An autograd node holds the workspace and deletes it when the gradients of the pass are no longer needed. On a GPU
    allocation is cheap, but the views of the buffers are not: a step of the Diagonal BiLSTM has thousands.

    Args:
        key: the sizes that determine the shapes; workspaces of the same key have the same buffers.
        like: a tensor of the dtype and device of the buffers.
    """

    def __init__(self, key: _Key, like: Tensor) -> None:
        # What is made in inference mode cannot be written to outside of it.
        self._key = (*key, like.dtype, like.device, torch.is_inference_mode_enabled())
        self._like = like.new_empty(0)
        with _lock:
            free = free_buffers.get(self._key)
            self._things: dict[str, Any] = free.pop() if free else {}

    def zeros(self, name: str, *shape: int) -> Tensor:
        """Return the buffer of a name: zeros if it is new, else with the content from the last pass."""
        return self.once(name, lambda: torch.zeros(shape, dtype=self._like.dtype, device=self._like.device))

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return the object of a name, for example views of the buffers; `make` creates it at the first call."""
        if name not in self._things:
            _make_room(idle_limit(self._like.device.type))
            self._things[name] = make()
        return cast("T", self._things[name])

    def __del__(self) -> None:
        with _lock:
            free = free_buffers.pop(self._key, [])
            free.append(self._things)
            free_buffers[self._key] = free
            while len(free_buffers) > KEPT_SHAPES:
                del free_buffers[next(iter(free_buffers))]


def _make_room(limit: int) -> None:
    """Delete idle buffers, the least recently used shape first, until at most `limit` bytes remain.

    It runs only when new buffers are allocated, because the buffers of training, which may exceed the limit, are idle
    between two steps.
    """
    with _lock:
        idle = sum(_bytes(things) for free in free_buffers.values() for things in free)
        while idle > limit:
            idle -= sum(_bytes(things) for things in free_buffers.pop(next(iter(free_buffers))))


def _bytes(things: dict[str, Any]) -> int:
    tensors = (thing for thing in things.values() if isinstance(thing, Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)  # torch 2.0 has no `nbytes`


@cache
def idle_limit(kind: str) -> int:
    """Return how many bytes of idle buffers remain when new buffers are allocated on a device of this kind."""
    return int(IDLE_SHARE * memory_bytes(torch.device("cuda" if kind == "cuda" else "cpu")))
