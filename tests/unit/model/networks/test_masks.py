"""What a masked convolution may look at: drawn, and kept by whatever happens to the weights."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from model.networks.likelihood import nats_per_image
from model.networks.masked_conv import MaskedConv2d, causal_mask, colour_of
from tests.support.networks import dependencies, network, open_relus, strictly_before

torch.set_num_threads(1)


def test_masks_are_as_drawn() -> None:
    assert causal_mask("A", 1, 1, 3)[0, 0].tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert causal_mask("B", 1, 1, 3)[0, 0].tolist() == [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert causal_mask("B", 1, 1, 1)[0, 0].tolist() == [[1]]


def test_the_centre_lets_colours_see_earlier_colours() -> None:
    assert causal_mask("A", 3, 3, 3, 3)[:, :, 1, 1].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert causal_mask("B", 3, 3, 3, 3)[:, :, 1, 1].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    for mask_type in ("A", "B"):
        mask = causal_mask(mask_type, 3, 3, 3, 3)
        assert mask[:, :, 0].min() == 1
        assert mask[:, :, 1, 0].min() == 1
        assert mask[:, :, 1, 2].max() == 0
        assert mask[:, :, 2].max() == 0


def test_maps_are_shared_out_to_colours_in_order_and_unevenly_if_need_be() -> None:
    assert torch.bincount(colour_of(128, 3)).tolist() == [43, 43, 42]
    assert colour_of(3, 3).tolist() == [0, 1, 2]
    assert colour_of(5, 1).tolist() == [0] * 5
    assert bool((colour_of(17, 3).diff() >= 0).all())
    with pytest.raises(ValueError, match="2 feature maps cannot"):
        colour_of(2, 3)
    with pytest.raises(ValueError, match="no centre"):
        MaskedConv2d("B", 1, 1, 2)


def test_the_gates_of_an_lstm_are_masked_alike() -> None:
    """With five maps and three colours the groups are uneven: 2 + 2 + 1."""
    mask = causal_mask("B", 20, 10, (1, 3), 3, gates=4)
    assert mask.shape == (20, 10, 1, 3)
    assert torch.equal(mask, causal_mask("B", 5, 10, (1, 3), 3).repeat(4, 1, 1, 1))
    assert mask[:, :, 0, 0].min() == 1
    assert mask[:, :, 0, 2].max() == 0
    assert mask[:5, :, 0, 1].sum(dim=1).tolist() == [4, 4, 7, 7, 10]


@pytest.mark.parametrize(("kind", "kernel"), [("A", 7), ("B", 3), ("B", 1), ("B", (1, 3))])
@pytest.mark.parametrize("size", [(5, 4), (1, 3), (2, 1)])
def test_leaving_out_masked_rows_of_the_kernel_changes_nothing(
    kind: Literal["A", "B"], kernel: int | tuple[int, int], size: tuple[int, int]
) -> None:
    layer = MaskedConv2d(kind, 3, 6, kernel, colours=3).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    wanted = torch.nn.functional.conv2d(x, layer.masked_weight(), layer.bias, padding=layer.padding)
    out = layer(x)
    assert torch.allclose(out, wanted, atol=1e-12, rtol=0)
    for inputs in (x, layer.weight):
        (a,), (b,) = (torch.autograd.grad(one.square().sum(), inputs, retain_graph=True) for one in (out, wanted))
        assert torch.allclose(a, b, atol=1e-11, rtol=0)


def test_within_a_pixel_green_sees_red_and_blue_sees_both() -> None:
    net = network("pixelcnn", channels=3)
    open_relus(net)
    seen = dependencies(net, torch.rand(1, 3, 2, 3, dtype=torch.float64) + 0.5)
    assert torch.equal(seen[-3:, -3:], strictly_before(3))
    before = strictly_before(2 * 3 * 3)
    assert torch.equal(seen[:9], before[:9])  # in the first row there is no blind spot: all that comes earlier is seen


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop", "sgd"])
def test_masks_hold_after_steps_weight_decay_and_loading(optimizer: str) -> None:
    made = network("pixelcnn", channels=3).float()
    kinds = {"adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop, "sgd": torch.optim.SGD}
    steps = kinds[optimizer](made.parameters(), lr=0.05, weight_decay=0.1)  # type: ignore[operator]
    for _ in range(3):
        steps.zero_grad()
        nats_per_image(made, torch.randint(3, (4, 3, 4, 4), dtype=torch.uint8)).mean().backward()
        for module in made.modules():
            if isinstance(module, MaskedConv2d):
                assert module.weight.grad is not None
                assert float((module.weight.grad * (1 - module.mask)).abs().max()) == 0
        steps.step()
    again = network("pixelcnn", channels=3, seed=9).float()
    again.load_state_dict(made.state_dict())
    for other in (made, again):
        seen = dependencies(other.double(), torch.randn(1, 3, 4, 3, dtype=torch.float64))
        assert not bool((seen & ~strictly_before(36)).any())


def test_masks_are_no_part_of_what_is_saved_and_the_weight_is_not_touched() -> None:
    layer = MaskedConv2d("A", 1, 2, 3)
    assert set(layer.state_dict()) == {"weight", "bias"}
    weight = layer.weight.detach().clone()
    layer(torch.rand(1, 1, 4, 4))
    assert torch.equal(layer.weight, weight)
    assert isinstance(layer, nn.Conv2d)
