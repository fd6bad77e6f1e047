"""What a run may leave behind on EC2 besides instances, found by tag: placement groups and volumes.

A placement group is free and counts towards a quota of the account. A volume is billed until it is deleted. EC2 deletes
a root volume with its instance; one stays where that has failed or was turned off.
"""

from __future__ import annotations

from typing import Any

from orchestrator.cloud.aws.errors import map_boto_errors
from orchestrator.cloud.aws.group import CLUSTER, IN_USE
from orchestrator.cloud.base import MANAGED_TAG, OWNER_TAG, RUN_TAG, Leftover
from orchestrator.errors import CloudError, NotFoundError

VOLUME, PLACEMENT_GROUP = "volume", "placement group"


def find(ec2: Any, region: str, home_id: str) -> list[Leftover]:
    """Return the cluster placement groups of a home, and its volumes that no instance has."""
    owned = [{"Name": f"tag:{key}", "Values": [value]} for key, value in ((MANAGED_TAG, "true"), (OWNER_TAG, home_id))]
    found = []
    with map_boto_errors(f"{region}, placement groups"):
        strategy = {"Name": "strategy", "Values": [CLUSTER]}
        for one in ec2.describe_placement_groups(Filters=[*owned, strategy])["PlacementGroups"]:
            if one.get("State") not in ("deleting", "deleted"):
                found.append(Leftover(PLACEMENT_GROUP, str(one["GroupName"]), region, _run(one)))
    with map_boto_errors(f"{region}, volumes"):
        status = {"Name": "status", "Values": ["available"]}
        for page in ec2.get_paginator("describe_volumes").paginate(Filters=[*owned, status]):
            for one in page["Volumes"]:
                found.append(Leftover(VOLUME, str(one["VolumeId"]), region, _run(one), f"{one['Size']} GiB"))
    return found


def _run(described: dict[str, Any]) -> str:
    return next((str(tag["Value"]) for tag in described.get("Tags", []) if tag["Key"] == RUN_TAG), "")


def remove(ec2: Any, left: Leftover) -> bool:
    """Delete one. Return False if an instance has it: it can be deleted later. One that is gone is no error."""
    try:
        with map_boto_errors(f"{left.region}, {left.kind} {left.name}"):
            if left.kind == VOLUME:
                ec2.delete_volume(VolumeId=left.name)
            else:
                ec2.delete_placement_group(GroupName=left.name)
    except NotFoundError:
        return True
    except CloudError as error:
        if error.code in (IN_USE, "VolumeInUse"):
            return False
        raise
    return True
