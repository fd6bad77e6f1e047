"""The choice of a sampler, and sampling in batches of limited size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from model.sampling import cached, graphed, naive, native

Engine = Literal["auto", "native", "torch", "graph", "naive"]
AT_A_TIME = 256  # images; a larger batch is not faster per image and needs more memory


def fill(
    net: nn.Module,
    levels: Tensor,
    hidden: Tensor,
    noise: Tensor,
    *,
    temperature: float = 1.0,
    condition: Tensor | None = None,
    engine: Engine = "auto",
    before_row: Callable[[], None] = lambda: None,
    graph: graphed.Sampler | None = None,
) -> Tensor:
    """Fill the hidden pixels in raster order, R then G then B, each value from its softmax given the earlier ones.

    All engines draw the same image from the same noise, unless the noise lies within rounding error of the boundary
    between two levels. "naive" runs the whole network for each value. "torch", "native" and "graph" cost one forward
    pass in total. "native" needs numba and a CPU, "graph" a GPU. "auto" uses "native" where it is faster, else "torch".

    Args:
        net: levels (B, C, H, W) -> logits (B, K, C, H, W), with the condition as its second argument if there is one.
        levels: uint8 (B, C, H, W); the values of hidden pixels are ignored.
        hidden: True for the pixels to fill, bool (H, W).
        noise: uniform numbers in [0, 1), float64, (B, C, H, W).
        temperature: divides the logits; below 1 it makes likely values more likely.
        condition: unmasked maps for a conditional network, (B, condition, H, W).
        engine: the sampler.
        before_row: called before each row; an exception that it raises stops the sampling.
        graph: for "graph", the sampler of an earlier call with this network: it has recorded its rows already.

    Returns:
        Levels, uint8 (B, C, H, W), on the CPU. Pixels that are not hidden are unchanged.

    Raises:
        SetupError: "native" or "graph" is requested and cannot run.
    """
    device = next(net.parameters()).device
    was_training = net.training
    if was_training:  # visiting all modules costs a sixth of the time for a small image
        net.eval()
    done = []
    if engine == "graph":
        graph = graph or graphed.Sampler(net)  # one for all batches: each size is recorded once
    try:
        for start in range(0, len(levels), AT_A_TIME):
            some = slice(start, start + AT_A_TIME)
            given, drawn_from = levels[some].to(device), noise[some].to(device)
            known = condition[some].to(device) if condition is not None else None
            run = _sampler(net, given, known, engine, graph if engine == "graph" else None)
            done.append(run(given, hidden, drawn_from, temperature, before_row).cpu())
    finally:
        if was_training:
            net.train()
    return torch.cat(done)


def _sampler(
    net: nn.Module, levels: Tensor, condition: Tensor | None, engine: Engine, graph: graphed.Sampler | None
) -> Callable[[Tensor, Tensor, Tensor, float, Callable[[], None]], Tensor]:
    def plainly(levels: Tensor, hidden: Tensor, noise: Tensor, heat: float, before: Callable[[], None]) -> Tensor:
        given = hidden.to(levels.device)
        return naive.sample(net, levels, given, noise, condition=condition, temperature=heat, before_row=before)

    if engine == "naive" or not cached.can_cache(net):
        return plainly
    draw = cached.sample
    if graph is not None:
        graphed.require(levels.device)
        sampler = graph
        return lambda levels, hidden, noise, heat, before: sampler(
            levels, hidden, noise, temperature=heat, condition=condition, before_row=before
        )
    if engine == "native":
        native.require(levels.device)
        draw = native.sample
    elif engine == "auto" and native.pays(levels):
        draw = native.sample

    def at_once(levels: Tensor, hidden: Tensor, noise: Tensor, heat: float, before: Callable[[], None]) -> Tensor:
        cache = cached.Cache(net, batch=levels.shape[0], width=levels.shape[3], condition=condition)
        return draw(cache, levels, hidden, noise, temperature=heat, before_row=before)

    return at_once
