"""From settings to a network, on a device. A new network is a case here and a name in `model.config.MODELS`."""

from __future__ import annotations

from typing import Any

import torch

from model.config import TrainConfig
from model.errors import ConfigError, SetupError
from model.network import PixelNetwork
from model.pixelcnn import PixelCNN
from model.pixelrnn import PixelRNN

# Two configs that agree in these have networks whose weights can be exchanged.
NETWORK_FIELDS = ("model", "dataset", "hidden", "layers", "head", "connections")


def build(config: TrainConfig) -> PixelNetwork:
    """Build the network of a config, with weights drawn from torch's generator.

    Returns:
        A module from levels (B, C, H, W), uint8 or long, to logits (B, K, C, H, W).

    Raises:
        ConfigError: the sizes do not go together.
    """
    data = config.data
    if min(config.hidden, config.head) < data.channels:
        raise ConfigError(f"{config.dataset} has {data.channels} colours; give hidden and head at least that many maps")
    sizes: dict[str, Any] = {
        "channels": data.channels,
        "levels": data.levels,
        "hidden": config.hidden,
        "layers": config.layers,
        "head": config.head,
        "residual": config.connections in ("both", "residual"),
        "skip": config.connections in ("both", "skip"),
    }
    return PixelCNN(**sizes) if config.model == "pixelcnn" else PixelRNN(config.model, **sizes)


def pick_device(name: str) -> torch.device:
    """Turn "auto", "cpu" or "cuda" into a device that is there.

    Raises:
        SetupError: "cuda" was asked for and torch sees no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise SetupError(f"device cuda: torch {torch.__version__} ({built}) sees no GPU here; take --set device=auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """Name the GPU, or say that it is a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
