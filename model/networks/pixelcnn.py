"""PixelCNN (van den Oord et al. 2016, arXiv 1601.06759, section 3.5 and table 1)."""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config.groups import convolution_group, pays_in_tiles, tile_group
from model.device import autocasts_on_cpu
from model.networks.base import PixelNetwork
from model.networks.last_maps import LastMaps
from model.networks.masked_conv import MaskedConv2d, ResidualBlock
from model.networks.matrices import (
    biases,
    first_matrix,
    matrices,
    matrix,
    neighbours,
    neighbours_of_tiles,
    split,
    tiled,
)
from model.networks.pixelcnn_fast import Layout, Weights, convolution_layers
from model.networks.pixelcnn_tiled import TiledLayout, passes, tiled_layers

Implementation = Literal["fast", "reference"]


class PixelCNN(PixelNetwork):
    """The convolutional network: a 7x7 convolution with mask A, `layers` residual blocks (3x3, mask B), and the head.

    Its receptive field is bounded and has a blind spot at the right of the rows above (van den Oord et al. 2016, arXiv
    1606.05328, section 2.2). `tests/unit/model/networks/test_fields.py` computes the exact receptive field.

    Args:
        channels: colours of a pixel, C.
        levels: number of levels of a colour, K, from 2 to 256.
        hidden: h, feature maps inside a block.
        layers: number of residual blocks.
        head: feature maps of the layer before the softmax.
        residual: whether each block adds its input.
        skip: whether each layer is connected to the output.
        condition: maps of the condition, 0 for none.
        implementation: "reference" consists of convolutions; "fast" computes the same function faster on a CPU, with
            matrix products, and is the same as "reference" elsewhere. Both have the same parameters.
    """

    def __init__(
        self,
        *,
        channels: int,
        levels: int,
        hidden: int,
        layers: int,
        head: int,
        residual: bool = True,
        skip: bool = True,
        condition: int = 0,
        implementation: Implementation = "fast",
    ) -> None:
        super().__init__(
            lambda: ResidualBlock(hidden, colours=channels, residual=residual, condition=condition),
            channels=channels,
            levels=levels,
            hidden=hidden,
            layers=layers,
            head=head,
            skip=skip,
            condition=condition,
        )
        self.implementation, self.residual = implementation, residual

    def last_maps(self, x: Tensor, condition: Tensor | None) -> LastMaps | None:
        """Compute what the last layer sees, on a CPU with float32 or float64."""
        if self.implementation == "reference" or x.device.type != "cpu" or autocasts_on_cpu():
            return None
        B, _, H, W = x.shape
        if self.is_tiled(H, W):
            return self._tiled(x, condition)
        images = convolution_group(B, hidden=self.hidden, height=H, width=W, bytes_per_value=x.element_size())
        layout = Layout(-(-B // images), images, H, W)
        maps = convolution_layers(
            neighbours(split(x, images)).flatten(2),
            None if condition is None else F.pad(split(condition, images), (0, 0, 0, 1)).flatten(2),
            self._weights(),
            layout,
            residual=self.residual,
        )  # (G, head, n)
        return LastMaps(maps, B, lambda y: y.view(*y.shape[:2], H, W + 1, images)[..., :W, :].permute(0, 4, 2, 3, 1))

    def is_tiled(self, height: int, width: int) -> bool:
        """Tell whether the fast form of a CPU is the tiled one for images of this size."""
        sizes = {"hidden": self.hidden, "layers": len(self.blocks)}
        return pays_in_tiles(**sizes, height=height, width=width) and passes() is not None

    def _tiled(self, x: Tensor, condition: Tensor | None) -> LastMaps:
        """Compute `last_maps` in tiles of two columns."""
        B, _, H, W = x.shape
        images = tile_group(B, hidden=self.hidden, height=H, width=W, bytes_per_value=x.element_size())
        layout = TiledLayout(-(-B // images), images, H, W, shares=self.channels == 1)
        maps = tiled_layers(
            neighbours_of_tiles(split(x, images), passes()),
            None if condition is None else tiled(split(condition, images)),
            self._weights(),
            layout,
            residual=self.residual,
        )  # (G, head, n)

        def places(y: Tensor) -> Tensor:
            y = y.view(layout.groups, -1, 2, H, layout.tiles, images).permute(0, 5, 3, 4, 2, 1)
            return y.flatten(3, 4)[..., :W, :]

        return LastMaps(maps, B, places)

    def _weights(self) -> Weights:
        """Return the weights in the layout of `convolution_layers`."""
        blocks = cast("list[ResidualBlock]", list(self.blocks))
        downs, looks, ups = ([getattr(block, name) for block in blocks] for name in ("down", "look", "up"))
        up = matrices(ups)
        if len(self.skips):
            up = torch.cat([up, matrices(cast("list[MaskedConv2d]", list(self.skips)))], dim=1)
        return Weights(
            first=first_matrix(self.first),
            first_bias=cast("Tensor", self.first.bias),
            down=matrices(downs).flatten(2),
            down_bias=biases(downs),
            look=matrices(looks).flatten(3)[..., :5].permute(0, 3, 1, 2).contiguous(),  # (L, 5, h, h)
            look_bias=biases(looks),
            up=up.flatten(2),
            up_bias=biases(ups),
            head=matrix(self.head),
            head_bias=cast("Tensor", self.head.bias),
            condition=(
                torch.stack([block.condition.weight[:, :, 0, 0] for block in blocks if block.condition is not None])
                if self.conditions
                else None
            ),
        )
