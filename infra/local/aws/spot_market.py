"""The embedded cloud's spot market: deterministic prices that change in steps. No clock; the only I/O is the data file.

A pool (instance type x zone) has a recorded base price in `pools.json`. Time is divided into slots of `SLOT_S` seconds.
In each slot the price changes once; hashes determine the time of the change and the new price, which is near the base:

    price
      |        ____          ______
      |_______|    |________|      |____
      |   slot 0   |   slot 1   |  slot 2 ...

So the price at any time does not depend on the history before it, and two processes compute the same price.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

SLOT_S = 4 * 3600
"""Seconds a slot. One price change every four hours on average: since 2017 EC2 changes spot prices gradually."""
HISTORY_S = 90 * 86400
"""Length of DescribeSpotPriceHistory in seconds: 90 days (EC2 API reference)."""
SWING = 0.08
"""The price stays within this share of the base, above and below."""


@lru_cache(maxsize=1)
def load_pools() -> dict[str, Any]:
    """Return the recorded regions, types, offerings and base prices; the file names its sources."""
    data: dict[str, Any] = json.loads(Path(__file__).with_name("pools.json").read_text(encoding="utf-8"))
    return data


def regions() -> list[str]:
    """Return the regions of the embedded cloud."""
    return list(load_pools()["regions"])


def zones(region: str) -> list[str]:
    """Return the zone names of a region; empty for an unknown region."""
    return list(load_pools()["regions"].get(region, []))


def instance_types() -> list[str]:
    """Return every instance type that at least one zone offers."""
    return list(load_pools()["types"])


def offering_zones(instance_type: str, region: str) -> list[str]:
    """Return the zones of the region that offer the type, sorted; empty if none does."""
    return sorted(_regional(instance_type, region).get("spot_usd_h", {}))


def on_demand_usd_h(instance_type: str, region: str) -> float:
    """Return the on-demand price in dollars an hour. Raises KeyError if the region does not offer the type."""
    return float(_regional(instance_type, region)["on_demand_usd_h"])


def _regional(instance_type: str, region: str) -> dict[str, Any]:
    found: dict[str, Any] = load_pools()["types"].get(instance_type, {}).get("pools", {}).get(region, {})
    return found


def region_of(zone: str) -> str:
    """Return the region of a zone: us-east-1a -> us-east-1."""
    return zone.rstrip("abcdefghijklmnopqrstuvwxyz")


@dataclass(frozen=True)
class PriceChange:
    """The pool's price is `usd_h` from `time` (unix seconds) until the next change."""

    instance_type: str
    zone: str
    time: float
    usd_h: float


def spot_usd_h(instance_type: str, zone: str, time: float) -> float:
    """Return the spot price in dollars an hour at `time` (unix seconds).

    Raises KeyError if the zone does not offer the type.
    """
    return _change_in_force(instance_type, zone, time).usd_h


def history(instance_type: str, zone: str, start: float, end: float) -> Iterator[PriceChange]:
    """Yield the price changes of one pool as DescribeSpotPriceHistory returns them, newest first.

    These are the changes with start < time <= end, and the last change at or before `start`, which sets the price at
    the start. Yields nothing if the zone does not offer the type, or if `end` is before `start`.
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
    """Return the price change of a slot. Its time is in whole seconds, as in EC2's timestamps."""
    regional = _regional(instance_type, region_of(zone))
    base_usd_h, cap_usd_h = regional["spot_usd_h"][zone], regional["on_demand_usd_h"]
    # A weighted mean over three slots, the newest with the largest weight: the price drifts without large jumps.
    drift = sum(weight * _noise(instance_type, zone, slot - lag) for lag, weight in enumerate((0.5, 0.3, 0.2)))
    # A pool that is recorded at the on-demand price has no spot discount; its price stays constant.
    usd_h = cap_usd_h if base_usd_h >= cap_usd_h else min(cap_usd_h, base_usd_h * (1 + SWING * drift))
    offset_s = int((_noise(instance_type, zone, slot, "offset") + 1) / 2 * (SLOT_S - 1))
    return PriceChange(instance_type, zone, slot * SLOT_S + offset_s, round(usd_h, 4))


def _noise(*key: object) -> float:
    """Return a number in [-1, 1) that depends on the key only and is the same on every machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**47 - 1
