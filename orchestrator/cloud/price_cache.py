"""The cache of EC2's prices in `PIXEL_ORCH_HOME/cache/`: each question is asked once an hour.

One entry for each type and region: time of the answer, window, on-demand price, each zone's changes. Prices are stored
as text, so that they keep every digit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from orchestrator.market.price_series import PricePoint, price_of
from orchestrator.runs import bounded_json
from orchestrator.runs.checked import UNIX_TIMES, is_figure
from orchestrator.runs.files import read_bounded, write_atomically

FRESH_S = 3600.0  # a spot price changes a few times a day
FORMAT = 1
MOST_BYTES = 256 << 20  # two years of every type in every region are less


@dataclass(frozen=True)
class Entry:
    """The cached prices of one type in one region."""

    asked_at: float  # unix seconds
    start: float  # the window that was asked for
    end: float
    on_demand_usd_h: Decimal | None
    zones: Mapping[str, tuple[PricePoint, ...]] = field(default_factory=dict)  # empty: the region does not offer it

    def is_fresh(self, now: float, start: float) -> bool:
        """Return whether it still answers for the window from `start` on."""
        return 0 <= now - self.asked_at < FRESH_S and self.start <= start + FRESH_S


class PriceCache:
    """The file of one cloud's prices. A damaged file counts as empty.

    Args:
        home: PIXEL_ORCH_HOME.
        cloud: "aws" or "local".
    """

    def __init__(self, home: Path, cloud: str) -> None:
        self.path = home / "cache" / f"prices-{cloud}.json"
        self.entries: dict[tuple[str, str], Entry] = _read(self.path)

    def get(self, instance_type: str, region: str) -> Entry | None:
        """Return the entry, however old."""
        return self.entries.get((instance_type, region))

    def put(self, instance_type: str, region: str, entry: Entry) -> None:
        """Add an answer; `save` writes it."""
        self.entries[instance_type, region] = entry

    def save(self) -> None:
        """Write the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        raw = {"format": FORMAT, "entries": [_to_json(*key, entry) for key, entry in sorted(self.entries.items())]}
        write_atomically(self.path, json.dumps(raw, separators=(",", ":")).encode())


def _to_json(instance_type: str, region: str, entry: Entry) -> dict[str, Any]:
    return {
        "instance_type": instance_type,
        "region": region,
        "asked_at": entry.asked_at,
        "start": entry.start,
        "end": entry.end,
        "on_demand_usd_h": None if entry.on_demand_usd_h is None else str(entry.on_demand_usd_h),
        "zones": {zone: [[c.at, str(c.usd_h)] for c in changes] for zone, changes in entry.zones.items()},
    }


def _read(path: Path) -> dict[tuple[str, str], Entry]:
    try:
        raw = bounded_json.loads(read_bounded(path, MOST_BYTES), most_bytes=MOST_BYTES)
        if raw["format"] != FORMAT:
            return {}
        return {(one["instance_type"], one["region"]): _entry(one) for one in raw["entries"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return {}


def _moment(raw: Any) -> float:
    if not is_figure(raw, *UNIX_TIMES):
        raise ValueError("it is no time")
    return float(raw)


def _entry(raw: Mapping[str, Any]) -> Entry:
    price = raw["on_demand_usd_h"]
    return Entry(
        asked_at=_moment(raw["asked_at"]),
        start=_moment(raw["start"]),
        end=_moment(raw["end"]),
        on_demand_usd_h=None if price is None else price_of(price),
        zones={
            zone: tuple(PricePoint(_moment(at), price_of(usd_h)) for at, usd_h in changes)
            for zone, changes in raw["zones"].items()
        },
    )
