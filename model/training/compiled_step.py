"""A training whose network torch compiles (`compile=on`): `torch.compile` fuses what is between the convolutions.

It compiles at the first step, a minute for a PixelCNN and longer for an LSTM, whose loops it unrolls. Each shape of a
batch is compiled for itself: with shapes left open, the kernels would depend on the batches seen before, and a resumed
training would have other bits than one without interruption. Validations and samples use the network as it is.

Only networks of torch's plain operations gain: PixelCNN on a GPU, and each reference implementation. The other fast
implementations are autograd functions that write into buffers of their own.

NOTE: this has not run on a GPU yet. Its tests run on a CPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from model.config import TrainConfig
from model.errors import ConfigError, TrainingError, out_of_memory
from model.networks.base import PixelNetwork
from model.networks.likelihood import nats_per_image

Nats = Callable[[Tensor, Tensor | None], Tensor]


def mean_nats(net: nn.Module) -> Nats:
    """Return the function from images (B, C, H, W) and conditioning values to their mean nats."""
    return lambda levels, values: nats_per_image(net, levels, values).mean()


def compiled_nats(net: nn.Module, config: TrainConfig, implementation: str, device: torch.device) -> Nats:
    """Return `mean_nats` of a network that is compiled at the first call.

    Args:
        net: the network, or a module with networks in it.
        config: the settings of the training.
        implementation: that of the network.
        device: of the network.

    Raises:
        ConfigError: the implementation has nothing to compile, or this torch does not compile with this Python.
        TrainingError: at a call, torch cannot compile it here.
    """
    if implementation == "fast" and (config.model != "pixelcnn" or device.type == "cpu"):
        raise ConfigError(
            f"compile=on: the fast {config.model} has nothing for torch to compile on a {device.type.upper()}; "
            "set implementation=reference or compile=off"
        )
    networks = [part for part in net.modules() if isinstance(part, PixelNetwork)]
    try:
        forwards = [torch.compile(cast("Any", part.forward), dynamic=False) for part in networks]
    except RuntimeError as error:
        raise ConfigError(f"compile=on: {_first_line(error)}; set compile=off") from None

    def nats(levels: Tensor, values: Tensor | None) -> Tensor:
        try:
            with _replaced(networks, forwards), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's, about its own code
                return nats_per_image(net, levels, values).mean()
        except Exception as error:  # the compiler's errors have no base class of their own in all versions of torch
            if out_of_memory(error) or not type(error).__module__.startswith("torch._"):
                raise
            raise TrainingError(
                f"compile=on: torch cannot compile the network here: {_first_line(error)}; set compile=off"
            ) from None

    return nats


@contextmanager
def _replaced(networks: list[PixelNetwork], forwards: list[Any]) -> Iterator[None]:
    """Let the networks call these functions."""
    for part, forward in zip(networks, forwards, strict=True):
        part.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for part in networks:
            del part.forward


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
