"""DescribeSpotPriceHistory: the request, and the price changes in its answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from orchestrator.market.pools import Pool
from orchestrator.market.price_series import PricePoint, price_of

PRODUCT = "Linux/UNIX"


def history_parameters(types: Sequence[str], start: float, end: float, zone: str | None = None) -> dict[str, Any]:
    """Return the parameters of the request for a window (unix seconds).

    EC2 answers with the changes in the window and the last one before it.
    """
    parameters: dict[str, Any] = {
        "InstanceTypes": list(types),
        "ProductDescriptions": [PRODUCT],
        "StartTime": datetime.fromtimestamp(start, tz=timezone.utc),
        "EndTime": datetime.fromtimestamp(end, tz=timezone.utc),
    }
    return {**parameters, "AvailabilityZone": zone} if zone else parameters


def price_changes(raw_changes: Iterable[Mapping[str, Any]], region: str) -> Iterator[tuple[Pool, PricePoint]]:
    """Yield each change of the answer with its pool, in the order of the answer: newest first, and not strictly so.

    A change whose price is none is passed over.
    """
    for raw in raw_changes:
        pool = Pool(raw["InstanceType"], raw["AvailabilityZone"], region)
        with suppress(ValueError):
            yield pool, PricePoint(raw["Timestamp"].timestamp(), price_of(raw["SpotPrice"]))
