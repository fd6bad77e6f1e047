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
    bias,
    first_matrix,
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
            neighbours_of_tiles(split(x, images)),
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
        skips = [cast("MaskedConv2d", skip) for skip in self.skips]
        ups = [[block.up, *skips[i : i + 1]] for i, block in enumerate(blocks)]
        look = torch.stack([block.look.masked_weight() for block in blocks]).flatten(3)[..., :5]  # (L, h, h, 5)
        return Weights(
            first=first_matrix(self.first),
            first_bias=cast("Tensor", self.first.bias),
            down=torch.stack([matrix(block.down) for block in blocks]),
            down_bias=torch.cat([bias(block.down).t() for block in blocks]),
            look=look.permute(0, 3, 1, 2).contiguous(),
            look_bias=torch.cat([bias(block.look).t() for block in blocks]),
            up=torch.stack([torch.cat([matrix(conv) for conv in convs]) for convs in ups]),
            up_bias=torch.cat([bias(block.up).t() for block in blocks]),
            head=matrix(self.head),
            head_bias=cast("Tensor", self.head.bias),
            condition=(
                torch.stack([block.condition.weight[:, :, 0, 0] for block in blocks if block.condition is not None])
                if self.conditions
                else None
            ),
        )
