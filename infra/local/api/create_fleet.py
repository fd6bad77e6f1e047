"""Launch templates and CreateFleet of type `instant`: many pools in one request, and an error for each refusal.

EC2 API reference: CreateFleet, "EC2 Fleet and Spot Fleet requests: allocation strategies". Each override is a pool; the
template's data merged with the override is a RunInstances request for `Launcher`. AWS does not publish how it weighs
capacity against price. Here the pools with the most free capacity come first (a pool without a limit has infinite
capacity), and of those the cheapest, as the documentation describes price-capacity-optimized.
"""

import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from infra.local.api.run_instances import Launcher, Moto
from infra.local.aws import spot_market
from infra.local.aws.wire import ApiError, Form, Reply, Xml, xml_reply
from infra.local.cloud.cloud import Cloud
from infra.local.cloud.faults import Call, Fault

_DATA = "LaunchTemplateData."
_IN_ERRORS = {
    "InsufficientInstanceCapacity",
    "InsufficientFreeAddressesInSubnet",
    "InstanceLimitExceeded",
    "InvalidAMIID.NotFound",
    "InvalidFleetConfiguration",
    "InvalidParameterValue",
    "InvalidSubnetID.NotFound",
    "MaxSpotInstanceCountExceeded",
    "ReservationCapacityExceeded",
    "SpotMaxPriceTooLow",
    "UnauthorizedOperation",
    "UnfulfillableCapacity",
    "VcpuLimitExceeded",
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
}
"""Errors that refuse one pool; any other error (throttling, a server error) refuses the whole request."""
_STRATEGIES = {
    "lowest-price",
    "diversified",
    "capacity-optimized",
    "capacity-optimized-prioritized",
    "price-capacity-optimized",
}


@dataclass
class Template:
    """A launch template: the parameters of each version, without their prefix."""

    template_id: str
    name: str
    versions: list[dict[str, str]] = field(default_factory=list)

    def version(self, text: str | None) -> tuple[int, dict[str, str]]:
        """Return (number, parameters) of "3", "$Latest" or "$Default". Raises ApiError for an unknown version."""
        if text is None or text in ("$Default", "$Latest"):
            number = 1 if text != "$Latest" else len(self.versions)
        else:
            number = int(text) if text.isdigit() else 0
        if not 1 <= number <= len(self.versions):
            raise ApiError(
                "InvalidLaunchTemplateId.VersionNotFound",
                f"Could not find the specified version {text} for the launch template with ID {self.template_id}.",
            )
        return number, self.versions[number - 1]


@dataclass(frozen=True)
class PoolWanted:
    """One override of a fleet: a pool, and the request for an instance from it."""

    template: dict[str, Xml]
    override: dict[str, str]
    form: Form
    instance_type: str
    zone: str | None

    def described(self) -> dict[str, Xml]:
        """Return LaunchTemplateAndOverrides for the answer."""
        names = {"InstanceType": "instanceType", "AvailabilityZone": "availabilityZone", "MaxPrice": "maxPrice"}
        names |= {"SubnetId": "subnetId", "Priority": "priority", "ImageId": "imageId"}
        overrides: dict[str, Xml] = {ours: self.override.get(theirs) for theirs, ours in names.items()}
        return {"launchTemplateSpecification": self.template, "overrides": overrides}


class Fleets:
    """The launch templates and instant fleets of one embedded cloud. Call with the cloud's lock held."""

    def __init__(self, cloud: Cloud, launcher: Launcher) -> None:
        self._cloud = cloud
        self._launcher = launcher
        self._templates: dict[tuple[str, str], Template] = {}
        self._answers: dict[tuple[str, str], tuple[dict[str, str], Reply]] = {}

    # --- templates ---------------------------------------------------------------------------------------------------

    def create_template(self, region: str, form: Form, moto: Moto) -> Reply:
        """CreateLaunchTemplate or CreateLaunchTemplateVersion: moto keeps the record, this class the parameters."""
        reply = moto(form)
        found = re.search(r"<launchTemplateId>(lt-\w+)</launchTemplateId>", reply.body.decode())
        name = re.search(r"<launchTemplateName>([^<]+)</launchTemplateName>", reply.body.decode())
        if reply.status == 200 and found and name:
            template = self._templates.setdefault((region, found[1]), Template(found[1], name[1]))
            data = {key.removeprefix(_DATA): value for key, value in form.values.items() if key.startswith(_DATA)}
            template.versions.append(data)
        return reply

    def delete_template(self, region: str, form: Form, moto: Moto) -> Reply:
        """DeleteLaunchTemplate."""
        reply = moto(form)
        if reply.status == 200:
            with_id, name = form.get("LaunchTemplateId"), form.get("LaunchTemplateName")
            for key, template in list(self._templates.items()):
                if key[0] == region and (template.template_id == with_id or template.name == name):
                    del self._templates[key]
        return reply

    def _template(self, region: str, form: Form, prefix: str) -> tuple[Template, str | None]:
        template_id, name = form.get(f"{prefix}LaunchTemplateId"), form.get(f"{prefix}LaunchTemplateName")
        if (template_id is None) == (name is None):
            raise ApiError("InvalidParameterCombination", "Give either a launch template ID or a name.")
        for (where, _), template in self._templates.items():
            if where == region and (template.template_id == template_id or template.name == name):
                return template, form.get(f"{prefix}Version")
        if name is not None:
            text = f"The specified launch template, with template name {name}, does not exist."
            raise ApiError("InvalidLaunchTemplateName.NotFoundException", text)
        text = f"The specified launch template, with template ID {template_id}, does not exist."
        raise ApiError("InvalidLaunchTemplateId.NotFound", text)

    def with_template(self, region: str, form: Form) -> Form:
        """Return a RunInstances request merged with its launch template, if it names one. Raises ApiError."""
        if not any(name.startswith("LaunchTemplate.") for name in form.values):
            return form
        template, version = self._template(region, form, "LaunchTemplate.")
        own = {name: value for name, value in form.values.items() if not name.startswith("LaunchTemplate.")}
        return _laid_over(template.version(version)[1], own)

    # --- fleets ------------------------------------------------------------------------------------------------------

    def create_fleet(self, region: str, form: Form, moto: Moto) -> Reply:
        """CreateFleet, type instant only. Raises ApiError if the whole request is refused."""
        if form.get("Type") != "instant":
            raise ApiError("UnsupportedOperation", "The embedded cloud supports fleets of type instant only.")
        self._cloud.faults.strike(Call("CreateFleet", region=region, dry_run=form.flag("DryRun")), only=_refuses_all)
        token = form.get("ClientToken")
        asked = {name: value for name, value in form.values.items() if name not in ("Version", "Action", "DryRun")}
        if token and (before := self._answers.get((region, token))) is not None:
            if before[0] != asked:
                text = "Client token already used before with different parameters."  # text of runs-on#251
                raise ApiError("IdempotentParameterMismatch", text)
            return before[1]
        count, market_name = _target(form)
        strategy = form.get("SpotOptions.AllocationStrategy") or "lowest-price"
        if strategy not in _STRATEGIES:
            raise ApiError("InvalidParameterValue", f"Invalid value '{strategy}' for AllocationStrategy.")
        pools = list(self._pools(region, form, market_name))
        if not pools:
            raise ApiError("MissingParameter", "The request must contain the parameter LaunchTemplateConfigs")
        if form.flag("DryRun"):
            raise ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        reply = self._fulfil(region, self._ranked(pools, strategy, market_name), count, market_name, moto)
        if token:
            self._answers[(region, token)] = (asked, reply)
        self._cloud.faults.strike(Call("CreateFleet", region=region), served=True)
        return reply

    def _pools(self, region: str, form: Form, market_name: str) -> Iterator[PoolWanted]:
        number = 1
        while any(name.startswith(f"LaunchTemplateConfigs.{number}.") for name in form.values):
            prefix = f"LaunchTemplateConfigs.{number}."
            template, asked_version = self._template(region, form, f"{prefix}LaunchTemplateSpecification.")
            version, data = template.version(asked_version)
            named: dict[str, Xml] = {"launchTemplateId": template.template_id, "version": str(version)}
            overrides = list(_numbered(form, f"{prefix}Overrides.")) or [{}]
            for override in overrides:
                yield _pool(form, named, data, override, market_name)
            number += 1

    def _ranked(self, pools: list[PoolWanted], strategy: str, market_name: str) -> list[PoolWanted]:
        """Return the pools in the order in which they are tried."""

        def price(pool: PoolWanted) -> float:
            try:
                if market_name == "spot" and pool.zone:
                    return self._cloud.conditions.prices.spot_usd_h(pool.instance_type, pool.zone, time.time())
                return spot_market.on_demand_usd_h(pool.instance_type, spot_market.region_of(pool.zone or "us-east-1a"))
            except KeyError:
                return float("inf")

        def room(pool: PoolWanted) -> float:
            limit = self._cloud.conditions.capacity.get((pool.instance_type, pool.zone or ""))
            if limit is None:
                return float("inf")
            return limit - self._cloud.instances.used(pool.instance_type, pool.zone or "")

        def priority(pool: PoolWanted) -> float:
            return float(pool.override.get("Priority") or "inf")

        keys: dict[str, Any] = {
            "lowest-price": lambda pool: (price(pool),),
            "capacity-optimized": lambda pool: (-room(pool),),
            "capacity-optimized-prioritized": lambda pool: (-room(pool), priority(pool)),
            "price-capacity-optimized": lambda pool: (-room(pool), price(pool)),
        }
        return sorted(pools, key=keys.get(strategy, keys["price-capacity-optimized"]))

    def _fulfil(self, region: str, pools: list[PoolWanted], count: int, market_name: str, moto: Moto) -> Reply:
        fleet_id = f"fleet-{secrets.token_hex(4)}-{secrets.token_hex(2)}-{secrets.token_hex(6)}"
        instances: list[Xml] = []
        errors: list[Xml] = []
        for pool in pools:
            if len(instances) == count:
                break
            try:
                ids = self._launcher.launch_one(region, pool.form, moto)
            except ApiError as error:
                if error.code == "Unsupported":  # CreateFleet returns another code for it (infra#601)
                    text = error.message.partition(" Please retry")[0]
                    error = ApiError("InvalidFleetConfiguration", text)
                if error.code not in _IN_ERRORS:
                    raise
                errors.append(_refused(pool, market_name, error.code, error.message))
                continue
            for instance_id in ids:
                self._cloud.instances.record(instance_id).add_tag("aws:ec2:fleet-id", fleet_id)
                zone = str(self._cloud.instances.record(instance_id).availability_zone)
                instances.append(_served(pool, market_name, instance_id, zone))
        return xml_reply("CreateFleet", {"fleetId": fleet_id, "errorSet": errors, "fleetInstanceSet": instances})


def _refuses_all(fault: Fault) -> bool:
    """Whether a fault refuses the whole request; other faults appear in `Errors` for the pools that they match."""
    names_a_pool = fault.zone is not None or fault.type is not None
    return fault.error not in _IN_ERRORS or (not names_a_pool and fault.error in ("UnauthorizedOperation",))


def _numbered(form: Form, prefix: str) -> Iterator[dict[str, str]]:
    """Yield each `prefix`N.* as a mapping without the prefix."""
    number = 1
    while found := {
        name.removeprefix(f"{prefix}{number}."): value
        for name, value in form.values.items()
        if name.startswith(f"{prefix}{number}.")
    }:
        yield found
        number += 1


def _laid_over(under: dict[str, str], over: dict[str, str]) -> Form:
    """Merge two sets of parameters. As on EC2, a list in `over` (security groups, tags) replaces that in `under`."""
    lists = {name.partition(".")[0] for name in over if re.match(r"\w+\.\d+", name)}
    return Form({**{name: value for name, value in under.items() if name.partition(".")[0] not in lists}, **over})


def _pool(
    form: Form, named: dict[str, Xml], data: dict[str, str], override: dict[str, str], market_name: str
) -> PoolWanted:
    values = {name: value for name, value in data.items() if not name.startswith("InstanceMarketOptions.")}
    values["InstanceType"] = override.get("InstanceType") or values.get("InstanceType") or ""
    if not values["InstanceType"]:
        raise ApiError("InvalidFleetConfiguration", "An instance type is required in the template or the overrides.")
    # The override's subnet applies to the template's first interface, if it has one (as in Karpenter's fleets).
    has_interface = any(name.startswith("NetworkInterface.1.") for name in values)
    subnet = "NetworkInterface.1.SubnetId" if has_interface else "SubnetId"
    for name, target in (("AvailabilityZone", "Placement.AvailabilityZone"), ("SubnetId", subnet)):
        if override.get(name):
            values[target] = override[name]
    if override.get("ImageId"):
        values["ImageId"] = override["ImageId"]
    if market_name == "spot":
        values["InstanceMarketOptions.MarketType"] = "spot"
        if override.get("MaxPrice"):
            values["InstanceMarketOptions.SpotOptions.MaxPrice"] = override["MaxPrice"]
    values.update(MinCount="1", MaxCount="1", Version=form.values.get("Version", "2016-11-15"), Action="RunInstances")
    _add_tags(values, form)
    return PoolWanted(named, override, Form(values), values["InstanceType"], values.get("Placement.AvailabilityZone"))


def _add_tags(values: dict[str, str], form: Form) -> None:
    """Add the fleet's tags for instances and volumes to those of the template."""
    number = len(list(_numbered(Form(values), "TagSpecification.")))
    for specification in _numbered(form, "TagSpecification."):
        if specification.get("ResourceType") in ("instance", "volume"):
            number += 1
            values.update({f"TagSpecification.{number}.{name}": value for name, value in specification.items()})


def _target(form: Form) -> tuple[int, str]:
    """Return (count, market). The embedded cloud does not support a fleet of both markets."""
    prefix = "TargetCapacitySpecification."
    try:
        total = int(form.get(f"{prefix}TotalTargetCapacity") or "0")
        by_market = {
            "spot": int(form.get(f"{prefix}SpotTargetCapacity") or "0"),
            "on-demand": int(form.get(f"{prefix}OnDemandTargetCapacity") or "0"),
        }
    except ValueError:
        raise ApiError("InvalidParameterValue", "A target capacity must be a whole number") from None
    if total < 1:
        raise ApiError("InvalidTargetCapacitySpecification", "TotalTargetCapacity must be at least 1.")
    if all(by_market.values()):
        raise ApiError("UnsupportedOperation", "The embedded cloud supports fleets of one market only.")
    named = [name for name, wanted in by_market.items() if wanted]
    market_name = named[0] if named else form.get(f"{prefix}DefaultTargetCapacityType") or "on-demand"
    if market_name not in by_market:
        raise ApiError("InvalidParameterValue", f"Invalid value '{market_name}' for DefaultTargetCapacityType.")
    return total, market_name


def _refused(pool: PoolWanted, market_name: str, code: str, message: str) -> dict[str, Xml]:
    return {
        "launchTemplateAndOverrides": pool.described(),
        "lifecycle": market_name,
        "errorCode": code,
        "errorMessage": message,
    }


def _served(pool: PoolWanted, market_name: str, instance_id: str, zone: str) -> dict[str, Xml]:
    return {
        "launchTemplateAndOverrides": pool.described(),
        "lifecycle": market_name,
        "instanceIds": [instance_id],
        "instanceType": pool.instance_type,
        "availabilityZone": zone,
    }
