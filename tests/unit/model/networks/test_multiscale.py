"""The multi-scale network: what each part may see, what it costs, what it draws, and that its training goes on."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from model.__main__ import main
from model.config import DATASETS, MODELS, DatasetFacts, TrainConfig, config_from_settings, cost_of
from model.config.presets import PRESETS
from model.data import load as load_data
from model.errors import CheckpointError, ConfigError
from model.networks.build import build
from model.networks.likelihood import evaluate, nats_by_scale, nats_of_all, nats_per_image
from model.networks.multiscale import MultiScale, Upsampler
from model.sampling import fill, generate, naive, uniforms, uniforms_of_scales
from model.training.checkpoint import digest, load, path_of
from model.training.loop import train
from model.training.state import Training, network_of
from model.training.stop import StopFlag
from tests.support.networks import network, open_relus

torch.set_num_threads(1)

SMALL = TrainConfig(
    multiscale=4, steps=7, batch_size=40, hidden=3, layers=2, head=4, samples=2, log_every=3, checkpoint_every=4,
    validate_every=5, keep_checkpoints=100, device="cpu",
)  # fmt: skip


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Give pytest its signal handlers back."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def pair(kind: str, *, factor: int = 2, maps: int = 4, std: float = 0.0, **sizes: int) -> MultiScale:
    """Make a multi-scale network in float64."""
    small, large = network(kind, std=std, **sizes), network(kind, std=std, seed=1, condition=maps, **sizes)
    made = MultiScale(small, large, factor).double()
    if std:
        with torch.no_grad():
            for parameter in made.upsampler.parameters():
                parameter.normal_(std=std)
    return made


# What it is made of


def test_the_small_image_is_every_nth_pixel_of_every_nth_row() -> None:
    net = pair("pixelcnn", factor=4)
    levels = torch.arange(64).view(1, 1, 8, 8)
    assert net.reduce(levels)[0, 0].tolist() == [[0, 4], [32, 36]]


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_upsampled_map_has_the_size_of_the_large_image_and_looks_in_all_directions(factor: int) -> None:
    upsampler = Upsampler(3, 5, factor).double()
    open_relus(upsampler)
    small = torch.rand(1, 3, 7, 9, dtype=torch.float64, requires_grad=True)
    maps = upsampler(small)
    assert maps.shape == (1, 5, 7 * factor, 9 * factor)
    (grad,) = torch.autograd.grad(maps[:, :, 3 * factor, 4 * factor].sum(), small)
    seen = (grad != 0).any(dim=1)[0]
    assert bool(seen[1:6, 2:7].all())  # two pixels to each side at least, those below and to the right too


@pytest.mark.parametrize("kind", MODELS)
def test_the_large_image_sees_its_past_and_the_small_image_what_comes_later_too(kind: str) -> None:
    net = pair(kind).train()
    H, W = 4, 6
    levels = torch.randint(3, (1, 1, H, W))
    before = net(levels)
    for number, (row, column) in enumerate(itertools.product(range(H), range(W))):
        changed = levels.clone()
        changed[0, 0, row, column] = 2 - changed[0, 0, row, column] // 2
        if (row % 2, column % 2) != (0, 0):  # no pixel of the small image
            assert torch.equal(net(changed).flatten(3)[..., : number + 1], before.flatten(3)[..., : number + 1])
    small = net.reduce(levels)
    other = small.clone()
    other[0, 0, -1, -1] = (other[0, 0, -1, -1] + 1) % 3
    one, two = (net.large(levels, net.condition(some)) for some in (small, other))
    assert not torch.equal(one[..., :3, :2], two[..., :3, :2])  # before the pixel that changed, which is (2, 4)


# Likelihood


@pytest.mark.parametrize("kind", MODELS)
def test_the_nats_of_all_images_bound_those_of_what_is_drawn(kind: str) -> None:
    """Enumerated: p(image) is the sum over all small images, and what is reported is one of its terms."""
    net = pair(kind, levels=2, std=0.7)
    images = torch.tensor(list(itertools.product((0, 1), repeat=8)), dtype=torch.uint8).view(-1, 1, 2, 4)
    smalls = torch.tensor(list(itertools.product((0, 1), repeat=2)), dtype=torch.uint8).view(-1, 1, 1, 2)
    with torch.no_grad():
        whole = torch.zeros(len(images), dtype=torch.float64)
        for small in smalls:
            chance = nats_per_image(net.small, small[None]).neg().exp()
            logits = net.large(images, net.condition(small[None]).expand(len(images), -1, -1, -1))
            chances = torch.softmax(logits, dim=1).gather(1, images[:, None].long())
            whole += chance * chances.flatten(1).prod(dim=1)
        ours = nats_per_image(net, images)
    assert whole.sum().item() == pytest.approx(1, abs=1e-12)
    assert bool((ours > -whole.log()).all())
    assert ours.neg().exp().sum().item() < 1


def test_the_score_is_the_sum_of_both_networks_and_does_not_depend_on_the_batch() -> None:
    net = pair("row-lstm", levels=5)
    images = torch.randint(5, (13, 1, 4, 6)).to(torch.uint8)
    parts = nats_by_scale(net, images)
    assert parts.shape == (13, 2)
    assert torch.equal(parts[:, 0], nats_per_image(net.small, net.reduce(images)))
    assert torch.allclose(parts.sum(dim=1), nats_per_image(net, images))
    assert [evaluate(net, images, batch=batch).nats for batch in (1, 4, 13)] == pytest.approx(
        [parts.sum(dim=1).mean().item()] * 3, abs=1e-10
    )
    assert torch.allclose(nats_of_all(net, images, batch=5), parts)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rows", [4, 2])
def test_the_cost_is_that_of_the_network_that_is_built(model: str, rows: int) -> None:
    config = SMALL.model_copy(update={"model": model, "multiscale": rows})
    counted = cost_of(config)
    assert counted.parameters == sum(parameter.numel() for parameter in build(config).parameters())
    plain = cost_of(config.model_copy(update={"multiscale": 0}))
    assert counted.forward_flops > 1.25 * plain.forward_flops * (1 if rows == 4 else 0.9)
    assert 2 * counted.forward_flops < counted.training_flops < 3 * counted.forward_flops


# Drawing


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_small_image_is_drawn_first_and_the_large_one_given_it(kind: str, channels: int) -> None:
    net = pair(kind, channels=channels, levels=4, std=0.6).eval()
    facts = DatasetFacts(height=4, width=6, channels=channels, levels=4, train=0, valid=0, test=0)
    little = DatasetFacts(height=2, width=3, channels=channels, levels=4, train=0, valid=0, test=0)
    noise = uniforms_of_scales([little, facts], count=3, seed=5)
    smalls = naive.sample(net.small, torch.zeros(3, channels, 2, 3, dtype=torch.uint8), torch.ones(2, 3) > 0, noise[0])
    with torch.no_grad():
        condition = net.condition(smalls)
    empty = torch.zeros(3, channels, 4, 6, dtype=torch.uint8)
    wanted = naive.sample(net.large, empty, torch.ones(4, 6) > 0, noise[1], condition=condition)
    for engine in ("torch", "naive"):
        assert torch.equal(generate.draw(net, facts, count=3, seed=5, engine=engine), wanted)  # type: ignore[arg-type]
    assert not torch.equal(generate.draw(net, facts, count=3, seed=6), wanted)


@pytest.mark.slow
def test_images_come_as_often_as_the_two_networks_say() -> None:
    net = pair("row-lstm", levels=2, std=0.8).eval()
    facts = DatasetFacts(height=2, width=2, channels=1, levels=2, train=0, valid=0, test=0)
    images = torch.tensor(list(itertools.product((0, 1), repeat=4)), dtype=torch.uint8).view(16, 1, 2, 2)
    expected = torch.zeros(16, dtype=torch.float64)
    with torch.no_grad():
        for level in (0, 1):
            small = torch.full((1, 1, 1, 1), level, dtype=torch.uint8)
            logits = net.large(images, net.condition(small).expand(16, -1, -1, -1))
            chances = torch.softmax(logits, dim=1).gather(1, images[:, None].long()).flatten(1).prod(dim=1)
            expected += chances * nats_per_image(net.small, small).neg().exp()
    drawn = generate.draw(net, facts, count=20_000, seed=2)
    codes = (drawn.flatten(1).long() * torch.tensor([8, 4, 2, 1])).sum(dim=1)
    counts = torch.bincount(codes, minlength=16).double()
    wanted = 20_000 * expected
    assert float(((counts - wanted) ** 2 / wanted).sum()) < 37.7  # 15 degrees of freedom: 1 in 1000 is above


def test_the_noise_of_an_image_depends_on_its_number_alone_and_of_one_scale_is_as_ever() -> None:
    facts = DATASETS["digits"]
    two = uniforms_of_scales([facts, facts], count=5, seed=1)
    assert torch.equal(uniforms_of_scales([facts, facts], count=2, seed=1)[1], two[1][:2])
    assert not bool((two[0] == two[1]).any())
    before = torch.rand((3, 1, 8, 8), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert torch.equal(uniforms(facts, count=3, seed=4), before)


def test_a_completion_keeps_what_is_given_and_takes_the_small_image_from_it() -> None:
    net = pair("pixelcnn", levels=4, std=0.6).eval()
    facts = DatasetFacts(height=4, width=6, channels=1, levels=4, train=0, valid=0, test=0)
    given = torch.randint(4, (2, 1, 4, 6)).to(torch.uint8)
    hidden = torch.zeros(4, 6, dtype=torch.bool)
    hidden[1, 1:] = True  # no pixel of the small image: all of that is known
    drawn = generate.complete(net, facts, given, hidden, seed=0)
    assert torch.equal(drawn[..., ~hidden], given[..., ~hidden])
    noise = uniforms_of_scales(
        [DatasetFacts(height=2, width=3, channels=1, levels=4, train=0, valid=0, test=0), facts], count=2, seed=0
    )[1]
    with torch.no_grad():
        condition = net.condition(net.reduce(given))
    assert torch.equal(drawn, fill(net.large, given, hidden, noise, condition=condition))


def test_more_images_than_go_at_a_time_are_the_same_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    net = pair("row-lstm").eval()
    facts = DatasetFacts(height=2, width=4, channels=1, levels=3, train=0, valid=0, test=0)
    whole = generate.draw(net, facts, count=5, seed=1)
    monkeypatch.setattr(generate, "AT_A_TIME", 2)
    assert torch.equal(generate.draw(net, facts, count=5, seed=1), whole)


# Training


def state(path: Path) -> str:
    saved = load(path)
    return digest([saved.step, saved.position, saved.model, saved.ema, saved.optimizer, saved.rng, saved.progress])


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_killed_after_a_step_it_ends_identical_in_every_bit(model: str, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"model": model})
    (tmp_path / "killed").mkdir()
    for out in (tmp_path / "whole", tmp_path / "killed"):
        if out.name == "killed":
            shutil.copy(path_of(tmp_path / "whole", 4), out)
        assert train(config, out, StopFlag(), began_s=time.monotonic()) == 0
    assert state(path_of(tmp_path / "killed", 7)) == state(path_of(tmp_path / "whole", 7))
    assert (tmp_path / "killed/samples-7.png").read_bytes() == (tmp_path / "whole/samples-7.png").read_bytes()
    kept = network_of(load(path_of(tmp_path / "whole", 7)), torch.device("cpu"))
    assert isinstance(kept, MultiScale)


def test_every_part_learns() -> None:
    data = load_data("digits")
    run = Training(SMALL.model_copy(update={"steps": 30, "hidden": 8, "layers": 1}), data, torch.device("cpu"))

    def nats() -> Tensor:
        return nats_by_scale(run.net, run.feed.images[:200]).mean(dim=0)

    before, weights = nats(), {name: weight.clone() for name, weight in run.net.state_dict().items()}
    for _ in range(30):
        run.advance()
    assert bool((nats() < before - 1).all())
    assert all(not torch.equal(weight, weights[name]) for name, weight in run.net.state_dict().items())


def test_a_plain_networks_checkpoint_is_not_trained_on(tmp_path: Path) -> None:
    plain = SMALL.model_copy(update={"multiscale": 0, "steps": 1, "samples": 0})
    assert train(plain, tmp_path, StopFlag(), began_s=time.monotonic()) == 0
    with pytest.raises(CheckpointError, match=r"of another network: the checkpoint has multiscale=0, this run has 4"):
        train(SMALL, tmp_path, StopFlag(), began_s=time.monotonic())


# The command line


@pytest.mark.parametrize(
    ("dataset", "rows", "fit"),
    [("digits", 3, "4, 2, 1"), ("digits", 8, "4, 2, 1"), ("photos-64", 33, "32, 16, 8, 4, 2, 1")],
)
def test_a_small_image_that_cannot_be_is_told_the_ones_that_can(dataset: str, rows: int, fit: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"multiscale = {rows} in --set: small images of {dataset} can have {fit} rows"
    ):
        config_from_settings({"multiscale": str(rows), "dataset": dataset})
    assert config_from_settings({"dataset": "photos-64", "multiscale": 32}).small == DatasetFacts(
        height=32, width=32, channels=3, levels=256, train=1334, valid=46, test=46
    )


@pytest.mark.slow
def test_one_command_each_trains_evaluates_samples_and_completes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--set", "hidden=3", "--set", "layers=1", "--set", "head=4", "--set", "samples=2"]
    assert main(["train", "--multiscale", "4", "--steps", "3", "--out", str(tmp_path), *words]) == 0
    assert (tmp_path / "samples-3.png").exists()
    at = ["--checkpoint", str(tmp_path)]
    capsys.readouterr()
    assert main(["evaluate", *at]) == 0
    said = capsys.readouterr().out
    assert "nats/image  <= " in said
    assert "an upper bound on the image's nats" in said
    assert main(["evaluate", *at, "-o", "json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert score["upper_bound"] is True
    assert score["nats"] == pytest.approx(score["small"]["nats"] + score["large"]["nats"])
    assert score["large"]["bits_per_dim"] == pytest.approx(score["large"]["nats"] / 64 / 0.6931471805599453)
    assert score["small"]["bits_per_dim"] == pytest.approx(score["small"]["nats"] / 16 / 0.6931471805599453)
    assert main(["sample", *at, "--count", "4", "--out", str(tmp_path / "s.png")]) == 0
    assert main(["complete", *at, "--image", "test:0", "--occlude", "left", "--out", str(tmp_path / "c.png")]) == 0
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (2 * 68 + 4, 2 * 68 + 4)


@pytest.mark.slow  # 4096 pixels of three colours, one after the other
def test_64x64_from_32x32(tmp_path: Path) -> None:
    words = [word for setting in ("hidden=6", "layers=1", "head=6", "samples=0") for word in ("--set", setting)]
    words += ["--set", "batch_size=2", "--set", "validate_every=100"]
    out = str(tmp_path)
    assert main(["train", "--dataset", "photos-64", "--multiscale", "32", "--steps", "2", "--out", out, *words]) == 0
    assert main(["evaluate", "--checkpoint", out]) == 0
    assert (
        main(["sample", "--checkpoint", out, "--engine", "torch", "--count", "1", "--out", str(tmp_path / "s.png")])
        == 0
    )
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (64 + 8, 64 + 8)
        assert picture.mode == "RGB"


def test_the_papers_multi_scale_preset_draws_64_rows_after_32() -> None:
    settings = PRESETS["imagenet64-multiscale"].settings
    assert (settings["dataset"], settings["multiscale"], settings["model"]) == ("imagenet-small-64", 32, "row-lstm")
