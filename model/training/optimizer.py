"""The optimizer of a training, and its state in a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from model.config import TrainConfig


def build_optimizer(config: TrainConfig, net: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of the settings, with two groups of parameters.

    Weight decay acts on the first group, the weights of the convolutions and of the recurrences. The second group has
    the vectors: biases and the learned initial states of the LSTMs. They cannot overfit much, and a bias near zero
    would pull the levels of a pixel towards equal probabilities. Masked taps have no gradient, and their decay has no
    effect.
    """
    decay = config.weight_decay
    weights, vectors = ([p for p in net.parameters() if (p.ndim > 1) == large] for large in (True, False))
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if config.optimizer == "rmsprop":  # the paper's optimizer; the paper gives no constants, these are common ones
        return torch.optim.RMSprop(groups, lr=config.learning_rate, alpha=0.95, eps=1e-8)
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], net: nn.Module) -> None:
    """Restore the optimizer's state from that of a checkpoint; the weight decay stays as it is.

    Args:
        optimizer: as `build_optimizer` makes it.
        saved: the state. Up to version 0.1.0 it has one group, all parameters in the network's order.
        net: the network.
    """
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    groups = saved["param_groups"]
    if len(groups) == 1:
        place = {id(parameter): at for at, parameter in enumerate(net.parameters())}
        places = [[place[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
        groups = [{**groups[0], "params": some} for some in places]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay  # from this run's settings, not from the checkpoint
