"""What the paper's three networks share: the first layer, the connections between layers, and the head (table 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.device import unrounded
from model.networks.last_maps import LastMaps
from model.networks.masked_conv import MaskedConv2d
from model.networks.matrices import matrix


class PixelNetwork(nn.Module):
    """A distribution over images: p(x) is the product of p(x_i | x_<i), pixels in raster order, R then G then B.

    ::

        levels -> 7x7 mask A -> layer 1 -> ... -> layer L -> ReLU, 1x1 mask B -(+)-> ReLU, 1x1 mask B -> softmax
                                   |                 |                          |
                                   +-- 1x1 mask B ---+-------- 1x1 mask B ------+       layer-to-output connections

    The paper does not specify its layer-to-output connections. Here each layer's h maps, before the convolution to 2h
    maps, pass through a 1x1 convolution and are added to the output of the head's first layer. Adding the 2h maps
    instead would only reweight terms that the residual sum already contains.

    For the head, table 1 specifies "ReLU followed by 1x1 conv, mask B (2 layers)", and the text gives the number of
    maps: 1024, or 32 for MNIST. Here the first layer has that many maps, and the second gives the C*K logits. In the
    other reading both layers have that many maps and a third gives the logits; it needs `head` x `head` more weights.

    With two levels, the network predicts only the logit of the second level, and the logit of the first is zero. The
    softmax is then the sigmoid that the paper uses for binary images.

    Args:
        layer: creates one layer: (B, 2h, H, W) and the condition -> (B, 2h, H, W) and its h maps (B, h, H, W).
        channels: colours of a pixel, C.
        levels: number of levels of a colour, K, from 2 to 256.
        hidden: h, feature maps inside a layer.
        layers: number of layers.
        head: feature maps of the layer before the softmax.
        skip: whether there are layer-to-output connections.
        condition: number of maps of the condition of `forward`; 0 for an unconditional network.

    Raises:
        ValueError: K is outside 2..256, or there are fewer maps than colours.
    """

    def __init__(
        self,
        layer: Callable[[], nn.Module],
        *,
        channels: int,
        levels: int,
        hidden: int,
        layers: int,
        head: int,
        skip: bool = True,
        condition: int = 0,
    ) -> None:
        super().__init__()
        if not 2 <= levels <= 256:
            raise ValueError(f"levels = {levels}; give 2 to 256 levels")
        self.channels, self.levels, self.hidden, self.conditions = channels, levels, hidden, condition
        self.first = MaskedConv2d("A", channels, 2 * hidden, 7, colours=channels)
        self.blocks = nn.ModuleList(layer() for _ in range(layers))
        self.skips = nn.ModuleList(
            MaskedConv2d("B", hidden, head, 1, colours=channels, bias=False) for _ in range(layers if skip else 0)
        )
        self.head = MaskedConv2d("B", 2 * hidden, head, 1, colours=channels)
        self.last = MaskedConv2d("B", head, channels * (levels if levels > 2 else 1), 1, colours=channels)

    def forward(self, levels: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict each value from earlier ones.

        Args:
            levels: 0..K-1 (B, C, H, W), uint8 or long.
            condition: unmasked maps, (B, condition, H, W); None for an unconditional network.

        Returns:
            Logits (B, K, C, H, W).
        """
        return self.predict(self.scaled(levels), condition)

    def scaled(self, levels: Tensor) -> Tensor:
        """Scale levels 0..K-1 to [-1, 1]."""
        return 2 * levels.to(self.first.weight.dtype) / (self.levels - 1) - 1

    def predict(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict from inputs scaled to [-1, 1]: (B, C, H, W) -> (B, K, C, H, W).

        Raises:
            ValueError: the condition is missing, unexpected, or has the wrong shape.
        """
        self.check_condition(x, condition)
        last = self.last_maps(x, condition)
        return self.through(self.first(x), condition) if last is None else self.logits(last)

    def last_maps(self, x: Tensor, condition: Tensor | None) -> LastMaps | None:
        """Compute what the last layer sees, where a fast implementation does; else return None.

        Args:
            x: inputs scaled to [-1, 1], (B, C, H, W).
            condition: as `check_condition` allows it.
        """
        return None

    def logits(self, last: LastMaps) -> Tensor:
        """Apply the last layer: logits (B, K, C, H, W). The logits of a value are together in memory."""
        weight, bias = matrix(self.last), cast("Tensor", self.last.bias)
        with unrounded(last.maps.device):
            if self.levels == 2:  # few maps: they are put in place, not what the layer sees
                return self.as_logits(last.through(weight, bias).permute(0, 3, 1, 2))
            y = F.linear(last.placed(), weight, bias)  # (B, H, W, values)
        return y.view(*y.shape[:3], self.channels, self.levels).permute(0, 4, 3, 1, 2)

    def through(self, y: Tensor, condition: Tensor | None) -> Tensor:
        """Apply all layers after the first, and the head: (B, 2h, H, W) -> logits (B, K, C, H, W)."""
        outputs = []
        for block in self.blocks:
            y, h = block(y, condition)  # (B, 2h, H, W), (B, h, H, W)
            outputs.append(h)
        y = self.head(F.relu(y))  # (B, head, H, W)
        for skip, h in zip(self.skips, outputs):  # noqa: B905 - without skip connections `skips` is empty
            y = y + skip(h)
        return self.as_logits(self.last(F.relu(y)))

    def as_logits(self, y: Tensor) -> Tensor:
        """Reshape the last layer's maps, (B, C*K, H, W), grouped by colour, to logits.

        Returns:
            (B, K, C, H, W). With two levels the last layer has one map for each colour: the second level's logit.
        """
        if self.levels == 2:
            return torch.stack([torch.zeros_like(y), y], dim=1)
        B, _, H, W = y.shape
        return y.reshape(B, self.channels, self.levels, H, W).transpose(1, 2)

    def check_condition(self, x: Tensor, condition: Tensor | None) -> None:
        """Check that the condition matches the network and the images.

        Raises:
            ValueError: the condition is missing, unexpected, or has the wrong shape.
        """
        wanted = (x.shape[0], self.conditions, *x.shape[2:]) if self.conditions else None
        got = tuple(condition.shape) if condition is not None else None
        if wanted != got:
            raise ValueError(f"the condition has shape {got}; this network expects {wanted}")
