"""From settings to a network. A new network is a case here and a name in `model.config.MODELS`."""

from __future__ import annotations

from typing import Any

from model.config import TrainConfig
from model.errors import ConfigError
from model.multiscale import MultiScale
from model.network import PixelNetwork
from model.pixelcnn import PixelCNN
from model.pixelrnn import PixelRNN

# Two configs that agree in these have networks whose weights can be exchanged.
NETWORK_FIELDS = ("model", "dataset", "hidden", "layers", "head", "connections", "multiscale")


def build(config: TrainConfig) -> PixelNetwork | MultiScale:
    """Build the network of a config, with weights drawn from torch's generator.

    Returns:
        A module from levels (B, C, H, W), uint8 or long, to logits (B, K, C, H, W).

    Raises:
        ConfigError: the sizes do not go together.
    """
    data = config.data
    if min(config.hidden, config.head) < data.channels:
        raise ConfigError(f"{config.dataset} has {data.channels} colours; give hidden and head at least that many maps")
    if config.small is None:
        return _network(config)
    factor = data.height // config.small.height
    return MultiScale(_network(config), _network(config, condition=config.hidden), factor)


def _network(config: TrainConfig, *, condition: int = 0) -> PixelNetwork:
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
    return PixelCNN(**sizes) if config.model == "pixelcnn" else PixelRNN(config.model, **sizes)
