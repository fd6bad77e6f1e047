"""PixelCNN (van den Oord et al. 2016, arXiv 1601.06759, section 3.4 and table 1)."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import MaskedConv2d, ResidualBlock


class PixelCNN(nn.Module):
    """A distribution over images: p(x) is the product of p(x_i | x_<i), pixels in raster order, R then G then B.

    7x7 convolution with mask A, `layers` residual blocks, then twice ReLU and a 1x1 convolution with mask B, the second
    of which gives the logits of the softmax over the K levels.

    NOTE: the paper's layer-to-output connections are left out (in its ablation they are worth 0.01 bits/dim beside the
    residual ones).

    Args:
        channels: colours of a pixel, C.
        levels: values that a colour can take, K.
        hidden: h, feature maps inside a block.
        layers: residual blocks.
        head: feature maps of the layer before the softmax.
    """

    def __init__(self, *, channels: int, levels: int, hidden: int, layers: int, head: int) -> None:
        super().__init__()
        self.channels, self.levels = channels, levels
        self.first = MaskedConv2d("A", channels, 2 * hidden, 7, colours=channels)
        self.blocks = nn.ModuleList(ResidualBlock(hidden, colours=channels) for _ in range(layers))
        self.head = MaskedConv2d("B", 2 * hidden, head, 1, colours=channels)
        self.last = MaskedConv2d("B", head, channels * levels, 1, colours=channels)

    def forward(self, levels: Tensor) -> Tensor:
        """Predict each value from earlier ones: levels 0..K-1 (B, C, H, W), uint8 or long -> logits (B, K, C, H, W)."""
        x = levels.to(self.first.weight.dtype)
        return self.predict(2 * x / (self.levels - 1) - 1)

    def predict(self, x: Tensor) -> Tensor:
        """Do the same from inputs scaled to [-1, 1]: (B, C, H, W) -> (B, K, C, H, W)."""
        B, C, H, W = x.shape
        y = self.first(x)  # (B, 2h, H, W)
        for block in self.blocks:
            y = block(y)  # (B, 2h, H, W)
        y = self.head(F.relu(y))  # (B, head, H, W)
        y = self.last(F.relu(y))  # (B, C*K, H, W): the maps of a colour lie together, as its mask has them
        return cast("Tensor", y.view(B, C, self.levels, H, W).transpose(1, 2))  # (B, K, C, H, W)
