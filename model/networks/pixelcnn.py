"""PixelCNN (van den Oord et al. 2016, arXiv 1601.06759, section 3.5 and table 1)."""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from model.networks.base import PixelNetwork
from model.networks.masked_conv import MaskedConv2d, ResidualBlock
from model.networks.pixelcnn_fast import Layout, Weights, convolution_layers

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

    def predict(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict from inputs scaled to [-1, 1]: (B, C, H, W) -> (B, K, C, H, W)."""
        if self.implementation == "reference" or x.device.type != "cpu":
            return super().predict(x, condition)
        self.check_condition(x, condition)
        B, C, H, W = x.shape
        layout = Layout(B, H, W, self.hidden, x.element_size())
        seen = layout.join(
            convolution_layers(
                _neighbours(layout.split(x)),
                None if condition is None else F.pad(layout.split(condition), (0, 0, 0, 1)).flatten(2),
                self._weights(),
                layout,
                residual=self.residual,
            )
        )  # (G, k, H, W, head)
        y = F.linear(F.relu(seen.flatten(0, 1)[:B]), _matrix(self.last), self.last.bias)  # (B, H, W, values)
        if self.levels == 2:
            return self.as_logits(y.permute(0, 3, 1, 2))
        return y.unflatten(3, (C, self.levels)).permute(0, 4, 3, 1, 2)

    def _weights(self) -> Weights:
        """Return the weights in the layout of `convolution_layers`."""
        blocks = cast("list[ResidualBlock]", list(self.blocks))
        skips = [cast("MaskedConv2d", skip) for skip in self.skips]
        ups = [[block.up, *skips[i : i + 1]] for i, block in enumerate(blocks)]
        seen = 24 + (self.channels > 1)
        look = torch.stack([block.look.masked_weight() for block in blocks]).flatten(3)[..., :5]  # (L, h, h, 5)
        return Weights(
            first=self.first.masked_weight().flatten(2)[:, :, :seen].transpose(1, 2).flatten(1),
            first_bias=_bias(self.first),
            down=torch.stack([_matrix(block.down) for block in blocks]),
            down_bias=torch.stack([_bias(block.down) for block in blocks]),
            look=look.permute(0, 3, 1, 2).contiguous(),
            look_bias=torch.stack([_bias(block.look) for block in blocks]),
            up=torch.stack([torch.cat([_matrix(conv) for conv in convs]) for convs in ups]),
            up_bias=torch.stack([_bias(block.up) for block in blocks]),
            head=_matrix(self.head),
            head_bias=_bias(self.head),
            condition=(
                torch.stack([block.condition.weight[:, :, 0, 0] for block in blocks if block.condition is not None])
                if self.conditions
                else None
            ),
        )


def _neighbours(x: Tensor) -> Tensor:
    """Return what the 7x7 kernel with mask A sees: (G, C, H, W, k) -> (G, taps * C, H * (W+1) * k)."""
    _, C, H, W, _ = x.shape
    padded = F.pad(x, (0, 0, 3, 4, 3, 0))
    taps = [divmod(tap, 7) for tap in range(24 + (C > 1))]  # the centre shows nothing of a single colour
    return torch.stack([padded[:, :, r : r + H, c : c + W + 1] for r, c in taps], dim=1).flatten(1, 2).flatten(2)


def _matrix(conv: MaskedConv2d) -> Tensor:
    return conv.masked_weight()[:, :, 0, 0]


def _bias(conv: MaskedConv2d) -> Tensor:
    return cast("Tensor", conv.bias)
