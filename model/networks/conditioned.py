"""A network conditioned on values of each image, such as the steering angle: p(image | values)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.data.dataset import Conditioning
from model.errors import SetupError
from model.networks.base import PixelNetwork


class Conditioned(nn.Module):
    """A network whose condition is a learned map of values, the same at every pixel.

    ::

        V values, V flags -> linear -> SiLU -> linear -> c maps of H x W, each of one value -> every layer

    Each layer adds what a 1x1 convolution of its own makes of the maps to its input-to-state map, as the paper does
    with the small image of its multi-scale networks (section 3.6). A flag says whether a value is known: where it is
    not, the value is 0 and so is its flag.

    Args:
        net: the network; it has a condition.
        names: of the values.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: PixelNetwork, names: Sequence[str]) -> None:
        super().__init__()
        self.net, self.names = net, tuple(names)
        self.channels, self.levels = net.channels, net.levels
        self.first = nn.Linear(2 * len(self.names), net.conditions)
        self.second = nn.Linear(net.conditions, net.conditions)
        # Statistics of the training images. The checkpoint holds them, so that sampling needs no data set.
        self.register_buffer("mean", torch.zeros(len(self.names), dtype=torch.float64))
        self.register_buffer("std", torch.ones(len(self.names), dtype=torch.float64))

    def standardise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and standard deviation of the training images' values."""
        self.mean.copy_(torch.tensor(mean, dtype=torch.float64))
        self.std.copy_(torch.tensor(std, dtype=torch.float64))

    @property
    def conditioning(self) -> Conditioning:
        """The conditioning columns and their statistics. On a GPU this call synchronises."""
        return Conditioning(self.names, tuple(self.mean.tolist()), tuple(self.std.tolist()))

    def values(self, given: Mapping[str, float], count: int) -> Tensor:
        """Make what `forward` takes, (count, 2V), of some values by name; the others are those of the mean image.

        Raises:
            SetupError: the network is not conditioned on one of the names.
        """
        strange = [name for name in given if name not in self.names]
        if strange:
            raise SetupError(f"this network is not conditioned on {strange[0]}; it is on {', '.join(self.names)}")
        scaled = [
            (given[name] - float(self.mean[at])) / float(self.std[at]) if name in given else 0.0
            for at, name in enumerate(self.names)
        ]
        made = torch.tensor([*scaled, *(1.0 for _ in self.names)])
        return made.to(self.first.weight)[None].expand(count, -1)

    def maps(self, values: Tensor, height: int, width: int) -> Tensor:
        """Make the condition of the network: (B, 2V) -> (B, c, H, W)."""
        y: Tensor = self.second(F.silu(self.first(values.to(self.first.weight.dtype))))  # (B, c)
        return y[:, :, None, None].expand(-1, -1, height, width).contiguous()

    def forward(self, levels: Tensor, values: Tensor | None = None) -> Tensor:
        """Predict each value of the images from earlier values and from the conditioning values.

        Args:
            levels: 0..K-1 (B, C, H, W), uint8 or long.
            values: (B, 2V), standardised values and flags; by default the means.

        Returns:
            Logits (B, K, C, H, W).
        """
        if values is None:
            values = self.values({}, len(levels))
        logits: Tensor = self.net(levels, self.maps(values, levels.shape[2], levels.shape[3]))
        return logits
