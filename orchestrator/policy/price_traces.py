"""Makes traces of price histories: prices over time, and capacity wherever the price is at or under on-demand.

A price history says nothing of capacity. What a simulation on it gives is the effect of prices alone, and is called so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

import numpy as np

from orchestrator.market.price_series import PricePoint
from orchestrator.policy.traces import Trace

GAP_S = 600.0
LEAST_POINTS = 2


def price_traces(
    instance_type: str, zones: Mapping[str, Sequence[PricePoint]], on_demand_usd_h: Decimal, start: float, end: float
) -> list[Trace]:
    """Return a trace for each zone that has prices.

    Args:
        instance_type: of all of them.
        zones: the changes of each zone, in the order of time.
        on_demand_usd_h: above zero.
        start, end: of the window, unix seconds.
    """
    moments = np.arange(start, end, GAP_S)
    if len(moments) < LEAST_POINTS:
        return []
    made = []
    for zone, changes in sorted(zones.items()):
        if not changes:
            continue
        at = np.array([change.at for change in changes])
        usd_h = np.array([float(change.usd_h) for change in changes])
        price = usd_h[np.maximum(np.searchsorted(at, moments, side="right") - 1, 0)] / float(on_demand_usd_h)
        made.append(Trace(f"{zone}_{instance_type}", GAP_S, np.array((price > 0) & (price <= 1.0), bool), price))
    return made
