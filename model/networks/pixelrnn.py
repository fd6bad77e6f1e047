"""The recurrent PixelRNNs (van den Oord et al. 2016, arXiv 1601.06759, section 3 and table 1)."""

from __future__ import annotations

from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config.groups import row_group
from model.device import unrounded
from model.networks.base import PixelNetwork
from model.networks.diagonal_bilstm import DiagonalBiLSTM, DiagonalLSTM
from model.networks.diagonal_bilstm_fast import diagonal_layers
from model.networks.diagonal_bilstm_gpu import diagonal_layer
from model.networks.diagonal_maps import DiagonalWeights
from model.networks.last_maps import LastMaps
from model.networks.masked_conv import MaskedConv2d
from model.networks.matrices import bias, first_matrix, matrix, neighbours, split
from model.networks.row_kernel import pays
from model.networks.row_lstm import RowLSTM
from model.networks.row_lstm_fast import RowWeights, row_layers
from model.networks.row_lstm_tiled import row_layers_in_tiles
from model.networks.row_tiles import Form, from_cells, to_cells

Recurrence = Literal["row-lstm", "diagonal-bilstm"]
Implementation = Literal["fast", "reference"]


class RecurrentBlock(nn.Module):
    """The block of PixelRNN, figure 5: the LSTM (2h to h), a 1x1 convolution (h to 2h), plus its input."""

    def __init__(self, lstm: nn.Module, hidden: int, *, colours: int = 1, residual: bool = True) -> None:
        super().__init__()
        self.residual = residual
        self.lstm = lstm
        self.up = MaskedConv2d("B", hidden, 2 * hidden, 1, colours=colours)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return maps of the input's shape (B, 2h, H, W), and the h maps for the layer-to-output connection."""
        h = self.lstm(x, condition)  # (B, h, H, W)
        up = self.up(h)  # (B, 2h, H, W)
        return (x + up if self.residual else up), h


class PixelRNN(PixelNetwork):
    """A PixelRNN: a 7x7 convolution with mask A, `layers` Row LSTM or Diagonal BiLSTM blocks, and the head.

    For Diagonal BiLSTM layers the network appends one zero column at the right of the image and removes it from the
    output. With it each pixel sees all earlier pixels; `DiagonalBiLSTM` gives the reason.

    Args:
        recurrence: the type of the recurrent layers.
        channels: colours of a pixel, C.
        levels: number of levels of a colour, K, from 2 to 256.
        hidden: h, feature maps inside a layer.
        layers: number of recurrent layers.
        head: feature maps of the layer before the softmax.
        residual: whether each layer adds its input.
        skip: whether there are layer-to-output connections.
        condition: maps of the condition, 0 for none.
        implementation: "reference" follows the paper's formulation; "fast" computes the same function faster. Both
            have the same parameters.
    """

    def __init__(
        self,
        recurrence: Recurrence,
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
        kind = {"row-lstm": RowLSTM, "diagonal-bilstm": DiagonalBiLSTM}[recurrence]
        super().__init__(
            lambda: RecurrentBlock(
                kind(hidden, colours=channels, condition=condition), hidden, colours=channels, residual=residual
            ),
            channels=channels,
            levels=levels,
            hidden=hidden,
            layers=layers,
            head=head,
            skip=skip,
            condition=condition,
        )
        self.recurrence, self.implementation, self.residual = recurrence, implementation, residual

    def predict(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict from inputs scaled to [-1, 1]: (B, C, H, W) -> (B, K, C, H, W)."""
        if self.recurrence == "row-lstm" or self._in_one_pass(x.device):
            return super().predict(x, condition)
        self.check_condition(x, condition)
        wider = F.pad(x, (0, 1))  # (B, C, H, W+1)
        wider_condition = F.pad(condition, (0, 1)) if condition is not None else None
        return super().predict(wider, wider_condition)[..., :-1]

    def _in_one_pass(self, device: torch.device) -> bool:
        return self.implementation == "fast" and (self.recurrence == "row-lstm" or device.type == "cpu")

    def last_maps(self, x: Tensor, condition: Tensor | None) -> LastMaps | None:
        """Compute what the last layer sees, where all layers are one pass; nothing in it is rounded."""
        if not self._in_one_pass(x.device):
            return None
        with unrounded(x.device):
            if self.recurrence == "row-lstm":
                return self._row_layers(x, condition)
            return self._diagonal_layers(x, condition)

    def through(self, y: Tensor, condition: Tensor | None) -> Tensor:
        """Apply all layers after the first, and the head: (B, 2h, H, W) -> logits (B, K, C, H, W)."""
        if self.implementation == "reference":
            return super().through(y, condition)
        return self._diagonal_layers_of_gpu(y, condition)

    def is_tiled(self, x: Tensor) -> bool:
        """Tell whether the fast form of the Row LSTM is the tiled one for such inputs."""
        return pays(x, hidden=self.hidden, channels=self.channels)

    def _row_layers(self, x: Tensor, condition: Tensor | None) -> LastMaps:
        """Compute `last_maps` with all Row LSTM layers in one wavefront; the layout is maps x cells within each row."""
        B, _, _, W = x.shape
        images = B  # on a GPU
        if x.device.type == "cpu":
            sizes = {"hidden": self.hidden, "layers": len(self.blocks), "width": W}
            images = row_group(B, **sizes, bytes_per_value=x.element_size())
        in_tiles = self.is_tiled(x)
        order = to_cells if in_tiles else partial(torch.flatten, start_dim=-2)
        inputs = order(neighbours(split(x, images))[..., :W, :]).transpose(1, 2)  # (G, H, K, N)
        if condition is not None:
            condition = order(split(condition, images)).transpose(1, 2)
        weights = self._row_weights()
        if in_tiles:
            out = row_layers_in_tiles(
                inputs, condition, weights,
                form=Form(shares=self.channels == 1), width=W, images=images, residual=self.residual,
            )  # fmt: skip
            return LastMaps(out, B, lambda y: from_cells(y, W, images))
        out = row_layers(inputs, condition, weights, images=images, residual=self.residual)  # (G, H, head, W*k)
        return LastMaps(out, B, lambda y: y.view(*y.shape[:3], W, images).permute(0, 4, 1, 3, 2))

    def _row_weights(self) -> RowWeights:
        """Return the weights in the layout of `row_layers`."""
        blocks = cast("list[RecurrentBlock]", list(self.blocks))
        lstms = [cast("RowLSTM", block.lstm) for block in blocks]
        x = torch.stack([lstm.input_to_state.masked_weight() for lstm in lstms])[:, :, :, 0]  # (L, 4h, 2h, 3)
        h = torch.stack([lstm.state_to_state.weight for lstm in lstms])  # (L, 4h, h, 3)
        centre = [x[..., 1], h[..., 1]]
        if self.conditions:
            maps = [lstm.condition.weight[:, :, 0, 0] for lstm in lstms if lstm.condition is not None]
            centre.append(torch.stack(maps))
        skips = [matrix(cast("MaskedConv2d", skip)) for skip in self.skips]
        return RowWeights(
            first=first_matrix(self.first),
            first_bias=cast("Tensor", self.first.bias),
            left=torch.cat([x[..., 0], h[..., 0]], dim=2),
            centre=torch.cat(centre, dim=2),
            right=h[..., 2].contiguous(),
            bias=torch.stack([bias(lstm.input_to_state) for lstm in lstms]),
            up=torch.stack([matrix(block.up) for block in blocks]),
            up_bias=torch.stack([bias(block.up) for block in blocks]),
            head=torch.cat([matrix(self.head), *skips], dim=1),
            head_bias=cast("Tensor", self.head.bias),
            h0=torch.stack([lstm.h0 for lstm in lstms]),
            c0=torch.stack([lstm.c0 for lstm in lstms]),
        )

    def _diagonal_layers(self, x: Tensor, condition: Tensor | None) -> LastMaps:
        """Compute `last_maps` with all Diagonal BiLSTM layers in one pass, on a CPU; the layout is maps x cells."""
        B, _, _, W = x.shape
        if condition is not None:
            condition = F.pad(condition, (0, 1)).permute(1, 2, 3, 0)  # (c, H, W+1, B)
        inputs = neighbours(split(x, B))[0]  # (K, H, W+1, B)
        out = diagonal_layers(inputs, condition, self._diagonal_weights(), residual=self.residual)
        size = inputs.shape[1:]
        return LastMaps(out.flatten(1), B, lambda y: y.view(-1, *size)[:, :, :W].permute(3, 1, 2, 0)[None])

    def _diagonal_weights(self) -> DiagonalWeights:
        """Return the weights in the layout of `diagonal_layers`."""
        blocks = cast("list[RecurrentBlock]", list(self.blocks))
        sides = [[lstm.left, lstm.right] for lstm in (cast("DiagonalBiLSTM", block.lstm) for block in blocks)]
        out = [torch.cat([matrix(block.up), bias(block.up)], dim=1) for block in blocks]  # (2h, h + 1)
        if len(self.skips):
            skips = [F.pad(matrix(cast("MaskedConv2d", skip)), (0, 1)) for skip in self.skips]  # (head, h + 1)
            out = [torch.cat(both) for both in zip(skips, out, strict=True)]
        return DiagonalWeights(
            first=first_matrix(self.first),
            first_bias=cast("Tensor", self.first.bias),
            gates=torch.stack([torch.stack([diagonal_weights(side) for side in both]) for both in sides]),
            out=torch.stack(out),
            head=matrix(self.head),
            head_bias=cast("Tensor", self.head.bias),
            h0=torch.stack([torch.stack([side.h0 for side in both]) for both in sides]),
            c0=torch.stack([torch.stack([side.c0 for side in both]) for both in sides]),
        )

    def _diagonal_layers_of_gpu(self, y: Tensor, condition: Tensor | None) -> Tensor:
        """Compute `through` in the layout maps x cells, in which each 1x1 convolution is a matrix product."""
        B, m, H, W = y.shape
        x = y.permute(1, 2, 3, 0)  # (2h, H, W, B)
        where = None if condition is None else condition.permute(1, 2, 3, 0)  # (c, H, W, B)
        states = []
        for block in cast("list[RecurrentBlock]", list(self.blocks)):
            lstm = cast("DiagonalBiLSTM", block.lstm)
            sides = (lstm.left, lstm.right)
            h = diagonal_layer(
                x if where is None else torch.cat([x, where]),
                torch.stack([diagonal_weights(side) for side in sides]),  # (2, 4h, K)
                torch.stack([side.h0 for side in sides]),  # (2, h)
                torch.stack([side.c0 for side in sides]),
            ).flatten(1)  # (h, H*W*B)
            before = x.reshape(m, -1) if self.residual else x.new_zeros(())
            x = torch.addmm(before + bias(block.up).expand(m, h.shape[1]), matrix(block.up), h).view(m, H, W, B)
            states.append(h)
        out = self._maps_to_logits(x.flatten(1), torch.cat(states))  # (C*K, H*W*B)
        return self.as_logits(out.view(-1, H, W, B).permute(3, 0, 1, 2))

    def _maps_to_logits(self, x: Tensor, states: Tensor) -> Tensor:
        """Apply head and layer-to-output connections to maps x cells: (..., 2h, N), (..., L*h, N) -> (..., C*K, N)."""
        out = matrix(self.head) @ F.relu(x) + bias(self.head)  # (..., head, N)
        if len(self.skips):
            out = out + torch.cat([matrix(cast("MaskedConv2d", skip)) for skip in self.skips], dim=1) @ states
        return matrix(self.last) @ F.relu(out) + bias(self.last)


def diagonal_weights(lstm: DiagonalLSTM) -> Tensor:
    """Return the weights of one direction in the layout of the fast layers, (4h, 2h + c + 2h + 1)."""
    parts = [matrix(lstm.input_to_state)]
    if lstm.condition is not None:
        parts.append(lstm.condition.weight[:, :, 0, 0])
    return torch.cat([*parts, *lstm.state_to_state.weight.unbind(2), bias(lstm.input_to_state)], dim=1)
