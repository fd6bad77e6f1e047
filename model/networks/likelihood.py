"""The negative log-likelihood of images under a network, in nats per image and in bits/dim."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.device import unrounded
from model.networks import fused_nats
from model.networks.base import PixelNetwork
from model.networks.buffers import Workspace
from model.networks.masked_conv import colour_of
from model.networks.matrices import matrix
from model.networks.multiscale import scales

Given = Tensor | tuple[Tensor, Tensor | None]  # images, or images and the values of a `Conditioned` network
BATCH = 128  # default batch size of an evaluation


def nats_per_image(net: nn.Module, levels: Tensor, values: Tensor | None = None) -> Tensor:
    """Return the negative log-likelihood of each image: levels (B, C, H, W), uint8 or long -> nats (B,).

    For a multi-scale network it is -log p(small image) - log p(image | small image), where the small image is the
    subsampled image. The network can also draw the image given a different small image, so the result is an upper
    bound of -log p(image).
    """
    return nats_by_scale(net, levels, values).sum(dim=1)


def nats_by_scale(net: nn.Module, levels: Tensor, values: Tensor | None = None) -> Tensor:
    """Return the nats of each image at each scale: (B, 1), or for a multi-scale network (B, 2), small image first."""
    return torch.stack([_nats_of(*scale) for scale in scales(net, levels, values)], dim=1)


def _nats_of(net: nn.Module, levels: Tensor, condition: Tensor | None) -> Tensor:
    """Return the nats of each image under a network of one scale, (B,)."""
    given = () if condition is None else (condition,)
    if not isinstance(net, PixelNetwork) or levels.device.type != "cpu":
        return _nats(net(levels, *given), levels)
    head, pixels = net.last.in_channels, levels.shape[2] * levels.shape[3]
    if net.levels > 2 and not fused_nats.pays(pixels, net.last.out_channels, head):
        return _nats(net(levels, *given), levels)
    x = net.scaled(levels)
    net.check_condition(x, condition)
    last = net.last_maps(x, condition)
    if last is None:
        return _nats(net(levels, *given), levels)
    weight, bias = matrix(net.last), cast("Tensor", net.last.bias)
    with unrounded(levels.device):  # the fast implementation was not rounded either
        if net.levels == 2:
            logits = last.through(weight, bias)  # of the second level, (B, H, W, C)
            nats = torch.logaddexp(logits, logits.new_zeros(())) - logits * levels.permute(0, 2, 3, 1)
            return nats.flatten(1).sum(dim=1)
        seen = [int((colour_of(head, net.channels) <= colour).sum()) for colour in range(net.channels)]
        return fused_nats.fused_nats(last.placed(), weight, bias, levels, seen)


def _nats(logits: Tensor, levels: Tensor) -> Tensor:
    B, K = logits.shape[:2]
    places = logits.movedim(1, -1)  # (B, C, H, W, K)
    # One row for each value, in the order in which they lie in memory: where the logits of a value are together, as
    # PixelCNN's are, that needs no copy.
    strides = places.stride()
    order = sorted(range(4), key=lambda dim: -strides[dim])
    rows = places.permute(*order, 4).reshape(-1, K)  # (B*C*H*W, K)
    if rows.dtype == torch.bfloat16:  # 8 bits would round the nats of a value to 1 %
        rows = rows.float()
    picked = levels.permute(*order)
    nats = _cross_entropy(rows, picked.reshape(-1).long()).view(picked.shape)
    return nats.permute([order.index(dim) for dim in range(4)]).reshape(B, -1).sum(dim=1)  # (B,)


def _cross_entropy(rows: Tensor, picked: Tensor) -> Tensor:
    """Return -log softmax(rows)[picked] of each row: (N, K), (N,) -> (N,)."""
    if rows.shape[1] == 2:  # a softmax over two is slow
        first, second = rows.unbind(1)
        return torch.logaddexp(first, second) - torch.where(picked == 1, second, first)
    if rows.device.type == "cpu":
        return cast("Callable[..., Tensor]", _CrossEntropy.apply)(rows, picked)
    return F.cross_entropy(rows, picked, reduction="none")  # on a GPU its kernel for rows is deterministic


class _CrossEntropy(torch.autograd.Function):
    """`F.cross_entropy` in fewer passes over the logits, which take a quarter of a step with 256 levels.

    The softmax serves both directions: its largest probability, at least 1/K, gives the logarithm of the sum.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, picked: Tensor) -> Tensor:
        p, picked = None, picked[:, None]
        if ctx.needs_input_grad[0]:
            ctx.work = Workspace(("softmax", *rows.shape), rows)
            p = ctx.work.zeros("p", *rows.shape)
        p = torch.softmax(rows, dim=1, out=p)
        ctx.save_for_backward(picked)
        return rows.amax(dim=1) - rows.gather(1, picked)[:, 0] - p.amax(dim=1).log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_nats: Tensor) -> tuple[Tensor, None]:
        (picked,), d_nats = ctx.saved_tensors, d_nats[:, None]
        return (ctx.work.zeros("p") * d_nats).scatter_add_(1, picked, -d_nats), None


def bits_per_dim(nats: float, dims: int) -> float:
    """Convert nats per image to bits per value: divide by ln 2 and by C*H*W."""
    return nats / (dims * math.log(2))


@dataclass(frozen=True)
class Score:
    """The mean over a set of images, and its standard error."""

    images: int
    nats: float  # mean nats per image
    nats_se: float  # standard error of that mean; 0 for one image
    bits_per_dim: float
    bits_per_dim_se: float


def score(nats: Tensor, dims: int) -> Score:
    """Average the nats of images (N,) that have `dims` values each."""
    mean, count = nats.mean().item(), len(nats)
    error = nats.std().item() / math.sqrt(count) if count > 1 else 0.0
    return Score(count, mean, error, bits_per_dim(mean, dims), bits_per_dim(error, dims))


def evaluate(
    net: nn.Module,
    images: Tensor | Iterable[Given],
    *,
    batch: int = BATCH,
    before_batch: Callable[[], None] = lambda: None,
) -> Score:
    """Score a network on images (N, C, H, W) of uint8 levels, in order, without gradients.

    Args:
        net: the network.
        images: all images as one tensor, or an iterable of batches.
        batch: batch size for one tensor; apart from rounding, the result does not depend on it.
        before_batch: called before each batch; an exception that it raises stops the evaluation.
    """
    batches = iter(torch.split(images, batch) if isinstance(images, Tensor) else images)
    first = next(batches)
    nats = nats_of_all(net, chain([first], batches), before_batch=before_batch)
    levels = first if isinstance(first, Tensor) else first[0]
    return score(nats.sum(dim=1), levels[0].numel())


def nats_of_all(
    net: nn.Module,
    images: Tensor | Iterable[Given],
    *,
    batch: int = BATCH,
    before_batch: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return the nats of all images by scale, (N, scales), float64 on the CPU; arguments as for `evaluate`.

    On a GPU the batches are queued, and only the last one is waited for.
    """
    was_training = net.training
    net.eval()
    parts = []
    try:
        with torch.no_grad():
            for some in torch.split(images, batch) if isinstance(images, Tensor) else images:
                before_batch()
                levels, values = (some, None) if isinstance(some, Tensor) else some
                parts.append(nats_by_scale(net, levels, values).double())
        return torch.cat(parts).cpu()
    finally:
        net.train(was_training)
