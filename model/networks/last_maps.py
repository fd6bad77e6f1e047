"""What the last layer of a network sees, as the fast implementations compute it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class LastMaps(NamedTuple):
    """The output of the layer before the last one, after the ReLU, in the implementation's own layout."""

    maps: Tensor  # (..., head, N)
    images: int  # that count, B; the last group may have more
    places: Callable[[Tensor], Tensor]  # gives each value its place: (..., m, N) -> (G, k, H, W, m)

    def placed(self) -> Tensor:
        """Return them as (B, H, W, head)."""
        return self.of_images(self.maps)

    def through(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Apply a 1x1 convolution before the values are put in place: (m, head), (m,) -> (B, H, W, m)."""
        each = self.maps.view(-1, *self.maps.shape[-2:])  # matrices that lie apart; `@` would copy them into one
        y = cast("Callable[..., Tensor]", _Products.apply)(weight, each) + bias[:, None]
        return self.of_images(y.view(*self.maps.shape[:-2], -1, self.maps.shape[-1]))

    def of_images(self, maps: Tensor) -> Tensor:
        """Return maps of the same layout as (B, H, W, m)."""
        return self.places(maps).flatten(0, 1)[: self.images]


class _Products(torch.autograd.Function):
    """Products of one matrix with several: (m, head), (G, head, N) -> (G, m, N).

    With a single map the gradient of what it sees is an outer product, for which torch's matrix product is slow.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, maps: Tensor) -> Tensor:
        ctx.save_for_backward(weight, maps)
        return weight.expand(len(maps), *weight.shape) @ maps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, Tensor]:
        weight, maps = ctx.saved_tensors
        d_maps = weight.t() * d if len(weight) == 1 else weight.t().expand(len(maps), *weight.t().shape) @ d
        return (d @ maps.transpose(1, 2)).sum(0), d_maps
