"""moto's EC2 with the embedded cloud's regions, types, images and instances. Every file with moto imports this one
first, since it configures moto.

moto keeps the records (reservations, security groups, key pairs, tags, filters). An `Ec2Instance` adds EC2's behaviour:
it starts as pending, has a spot request id, and the cloud controls its stop and termination.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, ClassVar

from infra.local.aws import images, spot_market

ACCOUNT_ID = "123456789012"
os.environ.update(
    MOTO_EC2_LOAD_DEFAULT_AMIS="false",  # moto's are of 2017; images.py has current ones
    MOTO_ACCOUNT_ID=ACCOUNT_ID,
    MOTO_DISABLE_GLOBAL_CORS="true",  # no browser uses this API
)


_STRATEGIES = ("cluster", "partition", "spread")


@contextmanager
def _only_our_regions_and_types() -> Iterator[None]:
    """Load only our types (moto's 90 files take 1 s) and only our regions (all take 0.6 s) while moto is imported."""
    import boto3
    import moto.utilities.utils as moto_files

    load, list_regions = moto_files.load_resource, boto3.Session.get_available_regions

    def load_ours(resource: str) -> Any:
        if resource.startswith("ec2/resources/instance_types."):
            return {name: _type_description(name) for name in spot_market.instance_types()}
        if resource.startswith("ec2/resources/instance_type_offerings"):
            location, _, file = resource.rpartition("/")
            return _offerings(location.rpartition("/")[2], file.partition(".")[0])
        return load(resource)

    moto_files.load_resource = load_ours
    boto3.Session.get_available_regions = lambda *_args, **_more: spot_market.regions()
    try:
        yield
    finally:
        moto_files.load_resource = load
        boto3.Session.get_available_regions = list_regions


def _type_description(name: str) -> dict[str, Any]:
    """Return one entry of DescribeInstanceTypes."""
    known = spot_market.load_pools()["types"][name]
    gpu = known["gpu"]
    return {
        "InstanceType": name,
        "CurrentGeneration": known["current_generation"],
        "SupportedUsageClasses": ["on-demand", "spot"],
        "SupportedRootDeviceTypes": ["ebs"],
        "SupportedVirtualizationTypes": ["hvm"],
        "BareMetal": False,
        "PlacementGroupInfo": {"SupportedStrategies": list(_STRATEGIES)},
        "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
        "VCpuInfo": {"DefaultVCpus": known["vcpus"]},
        "MemoryInfo": {"SizeInMiB": known["memory_mib"]},
        "GpuInfo": {
            "Gpus": [
                {
                    "Name": gpu["name"],
                    "Manufacturer": "NVIDIA",
                    "Count": gpu["count"],
                    "MemoryInfo": {"SizeInMiB": gpu["memory_mib"]},
                }
            ],
            "TotalGpuMemoryInMiB": gpu["count"] * gpu["memory_mib"],
        },
    }


def _offerings(location_type: str, region: str) -> list[dict[str, str]]:
    """Return DescribeInstanceTypeOfferings of a region, by region or by zone name. Zone ids are not supported."""
    offered = {name: spot_market.offering_zones(name, region) for name in spot_market.instance_types()}
    if location_type == "region":
        return [{"InstanceType": name, "Location": region} for name, zones in offered.items() if zones]
    if location_type == "availability-zone":
        return [{"InstanceType": name, "Location": zone} for name, zones in offered.items() for zone in zones]
    return []


with _only_our_regions_and_types():
    import moto.ec2.models.instances as moto_instances
    from moto.core.exceptions import ServiceException
    from moto.ec2.exceptions import EC2ClientError
    from moto.ec2.models import ec2_backends
    from moto.ec2.models.amis import Ami
    from moto.ec2.models.instance_types import InstanceTypeBackend
    from moto.ec2.utils import filter_dict_attribute_mapping as moto_filters
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

StateHook = Callable[["Ec2Instance"], None]


class Ec2Instance(moto_instances.Instance):
    """moto's record of an instance, with EC2's sequence of states."""

    born: ClassVar[list["Ec2Instance"]] = []
    """The instances created since the list was last cleared: RunInstances finds its new instances here."""
    on_stop: StateHook
    on_start: StateHook
    on_reboot: StateHook
    new_address: Callable[[], str]
    """Gives the private address of a new instance."""
    placement_group: ClassVar[str] = ""
    """The placement group of the instances that are being created."""
    max_price_usd_h: float | None = None
    """Above this spot price EC2 interrupts the instance; None is the on-demand price, which no spot price exceeds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_spot = kwargs.get("instance_market_options") == "spot"
        self.spot_instance_request_id = f"sir-{secrets.token_hex(4)}" if self.is_spot else None
        self.set_state("pending", 0)
        self.set_public_ip(None)
        self.set_private_ip(Ec2Instance.new_address())
        self.placement.group_name = self.placement_group
        self.born.append(self)

    def set_state(self, name: str, code: int) -> None:
        """Set the state that describe calls return."""
        self._state.name, self._state.code = name, code

    def set_reasons(self, code: str, message: str, transition: str) -> None:
        """Set StateReason and StateTransitionReason."""
        self.state_reason = moto_instances.StateReason(message, code)
        self._reason = transition

    def set_public_ip(self, address: str | None) -> None:
        """Set the public address of the first network interface."""
        self.nics[0].public_ip_auto_assign = False  # otherwise moto assigns one of AWS's addresses at the next change
        self.nics[0].public_ip = address

    def set_private_ip(self, address: str) -> None:
        """Set the private address of the first network interface."""
        nic = self.nics[0]
        nic.private_ip_address = address
        for one in nic.private_ip_addresses:
            if one.get("Primary"):
                one["PrivateIpAddress"] = address

    @property
    def public_dns_name(self) -> str | None:
        """The name of this machine; moto's invented name could belong to another host."""
        return "localhost" if self.public_ip else None

    def release(self) -> None:
        """Release volumes and network interfaces with moto's terminate; the reasons are kept."""
        reason, transition = self.state_reason, self._reason
        super().terminate()
        self.state_reason, self._reason = reason, transition

    def stop(self) -> Any:
        """StopInstances. Refused for spot: all spot requests are one-time here."""
        if self.is_spot:
            raise EC2ClientError(
                "UnsupportedOperation",
                f"You can't stop the Spot Instance '{self.id}' because it is associated with a one-time Spot Instance"
                " request. You can only stop Spot Instances associated with persistent Spot Instance requests.",
            )
        previous = super().stop()
        self.on_stop(self)
        return previous

    def start(self) -> Any:
        """StartInstances, from stopped."""
        if self.state != "stopped":
            raise EC2ClientError(
                "IncorrectInstanceState",
                f"The instance '{self.id}' is not in a state from which it can be started.",
            )
        previous = super().start()
        self.set_state("pending", 0)
        self.on_start(self)
        return previous

    def reboot(self) -> None:
        """RebootInstances."""
        self.on_reboot(self)


moto_instances.Instance = Ec2Instance  # type: ignore[misc]
moto_filters.update(
    {
        "client-token": "client_token",
        "instance-lifecycle": "lifecycle",
        "spot-instance-request-id": "spot_instance_request_id",
    }
)


@contextmanager
def without(region: str, hidden: set[str]) -> Iterator[None]:
    """Hide these instances from moto inside the context: EC2 lists a new instance only after some seconds."""
    found = ec2_backends[ACCOUNT_ID][region]
    every = dict(found.reservations)
    for key, reservation in every.items():
        if any(instance.id in hidden for instance in reservation.instances):
            del found.reservations[key]
    try:
        yield
    finally:
        found.reservations.clear()
        found.reservations.update(every)


def hide_cluster(instance_types: set[str]) -> None:
    """Let these types be in no cluster placement group; all other types can."""
    for one in InstanceTypeBackend.instance_types:
        strategies = [name for name in _STRATEGIES if name != "cluster" or one.name not in instance_types]
        one["PlacementGroupInfo"] = {"SupportedStrategies": strategies}


def can_be_in_cluster(instance_type: str) -> bool:
    """Return whether a type can be in a cluster placement group."""
    found = next((one for one in InstanceTypeBackend.instance_types if one.name == instance_type), None)
    return found is not None and "cluster" in found["PlacementGroupInfo"]["SupportedStrategies"]


def addresses(region: str) -> int:
    """Return the number of elastic addresses of a region."""
    return len(ec2_backends[ACCOUNT_ID][region].addresses)


def role_of(record: Ec2Instance) -> str | None:
    """Return the role of an instance's profile, or None."""
    associations = ec2_backends[ACCOUNT_ID][record.region_name].iam_instance_profile_associations
    found = associations.get(record.id)
    roles = found.iam_instance_profile.roles if found is not None else []
    return str(roles[0].name) if roles else None


def security_groups(region: str) -> list[dict[str, Any]]:
    """Return the id, name and tags of a region's security groups, without the default group of each VPC."""
    groups = ec2_backends[ACCOUNT_ID][region].describe_security_groups()
    return [
        {"id": one.id, "name": one.name, "region": region, "tags": {t["key"]: t["value"] for t in one.get_tags()}}
        for one in groups
        if one.name != "default"
    ]


def application() -> Callable[[dict[str, Any], Any], Any]:
    """Return moto's WSGI application."""
    return DomainDispatcherApplication(create_backend_app)


_without_images: set[str] = set()


def hide_images(regions: set[str]) -> None:
    """Remove the images of these regions; all other regions have theirs."""
    _without_images.clear()
    _without_images.update(regions)


def backend(region: str) -> Any:
    """Return moto's EC2 of a region with the images. The first use creates the default VPC and subnets (0.1 s)."""
    found = ec2_backends[ACCOUNT_ID][region]
    for image in images.images(region):
        if region in _without_images:
            found.amis.pop(image.image_id, None)
        elif image.image_id not in found.amis:
            found.amis[image.image_id] = Ami(
                found,
                image.image_id,
                name=image.name,
                description=image.name,
                owner_id=images.DLAMI_OWNER,
                owner_alias="amazon",
                public=True,
                virtualization_type="hvm",
                architecture="x86_64",
                hypervisor="xen",
                root_device_type="ebs",
                creation_date=datetime.fromtimestamp(image.created, timezone.utc).replace(tzinfo=None),
                region_name=spot_market.zones(region)[0],
            )
    return found


__all__ = [
    "ACCOUNT_ID",
    "Ec2Instance",
    "ServiceException",
    "addresses",
    "application",
    "backend",
    "can_be_in_cluster",
    "hide_cluster",
    "hide_images",
    "role_of",
    "without",
]
