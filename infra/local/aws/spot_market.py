"""The embedded cloud's spot market: pure, seeded prices that move in steps. No I/O but the data file, no clock.

A pool (instance type x zone) has a recorded base level in `pools.json`. Time is cut into slots of `SLOT_S`; in each
slot the price changes once, at an offset that a hash decides, to a level near the base that hashes decide too:

    price
      |        ____          ______
      |_______|    |________|      |____
      |   slot 0   |   slot 1   |  slot 2 ...

So the price at any time is known without the history before it, and two processes agree on it.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

SLOT_S = 4 * 3600
"""One price change every four hours on average: spot prices have moved gradually since EC2's change of 2017."""
HISTORY_S = 90 * 86400
"""DescribeSpotPriceHistory goes back 90 days (EC2 API reference)."""
SWING = 0.08
"""The level moves within this share of the base, both ways."""


@lru_cache(maxsize=1)
def load_pools() -> dict[str, Any]:
    """The recorded regions, types, offerings and base levels; the file names its sources."""
    data: dict[str, Any] = json.loads(Path(__file__).with_name("pools.json").read_text(encoding="utf-8"))
    return data


def regions() -> list[str]:
    """The regions that the embedded cloud has."""
    return list(load_pools()["regions"])


def zones(region: str) -> list[str]:
    """The zones of a region, by name; empty for an unknown region."""
    return list(load_pools()["regions"].get(region, []))


def instance_types() -> list[str]:
    """Every instance type that some zone offers."""
    return list(load_pools()["types"])


def offering_zones(instance_type: str, region: str) -> list[str]:
    """The zones of the region that offer the type, in order; empty where none does."""
    return sorted(_regional(instance_type, region).get("spot_usd_h", {}))


def on_demand_usd_h(instance_type: str, region: str) -> float:
    """The on-demand price. Raises KeyError where the region does not offer the type."""
    return float(_regional(instance_type, region)["on_demand_usd_h"])


def _regional(instance_type: str, region: str) -> dict[str, Any]:
    found: dict[str, Any] = load_pools()["types"].get(instance_type, {}).get("pools", {}).get(region, {})
    return found


def region_of(zone: str) -> str:
    """us-east-1a -> us-east-1."""
    return zone.rstrip("abcdefghijklmnopqrstuvwxyz")


@dataclass(frozen=True)
class PriceChange:
    """From `time` (unix seconds) on, the pool's price is `usd_h`, until the next change."""

    instance_type: str
    zone: str
    time: float
    usd_h: float


def spot_usd_h(instance_type: str, zone: str, time: float) -> float:
    """The spot price in force at `time` (unix seconds). Raises KeyError where the zone does not offer the type."""
    return _change_in_force(instance_type, zone, time).usd_h


def history(instance_type: str, zone: str, start: float, end: float) -> Iterator[PriceChange]:
    """What DescribeSpotPriceHistory gives for one pool, newest first.

    The changes with start < time <= end, and the last change at or before `start`: the price in force at the start.
    Yields nothing where the zone does not offer the type, or where `end` lies before `start`.
    """
    if zone not in offering_zones(instance_type, region_of(zone)) or end < start:
        return
    change = _change_in_force(instance_type, zone, end)
    while change.time > start:
        yield change
        change = _change(instance_type, zone, int(change.time // SLOT_S) - 1)
    yield change


def _change_in_force(instance_type: str, zone: str, time: float) -> PriceChange:
    slot = int(time // SLOT_S)
    change = _change(instance_type, zone, slot)
    return change if change.time <= time else _change(instance_type, zone, slot - 1)


def _change(instance_type: str, zone: str, slot: int) -> PriceChange:
    """The one price change of a slot. Whole seconds, as EC2's timestamps are."""
    regional = _regional(instance_type, region_of(zone))
    base_usd_h, cap_usd_h = regional["spot_usd_h"][zone], regional["on_demand_usd_h"]
    # Three slots' noise, the newest weighing most: the level drifts instead of jumping about.
    drift = sum(weight * _noise(instance_type, zone, slot - lag) for lag, weight in enumerate((0.5, 0.3, 0.2)))
    # A pool recorded at the on-demand price is one without a market; it stays there.
    usd_h = cap_usd_h if base_usd_h >= cap_usd_h else min(cap_usd_h, base_usd_h * (1 + SWING * drift))
    offset_s = int((_noise(instance_type, zone, slot, "offset") + 1) / 2 * (SLOT_S - 1))
    return PriceChange(instance_type, zone, slot * SLOT_S + offset_s, round(usd_h, 4))


def _noise(*key: object) -> float:
    """A number in [-1, 1) that the key alone decides, the same on every machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**47 - 1
