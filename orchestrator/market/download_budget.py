"""How many bytes may be downloaded while a machine runs, so that data out stays a small part of its bill; pure.

AWS bills data out to the internet per GB (https://aws.amazon.com/ec2/pricing/on-demand/, "Data Transfer").
"""

from __future__ import annotations

from decimal import Decimal

from orchestrator.market import catalog
from orchestrator.market.billing import GB, LEAST_BILLED_S, bill
from orchestrator.runs.state import Attempt

SHARE = Decimal("0.1")
"""Of what the machine has cost so far, without data out."""


def affordable_bytes(attempt: Attempt, now: float, share: Decimal = SHARE) -> float:
    """Return how many more bytes may come from a machine by `now` (unix seconds); infinite where the price is unknown.

    The first minute counts as billed from the beginning: AWS bills 60 s at least.
    """
    usd_gb = data_out_usd_gb(attempt.region)
    if not usd_gb:
        return float("inf")
    billed = bill(attempt, max(now, attempt.started_at + float(LEAST_BILLED_S)))
    machine_usd = billed.usd - billed.data_out_usd
    return max(0.0, float(share * machine_usd / usd_gb * GB) - attempt.pulled_bytes)


def hourly_bytes(region: str, price_usd_h: float, share: Decimal = SHARE) -> float:
    """Return how many bytes an hour may be downloaded at a price; infinite where that of data out is unknown."""
    usd_gb = data_out_usd_gb(region)
    return float(share * Decimal(str(price_usd_h)) / usd_gb * GB) if usd_gb else float("inf")


def data_out_usd_gb(region: str) -> Decimal | None:
    """Return the list price of data out, None where it is unknown."""
    found = catalog.charges(region)
    return None if found is None else found.data_out_usd_gb
