"""The multi-scale PixelRNN (van den Oord et al. 2016, arXiv 1601.06759, section 3.6 and figure 2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from model.networks.base import PixelNetwork

REACH = 5  # kernel of the first layer of the upsampling network, in pixels of the small image


class Upsampler(nn.Module):
    """The deconvolutions from a small image to maps of the large image's size, the condition of every layer.

    ::

        C x s x s -> 5x5 -> ReLU -> deconvolution, stride 2 -> ReLU -> ... -> deconvolution, stride 2 -> c x n x n

    The paper says "a deconvolutional network"; kernels and depth are ours. Nothing is masked: all of the small image
    is drawn before the first pixel of the large one.

    Args:
        channels: colours of the small image, C.
        maps: c.
        factor: n/s, a power of two: one deconvolution for each doubling.
    """

    def __init__(self, channels: int, maps: int, factor: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, maps, REACH, padding=REACH // 2)
        self.doublings = nn.ModuleList(
            nn.ConvTranspose2d(maps, maps, 4, stride=2, padding=1) for _ in range(factor.bit_length() - 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Upsample: (B, C, H/factor, W/factor), scaled to [-1, 1] -> (B, c, H, W)."""
        y: Tensor = self.first(x)
        for doubling in self.doublings:
            y = doubling(F.relu(y))
        return y


class MultiScale(nn.Module):
    """Two networks: one samples a small image, the other a large image given the small one.

    The small image is every `factor`-th pixel of every `factor`-th row of the large one, as in the paper's figure 2.
    The large image is drawn whole, those pixels too: the network has to learn that they are the small image's.

    Args:
        small: a network without condition.
        large: a network of as many colours and levels, whose condition is the upsampled small image.
        factor: of the sides of both, a power of two.
    """

    def __init__(self, small: PixelNetwork, large: PixelNetwork, factor: int) -> None:
        super().__init__()
        self.small, self.large, self.factor = small, large, factor
        self.upsampler = Upsampler(small.channels, large.conditions, factor)

    def reduce(self, levels: Tensor) -> Tensor:
        """Subsample large images to small ones: (..., H, W) -> (..., H/factor, W/factor)."""
        return levels[..., :: self.factor, :: self.factor]

    def condition(self, small: Tensor) -> Tensor:
        """Upsample small images: levels (B, C, H/factor, W/factor) -> the large network's condition (B, c, H, W)."""
        x = small.to(self.upsampler.first.weight.dtype)
        condition: Tensor = self.upsampler(2 * x / (self.small.levels - 1) - 1)
        return condition

    def forward(self, levels: Tensor) -> Tensor:
        """Predict each value of large images from earlier ones and from their small images.

        Args:
            levels: 0..K-1 (B, C, H, W), uint8 or long.

        Returns:
            Logits (B, K, C, H, W), of the large network alone.
        """
        logits: Tensor = self.large(levels, self.condition(self.reduce(levels)))
        return logits


def scales(net: nn.Module, levels: Tensor, values: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
    """Return the predictions of one network, or of the small one and of the large one given the small image.

    Args:
        net: a network of images (B, C, H, W), or a `MultiScale` one.
        levels: the images.
        values: the conditioning values of a `Conditioned` network.

    Returns:
        For each network its images and its logits for them, (b, K, c, h, w).
    """
    if not isinstance(net, MultiScale):
        return [(levels, net(levels) if values is None else net(levels, values))]
    small = net.reduce(levels)
    return [(small, net.small(small)), (levels, net.large(levels, net.condition(small)))]
