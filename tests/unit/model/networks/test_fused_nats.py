"""The likelihood without all logits in memory is that of the logits, with the same gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.networks import fused_nats
from model.networks.likelihood import nats_per_image
from tests.support.networks import KINDS, network

SIZES = [(1, 3, 5, 4, 7), (3, 2, 4, 5, 9), (3, 1, 1, 3, 3)]  # colours, H, W, K, head


def by_logits(net: nn.Module, levels: Tensor) -> Tensor:
    return F.cross_entropy(net(levels), levels.long(), reduction="none").flatten(1).sum(1)


@pytest.mark.parametrize("at_a_time", [1, 40, 10**6])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_nats_and_gradients_are_those_of_the_logits(
    sizes: tuple[int, int, int, int, int], at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of pixels at a time, and with another gradient for each image."""
    monkeypatch.setattr(fused_nats, "LOGITS", at_a_time)
    (C, H, W, K, head), B = sizes, 3
    torch.manual_seed(sum(sizes))
    seen = [head * (colour + 1) // C for colour in range(C)]
    mask = (torch.arange(head)[None] < torch.tensor(seen)[:, None]).repeat_interleave(K, 0)
    maps = torch.randn(B, H, W, head, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(C * K, head, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(C * K, dtype=torch.float64, requires_grad=True)
    levels = torch.randint(K, (B, C, H, W), dtype=torch.uint8)
    logits = F.linear(maps, weight * mask, bias).view(B, H, W, C, K).permute(0, 4, 3, 1, 2)
    wanted = F.cross_entropy(logits, levels.long(), reduction="none").flatten(1).sum(1)
    found = fused_nats.fused_nats(maps, weight * mask, bias, levels, seen)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=0)
    each = torch.tensor([1.0, -0.5, 3.0], dtype=torch.float64)
    leaves = (maps, weight, bias)
    for one, other in zip(
        torch.autograd.grad((found * each).sum(), leaves), torch.autograd.grad((wanted * each).sum(), leaves),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_network_costs_what_its_logits_cost(kind: str, channels: int) -> None:
    net = network(kind, channels=channels, levels=fused_nats.FEWEST, std=0.3)
    levels = torch.randint(fused_nats.FEWEST, (3, channels, 5, 4), dtype=torch.uint8)
    found, wanted = nats_per_image(net, levels), by_logits(net, levels)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    with torch.no_grad():
        assert torch.equal(nats_per_image(net, levels), found)
    gradients = [torch.autograd.grad(nats.mean(), list(net.parameters())) for nats in (found, wanted)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_a_weight_that_is_no_number_is_seen() -> None:
    """A training that diverges must not look well."""
    net = network("pixelcnn", levels=fused_nats.FEWEST)
    with torch.no_grad():
        net.last.weight[0, 0] = math.nan
    assert bool(nats_per_image(net, torch.zeros(2, 1, 5, 4, dtype=torch.uint8)).isnan().all())


def test_without_gradients_none_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the parameters would have some, as in an evaluation."""

    def refused(*_: object) -> None:
        raise AssertionError("gradients are computed")

    net = network("pixelcnn", levels=fused_nats.FEWEST)
    levels = torch.zeros(2, 1, 5, 4, dtype=torch.uint8)
    monkeypatch.setattr(fused_nats, "_Gradients", refused)
    with torch.no_grad():
        nats_per_image(net, levels)
    with pytest.raises(AssertionError, match="gradients are computed"):
        nats_per_image(net, levels)


@pytest.mark.parametrize("training", [True, False])
def test_the_logits_of_a_batch_are_never_in_memory(training: bool) -> None:
    net = network("pixelcnn", levels=256, head=8).float()
    levels = torch.randint(256, (16, 1, 16, 16), dtype=torch.uint8)
    logits = levels.numel() * 256 * 4  # bytes
    largest = 0

    class Sizes(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.untyped_storage().size())
            return out

    with torch.set_grad_enabled(training), Sizes():
        nats = nats_per_image(net, levels)
        if training:
            nats.mean().backward()  # type: ignore[no-untyped-call]
    assert 0 < largest < logits / 4
