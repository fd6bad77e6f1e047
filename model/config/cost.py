"""The cost of a network, counted from its sizes without torch, so that a laptop can show it before anything is billed.

The count covers the multiplications and additions of the convolutions and recurrences: two FLOPs for each unmasked
weight and each position, including taps on padding. It leaves out nonlinearities, softmax and optimizer. Masked taps
do not count, whether an implementation computes them or not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

from model.config import groups
from model.config.datasets import DatasetFacts
from model.config.groups import (
    FLOAT_BYTES,
    convolution_group,
    pays_in_tiles,
    row_group,
    row_layers_at_once,
    tile_group,
)
from model.config.train_config import TrainConfig

UPSAMPLING_TAPS, DOUBLING_TAPS = 5 * 5, 4 * 4  # of the layers of `model.networks.multiscale.Upsampler`
OPTIMIZER_COPIES = {"rmsprop": 1, "adamw": 2}  # floats of optimizer state for each parameter


@dataclass(frozen=True)
class Sizes:
    """The sizes that the cost depends on, named as in `TrainConfig`."""

    model: str
    height: int  # pixels
    width: int  # pixels
    channels: int
    levels: int
    hidden: int
    layers: int
    head: int
    skip: bool = True  # layer-to-output connections
    condition: int = 0  # feature maps of the condition


@dataclass(frozen=True)
class Cost:
    """FLOPs per image and number of parameters of a network."""

    parameters: int  # including masked ones, since they are stored
    forward_flops: int  # per image
    training_flops: int  # per image: forward pass, gradients of the weights and of all inputs except the image

    def checkpoint_bytes(self, optimizer: str) -> int:
        """Size in bytes of a checkpoint's tensors: weights and optimizer state, float32."""
        return self.parameters * (1 + OPTIMIZER_COPIES[optimizer]) * FLOAT_BYTES


def cost_of(config: TrainConfig) -> Cost:
    """Count the cost of a config's network on its data set; for a multi-scale network the sum of its three parts."""
    if config.conditions:
        maps, inputs = config.hidden, 2 * len(config.conditions)
        plain = cost(replace(_sizes(config, config.data), condition=maps))
        return replace(
            plain, parameters=plain.parameters + (inputs + 1 + maps + 1) * maps
        )  # computed once per image: negligible FLOPs
    if config.small is None:
        return cost(_sizes(config, config.data))
    small, maps = config.small, config.hidden
    parts = [
        cost(_sizes(config, small)),
        cost(replace(_sizes(config, config.data), condition=maps)),
        upsampling_cost(small.channels, maps, small.height, small.width, factor=config.data.height // small.height),
    ]
    return Cost(
        parameters=sum(part.parameters for part in parts),
        forward_flops=sum(part.forward_flops for part in parts),
        training_flops=sum(part.training_flops for part in parts),
    )


def _sizes(config: TrainConfig, data: DatasetFacts) -> Sizes:
    return Sizes(
        config.model, data.height, data.width, data.channels, data.levels,
        config.hidden, config.layers, config.head, config.connections in ("both", "skip"),
    )  # fmt: skip


def upsampling_cost(channels: int, maps: int, height: int, width: int, *, factor: int) -> Cost:
    """Count the cost of `model.networks.multiscale.Upsampler` for small images of height x width."""
    positions, parameters = height * width, (UPSAMPLING_TAPS * channels + 1) * maps
    first = forward = 2 * positions * UPSAMPLING_TAPS * channels * maps
    while factor > 1:
        forward += 2 * positions * DOUBLING_TAPS * maps * maps
        parameters += (DOUBLING_TAPS * maps + 1) * maps
        positions, factor = 4 * positions, factor // 2
    return Cost(parameters, forward, 3 * forward - first)


def cost(sizes: Sizes) -> Cost:
    """Count the cost of a network.

    Raises:
        KeyError: the model's name is unknown.
    """
    C, h, head = sizes.channels, sizes.hidden, sizes.head
    values = C * (
        sizes.levels if sizes.levels > 2 else 1
    )  # logits of a position; with two levels the first logit is fixed at zero
    first = _Conv(2 * h, C, before=24, strict=True)
    direction: list[_Conv | _Recurrence | _Unmasked] = [_Conv(h, 2 * h, gates=4), _Recurrence(h, 2)]
    kinds: dict[str, list[_Conv | _Recurrence | _Unmasked]] = {
        "pixelcnn": [_Conv(h, 2 * h), _Conv(h, h, before=4, unused=4), _Conv(2 * h, h)],
        "row-lstm": [_Conv(h, 2 * h, before=1, unused=1, gates=4), _Recurrence(h, 3), _Conv(2 * h, h)],
        "diagonal-bilstm": [*direction, *direction, _Conv(2 * h, h)],
    }
    layer = kinds[sizes.model]
    if sizes.condition:
        gates = {"pixelcnn": 1, "row-lstm": 4, "diagonal-bilstm": 8}[sizes.model]
        layer = [*layer, _Unmasked(gates * h, sizes.condition)]
    if sizes.skip:
        layer = [*layer, _Conv(head, h, bias=False)]
    rest = [*sizes.layers * layer, _Conv(head, 2 * h), _Conv(values, head)]
    positions = 2 * sizes.height * sizes.width  # a multiplication and an addition at each position
    forward = positions * sum(part.used(C) for part in [first, *rest])
    return Cost(
        parameters=sum(part.stored() for part in [first, *rest]),
        forward_flops=forward,
        training_flops=3 * forward - positions * first.used(C),  # the gradient of the image is not computed
    )


def workspace_bytes(config: TrainConfig, images: int, *, tiles: bool | None = None) -> int:
    """Count the bytes that the fast networks keep between forward and backward pass, float32.

    They store every matrix that a gradient needs, which decides whether a large network fits into a GPU. PixelCNN's
    convolutions, its reference, keep as much.

    Args:
        config: the settings.
        images: batch size.
        tiles: for the Row LSTM, whether it is the tiled form, as on a CPU with numba; None takes the larger number.
    """
    if config.small is None:
        return _workspace(
            replace(_sizes(config, config.data), condition=config.hidden * bool(config.conditions)), images, tiles
        )
    large = replace(_sizes(config, config.data), condition=config.hidden)
    return _workspace(_sizes(config, config.small), images, tiles) + _workspace(large, images, tiles)


def evaluation_bytes(config: TrainConfig, images: int, *, fast: bool) -> int:
    """Estimate the bytes that scoring a batch takes without gradients, float32; the estimate is an upper bound.

    On a CPU the fast networks take less where they keep no logits (`model.networks.fused_nats`).

    Args:
        config: the settings.
        images: batch size.
        fast: whether the fast implementation runs.
    """
    maps = config.hidden * (bool(config.conditions) or config.small is not None)
    large = replace(_sizes(config, config.data), condition=maps)
    parts = [large] if config.small is None else [_sizes(config, config.small), large]
    return sum(_scoring(part, images) + (_workspace_of_scoring(part, images) if fast else 0) for part in parts)


def _scoring(sizes: Sizes, images: int) -> int:
    """Count the bytes allocated at once: maps of one layer, skip outputs of all layers, maps of the head, logits."""
    maps = (sizes.layers + 20) * sizes.hidden + 3 * sizes.head
    logits = (
        3 * sizes.channels * sizes.levels
    )  # the output of the last layer, its copy with a row per value, and the softmax
    return FLOAT_BYTES * images * sizes.height * (sizes.width + 1) * (maps + logits)


def _workspace_of_scoring(sizes: Sizes, images: int) -> int:
    """Count the bytes of the fast networks without gradients, when layers or groups of images share one workspace."""
    if sizes.model == "pixelcnn":
        # What the first layer sees and the condition are freed before the logits come; `_scoring` counts as much.
        inputs = 27 * sizes.channels + 2 * sizes.condition - (sizes.layers + 20) * sizes.hidden
        cells = sizes.height * (sizes.width + 1) * images
        return FLOAT_BYTES * (_convolution_floats(sizes, images, keep=False) + cells * max(0, inputs))
    if sizes.model == "diagonal-bilstm":
        return FLOAT_BYTES * _diagonal_floats(sizes, images, layers=1)
    return _workspace(sizes, images)


def _workspace(sizes: Sizes, images: int, tiles: bool | None = None) -> int:
    if sizes.model == "row-lstm":
        wavefront, tiled = _wavefront_floats(sizes, images), _tiles_floats(sizes, images)
        pays = groups.row_pays_in_tiles(hidden=sizes.hidden, channels=sizes.channels)
        floats = max(wavefront, tiled) if pays else wavefront
        if tiles is not None:
            floats = tiled if tiles else wavefront
    elif sizes.model == "diagonal-bilstm":
        floats = _diagonal_floats(sizes, images, layers=sizes.layers)
    else:
        floats = _convolution_floats(sizes, images, keep=True)
    return FLOAT_BYTES * floats


def _convolution_floats(sizes: Sizes, images: int, *, keep: bool) -> int:
    """Count the values in the buffers of the fast PixelCNN, with all layers of all groups or with one of one group."""
    h, H, W, head = sizes.hidden, sizes.height, sizes.width, sizes.head
    kept = 4 * sizes.layers + 2 if keep else 6
    if pays_in_tiles(hidden=h, layers=sizes.layers, height=H, width=W):  # `model.networks.pixelcnn_tiled`
        group = tile_group(images, hidden=h, height=H, width=W)
        cells = H * (W + W % 2) * group
        shared = cells * (15 * h + head)
    else:  # `model.networks.pixelcnn_fast`
        group = convolution_group(images, hidden=h, height=H, width=W)
        cells = H * (W + 1) * group
        shared = cells * (12 * h + head) + 6 * h * (W + 2) * group
    return (-(-images // group) if keep else 1) * cells * kept * h + shared


def _wavefront_floats(sizes: Sizes, images: int) -> int:
    """Count the values in the buffers of `model.networks.row_lstm_fast`."""
    h, c, L, H, W = sizes.hidden, sizes.condition, sizes.layers, sizes.height, sizes.width
    group = row_group(images, hidden=h, layers=L, width=W)
    T, E, seen = H + L - 1, 3 * h + c, 2 * h + L * h * sizes.skip
    wide = (T + 1) * (L + 1) * E + L * 4 * h  # with a column at both ends
    rest = L * h * (7 * T + 1) + L * (E + 4 * h) + 4 * (L + 1) * h + 2 * seen + 2 * H * h
    return -(-images // group) * group * (wide * (W + 2) + rest * W)


def _tiles_floats(sizes: Sizes, images: int) -> int:
    """Count the values in the buffers of `model.networks.row_lstm_tiled`."""
    h, c, L, H, W = sizes.hidden, sizes.condition, sizes.layers, sizes.height, sizes.width
    group = row_group(images, hidden=h, layers=L, width=W)
    blocks = row_layers_at_once(L, hidden=h) < L
    T, columns = H + L - 1, 2 * -(-W // 2)
    first, inputs = (3, 2 * h) if sizes.channels == 1 else (2, 4 * h)  # of the products
    taken = L * (3 * (first * (inputs + h + c) + (4 - first) * h) + 16 * h) + 4
    wide = H * (2 + L) * h + T * L * 2 * h  # with a column at both ends
    rest = L * h * (5 * T + 1) + 2 * L * h + 6 * (L + 1) * h + 2 * h + H * (sizes.head + 2 * h * blocks)
    cells = taken * columns // 2 + wide * (columns + 2) + rest * columns
    return -(-images // group) * (group * cells + 2 * (4 * L + 2 * (L + 1)) * h)


def _diagonal_floats(sizes: Sizes, images: int, *, layers: int) -> int:
    """Count the values in the buffers of `model.networks.diagonal_torch` with so many layers at once.

    Those of `model.networks.diagonal_compiled` are half as large. They do not count: a run that goes on on a machine
    without numba must fit into the same memory.
    """
    h, c, H, W = sizes.hidden, sizes.condition, sizes.height, sizes.width + 1  # with the zero column
    F, cells, longest = 2 * h + c, H * W * images, min(H, W) * images
    places, diagonals = (H + 1) * images, H + W
    layer = 2 * diagonals * ((F + 2 * h + 1) * places + h * H * images) + 10 * h * cells
    back = 2 * (diagonals * h + (diagonals - 1) * F) * places + 2 * h * H * images + 2 * (F + 6 * h) * longest
    maps = cells * (5 * h + sizes.head + sizes.layers * (h + 1))
    return layers * layer + back + maps


@dataclass(frozen=True)
class _Conv:
    """A masked convolution: `before` unmasked taps, the centre tap, and `unused` masked taps."""

    out: int  # maps of one gate
    into: int
    before: int = 0
    unused: int = 0
    gates: int = 1
    strict: bool = False  # mask A
    bias: bool = True

    def used(self, colours: int) -> int:
        to, of = _groups(self.out, colours), list(accumulate(_groups(self.into, colours)))
        seen = [0, *of[:-1]] if self.strict else of  # input maps that each colour may depend on at the centre
        centre = sum(maps * sees for maps, sees in zip(to, seen, strict=True))
        return self.gates * (self.before * self.out * self.into + centre)

    def stored(self) -> int:
        taps = self.before + 1 + self.unused + (24 if self.strict else 0)  # the 7x7's lower half
        return self.gates * self.out * (taps * self.into + self.bias)


@dataclass(frozen=True)
class _Unmasked:
    """The 1x1 convolution of the condition, without mask or bias."""

    out: int
    into: int

    def used(self, colours: int) -> int:
        return self.out * self.into

    def stored(self) -> int:
        return self.out * self.into


@dataclass(frozen=True)
class _Recurrence:
    """A state-to-state convolution, without mask or bias, and the learned initial h and c."""

    hidden: int
    taps: int

    def used(self, colours: int) -> int:
        return 4 * self.hidden * self.hidden * self.taps

    def stored(self) -> int:
        return 4 * self.hidden * self.hidden * self.taps + 2 * self.hidden


def _groups(maps: int, colours: int) -> list[int]:
    """Return the number of maps of each colour, split as in `model.networks.masked_conv.colour_of`."""
    owners = [index * colours // maps for index in range(maps)]
    return [owners.count(colour) for colour in range(colours)]
