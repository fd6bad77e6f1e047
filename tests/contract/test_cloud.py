"""One suite for both clouds: EC2's side of the wire on this machine, and the in-memory one of the stories."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from infra.local import EmbeddedCloud
from orchestrator.cloud.aws import AwsCloud
from orchestrator.cloud.base import ATTEMPT_TAG, RUN_TAG, Call, Cloud, Instance
from orchestrator.cloud.connect import client_settings
from orchestrator.errors import AccessError, CapacityError, CloudError, QuotaError, ThrottledError
from orchestrator.host.shell import make_key_pair
from orchestrator.market import offers
from orchestrator.market.pools import Pool
from orchestrator.plan.preflight import launch_dry_run
from orchestrator.plan.requests import Plan, user_data
from orchestrator.runs.spec import RunSpec
from tests.support.memory import MemoryCloud, VirtualClock


class World:
    """A cloud and functions that inject events into it, with the same interface for both kinds of cloud."""

    def __init__(
        self,
        cloud: Cloud,
        *,
        wait: Callable[[float], None],
        interrupt: Callable[[str], None],
        refuse: Callable[[str, str], None],
        refuse_any: Callable[[str, str], None],
        embedded: EmbeddedCloud | None = None,
    ) -> None:
        self.cloud = cloud
        self.embedded = embedded
        self.wait = wait
        self.interrupt = interrupt
        self.refuse = refuse
        self.refuse_any = refuse_any  # the same for a pool of a CreateFleet
        self.spec = RunSpec(
            run="contract", cloud="local", instances=("p2.xlarge",), market="spot", regions=("us-east-1",)
        )
        pools = cloud.offerings(["p2.xlarge"])
        ranked = offers.spot_offers(pools, cloud.spot_prices(pools), None)
        self.plan = Plan(self.spec, tuple(ranked), {"us-east-1": cloud.image("us-east-1")}, time.time(), "home")

    def call(self, turn: int = 1, attempt: int = 1, place: int = 0) -> Call:
        """Return a RunInstances for an offer."""
        group = self.cloud.open_security_group(
            "us-east-1", self.plan.security_group("us-east-1"), self.cloud.caller_cidr()
        )
        return self.plan.launch(self.plan.offers[place], attempt, turn, group, self.user_data)

    @staticmethod
    def of_embedded(embedded: EmbeddedCloud) -> World:
        """Return the embedded cloud and its functions."""
        return _embedded_world(embedded)

    user_data = user_data(*make_key_pair("host"), make_key_pair("run")[1], 30)

    def until(self, instance: Instance, state: str) -> Instance:
        """Wait for a state."""
        for _ in range(200):
            found = next((i for i in self.cloud.instances("contract") if i.instance_id == instance.instance_id), None)
            if found is not None and found.state == state:
                return found
            self.wait(0.1 if state != "running" else 0.5)
        raise AssertionError(f"{instance.instance_id} never became {state}")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCloud]:
    """Give one embedded cloud for the module."""
    cloud = EmbeddedCloud.ensure(tmp_path_factory.mktemp("contract") / "home", notice_s=0.5)
    yield cloud
    cloud.stop()


@pytest.fixture(params=[pytest.param("embedded", marks=pytest.mark.slow), "memory"])
def place(request: pytest.FixtureRequest, embedded: EmbeddedCloud) -> Iterator[World]:
    """Give both kinds of cloud in turn; nothing is left there afterwards."""
    world_ = _embedded_world(embedded) if request.param == "embedded" else _memory_world()
    yield world_
    alive = [i for i in world_.cloud.instances() if i.state in ("pending", "running")]
    if alive:
        world_.cloud.terminate("us-east-1", [i.instance_id for i in alive])
    for instance in alive:
        world_.until(instance, "terminated")
    world_.cloud.close_security_group("us-east-1", "contract")
    embedded.clear_faults()


def _embedded_world(embedded: EmbeddedCloud) -> World:
    cloud = AwsCloud(("us-east-1",), endpoint=client_settings(embedded), title="embedded cloud")
    return World(
        cloud,
        wait=time.sleep,
        interrupt=embedded.interrupt,
        refuse=lambda code, zone: embedded.add_fault(
            {"operation": "RunInstances", "zone": zone, "error": code, "times": 1}
        ),
        refuse_any=lambda code, zone: embedded.add_fault({"operation": "CreateFleet", "zone": zone, "error": code}),
        embedded=embedded,
    )


def _memory_world() -> World:
    from botocore.exceptions import ClientError

    from orchestrator.cloud.aws.errors import translate

    clock = VirtualClock()
    cloud = MemoryCloud(clock)

    def refuse(code: str, zone: str) -> None:
        answer = {"Error": {"Code": code, "Message": "text"}}
        cloud.refusals[zone] = [translate(ClientError(answer, "RunInstances"), zone)]  # type: ignore[arg-type]

    def refuse_any(code: str, zone: str) -> None:
        cloud.empty_zones = cloud.empty_zones | {zone}

    def interrupt(instance_id: str) -> None:
        machine = next(m for m in cloud.machines if m.instance.instance_id == instance_id)
        cloud.interrupt(machine, notice_s=0.5)

    return World(cloud, wait=clock.sleep, interrupt=interrupt, refuse=refuse, refuse_any=refuse_any)


def test_a_launched_instance_is_found_by_its_tags_and_gets_an_address(place: World) -> None:
    instance = place.cloud.launch(place.call())
    running = place.until(instance, "running")
    assert running.address
    assert running.ssh_port > 0
    assert running.market == "spot"
    assert (running.tags[RUN_TAG], running.tags[ATTEMPT_TAG]) == ("contract", "1")
    assert running.zone == place.plan.offers[0].pool.zone
    assert running.instance_id in {i.instance_id for i in place.cloud.instances()}
    assert place.cloud.instances("another-run") == []


def test_the_same_token_gives_the_same_instance(place: World) -> None:
    call = place.call()
    first, again = place.cloud.launch(call), place.cloud.launch(call)
    assert first.instance_id == again.instance_id
    other = place.cloud.launch(place.call(turn=2))
    assert other.instance_id != first.instance_id


def test_one_token_does_not_stand_for_two_requests(place: World) -> None:
    call = place.call()
    place.cloud.launch(call)
    other = replace(call, parameters={**call.parameters, "UserData": user_data("another", "key", "run", 30)})
    with pytest.raises(CloudError) as caught:
        place.cloud.launch(other)
    assert caught.value.code == "IdempotentParameterMismatch"


def test_an_end_that_we_ask_for_is_ours_and_asking_twice_is_no_error(place: World) -> None:
    instance = place.cloud.launch(place.call())
    place.until(instance, "running")
    place.cloud.terminate("us-east-1", [instance.instance_id])
    place.cloud.terminate("us-east-1", [instance.instance_id])
    gone = place.until(instance, "terminated")
    assert gone.is_gone
    assert gone.reason_code == "Client.UserInitiatedShutdown"
    place.cloud.terminate("us-east-1", [instance.instance_id])


def test_an_interruption_is_known_by_its_reason(place: World) -> None:
    instance = place.cloud.launch(place.call())
    place.until(instance, "running")
    place.interrupt(instance.instance_id)
    assert place.until(instance, "terminated").reason_code == "Server.SpotInstanceTermination"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("InsufficientInstanceCapacity", CapacityError),
        ("Unsupported", CapacityError),
        ("VcpuLimitExceeded", QuotaError),
        ("MaxSpotInstanceCountExceeded", QuotaError),
        ("UnauthorizedOperation", AccessError),
        ("RequestLimitExceeded", ThrottledError),
    ],
)
def test_refusals_have_the_right_type_and_leave_no_instance(place: World, code: str, kind: type[Exception]) -> None:
    before = len(place.cloud.instances())
    call = place.call(turn=7)
    place.refuse(code, place.plan.offers[0].pool.zone)
    with pytest.raises(kind) as caught:
        place.cloud.launch(call)
    assert getattr(caught.value, "code", "") == code
    assert len(place.cloud.instances()) == before


def test_the_security_group_is_made_once_and_removing_it_twice_is_no_error(place: World) -> None:
    request, cidr = place.plan.security_group("us-east-1"), place.cloud.caller_cidr()
    assert place.cloud.open_security_group("us-east-1", request, cidr) == place.cloud.open_security_group(
        "us-east-1", request, cidr
    )
    place.cloud.close_security_group("us-east-1", "contract")
    place.cloud.close_security_group("us-east-1", "contract")


@pytest.mark.slow
def test_a_security_group_that_only_has_the_name_is_not_used_and_not_removed(embedded: EmbeddedCloud) -> None:
    place, other = _embedded_world(embedded), _embedded_world(embedded)
    ec2 = place.cloud._client("ec2", "us-east-1")  # type: ignore[attr-defined]
    request = place.plan.security_group("us-east-1")
    foreign = ec2.create_security_group(GroupName=request.parameters["GroupName"], Description="somebody's")["GroupId"]
    other.plan = replace(other.plan, home_id="elsewhere")
    ours = place.cloud.open_security_group("us-east-1", request, None)
    theirs = other.cloud.open_security_group("us-east-1", other.plan.security_group("us-east-1"), None)
    assert len({foreign, ours, theirs}) == 3
    place.cloud.close_security_group("us-east-1", "contract", "home")
    left = {group["GroupId"] for group in ec2.describe_security_groups()["SecurityGroups"]}
    assert {foreign, theirs} <= left
    assert ours not in left
    other.cloud.close_security_group("us-east-1", "contract", "elsewhere")
    ec2.delete_security_group(GroupId=foreign)


def test_a_launch_template_that_only_has_the_name_is_not_used(embedded: EmbeddedCloud) -> None:
    place = _embedded_world(embedded)
    template, fleet = _fleet(place, attempt=7)
    ec2 = place.cloud._client("ec2", "us-east-1")  # type: ignore[attr-defined]
    name = template.parameters["LaunchTemplateName"]
    ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"ImageId": "ami-0evil"})
    with pytest.raises(CloudError, match="is not of this home"):
        place.cloud.launch(fleet, template)
    assert name in {one["LaunchTemplateName"] for one in ec2.describe_launch_templates()["LaunchTemplates"]}
    ec2.delete_launch_template(LaunchTemplateName=name)
    place.cloud.close_security_group("us-east-1", "contract", "home")


def test_every_offered_pool_has_a_price_and_a_history_that_begins_before_the_window(place: World) -> None:
    pools = place.cloud.offerings(["p2.xlarge"])
    assert len(pools) >= 2
    prices = place.cloud.spot_prices(pools)
    assert set(prices) == set(pools)
    assert all(0 < point.usd_h < 1 for point in prices.values())
    now = time.time()
    history = place.cloud.price_history(pools[0], now - 3600, now)
    assert history[0].at <= now - 3600
    assert [p.at for p in history] == sorted(p.at for p in history)
    assert place.cloud.price_history(Pool("g2.2xlarge", "us-east-1z", "us-east-1"), now, now) == []


def _fleet(place: World, attempt: int = 1, turn: int = 1) -> tuple[Call, Call]:
    group = place.cloud.open_security_group(
        "us-east-1", place.plan.security_group("us-east-1"), place.cloud.caller_cidr()
    )
    return place.plan.fleet(place.plan.offers, attempt, turn, group, place.user_data)


def test_a_fleet_over_all_pools_starts_one_instance_like_a_launch(place: World) -> None:
    template, fleet = _fleet(place)
    instance = place.cloud.launch(fleet, template)
    running = place.until(instance, "running")
    assert running.market == "spot"
    assert (running.tags[RUN_TAG], running.tags[ATTEMPT_TAG]) == ("contract", "1")
    assert (running.instance_type, running.zone) == (instance.instance_type, instance.zone)
    assert running.zone in {offer.pool.zone for offer in place.plan.offers}
    again = place.cloud.launch(fleet, template)
    assert again.instance_id == instance.instance_id, "the same token, the same fleet"


def test_a_fleet_goes_round_an_empty_pool_and_says_when_all_are(place: World) -> None:
    zones = [offer.pool.zone for offer in place.plan.offers]
    place.refuse_any("InsufficientInstanceCapacity", zones[0])
    template, fleet = _fleet(place, turn=2)
    assert place.cloud.launch(fleet, template).zone != zones[0]
    for zone in zones:
        place.refuse_any("InsufficientInstanceCapacity", zone)
    template, fleet = _fleet(place, attempt=2, turn=3)
    with pytest.raises(CapacityError) as caught:
        place.cloud.launch(fleet, template)
    assert caught.value.scope == "region"


def test_what_is_asked_before_a_launch_has_an_answer(place: World) -> None:
    image = place.cloud.image("us-east-1")
    assert image.image_id.startswith("ami-")
    assert image.login_user == "ubuntu"
    assert place.cloud.image("us-east-1", image.image_id).image_id == image.image_id
    assert place.cloud.network("us-east-1", ()).subnets == {}
    assert (place.cloud.quota_vcpus("us-east-1", "L-7212CCBC") or 0) > 4
    place.cloud.dry_run(place.plan.security_group("us-east-1"))
    place.cloud.dry_run(launch_dry_run(place.plan, place.plan.offers[0]))
    assert place.cloud.instances("contract") == [i for i in place.cloud.instances("contract") if i.is_gone]


def test_the_zones_with_a_default_subnet_are_known(embedded: EmbeddedCloud) -> None:
    cloud = _embedded_world(embedded).cloud
    network = cloud.network("us-east-1", ())
    assert {pool.zone for pool in cloud.offerings(["p2.xlarge"])} <= set(network.zones)


@pytest.mark.slow
def test_subnets_of_ones_own_are_served_with_an_address_and_a_fleet_tells_their_zone(embedded: EmbeddedCloud) -> None:
    place = _embedded_world(embedded)
    cloud = place.cloud
    assert isinstance(cloud, AwsCloud)
    found = cloud._client("ec2", "us-east-1").describe_subnets()["Subnets"]
    zones = {offer.pool.zone for offer in place.plan.offers}
    subnet = next(one for one in found if one["AvailabilityZone"] in zones)
    spec = place.spec.model_copy(update={"subnets": (subnet["SubnetId"],), "strategy": "any"})
    networks = {"us-east-1": cloud.network("us-east-1", spec.subnets)}
    offered = tuple(o for o in place.plan.offers if o.pool.zone == subnet["AvailabilityZone"])
    plan = replace(place.plan, spec=spec, offers=offered, networks=networks)
    group = cloud.open_security_group("us-east-1", plan.security_group("us-east-1"), cloud.caller_cidr())
    template, fleet = plan.fleet(plan.offers, 1, 7, group, place.user_data)
    instance = cloud.launch(fleet, template)
    assert instance.zone == subnet["AvailabilityZone"]
    assert place.until(instance, "running").address
    single = cloud.launch(plan.launch(plan.offers[0], 1, 8, group, place.user_data))
    assert place.until(single, "running").zone == subnet["AvailabilityZone"]
    cloud.terminate("us-east-1", [instance.instance_id, single.instance_id])
    place.until(instance, "terminated")
    place.until(single, "terminated")


def test_the_price_list_gives_what_is_not_recorded(embedded: EmbeddedCloud) -> None:
    cloud = AwsCloud(("us-west-2",), endpoint=client_settings(embedded), title="embedded")
    there, nowhere = Pool("p5.4xlarge", "us-west-2b", "us-west-2"), Pool("no.such", "us-west-2b", "us-west-2")
    assert offers.recorded_usd_h(there) is None
    assert cloud.on_demand_prices([there, nowhere]) == {there: 6.88}
