"""Networks for the tests: made in float64 with biases that are not zero, and asked what they depend on."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from model.networks.base import PixelNetwork
from model.networks.pixelcnn import PixelCNN
from model.networks.pixelcnn_tiled import passes
from model.networks.pixelrnn import PixelRNN

torch.set_num_threads(1)

# Each network comes in both implementations; two fast ones have a tiled form. That of PixelCNN needs numba.
KINDS = (
    "pixelcnn",
    *(["pixelcnn tiled"] if passes() is not None else []),
    "pixelcnn reference",
    "row-lstm",
    "row-lstm tiled",
    "row-lstm reference",
    "diagonal-bilstm",
    "diagonal-bilstm reference",
)
FAST = [kind for kind in KINDS if "reference" not in kind]


def reference_of(kind: str) -> str:
    """Return the kind of the reference that a fast network computes the same as."""
    return f"{kind.partition(' ')[0]} reference"


def network(kind: str, *, seed: int = 0, std: float = 0.0, **sizes: Any) -> PixelNetwork:
    """Make a small network of one of `KINDS`; with `std`, all parameters are drawn anew."""
    torch.manual_seed(seed)
    channels = sizes.setdefault("channels", 1)
    sizes = {"levels": 3, "hidden": 3 + channels, "layers": 2, "head": 4 + channels, **sizes}
    name, _, implementation = kind.partition(" ")
    net: PixelNetwork
    chosen = "reference" if implementation == "reference" else "fast"
    if name == "pixelcnn":
        net = PixelCNN(implementation=chosen, **sizes).double()  # type: ignore[arg-type]
    else:
        net = PixelRNN(name, implementation=chosen, **sizes).double()  # type: ignore[arg-type]
    is_tiled = implementation == "tiled"  # whatever pays
    net.is_tiled = lambda *_: is_tiled  # type: ignore[assignment]
    with torch.no_grad():
        for parameter_name, parameter in net.named_parameters():
            if std:
                parameter.normal_(std=std)
            elif parameter.dim() == 1:  # biases and initial states: so that no ReLU is closed by its neighbours alone
                parameter.normal_(std=0.5 if parameter_name.endswith("bias") else 0.3)
    return net


def open_relus(net: nn.Module) -> None:
    """Make all weights positive: with a positive input no ReLU closes, and nothing can cancel."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.abs_().clamp_(min=0.01)


def dependencies(net: PixelNetwork, x: Tensor, condition: Tensor | None = None) -> Tensor:
    """Say which input values (columns) each softmax (rows) depends on, both counted pixel by pixel, then colour.

    One backward pass for all: the image is there once for each value, and of its n-th copy only softmax n is asked.

    Args:
        net: the network.
        x: one image (1, C, H, W).
        condition: its condition (1, c, H, W).

    Returns:
        A bool matrix (H*W*C, H*W*C).
    """
    count = x[0].numel()
    copies = x.expand(count, *x.shape[1:]).clone().requires_grad_()
    conditions = condition.expand(count, *condition.shape[1:]) if condition is not None else None
    (grads,) = torch.autograd.grad(asked(net, copies, conditions), copies)
    return grads.permute(0, 2, 3, 1).reshape(count, count) != 0


def condition_dependencies(net: PixelNetwork, x: Tensor, condition: Tensor) -> Tensor:
    """Say which pixels of the condition (columns) each softmax (rows) depends on: bool (H*W*C, H*W)."""
    count = x[0].numel()
    copies = condition.expand(count, *condition.shape[1:]).clone().requires_grad_()
    (grads,) = torch.autograd.grad(asked(net, x.expand(count, *x.shape[1:]), copies), copies)
    return (grads != 0).any(dim=1).reshape(count, -1)


def asked(net: PixelNetwork, copies: Tensor, conditions: Tensor | None) -> Tensor:
    """Sum up softmax n of the n-th copy, each logit with a weight of its own."""
    logits = net.predict(copies, conditions)  # (N, K, C, H, W)
    weights = torch.rand(logits.shape[1], dtype=logits.dtype, generator=torch.Generator().manual_seed(1)) + 0.1
    out = torch.einsum("nkchw,k->nhwc", logits, weights).flatten(1)  # (N, N)
    return out.diagonal().sum()


def strictly_before(size: int) -> Tensor:
    """Draw the past: what comes earlier in the order of the values, bool (size, size)."""
    return torch.ones(size, size).tril(-1).bool()


def field(kind: str, H: int, W: int, layers: int, channels: int = 1) -> Tensor:
    """Draw the exact field of an architecture, bool (H*W*C, H*W*C): d rows above, e columns to the right."""
    rows = torch.zeros(H, W, channels, H, W, channels, dtype=torch.bool)
    for r, c, sr, sc in itertools.product(range(H), range(W), range(H), range(W)):
        d, e = r - sr, sc - c
        if d == 0 and e == 0:
            rows[r, c, :, sr, sc, :] = strictly_before(channels)
        elif d >= 0 and (d > 0 or e < 0):
            rows[r, c, :, sr, sc, :] = sees(kind.split()[0], d, e, layers)
    return rows.view(H * W * channels, -1)


def sees(kind: str, d: int, e: int, layers: int) -> bool:
    """Say whether a network sees the pixel d rows above (0: its own row) and e columns to the right."""
    if kind == "diagonal-bilstm":
        return True
    if kind == "row-lstm":
        return -(3 + layers + d) <= e <= (d + 2 if d else -1)
    return any(0 <= d - dr <= layers and -(3 + layers) <= e <= (3 + d - dr if dr else d - 1) for dr in range(4))


def condition_field(kind: str, H: int, W: int, layers: int, channels: int = 1) -> Tensor:
    """Draw which pixels of the condition (columns) each softmax (rows) sees, bool (H*W*C, H*W), whatever its colour.

    A layer gets the condition of its own pixel, and what comes later in it is not hidden from the colours; from there
    on it is passed along as the image is. Unlike the image it is seen at the pixel itself.
    """
    rows = torch.zeros(H, W, channels, H, W, dtype=torch.bool)
    for r, c, sr, sc in itertools.product(range(H), range(W), range(H), range(W)):
        d, e = r - sr, sc - c
        rows[r, c, :, sr, sc] = d >= 0 and sees_condition(kind.split()[0], d, e, layers)
    return rows.view(H * W * channels, -1)


def sees_condition(kind: str, d: int, e: int, layers: int) -> bool:
    """Say whether a network sees the condition d rows above (0: its own row) and e columns to the right."""
    if kind == "diagonal-bilstm":
        return d > 0 or e <= 0
    if kind == "row-lstm":
        return -(layers - 1) - d <= e <= d
    return d < layers and -(layers - 1) <= e <= d
