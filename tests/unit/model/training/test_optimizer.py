"""What weight decay acts on, and the optimizer's state in checkpoints of this version and of 0.1.0."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from model.config import MODELS, TrainConfig
from model.data import load as load_data
from model.networks.build import build
from model.training.checkpoint import Checkpoint, digest
from model.training.optimizer import build_optimizer
from model.training.state import Training

SMALL = TrainConfig(batch_size=8, hidden=2, layers=1, head=3, device="cpu", weight_decay=0.25, learning_rate=0.01)
CPU = torch.device("cpu")


def run(config: TrainConfig, steps: int) -> Training:
    made = Training(config, load_data("digits"), CPU)
    for _ in range(steps):
        made.advance()
    return made


@pytest.mark.parametrize("model", MODELS)
def test_weight_decay_acts_on_weights_and_not_on_biases_and_initial_states(model: str) -> None:
    config = SMALL.model_copy(update={"model": model, "learning_rate": 1.0})
    net: nn.Module = build(config)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    for value in net.parameters():
        value.grad = torch.zeros_like(value)  # the step is the decay alone
    build_optimizer(config, net).step()
    for name, value in net.named_parameters():
        kept = 1.0 if name.endswith(("bias", "h0", "c0")) else 0.75
        torch.testing.assert_close(value, kept * before[name])
    assert any(name.endswith("bias") for name in before)
    assert any(name.endswith("h0") for name in before) == (model != "pixelcnn")


def as_of_0_1_0(saved: Checkpoint) -> Checkpoint:
    """The same checkpoint with all parameters in one group, in the network's order, as 0.1.0 wrote it."""
    groups = saved.optimizer["param_groups"]
    names = [name for large in (True, False) for name, value in saved.model.items() if (value.ndim > 1) == large]
    order = [names.index(name) for name in saved.model]
    state = {at: saved.optimizer["state"][place] for at, place in enumerate(order)}
    one = {**groups[0], "weight_decay": 0.0, "params": list(range(len(order)))}
    return replace(saved, optimizer={"state": state, "param_groups": [one]})


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
@pytest.mark.parametrize("model", ["pixelcnn", "row-lstm"])
def test_a_checkpoint_with_one_group_goes_on_as_one_with_two(model: str, optimizer: str) -> None:
    config = SMALL.model_copy(update={"model": model, "optimizer": optimizer})
    whole = run(config, 5)
    for written in (lambda saved: saved, as_of_0_1_0):
        resumed = run(config, 0)
        resumed.restore(written(run(config, 3).checkpoint()))
        resumed.advance()
        resumed.advance()
        assert digest(resumed.checkpoint().model) == digest(whole.checkpoint().model)
        assert [group["weight_decay"] for group in resumed.optimizer.param_groups] == [0.25, 0.0]


def test_a_resumed_training_has_the_weight_decay_of_its_own_settings() -> None:
    saved = run(SMALL, 1).checkpoint()
    other = run(SMALL.model_copy(update={"weight_decay": 0.5}), 0)
    other.restore(saved)
    assert [group["weight_decay"] for group in other.optimizer.param_groups] == [0.5, 0.0]
