"""Groups of instances on EC2: one request for all of them, and the placement groups they are put in.

A cluster placement group holds instances of one zone close together. It is free. It has no zone until its first
instance starts, and can be deleted only when its last one is terminated
(https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/placement-groups.html).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.cloud.aws.errors import map_boto_errors
from orchestrator.cloud.base import Call, Instance
from orchestrator.errors import CapacityError, CloudError, NotFoundError

DUPLICATE, IN_USE = "InvalidPlacementGroup.Duplicate", "InvalidPlacementGroup.InUse"
CLUSTER = "cluster"


def where_of(call: Call) -> str:
    """Return the pool of a RunInstances, for people."""
    placement = call.parameters.get("Placement", {}).get("AvailabilityZone", call.region)
    count = int(call.parameters.get("MinCount", 1))
    return f"{f'{count} x ' if count > 1 else ''}{call.parameters['InstanceType']} in {placement}"


def whole(
    call: Call, started: Iterable[Instance], terminate: Callable[[str, Sequence[str]], None]
) -> tuple[Instance, ...]:
    """Return the instances of a group in the order of their launch; if some are missing, end the others.

    EC2 starts all of them or none where MinCount is MaxCount. Another answer must not be billed.

    Raises:
        CapacityError: fewer came than were asked for.
    """
    members = tuple(sorted(started, key=lambda instance: (instance.launch_index, instance.instance_id)))
    wanted = int(call.parameters["MinCount"])
    if len(members) >= wanted:
        return members
    if members:
        terminate(call.region, [instance.instance_id for instance in members])
    raise CapacityError(
        f"{call.operation} ({where_of(call)}): EC2 has started {len(members)} of {wanted} instances; they are ended",
        code="InsufficientInstanceCapacity",
        operation=call.operation,
        scope="pool",
    )


def open_placement_group(ec2: Any, call: Call) -> None:
    """CreatePlacementGroup; one of this name is used."""
    try:
        with map_boto_errors(f"{call.region}, placement group {call.parameters['GroupName']}"):
            ec2.create_placement_group(**call.parameters)
    except CloudError as error:
        if error.code != DUPLICATE:
            raise


def close_placement_groups(ec2: Any, region: str, filters: Sequence[Mapping[str, Any]]) -> list[str]:
    """DeletePlacementGroup for each group that the filters find; return the names of those in use."""
    wanted = [*filters, {"Name": "strategy", "Values": [CLUSTER]}]
    with map_boto_errors(f"{region}, placement groups"):
        found = ec2.describe_placement_groups(Filters=wanted)["PlacementGroups"]
    in_use = []
    for group in found:
        if group.get("State") in ("deleting", "deleted"):
            continue
        try:
            with map_boto_errors(f"{region}, placement group {group['GroupName']}"):
                ec2.delete_placement_group(GroupName=group["GroupName"])
        except NotFoundError:
            continue
        except CloudError as error:
            if error.code != IN_USE:
                raise
            in_use.append(str(group["GroupName"]))
    return in_use


def cluster_types(ec2: Any, region: str, instance_types: Sequence[str]) -> set[str]:
    """Return the types that a region offers and that can be in a cluster placement group."""
    filters = [{"Name": "instance-type", "Values": list(instance_types)}]
    with map_boto_errors(f"{region}, instance types"):
        pages = ec2.get_paginator("describe_instance_types").paginate(Filters=filters)
        found = [one for page in pages for one in page["InstanceTypes"]]
    return {
        str(one["InstanceType"])
        for one in found
        if CLUSTER in one.get("PlacementGroupInfo", {}).get("SupportedStrategies", ())
    }
