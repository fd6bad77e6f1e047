"""From a spec to a plan: which pools are offered, at what price, in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from orchestrator.clock import SystemClock
from orchestrator.cloud.base import Cloud, Image, Network
from orchestrator.cloud.connect import EMBEDDED_REGION
from orchestrator.errors import SpecError
from orchestrator.market import catalog, offers
from orchestrator.market.pools import Offer, Pool
from orchestrator.plan.job import torch_has_kernels
from orchestrator.plan.requests import Plan
from orchestrator.report.predictions import is_of_one_machine
from orchestrator.report.records import records_of, workload_of
from orchestrator.runs.spec import EMBEDDED_TITLE, RunSpec
from orchestrator.runs.store import RunStore


def make_plan(
    spec: RunSpec,
    cloud: Cloud,
    home_id: str,
    born_at: float | None = None,
    *,
    images_per_s: Mapping[str, float] | None = None,
) -> Plan:
    """Ask the cloud for offerings and prices, and return the plan.

    Args:
        spec: what is asked for.
        cloud: where to ask.
        home_id: of this home, for the tags.
        born_at: when the run was created; None for a new run.
        images_per_s: measured by instance type, see `measured_speeds`: the offers are then ranked by dollars per image.

    Raises:
        SpecError: there is nothing to offer; the message says why.
    """
    if not spec.is_embedded:
        refuse_retired(spec)
        _refuse_without_kernels(spec)
    pools = cloud.offerings(spec.instances)
    if not pools and spec.is_embedded:
        raise _not_recorded(spec)
    unknown = [pool for pool in pools if offers.recorded_usd_h(pool) is None]
    listed = cloud.on_demand_prices(unknown) if unknown else {}
    if spec.market == "spot":
        prices = cloud.spot_prices(pools)
        ranked = offers.spot_offers(pools, prices, spec.max_price_usd_h, listed)
    else:
        prices = {}
        ranked = offers.on_demand_offers(pools, listed)
    on_demand = offers.on_demand_offers(pools, listed) if spec.deadline is not None else []
    if born_at is None:
        spec = _bounded(spec, ranked, listed)
    if not ranked:
        raise offers.explain_none(
            instance_types=spec.instances,
            market=spec.market,
            max_price_usd_h=spec.max_price_usd_h,
            regions=spec.regions,
            pools=pools,
            prices=prices,
        )
    regions = {offer.pool.region for offer in (*ranked, *on_demand)}
    networks = {region: cloud.network(region, spec.subnets) for region in regions}
    ranked = [offer for offer in ranked if _is_reachable(offer, networks[offer.pool.region])]
    if not ranked:
        zones = ", ".join(zone for network in networks.values() for zone in (*network.subnets, *network.zones))
        raise SpecError(f"--subnet: {', '.join(spec.instances)} is not offered in the subnets' zones ({zones})")
    ranked = offers.ranked_by_value(ranked, images_per_s or {})
    on_demand = _beside(spec, on_demand, networks, images_per_s or {})
    images = {region: cloud.image(region, spec.ami) for region in regions}
    if not spec.is_embedded:
        _refuse_unsupported(spec, images.values())
    born_at = SystemClock().now() if born_at is None else born_at
    placed = frozenset(cloud.cluster_types(spec.instances)) if spec.is_group else frozenset()
    return Plan(spec, tuple(ranked), images, born_at, home_id, networks, images_per_s or {}, tuple(on_demand), placed)


def _beside(
    spec: RunSpec, on_demand: Sequence[Offer], networks: Mapping[str, Network], images_per_s: Mapping[str, float]
) -> list[Offer]:
    """Return the on-demand offers of a run with a deadline, in the order in which they are tried.

    Raises:
        SpecError: there is a deadline, and no on-demand offer.
    """
    reachable = [offer for offer in on_demand if _is_reachable(offer, networks[offer.pool.region])]
    if spec.deadline is not None and not reachable:
        raise SpecError(
            f"--deadline: no on-demand price of {', '.join(spec.instances)} is known; a deadline needs both markets"
        )
    return offers.ranked_by_value(reachable, images_per_s)


def _not_recorded(spec: RunSpec) -> SpecError:
    """Return the error for a type without a recorded price in the regions asked for."""
    what = f"the embedded cloud has no price of {', '.join(spec.instances)} in {', '.join(spec.regions)}"
    if EMBEDDED_REGION in spec.regions:
        return SpecError(f"--instance: {what}: no spot price of it is recorded; choose another type")
    return SpecError(f"--instance: {what}; use --region {EMBEDDED_REGION}, which has the most types")


def _bounded(spec: RunSpec, ranked: Sequence[Offer], listed: Mapping[Pool, float]) -> RunSpec:
    """Return a spec whose budget can be kept: the highest price of a spot hour must be known.

    It is the on-demand price. Where that is not recorded, the one of the price list becomes the request's MaxPrice,
    which is EC2's own default.

    Raises:
        SpecError: the price list has none either.
    """
    unknown = [offer.pool for offer in ranked if offers.recorded_usd_h(offer.pool) is None]
    if spec.limits.budget_usd is None or spec.market != "spot" or spec.max_price_usd_h is not None or not unknown:
        return spec
    caps = [offers.recorded_usd_h(offer.pool) or listed.get(offer.pool) for offer in ranked]
    if not all(caps):
        raise SpecError(
            f"--budget: no on-demand price of {unknown[0].instance_type} in {unknown[0].region} is known, so a spot "
            "hour has no highest price; add --max-price USD"
        )
    return spec.model_copy(update={"max_price_usd_h": Decimal(str(max(cap for cap in caps if cap)))})


def measured_speeds(home: Path, spec: RunSpec) -> dict[str, float]:
    """Return images/s by instance type, from runs of the same workload on AWS; one type alone needs none.

    Runs of the embedded cloud do not count: their throughput is this machine's. Nor do those of several machines.
    """
    if spec.is_embedded or len(spec.instances) < 2:
        return {}
    wanted, found = workload_of(spec).name, {}
    for record in records_of(RunStore.folders(home), SystemClock().now()):
        if record.row.workload == wanted and record.row.cloud != EMBEDDED_TITLE:
            for attempt in record.row.attempts:
                if attempt.images_per_s and is_of_one_machine(attempt):
                    found[attempt.instance_type] = attempt.images_per_s  # the latest counts
    return found


def _is_reachable(offer: Offer, network: Network) -> bool:
    if network.subnets:
        return offer.pool.zone in network.subnets
    return not network.zones or offer.pool.zone in network.zones


def refuse_retired(spec: RunSpec) -> None:
    """Raise SpecError for a type that AWS has retired; it names the replacement."""
    for name in spec.instances:
        known = catalog.find(name)
        if known.is_retired:
            raise SpecError(
                f"--instance: {name} ({known.gpu}) was retired by AWS ({known.retired}) and cannot "
                f"be rented. Use {known.replacement}, or --cloud local"
            )


def _refuse_unsupported(spec: RunSpec, images: Iterable[Image]) -> None:
    for image in images:
        for name in spec.instances:
            family = name.partition(".")[0]
            if image.families and family not in image.families:
                raise SpecError(
                    f"--instance: the driver of {image.image_id} ({image.name}) supports {', '.join(image.families)}, "
                    f"not {family}. Give another image with --ami"
                )


def _refuse_without_kernels(spec: RunSpec) -> None:
    if spec.trainer is None or spec.allow_cpu:
        return
    for name in spec.instances:
        known = catalog.find(name)
        if not torch_has_kernels(known.compute_capability):
            raise SpecError(
                f"--instance: no torch build has kernels for {name}'s {known.gpu} (compute capability "
                f"{known.compute_capability}); choose another type, or train on its CPU with --allow-cpu"
            )
