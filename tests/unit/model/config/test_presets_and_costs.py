"""Presets and costs are pure: no torch; and the costs are those of the networks that are really built."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from model.config import DATASETS, TrainConfig, config_from_settings, cost_of
from model.config.cost import Sizes, cost, workspace_bytes
from model.config.presets import PRESETS, preset
from model.errors import ConfigError
from model.evaluation.paper import TABLES
from model.networks.build import build
from model.networks.masked_conv import MaskedConv2d
from model.networks.pixelcnn import PixelCNN
from model.networks.pixelrnn import PixelRNN
from model.training.optimizer import build_optimizer

torch.set_num_threads(1)

MODELS = ("pixelcnn", "row-lstm", "diagonal-bilstm")


def used_weights(net: nn.Module) -> int:
    """Count the weights that a mask lets through; the biases and the initial states are no FLOPs of ours."""
    masked = sum(int(module.mask.sum()) for module in net.modules() if isinstance(module, MaskedConv2d))
    return masked + sum(module.weight.numel() for module in net.modules() if isinstance(module, nn.Conv1d))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_the_cost_is_that_of_the_network_that_is_built(model: str, skip: bool, channels: int) -> None:
    sizes = {"channels": channels, "levels": 5, "hidden": 7, "layers": 3, "head": 8, "skip": skip}
    net = PixelCNN(**sizes) if model == "pixelcnn" else PixelRNN(model, **sizes)  # type: ignore[arg-type]
    counted = cost(Sizes(model, 4, 6, **sizes))  # type: ignore[arg-type]
    assert counted.parameters == sum(parameter.numel() for parameter in net.parameters())
    assert counted.forward_flops == 2 * 4 * 6 * used_weights(net)
    assert counted.training_flops == 3 * counted.forward_flops - 2 * 4 * 6 * int(net.first.mask.sum())


def test_the_costs_of_the_benchmarks_networks_are_known() -> None:
    for model, hidden, mflop in (("pixelcnn", 32, 119), ("row-lstm", 16, 93), ("diagonal-bilstm", 16, 104)):
        counted = cost(Sizes(model, 28, 28, 1, 2, hidden, 7, 32))
        assert counted.forward_flops / 1e6 == pytest.approx(mflop, abs=1)


def test_a_checkpoint_weighs_the_weights_and_what_the_optimizer_keeps() -> None:
    config = TrainConfig()
    counted = cost_of(config)
    assert counted.checkpoint_bytes("adamw") == 12 * counted.parameters
    assert counted.checkpoint_bytes("rmsprop") == 8 * counted.parameters


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_config(name: str) -> None:
    found = preset(name)
    settings = dict(found.settings)
    if settings["dataset"] not in DATASETS:
        settings["dataset"] = "photos-64" if "64" in name else "digits"
    config = TrainConfig(**settings)
    assert config.model in MODELS
    assert found.source
    assert found.chosen
    of_ours = name.startswith(("digits-", "photos")) or name.endswith("-multiscale")  # the paper gives it no figure
    assert (found.nats is None and found.bits_per_dim is None) == of_ours


def test_the_papers_sizes() -> None:
    sizes = {name: (found.settings["layers"], found.settings["hidden"]) for name, found in PRESETS.items()}
    assert sizes["mnist-diagonal"] == (7, 16)
    assert sizes["cifar10-row"] == sizes["cifar10-diagonal"] == (12, 128)
    assert sizes["cifar10-pixelcnn"] == (15, 128)
    assert sizes["imagenet32-row"] == (12, 384)
    assert sizes["imagenet64-row"] == (4, 512)
    assert preset("imagenet64-row").settings["connections"] == "skip"
    assert preset("imagenet32-row").settings["batch_size"] == 64


PAPERS = [name for name, found in PRESETS.items() if found.settings["optimizer"] == "rmsprop"]


@pytest.mark.parametrize("name", PAPERS)
def test_validations_are_a_small_part_of_the_papers_trainings(name: str) -> None:
    config = TrainConfig(**preset(name).settings)
    flops = cost_of(config)
    validation = (config.data.valid or config.data.test) * flops.forward_flops
    steps = config.validate_every * config.batch_size * flops.training_flops
    assert 0.005 < validation / (validation + steps) < 0.05
    assert config.steps / config.validate_every >= 20  # and there is something to choose from


@pytest.mark.parametrize("name", PAPERS)
def test_what_the_paper_does_not_say_is_declared(name: str) -> None:
    found = preset(name)
    ours = {"ema", "grad_clip", "learning_rate", "steps", "warmup_steps", "weight_decay"}
    assert ours <= found.settings.keys()  # not the demo's, if that changes
    assert (found.settings["warmup_steps"], found.settings["weight_decay"]) == (0, 0.0)
    words = (
        "learning rate and steps",
        "alpha 0.95",
        "gradients clipped to norm 1,",
        "running mean",
        "0.998",
        "2 layers",
    )
    assert [word for word in words if word not in found.chosen] == []
    assert (found.settings["ema"], found.settings["grad_clip"]) == (0.998, 1.0)
    net = build(TrainConfig(model="row-lstm", layers=1, head=8))
    assert {group["alpha"] for group in build_optimizer(TrainConfig(optimizer="rmsprop"), net).param_groups} == {0.95}
    assert (net.head.out_channels, net.last.out_channels) == (8, 17)  # type: ignore[union-attr]


def test_an_unknown_preset_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no preset 'cifar-row'; did you mean cifar10-row"):
        preset("cifar-row")
    with pytest.raises(ConfigError, match="known: mnist-diagonal, "):
        preset("zzzz")


def test_neither_presets_nor_costs_need_torch() -> None:
    code = "import model.config.presets, model.config.cost, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_docs_give_the_memory_that_the_fast_lstms_take() -> None:
    text = (Path(__file__).parents[4] / "docs/model.md").read_text(encoding="utf-8")
    told = re.findall(r"([\d.]+) GB for `([a-z0-9-]+)` at (?:its batch size of )?(\d+)", " ".join(text.split()))
    assert [name for _, name, _ in told] == ["cifar10-row", "imagenet32-row"]
    for gigabytes, name, images in told:
        config = config_from_settings(preset(name).settings)
        assert config.batch_size == int(images)
        assert gigabytes == f"{workspace_bytes(config, config.batch_size) / 1e9:.1f}"


def test_each_row_of_the_papers_mnist_table_has_its_preset_and_its_sizes() -> None:
    """Table 4: the Diagonal BiLSTM with 1 layer has h = 32, that with 7 layers h = 16; the others have no sizes."""
    rows = {row.network: row.value for row in TABLES["mnist-static"].results}
    assert rows["Diagonal BiLSTM, 1 layer, h = 32"] == 80.75
    best = preset("mnist-diagonal")
    assert rows[f"Diagonal BiLSTM, {best.settings['layers']} layers, h = {best.settings['hidden']}"] == best.nats
    assert rows["Row LSTM"] == preset("mnist-row").nats
    assert rows["PixelCNN"] == preset("mnist-pixelcnn").nats
    lines = str(TABLES["mnist-static"]).splitlines()[1:]
    assert len({line.index(f"{value:6.2f}") for line, value in zip(lines, rows.values(), strict=True)}) == 1
