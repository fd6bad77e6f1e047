"""What a launch asks before anything is rented, and in which order it tries."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from infra.local.aws import spot_market
from model.config import config_from_settings
from orchestrator.cloud.aws.images import OSS_DRIVER_FAMILIES, login_user, supported_families
from orchestrator.cloud.base import Call, Image, Network
from orchestrator.errors import AccessError, QuotaError, SpecError
from orchestrator.host.sync import Tree
from orchestrator.market import budget as limits
from orchestrator.market import catalog
from orchestrator.market.offers import ranked_by_value
from orchestrator.plan.job import torch_has_kernels
from orchestrator.plan.planner import make_plan
from orchestrator.plan.preflight import QUOTA_CODES, launch_dry_run, preflight
from orchestrator.plan.preview import Draft
from orchestrator.plan.requests import Plan
from orchestrator.runs.spec import Limits, RunSpec
from tests.support.memory import MemoryCloud, VirtualClock

SUBNETS = ("subnet-0000000000000000a", "subnet-0000000000000000b")


def planned(cloud: MemoryCloud, *, speeds: Mapping[str, float] | None = None, **spec: Any) -> Plan:
    """Return the plan of a spec on the in-memory cloud."""
    wanted: dict[str, Any] = {"instances": ("g4dn.xlarge", "g5.xlarge"), "market": "spot", "regions": ("us-east-1",)}
    asked = RunSpec(run="plan", cloud="aws", **{**wanted, **spec})
    return make_plan(asked, cloud, "home", 0.0, images_per_s=speeds)


@pytest.fixture
def cloud() -> MemoryCloud:
    """Give an in-memory cloud."""
    return MemoryCloud(VirtualClock())


def types(plan: Plan) -> list[str]:
    """Return the types in the order in which they are tried."""
    return list(dict.fromkeys(offer.pool.instance_type for offer in plan.offers))


def test_measured_value_wins_over_price_where_every_type_was_measured(cloud: MemoryCloud) -> None:
    by_price = planned(cloud).offers
    assert [o.price_usd_h for o in by_price] == sorted(o.price_usd_h for o in by_price)
    fast = {"g4dn.xlarge": 100.0, "g5.xlarge": 300.0}
    by_value = planned(cloud, speeds=fast)
    assert types(by_value) == ["g5.xlarge", "g4dn.xlarge"]
    value = [o.price_usd_h / fast[o.pool.instance_type] for o in by_value.offers]
    assert value == sorted(value)
    assert ranked_by_value(by_price, {"g5.xlarge": 300.0}) == list(by_price), "one that was not measured: no order"


def test_a_subnet_narrows_the_zones_and_stands_in_the_requests(cloud: MemoryCloud) -> None:
    plan = planned(cloud, subnets=SUBNETS)
    assert {offer.pool.zone for offer in plan.offers} == {"us-east-1a", "us-east-1b"}
    assert plan.security_group("us-east-1").parameters["VpcId"] == "vpc-1"
    parameters = plan.launch(plan.offers[0], 1, 1, "sg-1", "data").parameters
    assert "Placement" not in parameters
    (interface,) = parameters["NetworkInterfaces"]
    assert interface["AssociatePublicIpAddress"] is True, "a subnet of one's own gives none by itself"
    assert interface["SubnetId"] in SUBNETS
    assert not {"SubnetId", "SecurityGroupIds"} & set(parameters), "EC2 refuses them beside an interface"
    private = planned(cloud, subnets=SUBNETS, is_private=True)
    parameters = private.launch(private.offers[0], 1, 1, "sg-1", "data").parameters
    (interface,) = parameters["NetworkInterfaces"]
    assert interface["AssociatePublicIpAddress"] is False
    assert interface["SubnetId"] in SUBNETS
    assert not {"SubnetId", "SecurityGroupIds"} & set(parameters), "EC2 refuses them beside an interface"


def test_a_zone_without_a_default_subnet_is_left_out(cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud, "network", lambda region, subnets: Network(zones=("us-east-1a", "us-east-1c")))
    assert {offer.pool.zone for offer in planned(cloud).offers} == {"us-east-1a", "us-east-1c"}
    monkeypatch.setattr(cloud, "network", lambda region, subnets: Network(zones=("us-east-1f",)))
    with pytest.raises(SpecError, match=r"is not offered in the subnets' zones \(us-east-1f\)"):
        planned(cloud)


def test_the_users_tags_are_on_everything_and_cannot_replace_ours(cloud: MemoryCloud) -> None:
    plan = planned(cloud, tags={"team": "vision", "Name": "mine"}, strategy="any")
    template, fleet = plan.fleet(plan.offers, 1, 1, "sg-1", "data")
    requests = [plan.security_group("us-east-1"), plan.launch(plan.offers[0], 1, 1, "sg-1", "data"), template, fleet]
    for request in requests:
        for kind in request.parameters["TagSpecifications"]:
            tags = {tag["Key"]: tag["Value"] for tag in kind["Tags"]}
            assert tags["team"] == "vision"
            assert tags["pixel-orch:run"] == "plan"
            assert tags["pixel-orch:home"] == "home"


def test_a_quota_that_is_too_small_leaves_the_other_family(cloud: MemoryCloud) -> None:
    cloud.quotas = {QUOTA_CODES["G", "spot"]: 0.0}
    plan = planned(cloud, instances=("g4dn.xlarge", "p4d.24xlarge"))
    cloud.quotas[QUOTA_CODES["P", "spot"]] = 96.0
    assert types(preflight(plan, cloud)) == ["p4d.24xlarge"]


def test_without_any_quota_nothing_is_sent_and_the_code_is_named(cloud: MemoryCloud) -> None:
    cloud.quotas = {QUOTA_CODES["G", "spot"]: 3.0}
    with pytest.raises(QuotaError) as raised:
        preflight(planned(cloud), cloud)
    said = str(raised.value)
    assert "L-3819A6DF (G spot) in us-east-1 is 3; 4 are needed" in said
    assert "request-service-quota-increase --region us-east-1 --service-code ec2 --quota-code L-3819A6DF" in said
    assert cloud.calls == []


def test_a_quota_that_may_not_be_read_is_left_to_ec2(cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud, "quota_vcpus", lambda region, code: None)
    assert preflight(planned(cloud), cloud).offers == planned(cloud).offers


def test_a_policy_that_forbids_the_launch_is_found_by_a_dry_run(
    cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Call] = []

    def refuse(call: Call) -> None:
        sent.append(call)
        if call.operation == "RunInstances":
            raise AccessError("RunInstances: UnauthorizedOperation", code="UnauthorizedOperation")

    monkeypatch.setattr(cloud, "dry_run", refuse)
    with pytest.raises(AccessError):
        preflight(planned(cloud), cloud)
    assert {call.operation for call in sent} == {"RunInstances", "CreateSecurityGroup"}


def test_a_dry_run_of_a_launch_names_no_security_group(cloud: MemoryCloud) -> None:
    for private in (False, True):
        plan = planned(cloud, is_private=private, subnets=SUBNETS)
        parameters = launch_dry_run(plan, plan.offers[0]).parameters
        assert "SecurityGroupIds" not in parameters
        assert all(not interface["Groups"] for interface in parameters.get("NetworkInterfaces", []))
        assert "UserData" not in parameters


@pytest.mark.parametrize("name", ["g2.2xlarge", "p2.xlarge", "p3.2xlarge"])
def test_a_retired_type_is_refused_before_any_request(cloud: MemoryCloud, name: str) -> None:
    with pytest.raises(SpecError, match="was retired by AWS") as raised:
        planned(cloud, instances=(name,))
    assert str(catalog.find(name).replacement) in str(raised.value)


@pytest.mark.parametrize(
    ("capability", "has"),
    [
        ("3.0", False),
        ("3.7", True),
        ("5.2", True),
        ("6.1", True),
        ("5.0", False),
        ("7.0", True),
        ("7.5", True),
        ("8.9", True),
    ],
)
def test_which_gpus_have_a_torch_build(capability: str, has: bool) -> None:
    assert torch_has_kernels(capability) is has


def test_an_image_whose_driver_lacks_the_family_is_refused(cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image("ami-1", name="Deep Learning Base", families=("g5", "g6"))
    monkeypatch.setattr(cloud, "image", lambda region, image_id=None: image)
    with pytest.raises(SpecError, match="supports g5, g6, not g4dn"):
        planned(cloud)
    assert planned(cloud, instances=("g5.xlarge",))


@pytest.mark.parametrize(
    ("name", "user"),
    [
        ("Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20261101", "ubuntu"),
        ("Deep Learning Base OSS Nvidia Driver GPU AMI (Amazon Linux 2023) 20261101", "ec2-user"),
        ("al2023-ami-2023.6.20241010.0-kernel-6.1-x86_64", "ec2-user"),
        ("amzn2-ami-hvm-2.0.20240131.0-x86_64-gp2", "ec2-user"),
        ("debian-12-amd64-20240717-1811", "admin"),
        ("RHEL-9.4.0_HVM-20240605-x86_64-82-Hourly2-GP3", "ec2-user"),
        ("my own image", "ubuntu"),
    ],
)
def test_the_login_user_is_the_images(name: str, user: str) -> None:
    assert login_user(name) == user


def test_the_families_are_read_from_the_description_where_it_names_them() -> None:
    told = "Supported EC2 instances: G4dn, G5, P4d. Release notes: https://docs.aws.amazon.com/dlami/"
    assert supported_families("Deep Learning AMI", told) == ("g4dn", "g5", "p4d")
    name = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20261101"
    assert supported_families(name, "") == OSS_DRIVER_FAMILIES
    assert supported_families("my own image", "") == ()


def test_a_small_disk_grows_to_the_images_size(cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image("ami-1", root_device="/dev/xvda", least_disk_gib=65)
    monkeypatch.setattr(cloud, "image", lambda region, image_id=None: image)
    plan = planned(cloud, disk_gib=30)
    (disk,) = plan.launch(plan.offers[0], 1, 1, "sg-1", "data").parameters["BlockDeviceMappings"]
    assert (disk["DeviceName"], disk["Ebs"]["VolumeSize"], disk["Ebs"]["Encrypted"]) == ("/dev/xvda", 65, True)


def test_a_home_without_runs_has_measured_nothing(home: Path) -> None:
    from orchestrator.plan.planner import measured_speeds

    spec = RunSpec(run="x", cloud="aws", instances=("g4dn.xlarge", "g5.xlarge"), market="spot", regions=("us-east-1",))
    assert measured_speeds(home, spec) == {}


@pytest.mark.parametrize("strategy", ["price", "any"])
def test_a_dry_run_prints_who_is_let_in(cloud: MemoryCloud, strategy: str) -> None:
    def admitted(**spec: Any) -> list[Any]:
        plan = planned(cloud, strategy=strategy, **spec)
        calls = Draft(plan, "AWS", cloud.caller_cidr(), Tree(Path(), ())).as_json()["requests"]
        names = [call["operation"] for call in calls]
        rules = [call for call in calls if call["operation"] == "AuthorizeSecurityGroupIngress"]
        assert not rules or names[:2] == ["CreateSecurityGroup", "AuthorizeSecurityGroupIngress"]
        return [rule["parameters"]["IpPermissions"][0] for rule in rules]

    (rule,) = admitted()
    assert (rule["FromPort"], rule["ToPort"], rule["IpRanges"][0]["CidrIp"]) == (22, 22, cloud.address)
    (rule,) = admitted(ssh_cidr="10.0.0.0/16")
    assert rule["IpRanges"][0]["CidrIp"] == "10.0.0.0/16"
    assert admitted(ssh_cidr="none") == [], "nobody from outside: then nothing is sent"


def test_a_dry_run_says_what_becomes_of_the_launch_template(cloud: MemoryCloud) -> None:
    names = [call.operation for call in planned(cloud, strategy="any").calls()]
    assert names[-3:] == ["CreateLaunchTemplate", "CreateFleet", "DeleteLaunchTemplate"]


def test_the_plan_for_people_keeps_to_80_columns(cloud: MemoryCloud) -> None:
    spec = {"instances": ("p4d.24xlarge", "g4dn.xlarge"), "bucket": "b" * 63, "trainer": config_from_settings({})}
    for kind in ("spot", "on-demand"):
        plan = planned(cloud, **spec, market=kind)
        shown = Draft(plan, "AWS", cloud.caller_cidr(), Tree(Path(), ())).as_text()
        prose = [line for line in shown.splitlines() if not line.startswith("  ")]  # the requests are JSON
        assert max(map(len, prose)) <= 80
        assert "…" not in shown
        assert "uses one GPU" not in shown, "each of the eight GPUs has a process"


def test_a_type_without_a_recorded_price_is_offered_at_the_price_list_s(cloud: MemoryCloud) -> None:
    cloud.regions = ("us-west-2",)
    west: dict[str, Any] = {"instances": ("g5.2xlarge",), "regions": ("us-west-2",), "market": "on-demand"}
    with pytest.raises(SpecError, match="no on-demand price is known"):
        planned(cloud, **west)
    cloud.listed = {"g5.2xlarge": 1.25}
    assert {(o.price_usd_h, o.source) for o in planned(cloud, **west).offers} == {(1.25, "price list, now")}


def test_a_budget_needs_a_cap_where_no_on_demand_price_is_recorded(cloud: MemoryCloud) -> None:
    cloud.regions = ("us-west-2",)
    west: dict[str, Any] = {"instances": ("g5.2xlarge",), "regions": ("us-west-2",), "limits": Limits(budget_usd="5")}
    asked = RunSpec(run="plan", cloud="aws", market="spot", **west)
    with pytest.raises(SpecError, match=r"no on-demand price .* in us-west-2 is known.* add --max-price USD"):
        make_plan(asked, cloud, "home")
    cloud.listed = {"g5.2xlarge": 1.25}
    plan = make_plan(asked, cloud, "home")
    assert plan.spec.max_price_usd_h == Decimal("1.25"), "on-demand: what EC2 takes for it anyway"
    request = plan.launch(plan.offers[0], 1, 1, "sg", "").parameters
    assert request["InstanceMarketOptions"]["SpotOptions"]["MaxPrice"] == "1.25"
    assert limits.price_cap_usd_h(plan.spec, plan.offers[0]) < Decimal("1.27")
    own = make_plan(asked.model_copy(update={"max_price_usd_h": Decimal("0.9")}), cloud, "home")
    assert own.spec.max_price_usd_h == Decimal("0.9")
    free = make_plan(asked.model_copy(update={"limits": Limits()}), cloud, "home")
    assert free.spec.max_price_usd_h is None


def test_the_embedded_cloud_offers_every_type_with_a_spot_price_and_says_where_it_does_not() -> None:
    without = ("p3dn.", "p5e.", "p5en.", "p6-b200.", "p6-b300.", "g7e.")
    for known in catalog.all_types():
        if known.name.startswith(without):
            assert not spot_market.offering_zones(known.name, "us-east-1")
            continue
        zones = spot_market.offering_zones(known.name, "us-east-1")
        assert zones, known.name
        recorded = known.on_demand_usd_h["us-east-1"]
        assert spot_market.on_demand_usd_h(known.name, "us-east-1") == pytest.approx(recorded, rel=1e-4)
        described = spot_market.load_pools()["types"][known.name]
        assert (described["vcpus"], described["gpu"]["count"]) == (known.vcpus, known.gpus)
    nowhere = MemoryCloud(VirtualClock(), regions=())
    spec = RunSpec(run="x", cloud="local", instances=("g5.2xlarge",), market="spot", regions=("us-west-2",))
    with pytest.raises(SpecError, match=r"the embedded cloud has no price of g5.2xlarge in us-west-2"):
        make_plan(spec, nowhere, "home")
