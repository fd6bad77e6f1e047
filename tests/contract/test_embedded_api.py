"""The embedded cloud's EC2, SSM and STS as plain boto3 sees them."""

import stat
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from infra.local import EmbeddedCloud, EmbeddedCloudError
from tests.contract.test_embedded_fixtures import (
    PARAMETER,
    SPOT,
    Launch,
    ami,
    client,
    cloud,
    describe,
    ec2,
    error_of,
    launch,
    private_key,
    wait_for,
)

__all__ = ["ami", "cloud", "ec2", "launch", "private_key"]


def params(ami: str, **changed: Any) -> dict[str, Any]:
    return {"ImageId": ami, "InstanceType": "p2.xlarge", "MinCount": 1, "MaxCount": 1, **changed}


@pytest.mark.slow
def test_a_stranger_is_refused_by_every_service(cloud: EmbeddedCloud) -> None:
    code, message, status = error_of(client(cloud, "ec2", key="AKIASTRANGER").describe_instances)
    assert (code, status) == ("AuthFailure", 401)
    assert message == "AWS was not able to validate the provided access credentials"
    assert error_of(client(cloud, "sts", key="AKIASTRANGER").get_caller_identity)[0] == "InvalidClientTokenId"
    assert error_of(client(cloud, "ssm", key="A").get_parameter, Name=PARAMETER)[0] == "UnrecognizedClientException"


@pytest.mark.parametrize(
    "path", ["/", "/_pixel-orch/instances", "/_pixel-orch/stop", "/moto-api/reset", "/latest/api/token"]
)
def test_a_request_without_a_key_is_refused(cloud: EmbeddedCloud, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(cloud.endpoint_url + path, data=b"Action=DescribeInstances", timeout=5)  # noqa: S310
    assert caught.value.code in (401, 403)
    caught.value.close()


def test_the_key_is_for_its_owner_only(cloud: EmbeddedCloud) -> None:
    state = cloud.home / "local"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "endpoint.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((state / "server.log").stat().st_mode) == 0o600


def test_an_unknown_region_is_refused(cloud: EmbeddedCloud) -> None:
    assert "no region 'eu-mars-1'" in error_of(client(cloud, "ec2", "eu-mars-1").describe_instances)[1]


def test_regions_zones_and_networks_are_there(cloud: EmbeddedCloud, ec2: Any) -> None:
    assert {region["RegionName"] for region in ec2.describe_regions()["Regions"]} == set(cloud.regions)
    zones = client(cloud, "ec2", "ap-northeast-1").describe_availability_zones()["AvailabilityZones"]
    assert [zone["ZoneName"] for zone in zones] == ["ap-northeast-1a", "ap-northeast-1c", "ap-northeast-1d"]
    (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])["Subnets"]
    assert len(subnets) == 6
    assert client(cloud, "sts").get_caller_identity()["Account"] == "123456789012"


def test_types_are_offered_in_some_zones_only(ec2: Any) -> None:
    types = ec2.describe_instance_types(InstanceTypes=["p2.xlarge", "g2.2xlarge", "p5.48xlarge"])["InstanceTypes"]
    k80 = next(one for one in types if one["InstanceType"] == "p2.xlarge")
    assert k80["GpuInfo"]["Gpus"][0]["Name"] == "K80"
    assert k80["VCpuInfo"]["DefaultVCpus"] == 4
    assert error_of(ec2.describe_instance_types, InstanceTypes=["zz.top"])[0] == "InvalidInstanceType"
    offered = ec2.describe_instance_type_offerings(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": ["p2.xlarge"]}]
    )["InstanceTypeOfferings"]
    assert {one["Location"] for one in offered} == {f"us-east-1{letter}" for letter in "abcde"}


def test_the_ami_parameter_names_an_image_that_exists(cloud: EmbeddedCloud, ec2: Any, ami: str) -> None:
    (image,) = ec2.describe_images(ImageIds=[ami])["Images"]
    assert image["OwnerId"] == "898082745236"
    by_name = ec2.describe_images(
        Owners=["amazon"],
        Filters=[{"Name": "name", "Values": ["Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) *"]}],
    )["Images"]
    assert [one["ImageId"] for one in by_name] == [ami]
    elsewhere = client(cloud, "ssm", "us-west-2").get_parameter(Name=PARAMETER)["Parameter"]["Value"]
    assert elsewhere != ami
    assert error_of(ec2.run_instances, **params(elsewhere))[0] == "InvalidAMIID.NotFound"
    assert error_of(client(cloud, "ssm").get_parameter, Name=PARAMETER + "x")[0] == "ParameterNotFound"


def test_prices_are_the_changes_in_the_window_and_the_one_before(ec2: Any) -> None:
    end = datetime.now(timezone.utc)
    start = end - timedelta(days=2)
    pages = ec2.get_paginator("describe_spot_price_history").paginate(
        InstanceTypes=["p2.xlarge"],
        ProductDescriptions=["Linux/UNIX"],
        StartTime=start,
        EndTime=end,
        PaginationConfig={"PageSize": 7},
    )
    rows = [row for page in pages for row in page["SpotPriceHistory"]]
    assert {row["AvailabilityZone"] for row in rows} == {f"us-east-1{letter}" for letter in "abcde"}
    assert all(row["ProductDescription"] == "Linux/UNIX" for row in rows)
    assert [row["Timestamp"] for row in rows] == sorted((row["Timestamp"] for row in rows), reverse=True)
    for zone in {row["AvailabilityZone"] for row in rows}:
        times = [row["Timestamp"] for row in rows if row["AvailabilityZone"] == zone]
        assert sum(time <= start for time in times) == 1


def test_prices_now_are_one_row_for_each_zone(ec2: Any) -> None:
    now = datetime.now(timezone.utc)
    rows = ec2.describe_spot_price_history(
        InstanceTypes=["g5.xlarge"], StartTime=now, Filters=[{"Name": "availability-zone", "Values": ["us-east-1a"]}]
    )["SpotPriceHistory"]
    assert [(row["AvailabilityZone"], 0.4 < float(row["SpotPrice"]) < 0.6) for row in rows] == [("us-east-1a", True)]
    windows = ec2.describe_spot_price_history(InstanceTypes=["g5.xlarge"], ProductDescriptions=["Windows"])
    assert windows["SpotPriceHistory"] == []


def test_an_instance_is_pending_then_running_then_terminated(launch: Launch, ec2: Any, cloud: EmbeddedCloud) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "pixel-orch", "Value": "r1"}]}]
    instance_id = launch(wait=False, TagSpecifications=tags, ClientToken="token-of-states")
    code, message, status = error_of(ec2.describe_instances, InstanceIds=[instance_id])
    assert (code, status) == ("InvalidInstanceID.NotFound", 400)
    assert message == f"The instance ID '{instance_id}' does not exist"
    running = wait_for(ec2, instance_id, "running")
    assert running["PublicIpAddress"] == "127.0.0.1"
    assert running["InstanceLifecycle"] == "spot"
    assert running["SpotInstanceRequestId"].startswith("sir-")
    assert running["Placement"]["AvailabilityZone"] == "us-east-1b"
    assert running["ClientToken"] == "token-of-states"
    for found in (
        [{"Name": "tag:pixel-orch", "Values": ["r1"]}, {"Name": "instance-state-name", "Values": ["running"]}],
        [{"Name": "client-token", "Values": ["token-of-states"]}],
    ):
        (reservation,) = ec2.describe_instances(Filters=found)["Reservations"]
        assert reservation["Instances"][0]["InstanceId"] == instance_id
    (ending,) = ec2.terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"]
    assert (ending["PreviousState"]["Name"], ending["CurrentState"]["Name"]) == ("running", "shutting-down")
    gone = wait_for(ec2, instance_id, "terminated")
    assert gone["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert gone["StateTransitionReason"].startswith("User initiated (")
    assert "PublicIpAddress" not in gone
    (again,) = ec2.terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"]
    assert again["CurrentState"]["Name"] == "terminated"


def test_the_same_client_token_is_the_same_instance(launch: Launch, ec2: Any, cloud: EmbeddedCloud) -> None:
    first = launch(ClientToken="twice")
    assert launch(ClientToken="twice") == first
    assert sum(one["id"] == first for one in cloud.instances()) == 1
    with pytest.raises(Exception, match="IdempotentParameterMismatch"):
        launch(ClientToken="twice", InstanceType="p2.8xlarge")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"InstanceType": "zz.top"}, "InvalidParameterValue"),
        ({"ImageId": "ami-0123"}, "InvalidAMIID.NotFound"),
        ({"ImageId": "nonsense"}, "InvalidAMIID.Malformed"),
        ({"KeyName": "nobodys"}, "InvalidKeyPair.NotFound"),
        ({"Placement": {"AvailabilityZone": "us-west-2a"}}, "InvalidParameterValue"),
        ({"Placement": {"AvailabilityZone": "us-east-1f"}}, "Unsupported"),
        ({"SubnetId": "subnet-0123"}, "InvalidSubnetID.NotFound"),
        ({"SecurityGroupIds": ["sg-0123"]}, "InvalidGroup.NotFound"),
        ({"UserData": "x" * 16385}, "InvalidParameterValue"),
        ({"DryRun": True}, "DryRunOperation"),
        ({"DryRun": True, "InstanceType": "zz.top"}, "InvalidParameterValue"),
    ],
)
def test_a_launch_that_cannot_be_is_refused(ec2: Any, cloud: EmbeddedCloud, ami: str, changed: Any, code: str) -> None:
    before = len(cloud.instances())
    assert error_of(ec2.run_instances, **{**params(ami), **changed})[0] == code
    assert len(cloud.instances()) == before


def test_a_max_price_below_the_market_is_refused(ec2: Any, ami: str) -> None:
    low = {"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.01"}}
    where = {"AvailabilityZone": "us-east-1b"}
    code, message, _ = error_of(ec2.run_instances, **params(ami, InstanceMarketOptions=low, Placement=where))
    assert code == "SpotMaxPriceTooLow"
    assert message.startswith("Your Spot request price of 0.01 is lower than the minimum required Spot request")


def test_a_fault_comes_with_ec2s_status_and_only_where_it_was_put(
    ec2: Any, cloud: EmbeddedCloud, launch: Launch
) -> None:
    cloud.add_fault({"operation": "RunInstances", "zone": "us-east-1b", "error": "InsufficientInstanceCapacity"})
    with pytest.raises(Exception, match=r"sufficient p2\.xlarge capacity") as caught:
        launch()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500  # type: ignore[attr-defined]
    assert describe(ec2, launch(Placement=None))["Placement"]["AvailabilityZone"] == "us-east-1a"
    cloud.clear_faults()
    cloud.add_fault({"operation": "DescribeInstances", "error": "RequestLimitExceeded", "times": 1})
    assert error_of(ec2.describe_instances)[::2] == ("RequestLimitExceeded", 503)
    assert ec2.describe_instances()["Reservations"]
    with pytest.raises(EmbeddedCloudError, match="unknown error 'Nonsense'"):
        cloud.add_fault({"operation": "RunInstances", "error": "Nonsense"})


def test_a_pool_has_room_for_as_many_as_it_was_given(cloud: EmbeddedCloud, launch: Launch, ec2: Any) -> None:
    cloud.set_capacity("p2.xlarge", "us-east-1b", 1)
    first = launch()
    with pytest.raises(Exception, match="InsufficientInstanceCapacity"):
        launch()
    ec2.terminate_instances(InstanceIds=[first])
    wait_for(ec2, first, "terminated")
    launch()
    cloud.set_capacity("p2.xlarge", "us-east-1b", None)


def test_a_spot_instance_cannot_be_stopped_but_an_on_demand_one_can(launch: Launch, ec2: Any) -> None:
    assert error_of(ec2.stop_instances, InstanceIds=[launch()])[0] == "UnsupportedOperation"
    on_demand = launch(InstanceMarketOptions=None)
    ec2.stop_instances(InstanceIds=[on_demand])
    wait_for(ec2, on_demand, "stopped")
    ec2.start_instances(InstanceIds=[on_demand])
    wait_for(ec2, on_demand, "running")


def test_what_is_interrupted_must_be_a_running_spot_instance(cloud: EmbeddedCloud, launch: Launch) -> None:
    with pytest.raises(EmbeddedCloudError, match="on-demand"):
        cloud.interrupt(launch(InstanceMarketOptions=None))
    with pytest.raises(EmbeddedCloudError, match="no instance i-0123"):
        cloud.interrupt("i-0123")


def test_an_interruption_without_notice_ends_the_instance_at_once(
    cloud: EmbeddedCloud, launch: Launch, ec2: Any
) -> None:
    instance_id = launch(InstanceMarketOptions=SPOT)
    cloud.interrupt(instance_id, notice=False)
    gone = wait_for(ec2, instance_id, "terminated")
    assert gone["StateReason"]["Code"] == "Server.SpotInstanceTermination"


def test_a_security_group_and_a_key_pair_are_motos_own(ec2: Any) -> None:
    group = ec2.create_security_group(GroupName="pixel-orch-test", Description="x")["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "127.0.0.1/32"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    assert (
        error_of(ec2.create_security_group, GroupName="pixel-orch-test", Description="x")[0] == "InvalidGroup.Duplicate"
    )
    ec2.delete_security_group(GroupId=group)


def test_what_is_not_there_is_refused_and_not_tried_again(ec2: Any) -> None:
    launch = {"ImageId": "ami-1", "InstanceType": "p2.xlarge"}
    assert error_of(ec2.request_spot_instances, LaunchSpecification=launch)[::2] == ("UnsupportedOperation", 400)
    no_such = [{"Name": "launch-index", "Values": ["0"]}]
    assert error_of(ec2.describe_instances, Filters=no_such)[::2] == ("UnsupportedOperation", 400)
