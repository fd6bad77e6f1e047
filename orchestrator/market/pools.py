"""Capacity pools, offers, and prices: plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Pool:
    """A capacity pool: what EC2 has, or has not, at one moment."""

    instance_type: str
    zone: str
    region: str


@dataclass(frozen=True)
class Offer:
    """A pool and a market with its price in dollars per hour.

    `source` says whose price: "spot history" or "recorded".
    """

    pool: Pool
    market: str
    price_usd_h: float
    source: str


@dataclass(frozen=True)
class PricePoint:
    """The spot price of a pool from `at` (unix seconds) on."""

    at: float
    price_usd_h: float
