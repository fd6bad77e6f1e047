"""Groups of embedded instances, by plain boto3: capacity and quota of the whole, addresses, placement, joint ends."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import paramiko
import pytest

from infra.local import EmbeddedCloud, EmbeddedCloudError
from infra.local.machine.addresses import SHARED, Addresses
from tests.contract.test_embedded_fixtures import (
    SPOT,
    Login,
    ami,
    client,
    cloud,
    describe,
    ec2,
    error_of,
    marked_processes,
    private_key,
    wait_for,
)

__all__ = ["ami", "cloud", "ec2", "private_key"]
TYPE, ZONE = "p2.xlarge", "us-east-1b"
PATHS = ("ami-launch-index", "placement/group-name")
Group = Callable[..., list[str]]


@pytest.fixture
def group(cloud: EmbeddedCloud, ec2: Any, ami: str, private_key: paramiko.PKey) -> Iterator[Group]:
    """Launch a group and wait until it runs; returns the ids. Nothing is left of it after the test."""
    launched: list[str] = []

    def launch(count: int = 3, *, wait: bool = True, **changed: Any) -> list[str]:
        public = f"{private_key.get_name()} {private_key.get_base64()}"
        params = {
            "ImageId": ami,
            "InstanceType": TYPE,
            "MinCount": count,
            "MaxCount": count,
            "Placement": {"AvailabilityZone": ZONE},
            "InstanceMarketOptions": SPOT,
            "UserData": "#cloud-config\n" + json.dumps({"ssh_authorized_keys": [public]}),
        }
        ids = [one["InstanceId"] for one in ec2.run_instances(**{**params, **changed})["Instances"]]
        launched.extend(ids)
        for one in ids if wait else ():
            wait_for(ec2, one, "running")
        return ids

    yield launch
    cloud.clear_faults()
    if launched:
        ec2.terminate_instances(InstanceIds=launched)
    for one in launched:
        wait_for(ec2, one, "terminated")
        assert marked_processes(f"{cloud.endpoint.cloud_id}/{one}") == []
    for placed in ec2.describe_placement_groups()["PlacementGroups"]:
        ec2.delete_placement_group(GroupName=placed["GroupName"])


@contextlib.contextmanager
def logged_in(ec2: Any, key: paramiko.PKey, *instance_ids: str) -> Iterator[list[Login]]:
    """Log in to each."""
    sessions = [Login(describe(ec2, one), key) for one in instance_ids]
    yield sessions
    for session in sessions:
        session.close()


def addresses(ec2: Any, ids: list[str]) -> list[str]:
    return [describe(ec2, one)["PrivateIpAddress"] for one in ids]


def states(cloud: EmbeddedCloud, ids: list[str]) -> set[str]:
    return {one["state"] for one in cloud.instances() if one["id"] in ids}


# --- all or none


@pytest.mark.slow
def test_a_group_is_one_reservation_with_a_place_for_each(ec2: Any, group: Group) -> None:
    ids = group(4)
    found = ec2.describe_instances(InstanceIds=ids)["Reservations"]
    assert len(found) == 1
    assert sorted(one["AmiLaunchIndex"] for one in found[0]["Instances"]) == [0, 1, 2, 3]
    assert {one["Placement"]["AvailabilityZone"] for one in found[0]["Instances"]} == {ZONE}


def test_a_pool_without_room_for_all_refuses_the_whole_with_ec2s_text(
    cloud: EmbeddedCloud, ec2: Any, group: Group
) -> None:
    cloud.add_fault({"state": "capacity", "type": TYPE, "zone": ZONE, "count": 3})
    before = len(cloud.instances())
    with pytest.raises(ec2.exceptions.ClientError) as caught:
        group(4)
    answer = caught.value.response
    assert answer["Error"]["Code"] == "InsufficientInstanceCapacity"
    assert f"do not have sufficient {TYPE} capacity in the Availability Zone you requested ({ZONE})" in str(answer)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert len(cloud.instances()) == before
    assert len(group(3, wait=False)) == 3


def test_a_launch_that_takes_fewer_gets_what_there_is(cloud: EmbeddedCloud, group: Group) -> None:
    cloud.set_capacity(TYPE, ZONE, 3)
    assert len(group(5, MinCount=2, wait=False)) == 3


def test_a_quota_counts_every_member(cloud: EmbeddedCloud, ec2: Any, group: Group) -> None:
    cloud.set_quota("L-417A185B", 11)  # on-demand, P: 4 vCPUs each
    assert len(group(2, InstanceMarketOptions={}, wait=False)) == 2
    with pytest.raises(ec2.exceptions.ClientError, match=r"VcpuLimitExceeded.*current vCPU limit of 11"):
        group(1, InstanceMarketOptions={})
    cloud.set_quota("L-417A185B", 20)
    with pytest.raises(ec2.exceptions.ClientError, match="VcpuLimitExceeded"):
        group(4, InstanceMarketOptions={})
    assert len(group(3, InstanceMarketOptions={}, wait=False)) == 3


def test_a_repeated_token_gives_the_same_members(ec2: Any, group: Group) -> None:
    first = group(3, ClientToken="group-1")
    assert group(3, ClientToken="group-1") == first


# --- addresses


def test_each_member_has_an_address_of_its_own_where_the_system_has_them(
    cloud: EmbeddedCloud, ec2: Any, group: Group
) -> None:
    found = addresses(ec2, group(3))
    assert len(set(found)) == (3 if cloud.has_own_addresses else 1)
    assert all(one.startswith("127.") for one in found)
    assert (SHARED in found) != cloud.has_own_addresses


def test_an_address_is_taken_once_and_shared_where_there_is_one_only() -> None:
    own = Addresses()
    if own.are_own:
        assert len({own.take() for _ in range(50)} - {SHARED}) == 50
    own.are_own = False
    assert {own.take() for _ in range(3)} == {SHARED}


@pytest.mark.slow
def test_programs_of_two_members_listen_on_one_port_and_reach_each_other(
    cloud: EmbeddedCloud, ec2: Any, group: Group, private_key: paramiko.PKey
) -> None:
    if not cloud.has_own_addresses:
        pytest.skip("this system has 127.0.0.1 only")
    ids = group(2)
    first, second = addresses(ec2, ids)
    port = _free_port(first, second)
    listen = (
        "import os,socket,sys; s=socket.create_server((sys.argv[1], int(sys.argv[2]))); open('up','w').close();"
        "c,_=s.accept(); c.sendall(os.environ['HOME'].encode()); c.close()"
    )
    ask = (
        "import socket,sys,time\n"
        "while not __import__('os').path.exists('up'): time.sleep(0.02)\n"
        "print(socket.create_connection((sys.argv[1], int(sys.argv[2]))).recv(999).decode())"
    )
    with logged_in(ec2, private_key, *ids) as (one, two):
        one.run(f'python -c "{listen}" {first} {port} >log 2>&1 &')
        two.run(f'python -c "{listen}" {second} {port} >log 2>&1 &')
        assert ids[0] in one.run(f'python -c "{ask}" {first} {port}')[0].decode()
        assert ids[1] in two.run(f'python -c "{ask}" {second} {port}')[0].decode()


def _free_port(*hosts: str) -> int:
    import socket

    with socket.create_server((hosts[0], 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_ssh_answers_on_the_members_own_address_and_stops_with_it(
    cloud: EmbeddedCloud, ec2: Any, group: Group, private_key: paramiko.PKey
) -> None:
    import socket

    (one,) = group(1)
    (address,) = addresses(ec2, [one])
    port = next(found["ssh_port"] for found in cloud.instances() if found["id"] == one)
    with socket.create_connection((address, port), timeout=5) as link:
        assert link.recv(8).startswith(b"SSH-2.0")
    with logged_in(ec2, private_key, one) as (session,):
        url = "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest"
        token = f"$(curl -sX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' {url}/api/token)"
        said = session.run(f'curl -s -H "X-aws-ec2-metadata-token: {token}" {url}/meta-data/local-ipv4')[0]
        assert said.decode() == address
    cloud.freeze(one)
    with socket.create_connection((address, port), timeout=5) as link:
        link.settimeout(0.2)
        with pytest.raises(TimeoutError):
            link.recv(8)
    ec2.terminate_instances(InstanceIds=[one])
    wait_for(ec2, one, "terminated")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, port), timeout=5)


GLOO = """
import sys
import torch
import torch.distributed as dist
rank, world, address, port = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
store = dist.TCPStore(address, port, world, rank == 0)
dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
mine = torch.full((4,), float(rank + 1))
dist.all_reduce(mine)
print("sum", mine.tolist())
"""


@pytest.mark.slow
def test_gloo_meets_over_the_members_addresses(
    cloud: EmbeddedCloud, ec2: Any, group: Group, private_key: paramiko.PKey
) -> None:
    pytest.importorskip("torch")
    ids = group(2)
    master = addresses(ec2, ids)[0]
    port = _free_port(master)
    start = "GLOO_SOCKET_IFNAME=lo OMP_NUM_THREADS=1 python meet.py {} 2 {} {}"
    with logged_in(ec2, private_key, *ids) as (one, two):
        for session in (one, two):
            session.run("cat > meet.py", GLOO.encode())
        one.run(f"({start.format(0, master, port)} >said 2>&1; echo $? >done) >/dev/null 2>&1 &")
        two.run(f"({start.format(1, master, port)} >said 2>&1; echo $? >done) >/dev/null 2>&1 &")
        for session in (one, two):
            session.run("for i in $(seq 300); do test -s done && break; sleep 0.1; done")
            said = session.run("cat done said")[0].decode()
            assert "sum [3.0, 3.0, 3.0, 3.0]" in said, said


def test_a_member_knows_its_place_and_its_placement_group(ec2: Any, group: Group, private_key: paramiko.PKey) -> None:
    ec2.create_placement_group(GroupName="close", Strategy="cluster")
    ids = group(2, Placement={"GroupName": "close"})
    url = "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest"
    token = f"$(curl -sX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' {url}/api/token)"
    ask = f'curl -s -H "X-aws-ec2-metadata-token: {token}" {url}/meta-data/'
    with logged_in(ec2, private_key, *ids) as sessions:
        said = [[session.run(ask + path)[0].decode() for path in PATHS] for session in sessions]
    assert sorted(said) == [["0", "close"], ["1", "close"]]
    ec2.terminate_instances(InstanceIds=ids)
    for one in ids:
        wait_for(ec2, one, "terminated")


# --- placement groups


def test_a_placement_group_has_its_lifes_texts(cloud: EmbeddedCloud, ec2: Any, group: Group) -> None:
    made = ec2.create_placement_group(GroupName="close", Strategy="cluster")["PlacementGroup"]
    assert (made["State"], made["Strategy"], made["GroupId"][:3]) == ("available", "cluster", "pg-")
    again = error_of(ec2.create_placement_group, GroupName="close", Strategy="cluster")
    assert again == ("InvalidPlacementGroup.Duplicate", "The placement group 'close' already exists.", 400)
    ids = group(2, Placement={"GroupName": "close"}, wait=False)
    assert {describe(ec2, one)["Placement"]["GroupName"] for one in ids} == {"close"}
    in_use = error_of(ec2.delete_placement_group, GroupName="close")
    text = "The placement group 'close' is in use and may not be deleted."
    assert in_use == ("InvalidPlacementGroup.InUse", text, 400)
    ec2.terminate_instances(InstanceIds=ids)
    for one in ids:
        wait_for(ec2, one, "terminated")
    ec2.delete_placement_group(GroupName="close")
    unknown = ("InvalidPlacementGroup.Unknown", "The Placement Group 'close' is unknown.", 400)
    assert error_of(ec2.delete_placement_group, GroupName="close") == unknown
    assert error_of(ec2.describe_placement_groups, GroupNames=["close"]) == unknown
    with pytest.raises(ec2.exceptions.ClientError, match=r"InvalidPlacementGroup\.Unknown"):
        group(2, Placement={"GroupName": "close"})


def test_a_placement_group_gets_the_zone_of_its_first_instance(ec2: Any, group: Group) -> None:
    ec2.create_placement_group(GroupName="zoned", Strategy="cluster")
    group(1, Placement={"GroupName": "zoned", "AvailabilityZone": "us-east-1c"}, wait=False)
    (other,) = group(1, Placement={"GroupName": "zoned"}, wait=False)
    assert describe(ec2, other)["Placement"]["AvailabilityZone"] == "us-east-1c"
    text = "The placement group 'zoned' is in use in another availability zone: us-east-1c"
    with pytest.raises(ec2.exceptions.ClientError, match=text):
        group(1, Placement={"GroupName": "zoned", "AvailabilityZone": ZONE})


def test_a_type_without_cluster_placement_is_refused_and_told(cloud: EmbeddedCloud, ec2: Any, group: Group) -> None:
    ec2.create_placement_group(GroupName="typed", Strategy="cluster")
    cloud.add_fault({"state": "no-cluster", "type": TYPE})
    found = ec2.describe_instance_types(InstanceTypes=[TYPE, "g5.xlarge"])["InstanceTypes"]
    told = {one["InstanceType"]: one["PlacementGroupInfo"]["SupportedStrategies"] for one in found}
    assert told == {TYPE: ["partition", "spread"], "g5.xlarge": ["cluster", "partition", "spread"]}
    text = f"Cluster placement groups are not supported by the '{TYPE}' instance type."
    with pytest.raises(ec2.exceptions.ClientError, match=text):
        group(2, Placement={"GroupName": "typed"})
    cloud.clear_faults()
    assert len(group(2, Placement={"GroupName": "typed"}, wait=False)) == 2


def test_placement_groups_are_found_by_tag_and_of_one_region(cloud: EmbeddedCloud, ec2: Any, group: Group) -> None:
    tags = [{"ResourceType": "placement-group", "Tags": [{"Key": "whose", "Value": "mine"}]}]
    ec2.create_placement_group(GroupName="a", Strategy="cluster", TagSpecifications=tags)
    ec2.create_placement_group(GroupName="b", Strategy="spread", TagSpecifications=tags)
    ec2.create_placement_group(GroupName="c", Strategy="cluster")

    def names(where: Any, *filters: tuple[str, str]) -> set[str]:
        asked = [{"Name": name, "Values": [value]} for name, value in filters]
        return {one["GroupName"] for one in where.describe_placement_groups(Filters=asked)["PlacementGroups"]}

    assert names(ec2, ("tag:whose", "mine")) == {"a", "b"}
    assert names(ec2, ("tag:whose", "mine"), ("strategy", "cluster")) == {"a"}
    assert names(ec2, ("tag-key", "whose"), ("group-name", "b")) == {"b"}
    assert names(client(cloud, "ec2", "us-west-2")) == set()
    assert error_of(ec2.create_placement_group, GroupName="d", DryRun=True)[0] == "DryRunOperation"
    assert names(ec2) == {"a", "b", "c"}


# --- ends


@pytest.mark.slow
def test_any_of_a_group_are_interrupted_at_one_moment(
    cloud: EmbeddedCloud, ec2: Any, group: Group, private_key: paramiko.PKey
) -> None:
    ids = group(3)
    cloud.interrupt_together(ids[:2], notice_s=0.3)
    assert states(cloud, ids) == {"running"}
    gone = [wait_for(ec2, one, "terminated") for one in ids[:2]]
    assert {one["StateReason"]["Code"] for one in gone} == {"Server.SpotInstanceTermination"}
    assert len({one["StateTransitionReason"] for one in gone}) == 1
    assert describe(ec2, ids[2])["State"]["Name"] == "running"


def test_a_joint_end_without_notice_is_at_once_and_a_wrong_name_ends_none(
    cloud: EmbeddedCloud, ec2: Any, group: Group
) -> None:
    ids = group(3)
    with pytest.raises(EmbeddedCloudError, match="no instance i-0"):
        cloud.interrupt_together([*ids, "i-0"], notice=False)
    assert states(cloud, ids) == {"running"}
    cloud.interrupt_together(ids, notice=False)
    assert states(cloud, ids) <= {"shutting-down", "terminated"}
    for one in ids:
        assert wait_for(ec2, one, "terminated")["StateReason"]["Code"] == "Server.SpotInstanceTermination"


@pytest.mark.slow
def test_a_notice_alone_is_seen_by_those_that_got_it(
    cloud: EmbeddedCloud, ec2: Any, group: Group, private_key: paramiko.PKey
) -> None:
    ids = group(3)
    cloud.interrupt_together(ids[1:], terminate=False, notice_s=60)
    url = "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest"
    token = f"$(curl -sX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' {url}/api/token)"
    ask = f'curl -s -H "X-aws-ec2-metadata-token: {token}" {url}/meta-data/spot/instance-action'
    with logged_in(ec2, private_key, *ids) as sessions:
        said = [session.run(ask)[0].decode() for session in sessions]
    assert ["terminate" in one for one in said] == [False, True, True]
    assert said[1] == said[2]


def test_the_sixth_elastic_address_is_refused(cloud: EmbeddedCloud) -> None:
    west = client(cloud, "ec2", "us-west-2")
    kept = [west.allocate_address(Domain="vpc")["AllocationId"] for _ in range(5)]
    refused = error_of(west.allocate_address, Domain="vpc")
    assert refused[:2] == ("AddressLimitExceeded", "The maximum number of addresses has been reached.")
    west.release_address(AllocationId=kept.pop())
    kept.append(west.allocate_address(Domain="vpc")["AllocationId"])
    for one in kept:
        west.release_address(AllocationId=one)
