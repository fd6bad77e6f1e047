"""`check`: credentials, region, image, network, quotas and permissions. Nothing is created."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestrator.cli.console import busy
from orchestrator.cloud.base import MANAGED_TAG, OWNER_TAG, Call, Cloud
from orchestrator.cloud.connect import EMBEDDED_REGION, open_cloud, regions_for
from orchestrator.errors import CloudError, PixelOrchError, SpecError
from orchestrator.formatting import WIDTH
from orchestrator.market import catalog
from orchestrator.market.pools import Offer
from orchestrator.market.spot_prices import chosen_types
from orchestrator.plan.preflight import QUOTA_CODES, launch_dry_run
from orchestrator.plan.requests import Plan
from orchestrator.plan.validators import check_cloud, check_instances
from orchestrator.runs.home import home_from_environment, make_home
from orchestrator.runs.spec import RunSpec

DEFAULT_TYPE = "g4dn.xlarge"  # checked if no type is given: the smallest current GPU type


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    ok: bool
    says: str
    is_needed: bool = True


def check(args: argparse.Namespace) -> int:
    """Do `pixel-orch check`: print what works, what is missing and what to do about it."""
    home, cloud_name = home_from_environment(), check_cloud(args.cloud)
    if args.gpu is None:
        instances = check_instances(args.instance or DEFAULT_TYPE)
    else:
        instances = chosen_types(args.instance, args.gpu)
    found = [
        _try_out("home", lambda: f"{make_home(home)} can be written"),
        _extra("training here", "torch", "train", "train, evaluate and sample work on this machine"),
        _extra("embedded cloud", "moto", "local", "--cloud local works", is_needed=cloud_name == "local"),
    ]
    if all(finding.ok for finding in found if finding.is_needed):
        with busy(cloud_name, if_interrupted="Interrupted; nothing was created."):
            found += _cloud_findings(args, cloud_name, instances)
    ok = all(finding.ok for finding in found if finding.is_needed)
    if args.output == "json":
        lines = [{"name": f.name, "ok": f.ok, "needed": f.is_needed, "says": f.says} for f in found]
        print(json.dumps({"cloud": cloud_name, "ok": ok, "checks": lines}))
    else:
        widest = max(len(finding.name) for finding in found)
        for finding in found:
            mark = "ok     " if finding.ok else "MISSING" if finding.is_needed else "-      "
            for line in finding_lines(f"{mark}  {finding.name:{widest}}  ", finding.says):
                print(line)
        print("ready" if ok else f"not ready for --cloud {cloud_name}")
    return 0 if ok else 1


def finding_lines(head: str, says: str) -> list[str]:
    """Wrap a finding at 80 columns; a command to copy is not broken."""
    indent = " " * len(head)
    return textwrap.wrap(head + says, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _cloud_findings(args: argparse.Namespace, cloud_name: str, instances: tuple[str, ...]) -> Iterable[Finding]:
    home, asked = home_from_environment(), tuple(args.region or ())
    if cloud_name == "aws":
        credentials = _try_out("AWS credentials", lambda: _who(asked, args.profile))
        region = _try_out("AWS region", lambda: ", ".join(_regions(asked, args.profile)))
        yield credentials
        yield region
        if not credentials.ok or not region.ok:
            return
    regions = regions_for(cloud_name, asked, args.profile)
    with open_cloud(cloud_name, regions, home, args.profile) as cloud:
        for name in regions:
            yield from _region_findings(cloud, cloud_name, name, instances, is_any=args.gpu is not None)


def _region_findings(
    cloud: Cloud, cloud_name: str, region: str, instances: tuple[str, ...], *, is_any: bool
) -> Iterable[Finding]:
    """Yield what one region lacks. `is_any`: one of the types suffices, since a GPU was asked for."""
    offered = _try_out(f"{region} types", lambda: _offered(cloud, region, instances, is_any=is_any))
    yield offered
    image = _try_out(f"{region} image", lambda: _image_words(cloud, region))
    yield image
    yield _try_out(f"{region} network", lambda: _network_words(cloud, region))
    for market in ("spot", "on-demand"):
        for family in sorted({catalog.find(name).quota_family for name in instances}):
            yield _quota(cloud, region, family, market, instances)
    for market in ("spot", "on-demand") if offered.ok and image.ok else ():
        yield _try_out(f"{region} {market}", partial(_permission, cloud, cloud_name, region, instances, market))
    yield _try_out(f"{region} groups", lambda: _groups(cloud, region, instances), is_needed=False)


def _who(asked: tuple[str, ...], profile: str | None) -> str:
    from orchestrator.cloud.aws import AwsCloud

    return AwsCloud(asked or (EMBEDDED_REGION,), profile=profile).who()


def _regions(asked: tuple[str, ...], profile: str | None) -> tuple[str, ...]:
    """Return the regions; a missing region is said as such, since the credentials have a line of their own."""
    return regions_for("aws", asked, profile, are_credentials_first=False)


def _offered(cloud: Cloud, region: str, instances: tuple[str, ...], *, is_any: bool) -> str:
    pools = [pool for pool in cloud.offerings(instances) if pool.region == region]
    missing = set(instances) - {pool.instance_type for pool in pools}
    if missing and (not is_any or not pools):
        raise SpecError(f"{', '.join(sorted(missing))} is not offered in this region; choose another --region or type")
    zones = sorted({pool.zone for pool in pools})
    lack = f"; not offered: {', '.join(name for name in instances if name in missing)}" if missing else ""
    return f"{', '.join(name for name in instances if name not in missing)} in {', '.join(zones)}{lack}"


def _image_words(cloud: Cloud, region: str) -> str:
    image = cloud.image(region)
    return f"{image.image_id} {image.name}, user {image.login_user} ({image.source})"


def _network_words(cloud: Cloud, region: str) -> str:
    network = cloud.network(region, ())
    return f"VPC {network.vpc_id}" if network.vpc_id else "the default VPC"


def _quota(cloud: Cloud, region: str, family: str, market: str, instances: tuple[str, ...]) -> Finding:
    """Check one quota. One market's may be 0, so that neither is required."""
    code = QUOTA_CODES.get((family, market))
    if code is None:
        return Finding(
            f"{region} quota", False, f"the code of {family} {market} is not known; see Service Quotas", False
        )
    needs = min(catalog.find(name).vcpus for name in instances if catalog.find(name).quota_family == family)
    name = f"{region} quota"
    try:
        limit = cloud.quota_vcpus(region, code)
    except CloudError as error:
        return Finding(name, False, str(error), is_needed=False)
    if limit is None:
        return Finding(name, False, f"{code} ({family} {market}) cannot be read; allow servicequotas:Get*", False)
    words = f"{code} ({family} {market}) {limit:.0f} vCPUs, {needs} needed"
    return Finding(name, limit >= needs, words, is_needed=False)


def _permission(cloud: Cloud, cloud_name: str, region: str, instances: tuple[str, ...], market: Any) -> str:
    """Send a launch as a DryRun."""
    spec = RunSpec(run="check", cloud=cloud_name, instances=instances, market=market, regions=(region,))  # type: ignore[arg-type]
    pool = next(pool for pool in cloud.offerings(instances) if pool.region == region)
    offer = Offer(pool, market, 0.0, "")
    plan = Plan(spec, (offer,), {region: cloud.image(region)}, 0.0, "check", {region: cloud.network(region, ())})
    cloud.dry_run(plan.security_group(region))
    cloud.dry_run(launch_dry_run(plan, offer))
    article = "an" if market == "on-demand" else "a"
    return f"{article} {market} launch is permitted (DryRun of RunInstances and CreateSecurityGroup)"


def _groups(cloud: Cloud, region: str, instances: tuple[str, ...]) -> str:
    """Send a CreatePlacementGroup as a DryRun: several instances of a run are put in one."""
    tags = [{"Key": key, "Value": value} for key, value in ((MANAGED_TAG, "true"), (OWNER_TAG, "check"))]
    specification = {"ResourceType": "placement-group", "Tags": tags}
    parameters = {"GroupName": "pixel-orch-check", "Strategy": "cluster", "TagSpecifications": [specification]}
    cloud.dry_run(Call("CreatePlacementGroup", region, parameters))
    found = cloud.cluster_types(instances)
    if not found:
        return f"placement groups are permitted; {', '.join(instances)} cannot be in one, or the policy does not tell"
    return f"placement groups are permitted, for {', '.join(name for name in instances if name in found)}"


def _try_out(name: str, ask: Callable[[], object], *, is_needed: bool = True) -> Finding:
    try:
        return Finding(name, True, str(ask()), is_needed)
    except PixelOrchError as error:
        return Finding(name, False, str(error), is_needed)


def _extra(name: str, package: str, extra: str, words: str, *, is_needed: bool = False) -> Finding:
    from importlib.util import find_spec

    if find_spec(package) is not None:
        return Finding(name, True, words, is_needed)
    return Finding(name, False, f"needs the extra {extra}: pip install 'pixel-orch[{extra}]'", is_needed)
