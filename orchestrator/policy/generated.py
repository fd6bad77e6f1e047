"""Markets that are made up, seeded: for those who have no traces. They are called what they are.

Each pool alternates between times with capacity and times without; how long they last is drawn from a mixture of short
and long ones, as real pools have it (half of the times with capacity last under an hour, a few last days). Pools of one
market share a part of their bad times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.errors import SpecError
from orchestrator.formatting import nearest
from orchestrator.policy.base import Flags
from orchestrator.policy.market import Market

GAP_S = 600.0
DAYS = 45


@dataclass(frozen=True)
class Recipe:
    """How a market is made.

    Args:
        up_h: means of short and long times with capacity.
        down_h: means of short and long times without.
        long_share: of the times that are long.
        pools: how many there are.
        shared: how likely a pool is down where the market as a whole has a bad time.
    """

    up_h: tuple[float, float]
    down_h: tuple[float, float]
    long_share: float = 0.3
    pools: int = 1
    shared: float = 0.0


RECIPES = {
    "calm": Recipe(up_h=(6, 30), down_h=(0.3, 2)),
    "mixed": Recipe(up_h=(0.6, 9), down_h=(0.4, 6)),
    "scarce": Recipe(up_h=(0.4, 2), down_h=(2, 20)),
    "zones": Recipe(up_h=(0.6, 9), down_h=(0.4, 6), pools=4, shared=0.5),
}


def generated(name: str, *, spot_price: float, seed: int, flag: str = "--market") -> Market:
    """Return the market of a name.

    Raises:
        SpecError: there is no market of that name.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        near = nearest(name, RECIPES)
        raise SpecError(f"{flag}: there is no market {name!r}; {f'did you mean {near}? ' if near else ''}"
                        f"there are {', '.join(RECIPES)}")  # fmt: skip
    random = np.random.default_rng([seed, sorted(RECIPES).index(name)])
    points = round(DAYS * 86400 / GAP_S)
    bad = ~_up_and_down(recipe, points, random)
    columns = []
    for _ in range(recipe.pools):
        own = _up_and_down(recipe, points, random)
        columns.append(own & ~(bad & _patches(bad, recipe.shared, random)))
    available = np.stack(columns, axis=1)
    pools = tuple(f"{name}-{letter}" for letter in "abcdefgh"[: recipe.pools])
    return Market(name, pools, GAP_S, available, np.full(available.shape, spot_price))


def _up_and_down(recipe: Recipe, points: int, random: np.random.Generator) -> Flags:
    """Return (T,) whether there is capacity, from times whose lengths are drawn."""
    made: Flags = np.zeros(points, bool)
    at, is_up = 0, bool(random.random() < 0.7)
    while at < points:
        short_h, long_h = recipe.up_h if is_up else recipe.down_h
        mean_h = long_h if random.random() < recipe.long_share else short_h
        length = max(1, round(random.exponential(mean_h) * 3600 / GAP_S))
        made[at : at + length] = is_up
        at, is_up = at + length, not is_up
    return made


def _patches(bad: Flags, share: float, random: np.random.Generator) -> Flags:
    """Return (T,) whether a pool is part of each bad time of the market: of the whole of it, or not at all."""
    number = np.cumsum(np.concatenate([[bad[0]], bad[1:] & ~bad[:-1]]))
    takes_part = random.random(int(number[-1]) + 1) < share
    here: Flags = takes_part[number]
    return here
