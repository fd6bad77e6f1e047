"""What the last layer of a network sees, as the fast implementations compute it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


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
        y = bias[:, None] + weight.expand(len(each), *weight.shape) @ each
        return self.of_images(y.view(*self.maps.shape[:-2], -1, self.maps.shape[-1]))

    def of_images(self, maps: Tensor) -> Tensor:
        """Return maps of the same layout as (B, H, W, m)."""
        return self.places(maps).flatten(0, 1)[: self.images]
