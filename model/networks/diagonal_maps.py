"""What both ways to compute the fast Diagonal BiLSTM on a CPU share: sizes, weights, the maps between the layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from model.networks.buffers import Workspace


class DiagonalWeights(NamedTuple):
    """The weights of all layers and of the head's first layer, masked; L layers, gates o, f, i, g."""

    first: Tensor  # (2h, K): the first layer, for the matrix of its inputs
    first_bias: Tensor  # (2h,)
    gates: Tensor  # (L, 2, 4h, 2h + c + 2h + 1): of both directions, for the matrix A
    out: Tensor  # (L, head + 2h, h + 1): from states and one to the head and the next layer; no skips: (L, 2h, h + 1)
    head: Tensor  # (head, 2h)
    head_bias: Tensor  # (head,)
    h0: Tensor  # (L, 2, h)
    c0: Tensor  # (L, 2, h)


class Sizes(NamedTuple):
    """Rows, columns, images, layers, maps of the state and of the condition."""

    H: int
    W: int
    B: int
    L: int
    h: int
    c: int

    @property
    def diagonals(self) -> int:
        """Number of diagonals."""
        return self.H + self.W - 1

    @property
    def seen(self) -> int:
        """Maps of the matrix A: inputs, condition, states above and to the left, and one."""
        return 4 * self.h + self.c + 1

    def rows(self, j: int) -> tuple[int, int]:
        """Return the first row of a diagonal and the one after its last; before the first and after the last: none."""
        return max(0, min(j - self.W + 1, self.H)), max(0, min(j, self.H - 1) + 1)


class Maps:
    """What the layers of a pass get and pass on, maps x pixels in the order row, column, image.

    Args:
        sizes: of the network.
        condition: (c, H, W, B), or None.
        like: a tensor of the dtype.
        kept: whether each layer's inputs are kept until the backward pass.
    """

    def __init__(self, sizes: Sizes, condition: Tensor | None, like: Tensor, *, kept: bool) -> None:
        H, W, B, L, h, _ = self.sizes = sizes
        self.condition = None if condition is None else condition.contiguous()
        self.work = Workspace(("diagonal maps", *sizes, kept), like)
        x = self.work.zeros("x", L + 1 if kept else 1, 2 * h, H * W * B)
        self.x = list(x) if kept else [x[0]] * (L + 1)  # the inputs of each layer, and the outputs of the last
        self.states_and_one = self.work.zeros("states", L, h + 1, H * W * B)
        self.states_and_one[:, h] = 1
        self.states = self.states_and_one[:, :h].view(L, h, H, W, B)
        self.mirrored = torch.arange(W - 1, -1, -1, device=like.device)


class Gradients:
    """The gradients of what the layers pass on, in the same order; the layers use the same buffers in turn.

    Args:
        sizes: of the network.
        like: a tensor of the dtype.
        of_head: maps of the head's first layer.
    """

    def __init__(self, sizes: Sizes, like: Tensor, *, of_head: int) -> None:
        H, W, B, _, h, c = self.sizes = sizes
        self.work = Workspace(("diagonal, back", *sizes, of_head), like)
        self.both = self.work.zeros("both", of_head + 2 * h, H * W * B)
        self.head, self.x = self.both[:of_head], self.both[of_head:]
        self.states = self.work.zeros("states", h, H * W * B)  # of the sum of both directions
        self.condition = like.new_zeros(c, H, W, B) if c else None
