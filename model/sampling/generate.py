"""Image generation and completion; a multi-scale network draws the small image first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from model.config import DatasetFacts
from model.networks.conditioned import Conditioned
from model.networks.multiscale import MultiScale
from model.sampling import Engine, fill, graphed, uniforms, uniforms_of_scales

AT_A_TIME = 256  # images of a multi-scale network; the condition of each image has c x n x n numbers


def draw(
    net: nn.Module,
    facts: DatasetFacts,
    *,
    count: int,
    seed: int,
    temperature: float = 1.0,
    engine: Engine = "auto",
    values: Tensor | None = None,
    before_row: Callable[[], None] = lambda: None,
) -> Tensor:
    """Draw images by ancestral sampling: each value from its softmax given the earlier ones.

    The noise comes from a separate generator. Sampling therefore does not change the random state of training, and the
    same seed gives the same images.

    Args:
        net: levels (B, C, H, W) -> logits (B, K, C, H, W); sampling runs on its device.
        facts: the size of the images.
        count: number of images, B.
        seed: seed of the noise.
        temperature: divides the logits; below 1 it makes likely values more likely.
        engine: the sampler; all of them draw the same images.
        values: conditioning values and flags of each image for a `Conditioned` network, (B, 2V); default: the mean.
        before_row: called before each row; an exception that it raises stops the sampling.

    Returns:
        Levels (B, C, H, W), uint8, on the CPU.
    """
    return draw_scales(
        net, facts, count=count, seed=seed, temperature=temperature, engine=engine, values=values,
        before_row=before_row,
    )[-1]  # fmt: skip


def draw_scales(
    net: nn.Module,
    facts: DatasetFacts,
    *,
    count: int,
    seed: int,
    temperature: float = 1.0,
    engine: Engine = "auto",
    values: Tensor | None = None,
    before_row: Callable[[], None] = lambda: None,
) -> list[Tensor]:
    """Draw images as `draw` does, and return those of each scale as `complete_scales` does."""
    empty = torch.zeros(count, facts.channels, facts.height, facts.width, dtype=torch.uint8)
    everything = torch.ones(facts.height, facts.width, dtype=torch.bool)
    return complete_scales(
        net, facts, empty, everything, seed=seed, temperature=temperature, engine=engine, values=values,
        before_row=before_row,
    )  # fmt: skip


def complete(
    net: nn.Module,
    facts: DatasetFacts,
    levels: Tensor,
    hidden: Tensor,
    *,
    seed: int,
    temperature: float = 1.0,
    engine: Engine = "auto",
    values: Tensor | None = None,
    before_row: Callable[[], None] = lambda: None,
) -> Tensor:
    """Draw the hidden pixels of images given the others: return the last item of `complete_scales`."""
    return complete_scales(
        net, facts, levels, hidden, seed=seed, temperature=temperature, engine=engine, values=values,
        before_row=before_row,
    )[-1]  # fmt: skip


def complete_scales(
    net: nn.Module,
    facts: DatasetFacts,
    levels: Tensor,
    hidden: Tensor,
    *,
    seed: int,
    temperature: float = 1.0,
    engine: Engine = "auto",
    values: Tensor | None = None,
    before_row: Callable[[], None] = lambda: None,
) -> list[Tensor]:
    """Draw the hidden pixels of images given the others.

    A multi-scale network first completes the small image, whose visible pixels come from the large image. It then
    completes the large image given the small one.

    Args:
        net: levels (B, C, H, W) -> logits (B, K, C, H, W); sampling runs on its device.
        facts: the size of the images.
        levels: uint8 (B, C, H, W); the values of hidden pixels are ignored.
        hidden: True for the pixels to draw, bool (H, W).
        seed: seed of the noise.
        temperature: divides the logits; below 1 it makes likely values more likely.
        engine: the sampler; all of them draw the same images.
        values: conditioning values and flags of each image for a `Conditioned` network, (B, 2V); default: the mean.
        before_row: called before each row; an exception that it raises stops the sampling.

    Returns:
        Levels (B, C, H, W), uint8, on the CPU: one item, or two for a multi-scale network, the small images first.
        Pixels that are not hidden are unchanged.
    """
    if isinstance(net, Conditioned):
        conditioning = net.values({}, len(levels)) if values is None else values
        with torch.no_grad():
            maps = net.maps(conditioning.to(next(net.parameters()).device), facts.height, facts.width)
        noise = uniforms(facts, count=len(levels), seed=seed)
        return [
            fill(
                net.net, levels, hidden, noise,
                temperature=temperature, condition=maps, engine=engine, before_row=before_row,
            )
        ]  # fmt: skip
    if isinstance(net, MultiScale):
        return _complete_multiscale(
            net, facts, levels, hidden, seed=seed, temperature=temperature, engine=engine, before_row=before_row
        )
    noise = uniforms(facts, count=len(levels), seed=seed)
    return [fill(net, levels, hidden, noise, temperature=temperature, engine=engine, before_row=before_row)]


def _complete_multiscale(
    net: MultiScale,
    facts: DatasetFacts,
    levels: Tensor,
    hidden: Tensor,
    *,
    seed: int,
    temperature: float,
    engine: Engine,
    before_row: Callable[[], None],
) -> list[Tensor]:
    """Draw the small images, then the large images given the small ones."""
    factor = net.factor
    small_facts = replace(facts, height=facts.height // factor, width=facts.width // factor)
    noises = uniforms_of_scales([small_facts, facts], count=len(levels), seed=seed)
    device = next(net.parameters()).device
    small_graph, large_graph = graphed.Sampler(net.small), graphed.Sampler(net.large)  # of all batches

    def some_of(part: slice) -> tuple[Tensor, Tensor]:
        given = levels[part]
        small = fill(
            net.small, net.reduce(given), net.reduce(hidden), noises[0][part],
            temperature=temperature, engine=engine, before_row=before_row, graph=small_graph,
        )  # fmt: skip
        with torch.no_grad():
            condition = net.condition(small.to(device))
        large = fill(
            net.large, given, hidden, noises[1][part],
            temperature=temperature, condition=condition, engine=engine, before_row=before_row, graph=large_graph,
        )  # fmt: skip
        return small, large

    starts = range(0, len(levels), AT_A_TIME)
    drawn = [some_of(slice(start, start + AT_A_TIME)) for start in starts]
    return [torch.cat(parts) for parts in zip(*drawn, strict=True)]
