"""From a spec to a plan, and the plan for people to read: the candidates with their prices, the requests one by one."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from orchestrator import catalog, offers, sync, world
from orchestrator.clock import Clock, SystemClock
from orchestrator.cloud import Call, Cloud, Image, Network, Offer, Pool
from orchestrator.engine import Engine, Watcher
from orchestrator.errors import CloudError, SpecError
from orchestrator.plan import OWN_ADDRESS, Plan, cost_ceiling
from orchestrator.records import records_of, workload_of
from orchestrator.spec import RunSpec
from orchestrator.store import RunStore
from orchestrator.terminal import WIDTH, Screen, counted, price, table

MOST_OFFERS_SHOWN = 12


def make_plan(
    spec: RunSpec,
    cloud: Cloud,
    home_id: str,
    born_at: float | None = None,
    *,
    images_per_s: Mapping[str, float] | None = None,
) -> Plan:
    """Ask for offerings and prices, and return the plan.

    Args:
        spec: what is asked for.
        cloud: whom to ask.
        home_id: of this home, for the tags.
        born_at: when the run was created; None for one that is about to be.
        images_per_s: measured by instance type, see `measured_speeds`: then value counts, not price.

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
    regions = {offer.pool.region for offer in ranked}
    networks = {region: cloud.network(region, spec.subnets) for region in regions}
    ranked = [offer for offer in ranked if _is_reachable(offer, networks[offer.pool.region])]
    if not ranked:
        zones = ", ".join(zone for network in networks.values() for zone in (*network.subnets, *network.zones))
        raise SpecError(f"--subnet: {', '.join(spec.instances)} is not offered in the subnets' zones ({zones})")
    ranked = offers.ranked_by_value(ranked, images_per_s or {})
    images = {region: cloud.image(region, spec.ami) for region in regions}
    if not spec.is_embedded:
        _refuse_unsupported(spec, images.values())
    born_at = SystemClock().now() if born_at is None else born_at
    return Plan(spec, tuple(ranked), images, born_at, home_id, networks, images_per_s or {})


def _not_recorded(spec: RunSpec) -> SpecError:
    """Return why the embedded cloud does not have it: it offers what a price was recorded of."""
    return SpecError(
        f"--instance: the embedded cloud has no price of {', '.join(spec.instances)} in {', '.join(spec.regions)}; "
        f"it has one of every type in {world.EMBEDDED_REGION}"
    )


def _bounded(spec: RunSpec, ranked: Sequence[Offer], listed: Mapping[Pool, float]) -> RunSpec:
    """Return a spec whose budget can be kept: a spot hour may become as dear as on-demand, so that must be known.

    Where it is not recorded, the price list's becomes the request's MaxPrice: what EC2 takes for it anyway.

    Raises:
        SpecError: the price list does not say either.
    """
    unknown = [offer.pool for offer in ranked if offers.recorded_usd_h(offer.pool) is None]
    if spec.limits.budget_usd is None or spec.market != "spot" or spec.max_price_usd_h is not None or not unknown:
        return spec
    caps = [offers.recorded_usd_h(offer.pool) or listed.get(offer.pool) for offer in ranked]
    if not all(caps):
        raise SpecError(
            f"--budget: how dear a spot hour of {unknown[0].instance_type} may become in {unknown[0].region} is "
            "neither recorded nor to be had of the price list; add --max-price USD, and the budget will be kept"
        )
    return spec.model_copy(update={"max_price_usd_h": Decimal(str(max(cap for cap in caps if cap)))})


def measured_speeds(home: Path, spec: RunSpec) -> dict[str, float]:
    """Return images/s by instance type, from runs of the same workload on AWS; a choice of one type needs none.

    The embedded cloud's throughput is this machine's and says nothing about any type.
    """
    if spec.is_embedded or len(spec.instances) < 2:
        return {}
    wanted, found = workload_of(spec).name, {}
    for record in records_of(RunStore.all(home), SystemClock().now()):
        if record.row.workload == wanted and record.row.cloud != world.EMBEDDED_TITLE:
            for attempt in record.row.attempts:
                if attempt.images_per_s:
                    found[attempt.instance_type] = attempt.images_per_s  # the latest counts
    return found


def _is_reachable(offer: Offer, network: Network) -> bool:
    if network.subnets:
        return offer.pool.zone in network.subnets
    return not network.zones or offer.pool.zone in network.zones


def refuse_retired(spec: RunSpec) -> None:
    """Raise SpecError for a type that AWS no longer rents, with what to take instead."""
    for name in spec.instances:
        known = catalog.find(name)
        if known.is_retired:
            raise SpecError(
                f"--instance: {name} ({known.gpu}) was retired by AWS ({known.retired}); it is still in the "
                f"price list and cannot be rented. Take {known.replacement}, or see it work on --cloud local"
            )


def _refuse_unsupported(spec: RunSpec, images: Iterable[Image]) -> None:
    for image in images:
        for name in spec.instances:
            family = name.partition(".")[0]
            if image.families and family not in image.families:
                raise SpecError(
                    f"--instance: the driver of {image.image_id} ({image.name}) does not support {family}; it does "
                    f"{', '.join(image.families)}. Name an image that does with --ami"
                )


def _refuse_without_kernels(spec: RunSpec) -> None:
    if spec.trainer is None or spec.allow_cpu:
        return
    for name in spec.instances:
        known = catalog.find(name)
        if not world.torch_has_kernels(known.compute_capability):
            raise SpecError(
                f"--instance: no torch build has kernels for {name}'s {known.gpu} (compute capability "
                f"{known.compute_capability}); choose another type, or insist on its CPU with --allow-cpu"
            )


def _offer_rows(ranked: Sequence[Offer]) -> str:
    rows = []
    for place, offer in enumerate(ranked[:MOST_OFFERS_SHOWN], 1):
        known = catalog.find(offer.pool.instance_type)
        gpu = f"{known.gpus}x {known.gpu}" if known.gpus > 1 else known.gpu
        rows.append([str(place), known.name, gpu, offer.pool.zone, price(offer.price_usd_h), offer.source])
    rate = f"{ranked[0].market.upper()} $/H"  # a launch is of one market
    return table(["#", "TYPE", "GPU", "ZONE", rate, "PRICE FROM"], rows, right=f"# {rate}")


def agreed(plan: Plan, screen: Screen) -> bool:
    """Show what is about to be rented and ask; return the answer."""
    low, high = cost_ceiling(plan.offers)
    screen.plain(_offer_rows(plan.offers))
    usd_h = f"${price(low)}" if low == high else f"${price(low)} to ${price(high)}"
    by = "by measured dollars per image, " if plan.images_per_s else ""
    screen.plain(_filled(f"{plan.spec.run}: {usd_h} an hour, {by}tried in this order until one has capacity."))
    for line in unused_gpus(plan):
        screen.plain(line)
    if plan.spec.is_embedded:
        screen.plain("Embedded cloud: the prices are recorded ones; nothing is billed.")
        for known in map(catalog.find, plan.spec.instances):
            if known.is_retired:
                gone = f"{known.name} is history on AWS: retired {known.retired}, {known.replacement} takes its place."
                screen.plain(_filled(gone))
    try:
        answer = input("Launch? [Y/n] ").strip().lower()
    except (EOFError, KeyboardInterrupt):
        return False
    return answer in ("", "y", "yes")


def tree_json(tree: sync.Tree) -> dict[str, Any]:
    """Return what would be sent."""
    return {"folder": str(tree.folder), "files": list(tree.files), "bytes": tree.size_bytes()}


def tree_text(tree: sync.Tree) -> str:
    """Return the same for people, a file a line."""
    size = f"{counted(len(tree.files), 'file')}, {tree.size_bytes() / 1e6:.2f} MB from {tree.folder}; nothing was sent"
    return "\n".join([*tree.files, size])


@dataclass(frozen=True)
class Draft:
    """What a launch would do; nothing of it is done."""

    plan: Plan
    title: str  # of the cloud
    cidr: str  # our address as the world sees it
    tree: sync.Tree

    def as_json(self) -> dict[str, Any]:
        """Return it for programs; `requests` are what would be sent, in that order."""
        low, high = cost_ceiling(self.plan.offers)
        return {
            "run": self.plan.spec.run,
            "cloud": self.title,
            "dry_run": True,
            "requests": [_call_json(call) for call in self.plan.calls(self.cidr)],
            "offers": [_offer_json(offer) for offer in self.plan.offers],
            "sync": {"files": len(self.tree.files), "bytes": self.tree.size_bytes()},
            "estimated_usd_h": [low, high],
            "notes": unused_gpus(self.plan),
        }

    def as_text(self) -> str:
        """Return it for people, within 80 columns but for the requests."""
        spec, tree = self.plan.spec, self.tree
        low, high = cost_ceiling(self.plan.offers)
        lines = [f"Plan for {spec.run} on {self.title}; nothing is created.\n", _offer_rows(self.plan.offers)]
        order = "Requests, in this order; a RunInstances only if the one before it found no capacity:"
        lines += ["", _filled(order)]
        for index, call in enumerate(self.plan.calls(self.cidr), 1):
            lines.append(f"{index}. {call.operation} ({call.region})")
            lines += [f" {line}" for line in json.dumps(dict(call.parameters), indent=2).splitlines()[1:-1]]
        size = f"{counted(len(tree.files), 'file')} ({tree.size_bytes() / 1e6:.2f} MB)"
        texts = [] if spec.is_embedded else [
            "Where the image has no torch it is installed there: 2 to 3 GB, minutes that are billed."
        ]  # fmt: skip
        if spec.bucket:
            place = f"s3://{spec.bucket}/"
            texts.append(f"Checkpoints also go to {place}, by the role of the instance profile (pixel-orch setup).")
        texts.append(f"Then: sync {size}, train, pull checkpoints, terminate, delete the security group.")
        texts.append(
            f"Estimate: ${price(low)} to ${price(high)} an hour; the time it takes is known after a first run (report)."
        )
        for text in (*texts, *unused_gpus(self.plan)):
            lines += ["", _filled(text)]
        return "\n".join(lines)


def draft(spec: RunSpec, home: Path, cloud_home: Path, tree: sync.Tree) -> Draft:
    """Ask for prices, image and address, and return what a launch would do.

    The embedded cloud that answers for the prices lives in a folder of its own, and goes with it.
    """
    with world.cloud_of(spec, cloud_home) as cloud:
        plan = make_plan(spec, cloud, world.home_id(home, write=False))
        cidr = OWN_ADDRESS
        if spec.ssh_cidr is None:
            with suppress(CloudError):  # no way to the internet but to AWS: the placeholder says what will be asked for
                cidr = cloud.caller_cidr()
        return Draft(plan, cloud.title, cidr, tree)


def unused_gpus(plan: Plan) -> list[str]:
    """Return a line that names the machines of which the bundled trainer leaves GPUs idle, if there are any."""
    if plan.spec.trainer is None:
        return []
    names = dict.fromkeys(offer.pool.instance_type for offer in plan.offers)
    several = [known for known in map(catalog.find, names) if known.gpus > 1]
    if not several:
        return []
    told = ", ".join(f"{known.name} has {known.gpus}" for known in several)
    return [f"The bundled trainer uses one GPU: {told}, and all of them are billed."]


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _call_json(call: Call) -> dict[str, Any]:
    return {"operation": call.operation, "region": call.region, "parameters": dict(call.parameters)}


def _offer_json(offer: Offer) -> dict[str, Any]:
    pool: Pool = offer.pool
    return {
        "instance_type": pool.instance_type,
        "zone": pool.zone,
        "region": pool.region,
        "market": offer.market,
        "price_usd_h": offer.price_usd_h,
        "price_from": offer.source,
    }


# -- the engine of a plan


def engine_from(
    store: RunStore, plan: Plan, tree: sync.Tree, cloud: Cloud, *, clock: Clock, watchers: tuple[Watcher, ...]
) -> Engine:
    """Return the engine that leads a run by this plan; the caller holds the run's lock."""
    from orchestrator.ssh import make_key_pair

    return Engine(
        store=store,
        plan=plan,
        job=world.job_for(plan.spec, tree),
        cloud=cloud,
        connect=world.connector(store, plan.spec),
        make_keys=make_key_pair,
        clock=clock,
        watchers=watchers,
        refresh=lambda: make_plan(plan.spec, cloud, plan.home_id, plan.born_at, images_per_s=plan.images_per_s).offers,
        second_home=world.second_home(plan.spec, store.home),
    )


def engine_for(
    store: RunStore, spec: RunSpec, cloud: Cloud, home: Path, *, clock: Clock, watchers: tuple[Watcher, ...]
) -> Engine:
    """Return the engine for a run that exists, with a plan at the prices of now."""
    speeds = measured_speeds(home, spec)
    plan = make_plan(spec, cloud, world.home_id(home), born_at=store.state().created_at, images_per_s=speeds)
    return engine_from(store, plan, world.tree_for(spec), cloud, clock=clock, watchers=watchers)
