"""What the paper's three networks share: the first layer, the connections between layers, and the head (table 1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.networks.masked_conv import MaskedConv2d


class PixelNetwork(nn.Module):
    """A distribution over images: p(x) is the product of p(x_i | x_<i), pixels in raster order, R then G then B.

    ::

        levels -> 7x7 mask A -> layer 1 -> ... -> layer L -> ReLU, 1x1 mask B -(+)-> ReLU, 1x1 mask B -> softmax
                                   |                 |                          |
                                   +-- 1x1 mask B ---+-------- 1x1 mask B ------+       layer-to-output connections

    The paper does not say what its layer-to-output connections look like. Here the h maps that a layer computes, before
    they are brought up to 2h, go through a 1x1 convolution of their own and are added to the first map of the head:
    adding the 2h maps as they are would only weigh anew what the residual sum holds already.

    Of the head, table 1 says "ReLU followed by 1x1 conv, mask B (2 layers)" and the text how many maps it has: 1024, or
    32 for MNIST. Here the first layer has them and the second gives the C*K logits. The other reading, both layers
    with so many maps and a third one for the softmax, would have another `head` x `head` weights.

    Of two levels only the second has a logit, the first one's is zero: the softmax of the two is the sigmoid that the
    paper takes for binary images.

    Args:
        layer: makes one layer: (B, 2h, H, W) and the condition -> (B, 2h, H, W) and its h maps (B, h, H, W).
        channels: colours of a pixel, C.
        levels: values that a colour can take, K, from 2 to 256.
        hidden: h, feature maps inside a layer.
        layers: number of layers.
        head: feature maps of the layer before the softmax.
        skip: whether each layer is connected to the output.
        condition: maps of the condition of `forward`, 0 for a network without one.

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
            raise ValueError(f"levels = {levels}; a value takes 2 to 256 levels")
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
            condition: maps that every pixel may see, (B, condition, H, W); only for a conditioned network.

        Returns:
            Logits (B, K, C, H, W).
        """
        x = levels.to(self.first.weight.dtype)
        return self.predict(2 * x / (self.levels - 1) - 1, condition)

    def predict(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict from inputs scaled to [-1, 1]: (B, C, H, W) -> (B, K, C, H, W).

        Raises:
            ValueError: a condition is missing, is not expected, or is not of the network's size.
        """
        self.check_condition(x, condition)
        return self.through(self.first(x), condition)

    def through(self, y: Tensor, condition: Tensor | None) -> Tensor:
        """Go from the first layer's map to the logits: (B, 2h, H, W) -> (B, K, C, H, W)."""
        outputs = []
        for block in self.blocks:
            y, h = block(y, condition)  # (B, 2h, H, W), (B, h, H, W)
            outputs.append(h)
        y = self.head(F.relu(y))  # (B, head, H, W)
        for skip, h in zip(self.skips, outputs):  # noqa: B905 - no skips: none are taken
            y = y + skip(h)
        return self.as_logits(self.last(F.relu(y)))

    def as_logits(self, y: Tensor) -> Tensor:
        """Arrange the last layer's maps, (B, C*K, H, W), those of a colour together as its mask has them, as logits.

        Returns:
            (B, K, C, H, W). Of two levels the last layer gives one map a colour, which becomes the second's logit.
        """
        if self.levels == 2:
            return torch.stack([torch.zeros_like(y), y], dim=1)
        B, _, H, W = y.shape
        return y.reshape(B, self.channels, self.levels, H, W).transpose(1, 2)

    def check_condition(self, x: Tensor, condition: Tensor | None) -> None:
        """Refuse a condition that does not belong to the images.

        Raises:
            ValueError: it is missing, is not expected, or is not of the network's size.
        """
        wanted = (x.shape[0], self.conditions, *x.shape[2:]) if self.conditions else None
        got = tuple(condition.shape) if condition is not None else None
        if wanted != got:
            raise ValueError(f"the condition has shape {got}; this network wants {wanted}")
