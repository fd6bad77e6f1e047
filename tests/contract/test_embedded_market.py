"""What moto lacks and a launch on AWS asks for: the price list, the quotas, the images by name, CreateFleet."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from infra.local import EmbeddedCloud, EmbeddedCloudError
from infra.local.aws.quotas import QUOTAS, quota_for
from tests.contract.test_embedded_fixtures import (
    PARAMETER,
    ami,
    client,
    cloud,
    describe,
    ec2,
    error_of,
    private_key,
    wait_for,
)

__all__ = ["ami", "cloud", "ec2", "private_key"]
LINUX = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
}
USER_DATA = "I2Nsb3VkLWNvbmZpZwp7InJ1bmNtZCI6IFsiZWNobyBvZi10aGUtdGVtcGxhdGUgPiBtYXJrIl19"
"""#cloud-config, base64: {"runcmd": ["echo of-the-template > mark"]}"""


@pytest.fixture(autouse=True)
def as_it_was(cloud: EmbeddedCloud, ec2: Any) -> Iterator[None]:
    yield
    cloud.clear_faults()
    for quota in QUOTAS:
        cloud.set_quota(quota.code, None)
    alive = [one["id"] for one in cloud.instances() if one["state"] in ("pending", "running")]
    if alive:
        ec2.terminate_instances(InstanceIds=alive)
    for instance_id in alive:
        wait_for(ec2, instance_id, "terminated")


def terms(**fields: str) -> list[dict[str, str]]:
    return [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in fields.items()]


def prices(cloud: EmbeddedCloud, **fields: str) -> list[float]:
    answer = client(cloud, "pricing").get_products(ServiceCode="AmazonEC2", Filters=terms(**fields))
    found = []
    for text in answer["PriceList"]:
        (term,) = json.loads(text)["terms"]["OnDemand"].values()
        (dimension,) = term["priceDimensions"].values()
        assert dimension["unit"] == "Hrs"
        found.append(float(dimension["pricePerUnit"]["USD"]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "region", "usd_h"),
    [
        ("p2.xlarge", "us-east-1", 0.9),
        ("g2.2xlarge", "us-west-2", 0.65),
        ("g4dn.xlarge", "us-east-1", 0.526),
        ("g5.xlarge", "ap-northeast-1", 1.459),
    ],
)
def test_the_price_list_has_one_price_where_the_filters_are_complete(
    cloud: EmbeddedCloud, name: str, region: str, usd_h: float
) -> None:
    assert prices(cloud, instanceType=name, regionCode=region, **LINUX) == [usd_h]


def test_without_the_capacity_filter_other_rows_come_too(cloud: EmbeddedCloud) -> None:
    fields = {name: value for name, value in LINUX.items() if name != "capacitystatus"}
    assert sorted(prices(cloud, instanceType="p2.xlarge", regionCode="us-east-1", **fields)) == [0.0, 0.9, 0.9]
    assert prices(cloud, instanceType="p2.xlarge", regionCode="us-east-1", operatingSystem="Windows") == []


def test_the_price_list_comes_in_pages(cloud: EmbeddedCloud) -> None:
    pages = client(cloud, "pricing").get_paginator("get_products")
    found = pages.paginate(
        ServiceCode="AmazonEC2", Filters=terms(capacitystatus="Used"), PaginationConfig={"PageSize": 7}
    )
    products = [json.loads(text)["product"] for page in found for text in page["PriceList"]]
    assert len(products) > 20
    assert len({product["sku"] for product in products}) == len(products)
    refused = error_of(client(cloud, "pricing").get_products, ServiceCode="AmazonEC2", NextToken="x")
    assert refused[0] == "InvalidNextTokenException"


def test_a_quota_has_its_code_name_and_value(cloud: EmbeddedCloud) -> None:
    quotas = client(cloud, "service-quotas")
    cloud.set_quota("L-7212CCBC", 8)
    cloud.set_quota("L-7212CCBC", 0, region="us-west-2")
    quota = quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-7212CCBC")["Quota"]
    assert (quota["QuotaName"], quota["Value"]) == ("All P4, P3 and P2 Spot Instance Requests", 8.0)
    west = client(cloud, "service-quotas", "us-west-2")
    assert west.get_service_quota(ServiceCode="ec2", QuotaCode="L-7212CCBC")["Quota"]["Value"] == 0.0
    pages = quotas.get_paginator("list_service_quotas").paginate(ServiceCode="ec2", PaginationConfig={"PageSize": 3})
    listed = {one["QuotaCode"]: one["Value"] for page in pages for one in page["Quotas"]}
    assert set(listed) == {quota.code for quota in QUOTAS}
    assert listed["L-7212CCBC"] == 8.0
    default = quotas.get_aws_default_service_quota(ServiceCode="ec2", QuotaCode="L-7212CCBC")["Quota"]
    assert default["Value"] == 0.0
    assert error_of(quotas.get_service_quota, ServiceCode="ec2", QuotaCode="L-0")[0] == "NoSuchResourceException"
    with pytest.raises(EmbeddedCloudError, match="unknown quota 'L-0'"):
        cloud.set_quota("L-0", 3)


@pytest.mark.parametrize(
    ("name", "market", "code"),
    [
        ("g2.2xlarge", "spot", "L-3819A6DF"),
        ("g6e.xlarge", "on-demand", "L-DB2E81BA"),
        ("p2.xlarge", "spot", "L-7212CCBC"),
        ("p5.48xlarge", "spot", "L-C4BD4855"),
        ("p5.48xlarge", "on-demand", "L-417A185B"),
        ("m5.large", "spot", "L-34B43A08"),
    ],
)
def test_each_type_and_market_has_its_quota(name: str, market: str, code: str) -> None:
    assert quota_for(name, market).code == code


def run(ec2: Any, ami: str, *, spot: bool, **changed: Any) -> str:
    params = {"ImageId": ami, "InstanceType": "p2.xlarge", "MinCount": 1, "MaxCount": 1, **changed}
    if spot:
        params["InstanceMarketOptions"] = {"MarketType": "spot"}
    instance_id: str = ec2.run_instances(**params)["Instances"][0]["InstanceId"]
    return instance_id


def test_a_launch_beyond_the_quota_is_refused_by_its_vcpus(cloud: EmbeddedCloud, ec2: Any, ami: str) -> None:
    cloud.set_quota("L-7212CCBC", 8)  # two of 4 vCPUs
    first, _ = run(ec2, ami, spot=True), run(ec2, ami, spot=True)
    code, text, status = error_of(run, ec2=ec2, ami=ami, spot=True)
    assert (code, text, status) == ("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded", 400)
    run(ec2, ami, spot=False)  # another quota
    ec2.terminate_instances(InstanceIds=[first])
    wait_for(ec2, first, "terminated")
    run(ec2, ami, spot=True)


def test_an_on_demand_launch_beyond_the_quota_names_the_limit(cloud: EmbeddedCloud, ec2: Any, ami: str) -> None:
    cloud.set_quota("L-417A185B", 3)
    code, text, _ = error_of(run, ec2=ec2, ami=ami, spot=False)
    assert code == "VcpuLimitExceeded"
    assert "your current vCPU limit of 3 allows" in text
    cloud.set_quota("L-417A185B", 0)
    assert "vCPU limit of 0 allows" in error_of(run, ec2=ec2, ami=ami, spot=False)[1]


def test_every_dlami_parameter_names_an_image_of_amazons(cloud: EmbeddedCloud, ec2: Any) -> None:
    ssm = client(cloud, "ssm")
    for kind in (
        "base-oss-nvidia-driver-gpu-ubuntu-22.04",
        "base-oss-nvidia-driver-gpu-amazon-linux-2023",
        "oss-nvidia-driver-gpu-pytorch-2.7-ubuntu-22.04",
    ):
        name = f"/aws/service/deeplearning/ami/x86_64/{kind}/latest/ami-id"
        value = ssm.get_parameter(Name=name)["Parameter"]["Value"]
        (image,) = ec2.describe_images(ImageIds=[value])["Images"]
        assert (image["OwnerId"], image["Architecture"]) == ("898082745236", "x86_64")
        assert image["State"] == "available"
    pattern = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) *"
    by_owner = ec2.describe_images(Owners=["898082745236"], Filters=[{"Name": "name", "Values": [pattern]}])["Images"]
    assert [one["ImageId"] for one in by_owner] == [ssm.get_parameter(Name=PARAMETER)["Parameter"]["Value"]]


# --- CreateFleet -----------------------------------------------------------------------------------------


@pytest.fixture
def template(ec2: Any, ami: str) -> Iterator[str]:
    group = ec2.create_security_group(GroupName="fleet-door", Description="x")["GroupId"]
    data = {
        "ImageId": ami,
        "UserData": USER_DATA,
        "SecurityGroupIds": [group],
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required"},
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "of", "Value": "template"}]}],
    }
    made = ec2.create_launch_template(LaunchTemplateName="fleet-template", LaunchTemplateData=data)["LaunchTemplate"]
    yield made["LaunchTemplateId"]
    ec2.delete_launch_template(LaunchTemplateId=made["LaunchTemplateId"])
    code = error_of(ec2.create_fleet, **fleet(made["LaunchTemplateId"], ("p2.xlarge", "us-east-1a")))[0]
    assert code == "InvalidLaunchTemplateId.NotFound"
    for one in ec2.describe_instances()["Reservations"]:
        for instance in one["Instances"]:
            if instance["State"]["Name"] != "terminated":
                ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
                wait_for(ec2, instance["InstanceId"], "terminated")
    ec2.delete_security_group(GroupId=group)


def fleet(template: str, *pools: tuple[str, str], market: str = "spot", **changed: Any) -> dict[str, Any]:
    overrides = [{"InstanceType": name, "AvailabilityZone": zone} for name, zone in pools]
    specification = {"LaunchTemplateId": template, "Version": "$Latest"}
    request: dict[str, Any] = {
        "Type": "instant",
        "LaunchTemplateConfigs": [{"LaunchTemplateSpecification": specification, "Overrides": overrides}],
        "TargetCapacitySpecification": {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": market},
        "SpotOptions": {"AllocationStrategy": "price-capacity-optimized"},
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "run", "Value": "r1"}]}],
    }
    return {**request, **changed}


def test_a_fleet_takes_the_cheapest_pool_that_has_room_and_the_template_reaches_the_instance(
    cloud: EmbeddedCloud, ec2: Any, template: str
) -> None:
    pools = [("p2.xlarge", zone) for zone in ("us-east-1a", "us-east-1b", "us-east-1c")]
    answer = ec2.create_fleet(**fleet(template, *pools))
    assert answer["Errors"] == []
    (served,) = answer["Instances"]
    assert served["LaunchTemplateAndOverrides"]["Overrides"]["AvailabilityZone"] == "us-east-1b"
    assert (served["Lifecycle"], served["InstanceType"]) == ("spot", "p2.xlarge")
    (instance_id,) = served["InstanceIds"]
    instance = wait_for(ec2, instance_id, "running")
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert (tags["run"], tags["of"]) == ("r1", "template")
    assert tags["aws:ec2:fleet-id"] == answer["FleetId"]
    assert [group["GroupName"] for group in instance["SecurityGroups"]] == ["fleet-door"]
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert instance["InstanceLifecycle"] == "spot"
    (one,) = (one for one in cloud.instances() if one["id"] == instance_id)
    behaviour = ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="instanceInitiatedShutdownBehavior")
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    encoded = ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")["UserData"]["Value"]
    assert encoded == USER_DATA
    assert one["ssh_port"]


def test_each_pool_that_refuses_is_named_with_its_error(cloud: EmbeddedCloud, ec2: Any, template: str) -> None:
    cloud.add_fault({"operation": "CreateFleet", "zone": "us-east-1b", "error": "InsufficientInstanceCapacity"})
    cloud.set_capacity("p2.xlarge", "us-east-1a", 0)
    cloud.set_quota("L-DB2E81BA", 0)
    pools = [("p2.xlarge", "us-east-1b"), ("p2.xlarge", "us-east-1a"), ("p2.xlarge", "us-east-1f")]
    answer = ec2.create_fleet(**fleet(template, *pools))
    cloud.set_capacity("p2.xlarge", "us-east-1a", None)
    assert answer["Instances"] == []
    errors = {
        one["LaunchTemplateAndOverrides"]["Overrides"]["AvailabilityZone"]: (one["ErrorCode"], one["Lifecycle"])
        for one in answer["Errors"]
    }
    assert errors == {
        "us-east-1b": ("InsufficientInstanceCapacity", "spot"),
        "us-east-1a": ("InsufficientInstanceCapacity", "spot"),
        "us-east-1f": ("InvalidFleetConfiguration", "spot"),
    }
    texts = {one["ErrorCode"]: one["ErrorMessage"] for one in answer["Errors"]}
    assert texts["InvalidFleetConfiguration"] == (
        "Your requested instance type (p2.xlarge) is not supported in your requested Availability Zone (us-east-1f)."
    )


def test_a_pool_with_room_is_taken_before_a_cheaper_one_that_is_nearly_full(
    cloud: EmbeddedCloud, ec2: Any, template: str
) -> None:
    cloud.set_capacity("p2.xlarge", "us-east-1b", 1)
    pools = [("p2.xlarge", "us-east-1a"), ("p2.xlarge", "us-east-1b")]
    (served,) = ec2.create_fleet(**fleet(template, *pools))["Instances"]
    assert served["AvailabilityZone"] == "us-east-1a"
    cheap = ec2.create_fleet(**fleet(template, *pools, SpotOptions={"AllocationStrategy": "lowest-price"}))
    assert cheap["Instances"][0]["AvailabilityZone"] == "us-east-1b"
    cloud.set_capacity("p2.xlarge", "us-east-1b", None)


def test_the_same_token_is_the_same_fleet(cloud: EmbeddedCloud, ec2: Any, template: str) -> None:
    request = fleet(template, ("p2.xlarge", "us-east-1b"), ClientToken="fleet-once")
    first, again = ec2.create_fleet(**request), ec2.create_fleet(**request)
    assert first["Instances"] == again["Instances"]
    other = {**request, "TargetCapacitySpecification": {"TotalTargetCapacity": 2, "DefaultTargetCapacityType": "spot"}}
    assert error_of(ec2.create_fleet, **other)[0] == "IdempotentParameterMismatch"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"Type": "maintain"}, "UnsupportedOperation"),
        ({"DryRun": True}, "DryRunOperation"),
        ({"SpotOptions": {"AllocationStrategy": "best"}}, "InvalidParameterValue"),
        ({"TargetCapacitySpecification": {"TotalTargetCapacity": 0}}, "InvalidTargetCapacitySpecification"),
    ],
)
def test_a_fleet_that_cannot_be_is_refused(
    cloud: EmbeddedCloud, ec2: Any, template: str, changed: Any, code: str
) -> None:
    before = len(cloud.instances())
    assert error_of(ec2.create_fleet, **fleet(template, ("p2.xlarge", "us-east-1b"), **changed))[0] == code
    assert len(cloud.instances()) == before


def test_an_on_demand_fleet_beyond_the_quota_says_so_in_its_errors(
    cloud: EmbeddedCloud, ec2: Any, template: str
) -> None:
    cloud.set_quota("L-417A185B", 3)
    answer = ec2.create_fleet(**fleet(template, ("p2.xlarge", "us-east-1a"), market="on-demand"))
    assert [one["ErrorCode"] for one in answer["Errors"]] == ["VcpuLimitExceeded"]
    assert "vCPU limit of 3" in answer["Errors"][0]["ErrorMessage"]
    cloud.add_fault({"operation": "CreateFleet", "error": "UnauthorizedOperation", "times": 1})
    request = fleet(template, ("p2.xlarge", "us-east-1b"), DryRun=True)
    assert error_of(ec2.create_fleet, **request)[0] == "UnauthorizedOperation"


def test_run_instances_takes_a_template_too(cloud: EmbeddedCloud, ec2: Any, template: str) -> None:
    launched = ec2.run_instances(
        LaunchTemplate={"LaunchTemplateName": "fleet-template"}, InstanceType="p2.xlarge", MinCount=1, MaxCount=1
    )
    instance = describe(ec2, launched["Instances"][0]["InstanceId"])
    assert [group["GroupName"] for group in instance["SecurityGroups"]] == ["fleet-door"]
    assert "InstanceLifecycle" not in instance


# --- dry runs --------------------------------------------------------------------------------------------

DRY = [
    ("run_instances", {"InstanceType": "p2.xlarge", "MinCount": 1, "MaxCount": 1}),
    ("create_security_group", {"GroupName": "x", "Description": "x"}),
    ("create_launch_template", {"LaunchTemplateName": "x", "LaunchTemplateData": {"InstanceType": "p2.xlarge"}}),
    ("describe_instances", {}),
    ("describe_spot_price_history", {}),
    ("describe_instance_type_offerings", {}),
    ("describe_images", {}),
    ("create_tags", {"Resources": ["i-0123456789abcdef0"], "Tags": [{"Key": "a", "Value": "b"}]}),
]


@pytest.mark.parametrize(("operation", "parameters"), DRY, ids=[name for name, _ in DRY])
def test_a_dry_run_says_whether_it_is_allowed(
    cloud: EmbeddedCloud, ec2: Any, ami: str, operation: str, parameters: dict[str, Any]
) -> None:
    if operation == "run_instances":
        parameters = {**parameters, "ImageId": ami}
    call = getattr(ec2, operation)
    assert error_of(call, **parameters, DryRun=True)[::2] == ("DryRunOperation", 412)
    camel = "".join(word.capitalize() for word in operation.split("_"))
    cloud.add_fault({"operation": camel, "error": "UnauthorizedOperation", "times": 1})
    code, text, status = error_of(call, **parameters, DryRun=True)
    assert (code, status) == ("UnauthorizedOperation", 403)
    assert f"not authorized to perform: ec2:{camel}" in text
