"""PixelCNN (van den Oord et al. 2016, arXiv 1601.06759, section 3.5 and table 1)."""

from __future__ import annotations

from model.networks.base import PixelNetwork
from model.networks.masked_conv import ResidualBlock


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
