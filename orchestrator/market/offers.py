"""Prices and offerings in, ranked offers out; which capacity pool is tried next; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from orchestrator.errors import Scope, SpecError
from orchestrator.market import catalog
from orchestrator.market.pools import Offer, Pool
from orchestrator.market.price_series import PricePoint


def is_market_signal(price_usd_h: float, on_demand_usd_h: float | None) -> bool:
    """Return whether a spot price is a market price.

    A price that equals on-demand, or exactly a tenth of it, is a placeholder of public catalogs. It must not rank as
    cheapest.
    """
    if price_usd_h <= 0:
        return False
    if on_demand_usd_h is None:
        return True
    return not any(abs(price_usd_h - mark) < 1e-9 for mark in (on_demand_usd_h, on_demand_usd_h / 10))


NO_LIST: Mapping[Pool, float] = {}  # no prices of the price list


def recorded_usd_h(pool: Pool) -> float | None:
    """Return the recorded on-demand price an hour; None where none is recorded."""
    return catalog.find(pool.instance_type).on_demand_usd_h.get(pool.region)


def spot_offers(
    pools: Sequence[Pool],
    prices: Mapping[Pool, PricePoint],
    max_price_usd_h: Decimal | None,
    listed: Mapping[Pool, float] = NO_LIST,
) -> list[Offer]:
    """Return the pools with a price within the cap, cheapest first.

    Pools without a real price come last, at on-demand. `listed`: as in `on_demand_offers`.
    """
    priced, doubtful = [], []
    for pool in pools:
        on_demand = _on_demand(pool, listed)
        point = prices.get(pool)
        if point is not None and is_market_signal(float(point.usd_h), on_demand):
            priced.append(Offer(pool, "spot", float(point.usd_h), "spot history"))
        elif on_demand is not None:  # EC2 caps a spot request at the on-demand price by default
            doubtful.append(Offer(pool, "spot", on_demand, "none; on-demand caps it"))
    ranked = ranked_by_price(priced) + ranked_by_price(doubtful)
    return [offer for offer in ranked if max_price_usd_h is None or Decimal(str(offer.price_usd_h)) <= max_price_usd_h]


def on_demand_offers(pools: Sequence[Pool], listed: Mapping[Pool, float] = NO_LIST) -> list[Offer]:
    """Return the pools whose on-demand price is known, cheapest first.

    Args:
        pools: the pools that offer a type.
        listed: prices of AWS's price list for pools without a recorded one.
    """
    offers = []
    for pool in pools:
        price = _on_demand(pool, listed)
        if price is not None:
            source = "price list, now" if recorded_usd_h(pool) is None else f"recorded {catalog.recorded_on()}"
            offers.append(Offer(pool, "on-demand", price, source))
    return ranked_by_price(offers)


def _on_demand(pool: Pool, listed: Mapping[Pool, float]) -> float | None:
    recorded = recorded_usd_h(pool)
    return listed.get(pool) if recorded is None else recorded


def ranked_by_price(offers: Iterable[Offer]) -> list[Offer]:
    """Return the offers, cheapest first; equal ones by type and zone, so that a plan is repeatable."""
    return sorted(offers, key=lambda offer: (offer.price_usd_h, offer.pool))


def ranked_by_value(offers: Sequence[Offer], images_per_s: Mapping[str, float]) -> list[Offer]:
    """Return the offers by dollars per image if every type among them is measured, else unchanged.

    Args:
        offers: ranked by price.
        images_per_s: by instance type, measured with the same workload.
    """
    if not all(images_per_s.get(offer.pool.instance_type, 0) > 0 for offer in offers):
        return list(offers)  # measured and guessed speeds cannot be compared
    return sorted(offers, key=lambda o: (o.price_usd_h / images_per_s[o.pool.instance_type], o.pool))


def next_round(offers: Sequence[Offer], lost: Iterable[Pool]) -> list[Offer]:
    """Return the order in which to try after a loss.

    Lost pools come last, the latest at the end.
    """
    order = {pool: index for index, pool in enumerate(lost)}
    return sorted(offers, key=lambda offer: order.get(offer.pool, -1))


def rules_out(scope: Scope, refused: Offer, other: Offer) -> bool:
    """Return whether a refusal of that scope of one offer also holds for the other."""
    a, b = refused.pool, other.pool
    same_region = a.region == b.region
    if scope == "pool":
        return a == b and refused.market == other.market
    if scope == "zone":
        return same_region and a.zone == b.zone
    if scope == "quota":
        return same_region and refused.market == other.market and _family(refused) == _family(other)
    return same_region if scope == "region" else scope in ("account", "request")


def _family(offer: Offer) -> str:
    return catalog.find(offer.pool.instance_type).quota_family


def explain_none(
    *,
    instance_types: Sequence[str],
    market: str,
    max_price_usd_h: Decimal | None,
    regions: Sequence[str],
    pools: Sequence[Pool],
    prices: Mapping[Pool, PricePoint],
) -> SpecError:
    """Return the error for an empty list of offers: it names the condition that excludes all of them."""
    types, where = ", ".join(instance_types), ", ".join(regions)
    if not pools:
        return SpecError(f"--instance: {types} is not offered in {where}; choose another --region or type")
    if max_price_usd_h is not None and prices:
        lowest = min(point.usd_h for point in prices.values())
        return SpecError(
            f"--max-price: {max_price_usd_h} $/h is below every {market} price of {types} in {where}; "
            f"the lowest is {lowest:.4f}"
        )
    return SpecError(f"--instance: no {market} price is known for {types} in {where}; choose another --region or type")
