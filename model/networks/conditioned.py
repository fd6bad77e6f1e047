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
    """A network whose condition is a learned embedding of values, the same at every pixel.

    ::

        V values, V flags -> linear -> SiLU -> linear -> c maps of H x W, each of one value -> every layer

    Each layer applies its own 1x1 convolution to the maps and adds the result to its input-to-state map, as the paper
    does with the small image of its multi-scale networks (section 3.6). A flag is 1 if a value is known. For an unknown
    value both the value and the flag are 0.

    Args:
        net: a network with a condition.
        names: names of the values.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: PixelNetwork, names: Sequence[str]) -> None:
        super().__init__()
        self.net, self.names = net, tuple(names)
        self.channels, self.levels = net.channels, net.levels
        self.first = nn.Linear(2 * len(self.names), net.conditions)
        self.second = nn.Linear(net.conditions, net.conditions)
        # Statistics of the training images. The checkpoint contains them, so that sampling does not need the images.
        self.register_buffer("mean", torch.zeros(len(self.names), dtype=torch.float64))
        self.register_buffer("std", torch.ones(len(self.names), dtype=torch.float64))

    def standardise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and the standard deviation of each value over the training images."""
        self.mean.copy_(torch.tensor(mean, dtype=torch.float64))
        self.std.copy_(torch.tensor(std, dtype=torch.float64))

    @property
    def conditioning(self) -> Conditioning:
        """The names, means and standard deviations of the values. On a GPU reading them synchronises."""
        return Conditioning(self.names, tuple(self.mean.tolist()), tuple(self.std.tolist()))

    def values(self, given: Mapping[str, float], count: int) -> Tensor:
        """Return the values and flags for `forward`, (count, 2V). Values that are not in `given` are the mean.

        Raises:
            SetupError: the network has no value of a given name.
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
        """Return the condition of the network: (B, 2V) -> (B, c, H, W)."""
        y: Tensor = self.second(F.silu(self.first(values.to(self.first.weight.dtype))))  # (B, c)
        return y[:, :, None, None].expand(-1, -1, height, width).contiguous()

    def forward(self, levels: Tensor, values: Tensor | None = None) -> Tensor:
        """Predict each value of images from earlier ones and from the conditioning values.

        Args:
            levels: 0..K-1 (B, C, H, W), uint8 or long.
            values: standardised values and flags, (B, 2V); default: the mean.

        Returns:
            Logits (B, K, C, H, W).
        """
        logits: Tensor = self.net(levels, self.condition(levels, values))
        return logits

    def condition(self, levels: Tensor, values: Tensor | None) -> Tensor:
        """Return the condition of the network for these images; arguments as for `forward`."""
        if values is None:
            values = self.values({}, len(levels))
        return self.maps(values, levels.shape[2], levels.shape[3])
