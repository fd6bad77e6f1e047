"""Buffers that successive passes through a network reuse.

A pass of the fast networks writes tens of megabytes. Fresh from the system such blocks are pages that the kernel has to
clear and map one by one, which on a CPU cost the Row LSTM a third of its time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from model.device import memory_bytes

KEPT_SHAPES = 4  # training and validation batches, and the smaller last batch of each
IDLE_SHARE = 0.1  # of the memory, for buffers of other shapes that lie idle while new ones are made

T = TypeVar("T")
_Key = tuple[object, ...]
free_buffers: dict[_Key, list[dict[str, Any]]] = {}  # the shape used last is at the end


class Workspace:
    """The buffers of one pass, by name. They are free for the next pass as soon as this object is gone.

    An autograd node holds it, so it is gone when nobody can ask for the gradients of that pass any more. On a GPU
    nothing is kept: torch has a pool of its own there.

    Args:
        key: determines the shapes; workspaces of the same key share buffers.
        like: a tensor with the type and device of the buffers.
    """

    def __init__(self, key: _Key, like: Tensor) -> None:
        self._key = (*key, like.dtype, like.device)
        self._keep = like.device.type == "cpu"
        self._like = like.new_empty(0)
        free = free_buffers.get(self._key)
        self._things: dict[str, Any] = free.pop() if free else {}

    def zeros(self, name: str, *shape: int) -> Tensor:
        """Return the buffer of that name: zeros when it is new, else its content from the last pass."""
        return self.once(name, lambda: torch.zeros(shape, dtype=self._like.dtype, device=self._like.device))

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return the cached object of that name, such as views of the buffers; make it on first use."""
        if name not in self._things:
            _make_room(idle_limit())
            self._things[name] = make()
        return cast("T", self._things[name])

    def __del__(self) -> None:
        if not self._keep:
            return
        free = free_buffers.pop(self._key, [])
        free.append(self._things)
        free_buffers[self._key] = free
        while len(free_buffers) > KEPT_SHAPES:
            del free_buffers[next(iter(free_buffers))]


def _make_room(limit: int) -> None:
    """Drop idle buffers, the least recently used shape first, until they take at most this many bytes.

    Only when new ones are made: a training's own, which may be more, lie idle between two of its steps.
    """
    idle = sum(_bytes(things) for free in free_buffers.values() for things in free)
    while idle > limit:
        idle -= sum(_bytes(things) for things in free_buffers.pop(next(iter(free_buffers))))


def _bytes(things: dict[str, Any]) -> int:
    return sum(thing.nbytes for thing in things.values() if isinstance(thing, Tensor))


@cache
def idle_limit() -> int:
    """Bytes of idle buffers of other shapes that may stay while new ones are made."""
    return int(IDLE_SHARE * memory_bytes(torch.device("cpu")))
