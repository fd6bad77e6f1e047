"""A network's last layer, softmax and likelihood in one pass, on a CPU: the logits of a few pixels at a time.

The logits of a batch are large: with 256 levels a colour image of 32x32 has 786,432 of them, 3 MB. Written to memory,
read for the softmax, and once more for each gradient, they take a fifth of the time of a small network. Here the
logits of some pixels, about `LOGITS`, stay in the cache until nothing needs them any more.

The gradients of maps, weights and bias are computed with the likelihood, for each image, and multiplied later by the
gradient of the image's nats. The gradient of the weights is thus kept for each image: less than its logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.networks.buffers import Workspace

LOGITS = 2**19  # at a time, 2 MB
FEWEST = 64  # logits of a pixel: with fewer, the operations cost more than the memory


def pays(pixels: int, logits: int, head: int) -> bool:
    """Tell whether this is faster than with all logits in memory.

    Args:
        pixels: of an image.
        logits: of a pixel.
        head: maps that the last layer sees. The gradient of its weights is smaller than the logits if they are fewer
            than the pixels.
    """
    return logits >= FEWEST and pixels >= head


def fused_nats(maps: Tensor, weight: Tensor, bias: Tensor, levels: Tensor, seen: Sequence[int]) -> Tensor:
    """Return the negative log-likelihood of each image, (B,).

    Args:
        maps: what the last layer sees, (B, H, W, head).
        weight: the layer's, masked, (C*K, head).
        bias: (C*K,).
        levels: the images (B, C, H, W), uint8 or long.
        seen: how many of the maps each colour may see; the weights of the others are zero.
    """
    B, C, H, W = levels.shape
    picked = levels.permute(0, 2, 3, 1).reshape(B, H * W, C).long()
    run = cast("Callable[..., Tensor]", _FusedNats.apply)
    return run(maps.reshape(B, H * W, -1), weight, bias, picked, seen, torch.is_grad_enabled())


def _pixels_at_a_time(pixels: int, logits: int) -> int:
    """Return a number of pixels with at most `LOGITS` logits, so that an image has equal parts of about as many."""
    parts = -(-pixels * logits // LOGITS)
    return -(-pixels // parts)


class _FusedNats(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes arguments by position
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, picked: Tensor, seen: Sequence[int], wanted: bool
    ) -> Tensor:
        B, pixels, C = picked.shape
        nats, step = maps.new_empty(B), _pixels_at_a_time(pixels, len(weight))
        colours = _by_colour(weight, bias, seen)
        # `needs_input_grad` is also true in a pass without gradients.
        gradients = _Gradients(maps, weight, seen) if wanted and any(ctx.needs_input_grad) else None
        work = Workspace(("fused nats", pixels, *weight.shape), maps)
        for image in range(B):
            parts = []
            for first in range(0, pixels, step):
                x, at = maps[image, first : first + step], picked[image, first : first + step].t().reshape(-1, 1)
                logits, p = (work.zeros(f"{name} of {len(x)}", C, len(x), len(weight) // C) for name in ("logits", "p"))
                for y, colour in zip(logits, colours, strict=True):
                    torch.addmm(colour.bias, x[:, : colour.seen], colour.weight_t, out=y)
                y, rows = logits.flatten(0, 1), p.flatten(0, 1)  # one row for each value
                torch.softmax(y, dim=1, out=rows)
                # The largest probability, at least 1/K, gives the logarithm of the sum.
                parts.append((y.amax(1) - y.gather(1, at)[:, 0] - rows.amax(1).log()).sum())
                if gradients is not None:
                    rows.scatter_add_(1, at, gradients.minus_one.expand_as(at))
                    gradients.add(image, first, x, p)
            nats[image] = torch.stack(parts).sum()
        ctx.save_for_backward(*(() if gradients is None else gradients.tensors))
        return nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_nats: Tensor) -> tuple[Tensor | None, ...]:
        d_maps, d_weight, d_bias = ctx.saved_tensors
        weighted = (d_nats @ d_weight.flatten(1)).view_as(d_weight[0])
        return d_maps * d_nats[:, None, None], weighted, d_nats @ d_bias, None, None, None


class _Gradients:
    """The gradients of each image's nats."""

    def __init__(self, maps: Tensor, weight: Tensor, seen: Sequence[int]) -> None:
        self.minus_one, self.ones = maps.new_full((1, 1), -1.0), maps.new_ones(maps.shape[1])
        d_weight, d_bias = maps.new_zeros(len(maps), *weight.shape), maps.new_zeros(len(maps), len(weight))
        self.tensors = (torch.zeros_like(maps), d_weight, d_bias)
        self.colours = _by_colour(weight, d_bias[0], seen)
        self.images = [_by_colour(*both, seen) for both in zip(d_weight, d_bias, strict=True)]

    def add(self, image: int, first: int, x: Tensor, d_logits: Tensor) -> None:
        """Add those of some pixels: what the last layer sees of them (n, head), and the gradient of their logits."""
        d_maps, ones = self.tensors[0][image, first : first + len(x)], self.ones[: len(x)]
        for d, colour, to in zip(d_logits, self.colours, self.images[image], strict=True):
            d_maps[:, : to.seen].addmm_(d, colour.weight_t.t())
            to.weight_t.t().addmm_(d.t(), x[:, : to.seen])
            to.bias.addmv_(d.t(), ones)


class _Colour(NamedTuple):
    """The part of the last layer that gives the logits of one colour, or the gradients of it."""

    weight_t: Tensor  # (seen, K)
    bias: Tensor  # (K,)
    seen: int  # maps


def _by_colour(weight: Tensor, bias: Tensor, seen: Sequence[int]) -> list[_Colour]:
    """Return views of the colours' parts of (C*K, head) and (C*K,)."""
    parts = zip(weight.chunk(len(seen)), bias.chunk(len(seen)), seen, strict=True)
    return [_Colour(of[:, :maps].t(), shift, maps) for of, shift, maps in parts]
