"""The likelihood is a probability: it sums to one, has the right unit, and an image costs the same in any batch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from model.config import DatasetFacts
from model.networks.likelihood import bits_per_dim, evaluate, nats_per_image
from model.networks.pixelcnn import PixelCNN
from model.sampling.generate import draw
from tests.support.networks import KINDS, network

torch.set_num_threads(1)


def net(channels: int, levels: int, seed: int = 0) -> PixelCNN:
    torch.manual_seed(seed)
    made = PixelCNN(channels=channels, levels=levels, hidden=3 * channels, layers=2, head=4 * channels).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.7)
    return made


def every_image(channels: int, height: int, width: int, levels: int) -> torch.Tensor:
    values = itertools.product(range(levels), repeat=channels * height * width)
    return torch.tensor(list(values), dtype=torch.uint8).view(-1, channels, height, width)


SIZES = [(1, 2, 2, 2), (1, 3, 3, 2), (1, 2, 2, 3), (1, 1, 4, 4), (3, 2, 2, 2)]  # channels, height, width, levels


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_all_images_together_have_probability_one(kind: str, size: tuple[int, int, int, int]) -> None:
    channels, levels = size[0], size[3]
    made = network(kind, channels=channels, levels=levels, std=0.7)
    with torch.no_grad():
        nats = nats_per_image(made, every_image(*size))
    assert nats.neg().exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert nats.std() > 0.01  # and it is not simply the uniform distribution


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_levels_the_second_has_a_sigmoids_probability(kind: str) -> None:
    made = network(kind, levels=2)
    images = torch.randint(2, (3, 1, 4, 3)).to(torch.uint8)
    z = made(images)[:, 1]  # (3, 1, 4, 3): the one logit that there is
    chance = torch.where(images == 1, z.sigmoid(), 1 - z.sigmoid())
    assert torch.allclose(nats_per_image(made, images), -chance.log().flatten(1).sum(dim=1))


@pytest.mark.parametrize("levels", [1, 257])
def test_levels_that_cannot_be_are_refused(levels: int) -> None:
    with pytest.raises(ValueError, match="2 to 256 levels"):
        network("pixelcnn", levels=levels)


@pytest.mark.parametrize("kind", ["pixelcnn", "row-lstm", "diagonal-bilstm"])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_zero_logits_cost_ln_k_per_value(levels: int, kind: str) -> None:
    made = network(kind, levels=levels)
    with torch.no_grad():
        for parameter in made.last.parameters():
            parameter.zero_()
    nats = nats_per_image(made, torch.randint(levels, (5, 1, 4, 3)).to(torch.uint8))
    assert nats.tolist() == pytest.approx([12 * math.log(levels)] * 5)
    assert bits_per_dim(nats[0].item(), 12) == pytest.approx(math.log2(levels))


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_costs_the_same_in_any_batch(kind: str) -> None:
    made = network(kind, levels=5)
    images = torch.randint(5, (13, 1, 4, 5)).to(torch.uint8)
    alone = torch.cat([nats_per_image(made, image[None]) for image in images])
    assert torch.allclose(nats_per_image(made, images), alone, atol=1e-10, rtol=0)
    scores = [evaluate(made, images, batch=batch) for batch in (1, 4, 13, 100)]
    assert [score.nats for score in scores] == pytest.approx([alone.mean().item()] * 4, abs=1e-10)
    assert scores[0].nats_se == pytest.approx(alone.std().item() / math.sqrt(13))
    assert scores[0].images == 13
    assert evaluate(made, images[:1]).nats_se == 0


def test_levels_may_be_bytes_or_long_integers() -> None:
    made, images = net(1, 5), torch.randint(5, (3, 1, 4, 5))
    assert torch.equal(nats_per_image(made, images), nats_per_image(made, images.to(torch.uint8)))


def test_samples_follow_the_probabilities() -> None:
    """Chi-square of 4,000 binary 2x2 images against the 16 exact probabilities; its 99.99 % point at 15 dof is 44.3."""
    made = net(1, 2).eval()
    facts = DatasetFacts(height=2, width=2, channels=1, levels=2, train=1, valid=1, test=1)
    expected = nats_per_image(made, every_image(1, 2, 2, 2)).neg().exp().detach() * 4000
    drawn = draw(made, facts, count=4000, seed=3)
    number = (drawn.flatten(1).long() * torch.tensor([8, 4, 2, 1])).sum(dim=1)
    counts = torch.bincount(number, minlength=16)
    assert float(((counts - expected) ** 2 / expected).sum()) < 44.3


def test_the_seed_alone_decides_the_samples() -> None:
    made = net(1, 4).eval()
    facts = DatasetFacts(height=3, width=2, channels=1, levels=4, train=1, valid=1, test=1)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw(made, facts, count=6, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, draw(made, facts, count=6, seed=5))
    assert not torch.equal(first, draw(made, facts, count=6, seed=6))
    assert first.shape == (6, 1, 3, 2)


def test_a_low_temperature_takes_the_likeliest_values() -> None:
    made = net(1, 4).eval()
    facts = DatasetFacts(height=2, width=2, channels=1, levels=4, train=1, valid=1, test=1)
    drawn = draw(made, facts, count=3, seed=0, temperature=1e-6)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0, 0, 0, 0], made(drawn)[0, :, 0, 0, 0].argmax().to(torch.uint8))
