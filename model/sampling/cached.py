"""The cached sampler: it draws images at the cost of one forward pass.

From the same noise it draws the same images as the naive sampler. The naive sampler runs the whole network once for
each value and uses only the logits of one pixel. The cached sampler stores the activations that later pixels need;
`ConvolutionLayers`, `RowLayers` and `DiagonalLayers` describe them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from model.networks.base import PixelNetwork
from model.networks.pixelcnn import PixelCNN
from model.networks.pixelrnn import PixelRNN
from model.sampling.cached_diagonal_bilstm import DiagonalLayers
from model.sampling.cached_pixelcnn import ConvolutionLayers
from model.sampling.cached_row_lstm import RowLayers
from model.sampling.colour_groups import bounds
from model.sampling.edge_layers import FirstLayer, Head
from model.sampling.noise import choose


class Cache:
    """A network with the cached activations of a batch of partly drawn images.

    Args:
        net: PixelCNN or PixelRNN. Its weights are copied; later changes to them have no effect.
        batch: batch size, B.
        width: image width in pixels, W.
        condition: the condition of the network's `forward`, (B, condition, H, W); None for a network without one.

    Raises:
        TypeError: the network is of another type.
    """

    def __init__(self, net: nn.Module, *, batch: int, width: int, condition: Tensor | None = None) -> None:
        if not can_cache(net):
            raise TypeError(f"no cached sampler for a {type(net).__name__}")
        net = cast("PixelNetwork", net)
        self.levels, self.colours, self.width, self.rows = net.levels, net.channels, width, 0
        sizes = (2 * net.hidden, net.hidden, net.head.out_channels)
        self.bounds = [bounds(size, net.channels) for size in sizes]  # first map of each colour
        diagonal = isinstance(net, PixelRNN) and net.recurrence == "diagonal-bilstm"
        self.inner_width = width + 1 if diagonal else width  # plus one zero column: see `DiagonalBiLSTM`
        self.condition: Tensor | None = None
        self.condition_on(condition)
        self.first = FirstLayer(net.first, batch=batch, width=self.inner_width)
        self.head = Head(net, batch=batch)
        self.layers: ConvolutionLayers | RowLayers | DiagonalLayers
        if isinstance(net, PixelCNN):
            self.layers = ConvolutionLayers(net, self.head, batch=batch, width=width)
        elif diagonal:
            self.layers = DiagonalLayers(net, self.head, batch=batch, width=self.inner_width)
        else:
            self.layers = RowLayers(net, self.head, batch=batch, width=width)

    def condition_on(self, condition: Tensor | None) -> None:
        """Set the condition of the images, (B, condition, H, W)."""
        if condition is not None:
            condition = nn.functional.pad(condition, (0, self.inner_width - self.width)).movedim(1, 3)  # (B, H, W, n)
        self.condition = condition

    def begin_row(self) -> None:
        """Advance to the next row. Call it before the first row as well."""
        if self.rows and isinstance(self.layers, DiagonalLayers):
            for colour in range(self.colours):  # the appended zero column
                self.layers.at(self.width, colour, self.first.at(self.width, colour))
            self.layers.scan_right()
        self.fold_in()

    def fold_in(self) -> None:
        """Compute the contribution of the completed row above to all pixels of the next row."""
        self.first.begin_row()
        self.layers.begin_row(self._conditioned(self.layers.conditions))
        if isinstance(self.layers, DiagonalLayers):
            self.layers.condition_right = self._conditioned(self.layers.conditions_right)
        self.rows += 1

    def logits(self, column: int, colour: int) -> Tensor:
        """Return the logits of the next value, (B, K). Call it once for each value, in order."""
        return self.head.at(colour, self.layers.at(column, colour, self.first.at(column, colour)))

    def put(self, column: int, colour: int, levels: Tensor) -> None:
        """Store the drawn levels, (B,), as input for later values."""
        self.first.put(column, colour, 2 * levels.to(self.first.now.dtype) / (self.levels - 1) - 1)

    def _conditioned(self, maps: list[nn.Conv2d]) -> Tensor | None:
        """Return the contribution of the condition to each layer in this row, (L, B, W, maps)."""
        if self.condition is None:
            return None
        row = self.condition[:, self.rows]  # (B, W, condition)
        return torch.stack([row @ conv.weight.detach()[:, :, 0, 0].t() for conv in maps])


def can_cache(net: nn.Module) -> bool:
    """Return whether the cached sampler supports a network."""
    return isinstance(net, (PixelCNN, PixelRNN))


def sample(
    cache: Cache,
    levels: Tensor,
    hidden: Tensor,
    noise: Tensor,
    *,
    temperature: float = 1.0,
    before_row: Callable[[], None] = lambda: None,
    keep: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Fill the hidden pixels in raster order, R then G then B.

    Args:
        cache: a new cache of the same batch size and width.
        levels: uint8 (B, C, H, W); the values of hidden pixels are ignored.
        hidden: True for the pixels to fill, bool (H, W).
        noise: uniform numbers in [0, 1), float64, (B, C, H, W).
        temperature: divides the logits.
        before_row: called before each row; an exception that it raises stops the sampling.
        keep: called with the logits (B, K) of each value in order, including the values that are not hidden.

    Returns:
        Levels, uint8 (B, C, H, W).
    """
    C, H, W = levels.shape[1:]
    by_place = levels.permute(2, 3, 1, 0).long().contiguous()  # (H, W, C, B): contiguous over the batch
    noise_by_place = noise.permute(2, 3, 1, 0).contiguous()
    asked = hidden.tolist()
    with torch.no_grad():
        for row in range(H):
            before_row()
            cache.begin_row()
            for column in range(W):
                for colour in range(C):
                    logits = cache.logits(column, colour)
                    value = by_place[row, column, colour]
                    if asked[row][column]:
                        value.copy_(choose(logits, noise_by_place[row, column, colour], temperature))
                    if keep is not None:
                        keep(logits)
                    cache.put(column, colour, value)
    return by_place.permute(3, 2, 0, 1).to(torch.uint8).contiguous()
