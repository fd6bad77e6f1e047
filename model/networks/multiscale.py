"""The multi-scale PixelRNN (van den Oord et al. 2016, arXiv 1601.06759, section 3.6 and figure 2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from model.networks.base import PixelNetwork
from model.networks.conditioned import Conditioned

REACH = 5  # kernel of the first layer of the upsampling network, in pixels of the small image


class Upsampler(nn.Module):
    """The deconvolutions from a small image to maps of the large image's size, the condition of the large network.

    ::

        C x s x s -> 5x5 -> ReLU -> deconvolution, stride 2 -> ReLU -> ... -> deconvolution, stride 2 -> c x n x n

    The paper specifies "a deconvolutional network" but neither kernels nor depth. Nothing is masked, because the small
    image is complete before the first pixel of the large image is drawn.

    Args:
        channels: colours of the small image, C.
        maps: number of output maps, c.
        factor: n/s, a power of two; there is one deconvolution for each doubling.
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
    """Two networks: the small network draws a small image, and the large network draws the large image given it.

    The small image is every `factor`-th pixel of every `factor`-th row of the large image, as in the paper's figure 2.
    The large network draws all pixels, including those of the small image. It has to learn to copy them.

    Args:
        small: an unconditional network.
        large: a network with the same colours and levels, whose condition is the upsampled small image.
        factor: ratio of the image sides, a power of two.
    """

    def __init__(self, small: PixelNetwork, large: PixelNetwork, factor: int) -> None:
        super().__init__()
        self.small, self.large, self.factor = small, large, factor
        self.upsampler = Upsampler(small.channels, large.conditions, factor)

    def reduce(self, levels: Tensor) -> Tensor:
        """Subsample large images to small images: (..., H, W) -> (..., H/factor, W/factor)."""
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
            Logits (B, K, C, H, W) of the large network.
        """
        logits: Tensor = self.large(levels, self.condition(self.reduce(levels)))
        return logits


def scales(
    net: nn.Module, levels: Tensor, values: Tensor | None = None
) -> list[tuple[nn.Module, Tensor, Tensor | None]]:
    """Return what each scale is predicted from: one scale, or two for a multi-scale network, the small one first.

    Args:
        net: a network over images (B, C, H, W), or a `MultiScale` network.
        levels: the images (B, C, H, W).
        values: conditioning values and flags for a `Conditioned` network, (B, 2V).

    Returns:
        For each scale the network, the images (b, c, h, w), and what the network is given besides, or None.
    """
    if isinstance(net, Conditioned):
        return [(net.net, levels, net.condition(levels, values))]
    if not isinstance(net, MultiScale):
        return [(net, levels, values)]
    small = net.reduce(levels)
    return [(net.small, small, None), (net.large, levels, net.condition(small))]
