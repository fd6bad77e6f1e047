"""The choice of a sampler, and sampling in batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from model.sampling import cached, graphed, naive, native

Engine = Literal["auto", "native", "torch", "graph", "naive"]
AT_A_TIME = 256  # images; larger batches need more memory and save no time per image


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
) -> Tensor:
    """Fill the hidden pixels in raster order, R then G then B, each value from its softmax given the earlier ones.

    All engines make the same image of the same noise, but for a draw that falls within rounding of a border between
    two levels. "naive" runs the whole network for each value, "torch" and "native" do one forward pass in all;
    "native" needs numba and a CPU, "graph" a GPU. "auto" takes "native" where it pays, else "torch".

    Args:
        net: levels (B, C, H, W) -> logits (B, K, C, H, W), with a second argument if there is a condition.
        levels: uint8 (B, C, H, W); values at hidden pixels are ignored.
        hidden: which pixels to fill, bool (H, W).
        noise: numbers in [0, 1), float64, (B, C, H, W).
        temperature: divides the logits; below 1 the likely values become likelier.
        condition: maps that every pixel may see, (B, condition, H, W), for a network that has them.
        engine: which sampler.
        before_row: called before each row; an exception from it ends the sampling.

    Returns:
        Levels, uint8 (B, C, H, W), on the CPU. Pixels that are not hidden are unchanged.

    Raises:
        SetupError: the requested engine, "native" or "graph", is not available.
    """
    device = next(net.parameters()).device
    was_training = net.training
    if was_training:  # going through all modules costs as much as drawing a sixth of a small image
        net.eval()
    done = []
    try:
        for start in range(0, len(levels), AT_A_TIME):
            some = slice(start, start + AT_A_TIME)
            given, drawn_from = levels[some].to(device), noise[some].to(device)
            known = condition[some].to(device) if condition is not None else None
            run = _sampler(net, given, known, engine)
            done.append(run(given, hidden, drawn_from, temperature, before_row).cpu())
    finally:
        if was_training:
            net.train()
    return torch.cat(done)


def _sampler(
    net: nn.Module, levels: Tensor, condition: Tensor | None, engine: Engine
) -> Callable[[Tensor, Tensor, Tensor, float, Callable[[], None]], Tensor]:
    def plainly(levels: Tensor, hidden: Tensor, noise: Tensor, heat: float, before: Callable[[], None]) -> Tensor:
        given = hidden.to(levels.device)
        return naive.sample(net, levels, given, noise, condition=condition, temperature=heat, before_row=before)

    if engine == "naive" or not cached.can_cache(net):
        return plainly
    draw = cached.sample
    if engine == "graph":
        graphed.require(levels.device)
        draw = graphed.sample
    elif engine == "native":
        native.require(levels.device)
        draw = native.sample
    elif engine == "auto" and native.pays(levels):
        draw = native.sample

    def at_once(levels: Tensor, hidden: Tensor, noise: Tensor, heat: float, before: Callable[[], None]) -> Tensor:
        cache = cached.Cache(net, batch=levels.shape[0], width=levels.shape[3], condition=condition)
        return draw(cache, levels, hidden, noise, temperature=heat, before_row=before)

    return at_once
