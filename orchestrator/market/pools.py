"""Capacity pools and offers: plain data."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.runs.state import Attempt


@dataclass(frozen=True, order=True)
class Pool:
    """A capacity pool: one instance type in one zone."""

    instance_type: str
    zone: str
    region: str


@dataclass(frozen=True)
class Offer:
    """A pool and a market with its price in dollars per hour.

    `source` is the origin of the price, for people.
    """

    pool: Pool
    market: str
    price_usd_h: float
    source: str


def pool_of(attempt: Attempt) -> Pool:
    """Return the pool that gave an attempt its instance."""
    return Pool(attempt.instance_type, attempt.zone, attempt.region)
