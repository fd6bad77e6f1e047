"""What a network may look at: differentiated, and compared with the field that its architecture must have."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from model.config import MODELS, TrainConfig
from model.data import Dataset
from model.networks.base import PixelNetwork
from model.networks.multiscale import MultiScale
from model.training.checkpoint import load, save
from model.training.state import Training, network_of
from tests.support.networks import (
    KINDS,
    condition_dependencies,
    condition_field,
    dependencies,
    field,
    network,
    open_relus,
    strictly_before,
)

PATHS = ("fast", "reference")


@pytest.mark.parametrize(("H", "W", "channels"), [(4, 6, 1), (6, 3, 1), (3, 4, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_no_output_depends_on_itself_or_on_what_comes_later(kind: str, H: int, W: int, channels: int) -> None:
    for seed, training in ((0, True), (1, False)):
        net = network(kind, channels=channels, seed=seed).train(training)
        seen = dependencies(net, torch.randn(1, channels, H, W, dtype=torch.float64))
        assert not bool((seen & ~strictly_before(H * W * channels)).any())
        assert bool(seen.any())


@pytest.mark.parametrize(("H", "W", "layers", "channels"), [(7, 6, 2, 1), (4, 9, 3, 1), (3, 4, 2, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_field_is_exactly_that_of_the_architecture(kind: str, H: int, W: int, layers: int, channels: int) -> None:
    net = network(kind, channels=channels, layers=layers)
    open_relus(net)
    seen = dependencies(net, torch.rand(1, channels, H, W, dtype=torch.float64) + 0.5)
    assert torch.equal(seen, field(kind, H, W, layers, channels))


@pytest.mark.slow
@pytest.mark.parametrize("connections", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(10, 8, 1), (7, 12, 1), (5, 6, 3)])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "reference" not in kind])
def test_the_field_at_every_depth(
    kind: str, size: tuple[int, int, int], layers: int, connections: tuple[bool, bool]
) -> None:
    (H, W, channels), (residual, skip) = size, connections
    net = network(kind, channels=channels, layers=layers, residual=residual, skip=skip)
    open_relus(net)
    seen = dependencies(net, torch.rand(1, channels, H, W, dtype=torch.float64) + 0.5)
    wanted = field(kind, H, W, layers, channels)
    assert not bool((seen & ~wanted).any())
    if residual:
        assert torch.equal(seen, wanted)
    for seed in range(3):
        net = network(kind, channels=channels, layers=layers, residual=residual, skip=skip, seed=seed)
        assert not bool((dependencies(net, torch.randn(1, channels, H, W, dtype=torch.float64)) & ~wanted).any())


@pytest.mark.parametrize("path", PATHS)
def test_without_the_column_at_the_right_the_diagonal_misses_the_end_of_the_row_above(path: str) -> None:
    """The paper's literal form: pixel (r-1, W-1) cannot be seen from (r, c) for c <= W-5."""
    H, W = 3, 7
    net = network(f"diagonal-bilstm {path}")
    open_relus(net)
    net.recurrence = "row-lstm"  # type: ignore[assignment]  # the reference way through `predict` without the column
    net.implementation = "reference"  # type: ignore[assignment]
    seen = dependencies(net, torch.rand(1, 1, H, W, dtype=torch.float64) + 0.5).view(H, W, H, W)
    missed = [(r, c, sr, sc) for r, c, sr, sc in (field("diagonal-bilstm", H, W, 2).view(H, W, H, W) & ~seen).nonzero()]
    assert missed == [(r, c, r - 1, W - 1) for r in range(1, H) for c in range(W - 4)]


@pytest.mark.parametrize("kind", KINDS)
def test_changing_the_future_does_not_change_a_bit_of_the_past(kind: str) -> None:
    net = network(kind, levels=5).float()
    x = torch.randint(5, (2, 1, 6, 5), dtype=torch.uint8)
    y = x.clone()
    y[:, :, 3, 2:] = 4 - y[:, :, 3, 2:]
    y[:, :, 4:] = 4 - y[:, :, 4:]
    a, b = net(x).flatten(3), net(y).flatten(3)
    until = 3 * 5 + 2  # this pixel changed, so its own prediction, which comes from earlier ones, did not
    assert torch.equal(a[..., : until + 1], b[..., : until + 1])
    assert not torch.equal(a[..., until + 1 :], b[..., until + 1 :])


# With a condition


@pytest.mark.parametrize(("H", "W", "channels"), [(4, 6, 1), (6, 3, 1), (3, 4, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_with_a_condition_nothing_depends_on_itself_or_on_what_comes_later(
    kind: str, H: int, W: int, channels: int
) -> None:
    for seed in (0, 1):
        net = network(kind, channels=channels, condition=2, seed=seed).train()
        condition = torch.randn(1, 2, H, W, dtype=torch.float64)
        seen = dependencies(net, torch.randn(1, channels, H, W, dtype=torch.float64), condition)
        assert not bool((seen & ~strictly_before(H * W * channels)).any())
        assert bool(seen.any())


@pytest.mark.parametrize(("H", "W", "layers", "channels"), [(5, 6, 2, 1), (4, 7, 3, 1), (3, 4, 2, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_fields_of_image_and_condition_are_exactly_those_of_the_architecture(
    kind: str, H: int, W: int, layers: int, channels: int
) -> None:
    net = network(kind, channels=channels, layers=layers, condition=2).train()
    open_relus(net)
    x, condition = (torch.rand(1, maps, H, W, dtype=torch.float64) + 0.5 for maps in (channels, 2))
    assert torch.equal(dependencies(net, x, condition), field(kind, H, W, layers, channels))
    wanted = condition_field(kind, H, W, layers, channels)
    assert torch.equal(condition_dependencies(net, x, condition), wanted)
    assert bool(wanted.view(H * W, channels, H * W).diagonal(dim1=0, dim2=2).all())  # each colour at its own pixel


# Whatever happens to the weights


@pytest.mark.parametrize("multiscale", [0, 4])
@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("rmsprop", marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", MODELS)
def test_masks_hold_through_training_weight_decay_running_mean_and_checkpoint(
    model: str, optimizer: str, multiscale: int, tmp_path: Path
) -> None:
    """The trainer's own way: its steps, its mean, its file and back."""
    settings = {"model": model, "optimizer": optimizer, "multiscale": multiscale, "weight_decay": 0.5, "hidden": 5}
    config = TrainConfig.model_validate({**settings, "layers": 2, "head": 6, "learning_rate": 0.01, "batch_size": 4})
    images = np.random.default_rng(0).integers(17, size=(20, 1, 8, 8), dtype=np.uint8)
    run = Training(config, Dataset("digits", images, images, images), torch.device("cpu"))
    begun = copy.deepcopy(run.checkpoint().model)
    for _ in range(4):
        run.advance()
    saved = load(save(tmp_path, run.checkpoint()))
    assert saved.ema is not None
    again = Training(config, Dataset("digits", images, images, images), torch.device("cpu"))
    again.restore(saved)
    judged = network_of(saved, torch.device("cpu"))
    for net in (run.net, run.eval_net, again.net, again.eval_net, judged):
        moved = {name for name, weight in net.state_dict().items() if not torch.equal(weight, begun[name])}
        assert moved == begun.keys()
        for one in (net.small, net.large) if isinstance(net, MultiScale) else (net,):
            assert_causal(cast("PixelNetwork", one))


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
@pytest.mark.parametrize("kind", ["pixelcnn", "row-lstm", "diagonal-bilstm"])
def test_masks_hold_in_colour_too(kind: str, optimizer: str) -> None:
    net = network(kind, channels=3, condition=2).float()
    mean = copy.deepcopy(net)
    kinds = {"adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}
    steps = kinds[optimizer](net.parameters(), lr=0.05, weight_decay=0.1)  # type: ignore[operator]
    for _ in range(3):
        steps.zero_grad()
        levels = torch.randint(3, (4, 3, 4, 3), dtype=torch.uint8)
        net(levels, torch.randn(4, 2, 4, 3)).square().mean().backward()
        steps.step()
        with torch.no_grad():
            for old, new in zip(mean.parameters(), net.parameters(), strict=True):
                old.lerp_(new, 0.5)
    again = network(kind, channels=3, condition=2, seed=9).float()
    again.load_state_dict(net.state_dict())
    for other in (net, mean, again):
        assert_causal(other)


def assert_causal(net: PixelNetwork) -> None:
    """Differentiate a network that may have been trained in float32."""
    made = copy.deepcopy(net).double().requires_grad_(False)
    C, H, W = net.channels, 3, 4
    draw = torch.Generator().manual_seed(0)
    some = torch.zeros(H * W * C, H * W * C, dtype=torch.bool)
    for _ in range(3):
        x, condition = (torch.randn(1, n, H, W, dtype=torch.float64, generator=draw) for n in (C, net.conditions))
        seen = dependencies(made, x, condition if net.conditions else None)
        assert not bool((seen & ~strictly_before(H * W * C)).any())
        some |= seen
    assert bool(some.any())
