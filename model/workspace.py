"""Memory that passes through a network can use again.

A pass of the fast networks writes tens of megabytes. Fresh from the system such blocks are pages that the kernel has to
clear and map one by one, which on a CPU cost the Row LSTM a third of its time.
"""

from __future__ import annotations

import torch
from torch import Tensor

KEPT = (
    4  # workspaces that are kept for reuse: those of a training and of a validation batch, and their last, smaller ones
)

_Key = tuple[object, ...]
_free: list[tuple[_Key, dict[str, Tensor]]] = []  # newest last


class Workspace:
    """The buffers of one pass, by name. They are free for the next pass as soon as this object is gone.

    An autograd node holds it, so it is gone when nobody can ask for the gradients of that pass any more. On a GPU
    nothing is kept: torch has a pool of its own there.

    Args:
        key: what the shapes follow from; a workspace of the same key has the same buffers.
        like: gives type and device.
    """

    def __init__(self, key: _Key, like: Tensor) -> None:
        self._key = (*key, like.dtype, like.device)
        self._keep = like.device.type == "cpu"
        self._like = like.new_empty(0)
        self._buffers: dict[str, Tensor] = {}
        for index in reversed(range(len(_free))):
            if _free[index][0] == self._key:
                self._buffers = _free.pop(index)[1]
                break

    def zeros(self, name: str, *shape: int) -> Tensor:
        """Give the buffer of that name: zero when it is new, else as the last pass left it."""
        if name not in self._buffers:
            self._buffers[name] = torch.zeros(shape, dtype=self._like.dtype, device=self._like.device)
        return self._buffers[name]

    def __del__(self) -> None:
        if self._keep:
            _free.append((self._key, self._buffers))
            del _free[:-KEPT]
