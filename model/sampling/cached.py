"""Sampling at the cost of one forward pass: the same images as the naive sampler for the same noise.

The plain sampler runs the network once for each value, and throws away all of it but one pixel. Here each network keeps
what later pixels need of earlier ones; `ConvolutionLayers`, `RowLayers` and `DiagonalLayers` say what that is.
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
    """A network over partly sampled images, with the cached state that later pixels need.

    Args:
        net: PixelCNN or PixelRNN. Its weights are copied: a change of them later has no effect.
        batch: images at a time, B.
        width: pixels of a row, W.
        condition: of the network's `forward`, (B, condition, H, W); None for a network without one.

    Raises:
        TypeError: there is no cached sampler for the network.
    """

    def __init__(self, net: nn.Module, *, batch: int, width: int, condition: Tensor | None = None) -> None:
        if not can_cache(net):
            raise TypeError(f"no cached sampler for a {type(net).__name__}")
        net = cast("PixelNetwork", net)
        self.levels, self.colours, self.width, self.rows = net.levels, net.channels, width, 0
        sizes = (2 * net.hidden, net.hidden, net.head.out_channels)
        self.bounds = [bounds(size, net.channels) for size in sizes]  # where the maps of each colour begin
        diagonal = isinstance(net, PixelRNN) and net.recurrence == "diagonal-bilstm"
        self.inner_width = width + 1 if diagonal else width  # one zero column at the right: see `DiagonalBiLSTM`
        self.condition = None
        if condition is not None:
            self.condition = nn.functional.pad(condition, (0, self.inner_width - width)).movedim(1, 3)  # (B, H, W, n)
        self.first = FirstLayer(net.first, batch=batch, width=self.inner_width)
        self.head = Head(net, batch=batch)
        self.layers: ConvolutionLayers | RowLayers | DiagonalLayers
        if isinstance(net, PixelCNN):
            self.layers = ConvolutionLayers(net, self.head, batch=batch, width=width)
        elif diagonal:
            self.layers = DiagonalLayers(net, self.head, batch=batch, width=self.inner_width)
        else:
            self.layers = RowLayers(net, self.head, batch=batch, width=width)

    def begin_row(self) -> None:
        """Go to the next row; to the first one too."""
        if self.rows and isinstance(self.layers, DiagonalLayers):
            for colour in range(self.colours):  # the zero column at the right
                self.layers.at(self.width, colour, self.first.at(self.width, colour))
            self.layers.scan_right()
        self.fold_in()

    def fold_in(self) -> None:
        """Compute the contribution of the complete row above to all pixels of the next row."""
        self.first.begin_row()
        self.layers.begin_row(self._conditioned(self.layers.conditions))
        if isinstance(self.layers, DiagonalLayers):
            self.layers.condition_right = self._conditioned(self.layers.conditions_right)
        self.rows += 1

    def logits(self, column: int, colour: int) -> Tensor:
        """Return the logits of the next value, (B, K). Call it once for each value, in order."""
        return self.head.at(colour, self.layers.at(column, colour, self.first.at(column, colour)))

    def put(self, column: int, colour: int, levels: Tensor) -> None:
        """Record the sampled levels, (B,)."""
        self.first.put(column, colour, 2 * levels.to(self.first.now.dtype) / (self.levels - 1) - 1)

    def _conditioned(self, maps: list[nn.Conv2d]) -> Tensor | None:
        """The contribution of the condition to each layer in this row, (L, B, W, maps)."""
        if self.condition is None:
            return None
        row = self.condition[:, self.rows]  # (B, W, condition)
        return torch.stack([row @ conv.weight.detach()[:, :, 0, 0].t() for conv in maps])


def can_cache(net: nn.Module) -> bool:
    """Return whether there is a cached sampler for a network."""
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
        cache: fresh, of the same batch and width.
        levels: uint8 (B, C, H, W); values at hidden pixels are ignored.
        hidden: which pixels to fill, bool (H, W).
        noise: numbers in [0, 1), float64, (B, C, H, W).
        temperature: divides the logits.
        before_row: called before each row; an exception from it ends the sampling.
        keep: called with the logits (B, K) of each value in turn, those of given pixels too.

    Returns:
        Levels, uint8 (B, C, H, W).
    """
    C, H, W = levels.shape[1:]
    by_place = levels.permute(2, 3, 1, 0).long().contiguous()  # (H, W, C, B): a value of all images lies together
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
