"""CreateFleet `instant`: one request over many pools, and the refusal of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from botocore.exceptions import ClientError

from orchestrator.clock import OF_THIS_PROCESS
from orchestrator.cloud.aws.errors import map_boto_errors, translate
from orchestrator.cloud.base import MANAGED_TAG, OWNER_TAG, RUN_TAG, Call, Instance
from orchestrator.errors import CapacityError, CloudError


def create_fleet(ec2: Any, once: Any, template: Call, fleet: Call) -> Instance:
    """Make the launch template, send the fleet, remove the template.

    Args:
        ec2: a client that retries.
        once: a client that sends each request a single time.
        template, fleet: see `Plan.fleet`.

    Raises:
        CapacityError: no pool has capacity; the message has the answer of each.
        CloudError: the answer of a pool rules out more than that pool.
    """
    name = template.parameters["LaunchTemplateName"]
    try:
        with map_boto_errors(f"{template.region}, launch template {name}"):
            ec2.create_launch_template(**template.parameters)
    except CloudError as error:
        if error.code != "InvalidLaunchTemplateName.AlreadyExistsException":
            raise
        _check_owner(ec2, template)  # created by this request before its answer was lost
    try:
        with map_boto_errors(f"{fleet.region}, {len(fleet.parameters['LaunchTemplateConfigs'][0]['Overrides'])} pools"):
            answer = once.create_fleet(**fleet.parameters)
    finally:
        # A template that stays costs nothing, and is deleted with the run's security group.
        with suppress(CloudError), map_boto_errors(name):
            ec2.delete_launch_template(LaunchTemplateName=name)
    started = [entry for entry in answer.get("Instances", []) if entry.get("InstanceIds")]
    if started:
        instance = _instance(started[0], fleet)
        return instance if instance.zone else replace(instance, zone=_zone_of(ec2, started[0]))
    raise refusal(answer.get("Errors", []), fleet.region)


def _check_owner(ec2: Any, template: Call) -> None:
    """Refuse a launch template that only has the name of ours: it says which image and user data an instance gets.

    Raises:
        CloudError: it lacks a tag of ours.
    """
    name = template.parameters["LaunchTemplateName"]
    wanted = {tag["Key"]: tag["Value"] for tag in template.parameters["TagSpecifications"][0]["Tags"]}
    filters = [{"Name": f"tag:{key}", "Values": [wanted[key]]} for key in (MANAGED_TAG, RUN_TAG, OWNER_TAG)]
    with map_boto_errors(f"{template.region}, launch template {name}"):
        found = ec2.describe_launch_templates(Filters=filters)["LaunchTemplates"]
    if name not in {one["LaunchTemplateName"] for one in found}:
        raise CloudError(
            f"{template.region}: the launch template {name} is there and is not of this home; delete it, or use "
            "--strategy price, which needs none",
            code="ForeignLaunchTemplate",
        )


def refusal(errors: Sequence[Mapping[str, Any]], region: str) -> CloudError:
    """Return one error for the answers of all pools: the one with the widest scope."""
    each: list[CloudError] = []
    for entry in errors:
        answer: Any = {"Error": {"Code": entry.get("ErrorCode", ""), "Message": entry.get("ErrorMessage", "")}}
        override = entry.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
        where = f"{override.get('InstanceType', '?')} in {override.get('AvailabilityZone') or override.get('SubnetId')}"
        each.append(translate(ClientError(answer, "CreateFleet"), where))
    fatal = [error for error in each if not isinstance(error, CapacityError)]
    if fatal and not any(isinstance(error, CapacityError) for error in each):
        return fatal[0]
    counts: dict[str, int] = {}
    for error in each:
        counts[error.code] = counts.get(error.code, 0) + 1
    told = ", ".join(f"{code} x{count}" for code, count in counts.items()) or "no reason given"
    text = f"CreateFleet ({region}): none of {len(each)} pools has capacity: {told}"
    return CapacityError(text, code="UnfulfillableCapacity", scope="region")


def _zone_of(ec2: Any, entry: Mapping[str, Any]) -> str:
    """Return the zone of a subnet that the request names; "" if EC2 does not tell it now."""
    subnet = entry.get("LaunchTemplateAndOverrides", {}).get("Overrides", {}).get("SubnetId")
    with suppress(CloudError), map_boto_errors(str(subnet)):
        return str(ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["AvailabilityZone"])
    return ""


def _instance(entry: Mapping[str, Any], fleet: Call) -> Instance:
    override = entry.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
    tags = fleet.parameters["TagSpecifications"][0]["Tags"]
    return Instance(
        instance_id=entry["InstanceIds"][0],
        instance_type=entry.get("InstanceType") or override.get("InstanceType", ""),
        zone=override.get("AvailabilityZone", ""),
        region=fleet.region,
        market="spot" if entry.get("Lifecycle") == "spot" else "on-demand",
        state="pending",
        launched_at=OF_THIS_PROCESS.now(),
        client_token=fleet.parameters["ClientToken"],
        tags={tag["Key"]: tag["Value"] for tag in tags},
    )
