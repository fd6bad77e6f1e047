"""The fast samplers draw what the plain one draws from the same noise, and that is what the network says."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import DatasetFacts
from model.errors import SetupError
from model.networks.base import PixelNetwork
from model.networks.pixelcnn import PixelCNN
from model.networks.pixelrnn import PixelRNN
from model.sampling import cached, fill, graphed, naive, native, uniforms
from model.sampling.generate import draw
from model.sampling.noise import choose, running_sums

torch.set_num_threads(1)

KINDS = ["pixelcnn", "row-lstm", "diagonal-bilstm"]
SIZES = {  # C, K, h, L, head, B, H, W
    "gray, one image": (1, 2, 4, 2, 5, 1, 5, 4),
    "gray, several": (1, 17, 5, 3, 7, 3, 3, 6),
    "RGB, uneven groups": (3, 4, 7, 2, 8, 2, 4, 3),
    "RGB, 256 levels": (3, 256, 3, 2, 3, 2, 2, 3),
    "one column": (1, 3, 4, 2, 3, 2, 5, 1),
    "one row": (3, 3, 4, 2, 3, 2, 1, 5),
    "conditional": (1, 4, 5, 2, 3, 1, 4, 3),
    "conditional RGB": (3, 4, 4, 2, 5, 2, 3, 4),
}


def network(kind: str, dtype: torch.dtype = torch.float64, seed: int = 0, **sizes: Any) -> PixelNetwork:
    """A network whose every weight, bias and initial state matters."""
    torch.manual_seed(seed)
    net = PixelCNN(**sizes) if kind == "pixelcnn" else PixelRNN(kind, **sizes)  # type: ignore[arg-type]
    for parameter in net.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.5)
        else:  # as they are drawn, all images would be about as probable
            parameter.data *= 2
    return net.to(dtype).eval()


def drawn_by(
    sampler: Callable[..., Tensor], net: PixelNetwork, noise: Tensor, condition: Tensor | None = None, heat: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Draw everything; return the levels, and the logits (B, K, C, H, W) that they were drawn from."""
    B, C, H, W = noise.shape
    kept: list[Tensor] = []
    cache = cached.Cache(net, batch=B, width=W, condition=condition)
    empty, everything = torch.zeros(noise.shape, dtype=torch.uint8), torch.ones(H, W, dtype=torch.bool)
    keep = lambda logits: kept.append(logits.clone())  # noqa: E731 - the buffer is used again
    levels = sampler(cache, empty, everything, noise, temperature=heat, keep=keep)
    return levels, torch.stack(kept).view(H, W, C, B, -1).permute(3, 4, 2, 0, 1)


def plain(net: PixelNetwork, noise: Tensor, condition: Tensor | None = None, heat: float = 1.0) -> Tensor:
    empty, everything = torch.zeros(noise.shape, dtype=torch.uint8), torch.ones(noise.shape[2:], dtype=torch.bool)
    return naive.sample(net, empty, everything, noise, condition=condition, temperature=heat)


def check_against_the_plain_one(sampler: Callable[..., Tensor], kind: str, size: str, dtype: torch.dtype) -> None:
    C, K, h, L, head, B, H, W = SIZES[size]
    maps = 2 if size.startswith("conditional") else 0
    net = network(kind, dtype, channels=C, levels=K, hidden=h, layers=L, head=head, condition=maps)
    noise = torch.rand(B, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    condition = torch.randn(B, maps, H, W, dtype=dtype) if maps else None
    levels, logits = drawn_by(sampler, net, noise, condition)
    assert torch.equal(levels, plain(net, noise, condition))
    with torch.no_grad():
        assert (logits - net(levels, condition)).abs().max() <= (1e-10 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_cached_draws_what_the_plain_sampler_draws(kind: str, size: str, dtype: torch.dtype) -> None:
    check_against_the_plain_one(cached.sample, kind, size, dtype)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_sampler_of_rows_draws_what_the_plain_sampler_draws(kind: str, size: str) -> None:
    """On a CPU, where nothing is recorded; what is recorded on a GPU is this."""
    check_against_the_plain_one(graphed.sample, kind, size, torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "wiring", [{"residual": False}, {"skip": False}, {"residual": False, "skip": False}, {"condition": 3}]
)
def test_cached_knows_every_wiring(kind: str, wiring: dict[str, Any]) -> None:
    net = network(kind, channels=3, levels=4, hidden=4, layers=2, head=6, **wiring)
    noise = torch.rand(2, 3, 3, 4, dtype=torch.float64)
    condition = torch.randn(2, 3, 3, 4, dtype=torch.float64) if "condition" in wiring else None
    levels, logits = drawn_by(cached.sample, net, noise, condition, heat=0.7)
    assert torch.equal(levels, plain(net, noise, condition, heat=0.7))
    with torch.no_grad():
        assert (logits - net(levels, condition)).abs().max() <= 1e-10


@pytest.mark.slow
@pytest.mark.skipif(not native.available(), reason="numba is not installed")
def test_native_draws_what_the_plain_sampler_draws_interpreted() -> None:
    """Without compiling, which would take longer than all other tests: numba leaves it out in a process of its own."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    root = Path(__file__).parents[4]
    subprocess.run(
        [sys.executable, "-m", "tests.unit.model.sampling.test_samplers"],
        env=environment,
        cwd=root,
        check=True,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.skipif(not native.available(), reason="numba is not installed")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_native_draws_what_the_plain_sampler_draws_compiled(kind: str, size: str, dtype: torch.dtype) -> None:
    check_against_the_plain_one(native.sample, kind, size, dtype)


def test_the_graph_sampler_says_what_it_needs() -> None:
    with pytest.raises(SetupError, match=r"runs on a GPU, not on cpu; use --engine torch or --device cuda"):
        graphed.require(torch.device("cpu"))


def test_the_native_sampler_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: True)
    with pytest.raises(SetupError, match=r"runs on a CPU, not on cuda; use --engine torch or --device cpu"):
        native.require(torch.device("cuda"))
    monkeypatch.setattr(native, "available", lambda: False)
    with pytest.raises(SetupError, match=r"needs numba: pip install 'pixel-orch\[fast\]', or use --engine torch"):
        native.require(torch.device("cpu"))
    assert not native.pays(torch.zeros(1, 3, 64, 64))


def test_a_numba_that_does_not_load_is_said_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: True)
    monkeypatch.delitem(sys.modules, "model.sampling.kernels", raising=False)
    monkeypatch.delattr("model.sampling.kernels", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "model.compiled", raising=False)
    with pytest.raises(SetupError, match=r"the native sampler cannot load numba \(.*\), or use --engine torch"):
        native.require(torch.device("cpu"))
    assert not native.pays(torch.zeros(1, 3, 64, 64))
    net = network("pixelcnn", channels=3, levels=4, hidden=3, layers=1, head=3)
    facts = DatasetFacts(height=2, width=2, channels=3, levels=4, train=0, valid=0, test=0)
    monkeypatch.setattr(native, "PAYS_FROM", 1)
    assert draw(net, facts, count=1, seed=0).shape == (1, 3, 2, 2)


# Frequencies against probabilities


def probabilities(net: PixelNetwork, heat: float) -> Tensor:
    """The probability of each binary 2x2 image at a temperature, (16,), from the chain rule."""
    images = torch.tensor(list(itertools.product((0, 1), repeat=4))).view(16, 1, 2, 2)
    with torch.no_grad():
        chances = torch.softmax(net(images) / heat, dim=1)  # (16, 2, 1, 2, 2)
    return chances.gather(1, images[:, None]).flatten(1).prod(dim=1)


def chi_square(levels: Tensor, expected: Tensor) -> float:
    """Compare how often each binary 2x2 image came with its probability."""
    codes = (levels.flatten(1).long() * torch.tensor([8, 4, 2, 1])).sum(dim=1)
    counts = torch.bincount(codes, minlength=16).double()
    wanted = expected * len(levels)
    return (((counts - wanted) ** 2)[wanted > 0] / wanted[wanted > 0]).sum().item()


@pytest.mark.slow
@pytest.mark.parametrize("heat", [1.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_images_come_as_often_as_the_network_says(kind: str, heat: float) -> None:
    net = network(kind, channels=1, levels=2, hidden=3, layers=2, head=4, seed=3)
    facts = DatasetFacts(height=2, width=2, channels=1, levels=2, train=0, valid=0, test=0)
    expected = probabilities(net, heat)
    assert expected.sum().item() == pytest.approx(1, abs=1e-12)
    levels = draw(net, facts, count=20_000, seed=4, temperature=heat)
    assert chi_square(levels, expected) < 37.7  # 15 degrees of freedom: 1 in 1000 is above
    assert chi_square(levels, torch.full((16,), 1 / 16)) > 100  # the test can tell two distributions apart


def test_a_completion_is_ancestral_sampling_with_the_given_pixels_forced() -> None:
    net = network("row-lstm", channels=1, levels=2, hidden=3, layers=2, head=4, seed=3)
    given = torch.tensor([[1, 0], [0, 1]], dtype=torch.uint8).view(1, 1, 2, 2).expand(20_000, 1, 2, 2)
    hidden = torch.tensor([[False, True], [False, True]])  # the given pixel of row 1 comes between the two hidden ones
    facts = DatasetFacts(height=2, width=2, channels=1, levels=2, train=0, valid=0, test=0)
    levels = fill(net, given, hidden, uniforms(facts, count=20_000, seed=1))
    assert torch.equal(levels[..., 0], given[..., 0])
    images = torch.tensor(list(itertools.product((0, 1), repeat=4))).view(16, 1, 2, 2)
    with torch.no_grad():
        chances = torch.softmax(net(images), dim=1).gather(1, images[:, None])[:, 0, 0]  # (16, 2, 2)
    agrees = (images[:, 0, :, 0] == torch.tensor([1, 0])).all(dim=1)
    assert chi_square(levels, chances[..., 1].prod(dim=1) * agrees) < 16.3  # 3 degrees of freedom: 1 in 1000


# What is hidden, noise, levels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["torch", "naive"])
def test_given_pixels_stay_and_hidden_ones_do_not_depend_on_what_was_there(kind: str, engine: Any) -> None:
    net = network(kind, channels=3, levels=4, hidden=4, layers=2, head=6)
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randint(0, 4, (2, 3, 4, 5), generator=generator).to(torch.uint8) for _ in range(2))
    hidden = torch.rand(4, 5, generator=generator) < 0.5
    two = torch.where(hidden, two, one)
    noise = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    filled = fill(net, one, hidden, noise, engine=engine)
    assert torch.equal(filled[..., ~hidden], one[..., ~hidden])
    assert torch.equal(filled, fill(net, two, hidden, noise, engine=engine))
    assert torch.equal(filled, fill(net, one, hidden, noise, engine="naive"))


def test_the_same_seed_gives_the_same_images_and_drawing_touches_no_other_generator() -> None:
    net = network("pixelcnn", channels=1, levels=5, hidden=3, layers=1, head=4)
    facts = DatasetFacts(height=3, width=4, channels=1, levels=5, train=0, valid=0, test=0)
    before = torch.get_rng_state()
    one, two = draw(net.train(), facts, count=6, seed=9), draw(net, facts, count=6, seed=9)
    assert net.training
    assert torch.equal(one, two)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(one, draw(net, facts, count=6, seed=10))


def test_a_batch_is_as_good_as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("diagonal-bilstm", channels=1, levels=5, hidden=3, layers=1, head=4)
    facts = DatasetFacts(height=3, width=4, channels=1, levels=5, train=0, valid=0, test=0)
    whole = draw(net, facts, count=7, seed=9)
    monkeypatch.setattr("model.sampling.engines.AT_A_TIME", 3)
    assert torch.equal(whole, draw(net, facts, count=7, seed=9))


def test_a_level_is_the_first_whose_cumulative_probability_exceeds_the_noise() -> None:
    chances = torch.tensor([[0.25, 0.0, 0.5, 0.25]])
    logits = chances.log()
    for noise, level in ((0.0, 0), (0.2499, 0), (0.25, 2), (0.7499, 2), (0.7501, 3), (1 - 2**-53, 3)):
        assert choose(logits, torch.tensor([noise], dtype=torch.float64)).item() == level


@pytest.mark.parametrize("levels", [1, 2, 3, 17, 256])
def test_running_sums_of_a_gpu_are_those_of_a_cpu(levels: int) -> None:
    chances = torch.softmax(torch.randn(5, levels, dtype=torch.float64), dim=1)
    torch.testing.assert_close(running_sums(chances), chances.cumsum(dim=1), atol=1e-15, rtol=1e-14)


def test_temperature_sharpens() -> None:
    logits, noise = torch.tensor([[0.0, 1.0]]).expand(1000, 2), torch.linspace(0, 0.999, 1000, dtype=torch.float64)
    shares = [choose(logits, noise, heat).double().mean().item() for heat in (0.1, 1.0, 10.0)]
    assert shares == pytest.approx([1 / (1 + 2.718281828 ** (-1 / heat)) for heat in (0.1, 1.0, 10.0)], abs=2e-3)


@pytest.mark.parametrize("heat", [5e-324, 1e-310, 1e-45, 1e-38, 1e-12, 1e-3])
def test_however_low_the_temperature_the_likeliest_level_is_drawn(heat: float) -> None:
    """The quotient of a logit overflows for any temperature below 1e-306: inf / inf is no level."""
    logits = torch.tensor([[-3.0, 2.0, 1.9, -1e30], [0.0, -50.0, 80.0, 1.0], [-7.0, -9.0, -8.0, -6.5]])
    for noise in (1e-9, 0.5, 1 - 1e-12):
        drawn = choose(logits, torch.full((3,), noise, dtype=torch.float64), heat)
        assert drawn.tolist() == [1, 2, 3]


@pytest.mark.parametrize("heat", [5e-324, 1e-310])
def test_of_levels_that_are_likeliest_alike_each_is_drawn(heat: float) -> None:
    logits = torch.tensor([[4.0, -1.0, 4.0, 3.0]] * 4)
    noise = torch.tensor([0.0, 0.49, 0.51, 0.99], dtype=torch.float64)
    assert choose(logits, noise, heat).tolist() == [0, 0, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("heat", [5e-324, 1e-310, 1e-45, 1e-6, 0.3, 100.0])
def test_every_sampler_draws_the_same_at_a_temperature_that_underflows(heat: float) -> None:
    net = network("row-lstm", channels=1, levels=4, hidden=3, layers=1, head=4)
    noise = torch.rand(3, 1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    wanted = plain(net, noise, heat=heat)
    samplers = [cached.sample, graphed.sample, *([native.sample] if native.trouble() is None else [])]
    for sampler in samplers:
        assert torch.equal(drawn_by(sampler, net, noise, heat=heat)[0], wanted)


def test_a_network_without_a_cache_is_drawn_from_plainly() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten())
    with pytest.raises(TypeError, match="no cached sampler for a Sequential"):
        cached.Cache(net, batch=1, width=1)


if __name__ == "__main__":
    for some_kind, some_size in itertools.product(KINDS, SIZES):
        check_against_the_plain_one(native.sample, some_kind, some_size, torch.float64)
