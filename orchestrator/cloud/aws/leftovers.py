"""What a run may leave behind on EC2 besides instances, found by tag.

A volume is billed until it is deleted. EC2 deletes a root volume with its instance; one stays where that has failed or
was turned off. Placement groups, security groups and launch templates are free, and count towards the account's quotas.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.cloud.aws.errors import map_boto_errors
from orchestrator.cloud.aws.group import CLUSTER, IN_USE
from orchestrator.cloud.base import MANAGED_TAG, OWNER_TAG, RUN_TAG, Leftover
from orchestrator.errors import CloudError, NotFoundError

VOLUME, PLACEMENT_GROUP = "volume", "placement group"
SECURITY_GROUP, LAUNCH_TEMPLATE = "security group", "launch template"
HAS_AN_INSTANCE = (IN_USE, "VolumeInUse", "DependencyViolation")


def find(ec2: Any, region: str, home_id: str) -> list[Leftover]:
    """Return what a home has made in a region and what no instance has; whether one has a group is known at its end."""
    owned = [{"Name": f"tag:{key}", "Values": [value]} for key, value in ((MANAGED_TAG, "true"), (OWNER_TAG, home_id))]
    found = []
    with map_boto_errors(f"{region}, volumes"):
        for one in _pages(ec2, "describe_volumes", "Volumes", [*owned, {"Name": "status", "Values": ["available"]}]):
            found.append(Leftover(VOLUME, str(one["VolumeId"]), region, _run(one), f"{one['Size']} GiB"))
    with map_boto_errors(f"{region}, placement groups"):
        strategy = {"Name": "strategy", "Values": [CLUSTER]}
        for one in ec2.describe_placement_groups(Filters=[*owned, strategy])["PlacementGroups"]:
            if one.get("State") not in ("deleting", "deleted"):
                found.append(Leftover(PLACEMENT_GROUP, str(one["GroupName"]), region, _run(one)))
    with map_boto_errors(f"{region}, launch templates"):
        for one in _pages(ec2, "describe_launch_templates", "LaunchTemplates", owned):
            found.append(Leftover(LAUNCH_TEMPLATE, str(one["LaunchTemplateId"]), region, _run(one)))
    with map_boto_errors(f"{region}, security groups"):
        for one in _pages(ec2, "describe_security_groups", "SecurityGroups", owned):
            found.append(Leftover(SECURITY_GROUP, str(one["GroupId"]), region, _run(one)))
    return found


def _pages(ec2: Any, operation: str, key: str, filters: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for page in ec2.get_paginator(operation).paginate(Filters=filters):
        yield from page[key]


def _run(described: dict[str, Any]) -> str:
    return next((str(tag["Value"]) for tag in described.get("Tags", []) if tag["Key"] == RUN_TAG), "")


def remove(ec2: Any, left: Leftover) -> bool:
    """Delete one. Return False if an instance has it: it can be deleted later. One that is gone is no error."""
    deletes: dict[str, Any] = {
        VOLUME: lambda: ec2.delete_volume(VolumeId=left.name),
        PLACEMENT_GROUP: lambda: ec2.delete_placement_group(GroupName=left.name),
        LAUNCH_TEMPLATE: lambda: ec2.delete_launch_template(LaunchTemplateId=left.name),
        SECURITY_GROUP: lambda: ec2.delete_security_group(GroupId=left.name),
    }
    try:
        with map_boto_errors(f"{left.region}, {left.kind} {left.name}"):
            deletes[left.kind]()
    except NotFoundError:
        return True
    except CloudError as error:
        if error.code in HAS_AN_INSTANCE:
            return False
        raise
    return True
