"""What a network may look at: drawn, differentiated, and compared with the field that the architecture must have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from model.layers import MaskedConv2d, causal_mask, colour_of
from model.likelihood import nats_per_image
from model.pixelcnn import PixelCNN

torch.set_num_threads(1)


def net(*, channels: int = 1, levels: int = 3, layers: int = 2, seed: int = 0) -> PixelCNN:
    torch.manual_seed(seed)
    made = PixelCNN(channels=channels, levels=levels, hidden=4 * channels, layers=layers, head=5 * channels).double()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()  # so that ReLUs are not all closed
    return made


def all_open(made: PixelCNN) -> PixelCNN:
    """Make all weights positive: with a positive input no ReLU closes, and nothing can cancel."""
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.abs_().clamp_(min=0.01)
    return made


def dependencies(made: PixelCNN, x: Tensor) -> Tensor:
    """Say which input values (columns) each output value (rows) depends on, both counted pixel by pixel, then colour.

    Returns a bool matrix (H*W*C, H*W*C).
    """
    x = x.clone().requires_grad_()
    torch.manual_seed(1)
    logits = made.predict(x)  # (1, K, C, H, W)
    out = (logits * torch.rand_like(logits)).sum(dim=1)[0]  # (C, H, W): one number for each softmax
    rows = []
    for value in out.permute(1, 2, 0).reshape(-1):
        (grad,) = torch.autograd.grad(value, x, retain_graph=True)
        rows.append(grad[0].permute(1, 2, 0).reshape(-1) != 0)
    return torch.stack(rows)


def strictly_before(size: int) -> Tensor:
    return torch.ones(size, size).tril(-1).bool()


def pixelcnn_field(H: int, W: int, layers: int) -> Tensor:
    """The exact field of PixelCNN, blind spot included: a 7x7 mask A, then `layers` times 3x3 mask B."""
    field = torch.zeros(H * W, H * W, dtype=torch.bool)
    for r in range(H):
        for c in range(W):
            for sr in range(r + 1):
                for sc in range(W):
                    d, e = r - sr, sc - c
                    field[r * W + c, sr * W + sc] = any(
                        0 <= d - dr <= layers and -(3 + layers) <= e <= (3 + d - dr if dr else d - 1) for dr in range(4)
                    )
    return field


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


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("H", "W", "channels"), [(5, 7, 1), (7, 4, 1), (3, 4, 3)])
def test_no_output_depends_on_itself_or_on_what_comes_later(seed: int, H: int, W: int, channels: int) -> None:
    made = net(channels=channels, seed=seed)
    for training in (True, False):
        seen = dependencies(made.train(training), torch.randn(1, channels, H, W, dtype=torch.float64))
        assert not bool((seen & ~strictly_before(H * W * channels)).any())
        assert bool(seen.any())


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("H", "W"), [(9, 7), (6, 11)])
def test_the_field_is_exactly_that_of_the_architecture(H: int, W: int, layers: int) -> None:
    seen = dependencies(all_open(net(layers=layers)), torch.rand(1, 1, H, W, dtype=torch.float64) + 0.5)
    assert torch.equal(seen, pixelcnn_field(H, W, layers))


def test_within_a_pixel_green_sees_red_and_blue_sees_both() -> None:
    seen = dependencies(all_open(net(channels=3)), torch.rand(1, 3, 2, 3, dtype=torch.float64) + 0.5)
    assert torch.equal(seen[-3:, -3:], strictly_before(3))
    before = strictly_before(2 * 3 * 3)
    assert torch.equal(seen[:9], before[:9])  # in the first row there is no blind spot: all that comes earlier is seen


def test_changing_the_future_does_not_change_a_bit_of_the_past() -> None:
    made = net(levels=5).float()
    x = torch.randint(5, (2, 1, 6, 5), dtype=torch.uint8)
    y = x.clone()
    y[:, :, 3, 2:] = 4 - y[:, :, 3, 2:]
    y[:, :, 4:] = 4 - y[:, :, 4:]
    a, b = made(x).flatten(3), made(y).flatten(3)
    until = 3 * 5 + 2  # this pixel changed, so its own prediction, which comes from earlier ones, did not
    assert torch.equal(a[..., : until + 1], b[..., : until + 1])
    assert not torch.equal(a[..., until + 1 :], b[..., until + 1 :])


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop", "sgd"])
def test_masks_hold_after_steps_weight_decay_and_loading(optimizer: str) -> None:
    made = net(channels=3).float()
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
    again = net(channels=3, seed=9).float()
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
