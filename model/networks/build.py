"""Builds a network from its settings. A new network needs a case here and a name in `model.config.MODELS`."""

from __future__ import annotations

from typing import Any

import torch

from model.config import TrainConfig
from model.config.cost import evaluation_bytes, workspace_bytes
from model.config.groups import pays_in_tiles
from model.errors import ConfigError
from model.networks import lstm_kernel
from model.networks.base import PixelNetwork
from model.networks.conditioned import Conditioned
from model.networks.likelihood import BATCH
from model.networks.multiscale import MultiScale
from model.networks.pixelcnn import PixelCNN
from model.networks.pixelrnn import Implementation, PixelRNN

SHARE = 0.6  # fraction of the device's memory for the fast networks' saved activations, or for an evaluation batch


def build(config: TrainConfig, implementation: Implementation = "fast") -> PixelNetwork | MultiScale | Conditioned:
    """Build the network of a config, with weights drawn from torch's generator.

    Args:
        config: the settings.
        implementation: implementation of the layers; both have the same weights.

    Returns:
        A module from levels (B, C, H, W), uint8 or long, to logits (B, K, C, H, W).

    Raises:
        ConfigError: `hidden` or `head` is smaller than the number of colours.
    """
    data = config.data
    if min(config.hidden, config.head) < data.channels:
        raise ConfigError(f"{config.dataset} has {data.channels} colours; give hidden and head at least that many maps")
    if config.conditions:
        return Conditioned(_network(config, implementation, condition=config.hidden), config.conditions)
    if config.small is None:
        return _network(config, implementation)
    factor = data.height // config.small.height
    large = _network(config, implementation, condition=config.hidden)
    return MultiScale(_network(config, implementation), large, factor)


def choose_implementation(config: TrainConfig, memory_bytes: int, *, ranks: int = 1) -> Implementation:
    """Choose the implementation of the layers; for "auto" it depends on the device's memory.

    `memory_bytes` is the total memory, not the free memory. A resumed run must choose the same implementation, because
    the two differ in rounding. `ranks` is the number of processes that share the images of a step.
    """
    if config.implementation != "auto":
        return config.implementation
    if config.model == "pixelcnn":  # its convolutions keep as much memory as its matrix products
        return "fast"
    images = config.batch_size // (ranks * config.accumulate)
    return "fast" if workspace_bytes(config, images) <= SHARE * memory_bytes else "reference"


def evaluation_batch(config: TrainConfig, memory_bytes: int) -> int:
    """Choose the batch size of an evaluation: 128, halved until a batch fits into the memory."""
    images, fast = BATCH, choose_implementation(config, memory_bytes) == "fast"
    while images > 1 and evaluation_bytes(config, images, fast=fast) > SHARE * memory_bytes:
        images //= 2
    return images


def steps_by(config: TrainConfig, implementation: Implementation, device: torch.device) -> str:
    """Return what computes a training's steps between the matrix products: "numba" and its version, or "torch".

    Args:
        config: the settings.
        implementation: of the network that trains.
        device: of it.
    """
    sizes = {"hidden": config.hidden, "layers": config.layers}
    tiled = pays_in_tiles(**sizes, height=config.data.height, width=config.data.width) and config.precision != "bf16"
    if implementation == "reference" or (config.model == "pixelcnn" and not tiled):
        return "torch"
    return lstm_kernel.steps_by(device, torch.float32)


def _network(config: TrainConfig, implementation: Implementation, *, condition: int = 0) -> PixelNetwork:
    sizes: dict[str, Any] = {
        "channels": config.data.channels,
        "levels": config.data.levels,
        "hidden": config.hidden,
        "layers": config.layers,
        "head": config.head,
        "residual": config.connections in ("both", "residual"),
        "skip": config.connections in ("both", "skip"),
        "condition": condition,
    }
    if config.model == "pixelcnn":
        return PixelCNN(implementation=implementation, **sizes)
    return PixelRNN(config.model, implementation=implementation, **sizes)
