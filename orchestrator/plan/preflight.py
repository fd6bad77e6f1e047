"""Checks quotas and permissions before a launch, so that a request that must fail is not sent."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from orchestrator.cloud.base import Call, Cloud
from orchestrator.errors import CloudError, QuotaError
from orchestrator.market import catalog
from orchestrator.market.pools import Offer
from orchestrator.plan.requests import Plan, user_data

# Service Quotas, "Amazon EC2": running vCPUs by family. Every GPU family of a new account starts at 0
# (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-spot-limits.html).
QUOTA_CODES = {
    ("G", "spot"): "L-3819A6DF",
    ("P", "spot"): "L-7212CCBC",
    ("P5", "spot"): "L-C4BD4855",
    ("G", "on-demand"): "L-DB2E81BA",
    ("P", "on-demand"): "L-417A185B",
    ("P5", "on-demand"): "L-417A185B",
    ("P6", "on-demand"): "L-417A185B",  # the code of its spot quota is not known: EC2 decides
}


def preflight(plan: Plan, cloud: Cloud) -> Plan:
    """Return the plan without the offers that the quotas rule out.

    Raises:
        QuotaError: every quota is too small for one instance; the message names code and value.
        AccessError: the IAM policy forbids a request of the launch.
        CloudError: EC2 would refuse the request as it is.
    """
    first = plan.offers[0]
    dry_runs = [plan.security_group(first.pool.region), launch_dry_run(plan, first)]
    keys = sorted({(o.pool.region, catalog.find(o.pool.instance_type).quota_family, o.market) for o in plan.offers})
    with ThreadPoolExecutor(max_workers=4) as pool:
        limits = pool.map(lambda key: _limit(cloud, *key), keys)
        answers = pool.map(cloud.dry_run, dry_runs)
        limit_vcpus = dict(zip(keys, limits, strict=True))
        list(answers)
    nodes = plan.spec.group.min_nodes
    fitting = tuple(offer for offer in plan.offers if _fits(offer, limit_vcpus, nodes))
    if not fitting:
        raise _no_quota(plan.offers, limit_vcpus, nodes)
    return replace(plan, offers=fitting)


def launch_dry_run(plan: Plan, offer: Offer) -> Call:
    """Return the RunInstances of an offer without its security group, which does not exist yet: for EC2's DryRun."""
    call = plan.launch(offer, 1, 1, "", user_data("", "", "", 1))
    parameters = {k: v for k, v in call.parameters.items() if k not in ("SecurityGroupIds", "ClientToken", "UserData")}
    if "NetworkInterfaces" in parameters:
        parameters["NetworkInterfaces"] = [{**parameters["NetworkInterfaces"][0], "Groups": []}]
    return Call(call.operation, call.region, parameters)


Key = tuple[str, str, str]  # region, quota family, market


def _limit(cloud: Cloud, region: str, family: str, market: str) -> float | None:
    """Return the quota in vCPUs; None if it cannot be read; EC2 then decides."""
    code = QUOTA_CODES.get((family, market))
    try:
        return cloud.quota_vcpus(region, code) if code else None
    except CloudError:
        return None


def _fits(offer: Offer, limit_vcpus: dict[Key, float | None], nodes: int) -> bool:
    known = catalog.find(offer.pool.instance_type)
    limit = limit_vcpus[offer.pool.region, known.quota_family, offer.market]
    return limit is None or limit >= nodes * known.vcpus


def _no_quota(offers: Sequence[Offer], limit_vcpus: dict[Key, float | None], nodes: int) -> QuotaError:
    needs = nodes * min(catalog.find(offer.pool.instance_type).vcpus for offer in offers)
    told = ", ".join(
        f"{QUOTA_CODES[family, market]} ({family} {market}) in {region} is {limit or 0:.0f}"
        for (region, family, market), limit in limit_vcpus.items()
    )
    region, family, market = next(iter(limit_vcpus))
    how = (
        f"aws service-quotas request-service-quota-increase --region {region} --service-code ec2 "
        f"--quota-code {QUOTA_CODES[family, market]} --desired-value {needs}"
    )
    return QuotaError(
        f"the quota in vCPUs is too small: {told}; {needs} are needed. Request an increase: {how}", code="Quota"
    )
