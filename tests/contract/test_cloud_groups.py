"""Groups of instances, on both clouds: all or none, one token, one placement group, ports among themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from infra.local import EmbeddedCloud
from orchestrator.cloud.aws import AwsCloud
from orchestrator.cloud.base import ATTEMPT_TAG, MANAGED_TAG, OWNER_TAG, RUN_TAG, Call, Instance
from orchestrator.cloud.shared import SharedCloud
from orchestrator.errors import CapacityError, CloudError, NotFoundError, QuotaError
from tests.contract.test_cloud import World, embedded, place
from tests.support.memory import MemoryCloud

__all__ = ["embedded", "place"]
NAME = "pixel-orch-contract-1"


def group_call(place: World, count: int = 3, *, turn: int = 1, group: str = "", offer: int = 0) -> Call:
    """Return a RunInstances for several of the cheapest offer."""
    call = place.call(turn=turn, place=offer)
    placement = {**call.parameters["Placement"], **({"GroupName": group} if group else {})}
    parameters = {**call.parameters, "MinCount": count, "MaxCount": count, "Placement": placement}
    return replace(call, parameters=parameters)


def placement_call(name: str = NAME, home_id: str = "home") -> Call:
    """Return the CreatePlacementGroup of a run."""
    tags = {MANAGED_TAG: "true", RUN_TAG: "contract", OWNER_TAG: home_id}
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    specification = {"ResourceType": "placement-group", "Tags": listed}
    return Call(
        "CreatePlacementGroup",
        "us-east-1",
        {"GroupName": name, "Strategy": "cluster", "TagSpecifications": [specification]},
    )


def end(place: World, members: tuple[Instance, ...]) -> None:
    """End all of a group and wait for it."""
    place.cloud.terminate("us-east-1", [one.instance_id for one in members])
    for one in members:
        place.until(one, "terminated")


def limit(place: World, room: int) -> None:
    """Let the pool of the cheapest offer have room for so many instances."""
    pool = place.plan.offers[0].pool
    if isinstance(place.cloud, MemoryCloud):
        place.cloud.room_in[pool.zone] = room
    else:
        assert place.embedded is not None
        place.embedded.set_capacity(pool.instance_type, pool.zone, room)


def test_a_group_starts_at_once_in_one_zone_and_its_members_are_told_apart(place: World) -> None:
    members = place.cloud.launch_group(group_call(place))
    assert [one.launch_index for one in members] == [0, 1, 2]
    assert {one.zone for one in members} == {place.plan.offers[0].pool.zone}
    assert len({one.instance_id for one in members}) == 3
    assert len({one.private_address for one in members}) == 3
    assert all(one.private_address for one in members)
    for one in members:
        running = place.until(one, "running")
        assert (running.launch_index, running.private_address) == (one.launch_index, one.private_address)
        assert (running.tags[RUN_TAG], running.tags[ATTEMPT_TAG]) == ("contract", "1")
        assert running.address


def test_the_same_token_gives_the_same_group(place: World) -> None:
    call = group_call(place)
    first, again = place.cloud.launch_group(call), place.cloud.launch_group(call)
    assert [one.instance_id for one in first] == [one.instance_id for one in again]
    with pytest.raises(CloudError) as caught:
        place.cloud.launch_group(replace(call, parameters={**call.parameters, "MinCount": 2, "MaxCount": 2}))
    assert caught.value.code == "IdempotentParameterMismatch"


def test_a_pool_with_room_for_some_starts_none(place: World) -> None:
    limit(place, 2)
    before = len(place.cloud.instances())
    with pytest.raises(CapacityError) as caught:
        place.cloud.launch_group(group_call(place))
    assert (caught.value.code, caught.value.scope) == ("InsufficientInstanceCapacity", "pool")
    assert len(place.cloud.instances()) == before
    limit(place, 3)
    assert len(place.cloud.launch_group(group_call(place, turn=2))) == 3


def test_a_refused_group_has_the_type_of_the_refusal_and_starts_none(place: World) -> None:
    before = len(place.cloud.instances())
    place.refuse("VcpuLimitExceeded", place.plan.offers[0].pool.zone)
    with pytest.raises(QuotaError):
        place.cloud.launch_group(group_call(place))
    assert len(place.cloud.instances()) == before


def test_a_placement_group_is_made_once_and_stays_until_its_last_instance_is_gone(place: World) -> None:
    place.cloud.open_placement_group(placement_call())
    place.cloud.open_placement_group(placement_call())
    members = place.cloud.launch_group(group_call(place, 2, group=NAME))
    for one in members:
        place.until(one, "running")
    assert place.cloud.close_placement_groups("us-east-1", "contract", "home") == [NAME]
    end(place, members)
    assert place.cloud.close_placement_groups("us-east-1", "contract", "home") == []
    assert place.cloud.close_placement_groups("us-east-1", "contract", "home") == []


def test_the_placement_groups_of_others_stay(place: World) -> None:
    place.cloud.open_placement_group(placement_call("of-home"))
    place.cloud.open_placement_group(placement_call("of-another", "another"))
    assert place.cloud.close_placement_groups("us-east-1", "contract", "home") == []
    members = place.cloud.launch_group(group_call(place, 2, group="of-another"))
    with pytest.raises(NotFoundError) as caught:
        place.cloud.launch_group(group_call(place, 2, turn=2, group="of-home"))
    assert caught.value.code == "InvalidPlacementGroup.Unknown"
    end(place, members)
    assert place.cloud.close_placement_groups("us-east-1", "another-run") == []
    assert place.cloud.close_placement_groups("us-east-1", "contract") == []


def test_a_placement_group_is_in_the_zone_of_its_first_instance(place: World) -> None:
    place.cloud.open_placement_group(placement_call())
    members = place.cloud.launch_group(group_call(place, 2, group=NAME))
    with pytest.raises(CloudError) as caught:
        place.cloud.launch_group(group_call(place, 2, turn=2, group=NAME, offer=1))
    assert caught.value.code == "InvalidPlacementGroup.InUse"
    end(place, members)
    place.cloud.close_placement_groups("us-east-1", "contract")


def test_a_type_that_cannot_be_in_a_placement_group_is_known_and_refused(place: World) -> None:
    place.cloud.open_placement_group(placement_call())
    assert place.cloud.cluster_types(["p2.xlarge", "no.such"]) >= {"p2.xlarge"}
    if isinstance(place.cloud, MemoryCloud):
        place.cloud.placement.types_without.add("p2.xlarge")
    else:
        assert place.embedded is not None
        place.embedded.add_fault({"state": "no-cluster", "type": "p2.xlarge"})
    assert place.cloud.cluster_types(["p2.xlarge"]) == set()
    with pytest.raises(CloudError) as caught:
        place.cloud.launch_group(group_call(place, 2, group=NAME))
    assert caught.value.code == "InvalidParameterCombination"
    place.cloud.close_placement_groups("us-east-1", "contract")


@pytest.mark.slow
def test_the_instances_of_a_security_group_reach_each_other_if_it_is_asked_for(embedded: EmbeddedCloud) -> None:
    cloud = _cloud(embedded)
    place = World.of_embedded(embedded)
    request = place.plan.security_group("us-east-1")
    group = cloud.open_security_group("us-east-1", request, "192.0.2.1/32")
    assert _sources(cloud, group) == []
    for _ in range(2):
        assert cloud.open_security_group("us-east-1", request, "192.0.2.1/32", within=True) == group
        assert _sources(cloud, group) == [("tcp", 0, 65535, group)]
    cloud.close_security_group("us-east-1", "contract")


def _cloud(embedded: EmbeddedCloud) -> AwsCloud:
    cloud = World.of_embedded(embedded).cloud
    assert isinstance(cloud, AwsCloud)
    return cloud


def _sources(cloud: AwsCloud, group: str) -> list[tuple[str, int, int, str]]:
    found = cloud._client("ec2", "us-east-1").describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
    rules: list[dict[str, Any]] = found["IpPermissions"]
    return [
        (rule["IpProtocol"], rule["FromPort"], rule["ToPort"], pair["GroupId"])
        for rule in rules
        for pair in rule["UserIdGroupPairs"]
    ]


@pytest.mark.slow
def test_a_type_is_in_no_placement_group_where_the_policy_does_not_let_one_ask(embedded: EmbeddedCloud) -> None:
    embedded.add_fault({"operation": "DescribeInstanceTypes", "error": "UnauthorizedOperation"})
    assert _cloud(embedded).cluster_types(["p2.xlarge"]) == set()
    embedded.clear_faults()
    assert _cloud(embedded).cluster_types(["p2.xlarge", "p5.48xlarge"]) == {"p2.xlarge", "p5.48xlarge"}


def test_a_refused_group_is_asked_for_once(embedded: EmbeddedCloud) -> None:
    """No capacity is HTTP 500, which the SDK would send again by itself."""
    place = World.of_embedded(embedded)
    embedded.add_fault({"operation": "RunInstances", "error": "InsufficientInstanceCapacity"})
    before = embedded.dump()["requests"].get("RunInstances", 0)
    with pytest.raises(CapacityError):
        place.cloud.launch_group(group_call(place))
    assert embedded.dump()["requests"]["RunInstances"] == before + 1
    embedded.clear_faults()
    place.cloud.close_security_group("us-east-1", "contract")


def test_a_group_whose_answer_was_lost_is_found_by_its_token(place: World) -> None:
    if isinstance(place.cloud, MemoryCloud):
        place.cloud.fail_after_serving = 1
    else:
        assert place.embedded is not None
        fault = {"operation": "RunInstances", "error": "InternalError", "served": True, "times": 1}
        place.embedded.add_fault(fault)
    call = group_call(place)
    with pytest.raises(CloudError):
        place.cloud.launch_group(call)
    members = place.cloud.launch_group(call)
    assert [one.launch_index for one in members] == [0, 1, 2]
    for one in members:
        place.until(one, "running")
    alive = [one for one in place.cloud.instances("contract") if one.state in ("pending", "running")]
    assert sorted(one.instance_id for one in alive) == sorted(one.instance_id for one in members)


def test_a_group_that_is_interrupted_together_ends_together(place: World) -> None:
    members = place.cloud.launch_group(group_call(place))
    for one in members:
        place.until(one, "running")
    if place.embedded is not None:
        place.embedded.interrupt_together([one.instance_id for one in members[1:]], notice_s=0.2)
    else:
        for one in members[1:]:
            place.interrupt(one.instance_id)
    for one in members[1:]:
        assert place.until(one, "terminated").is_spot_interruption
    assert place.until(members[0], "running").state == "running"


def test_runs_of_one_process_share_the_answer_on_types_and_each_launches_its_own_group(place: World) -> None:
    shared = SharedCloud(place.cloud, fresh_s=0.0)
    assert shared.cluster_types(("p2.xlarge",)) == {"p2.xlarge"}
    shared.open_placement_group(placement_call())
    members = shared.launch_group(group_call(place, 2, group=NAME))
    assert len(members) == 2
    assert shared.close_placement_groups("us-east-1", "contract") == [NAME]
    end(place, members)
    assert shared.close_placement_groups("us-east-1", "contract") == []
    assert shared.calls()["launch"] == 1
