"""The seams: what the engine asks of a cloud and of a host, and the plain data that passes through.

`aws/` implements `Cloud`; `host.py` implements `Host` over SSH. The tests bring an in-memory one of each, which
passes the same contract suite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from orchestrator.market.pools import Pool, PricePoint

RUN_TAG = "pixel-orch:run"
ATTEMPT_TAG = "pixel-orch:attempt"
MANAGED_TAG = "pixel-orch:managed"
OWNER_TAG = "pixel-orch:home"  # which store knows the run: `cleanup` names runs of other homes instead of ending them

InstanceState = Literal["pending", "running", "shutting-down", "terminated", "stopping", "stopped"]


@dataclass(frozen=True)
class Image:
    """What an instance starts from."""

    image_id: str
    login_user: str = "ubuntu"
    root_device: str = "/dev/sda1"
    least_disk_gib: int = 0  # the size of its snapshot: a smaller disk is refused by EC2
    name: str = ""
    source: str = ""  # how it was found
    families: tuple[str, ...] = ()  # that its driver supports; empty: nobody says


@dataclass(frozen=True)
class Network:
    """Where in a region instances are put.

    `subnets` (zone -> subnet id) is empty where EC2's default ones serve; then `zones` are those that have one, as far
    as that is known: an account that is older than a zone has none there.
    """

    vpc_id: str = ""
    subnets: Mapping[str, str] = field(default_factory=dict)
    zones: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """One request to the cloud, exactly as it will be sent. What is only known later stands as `<...>`."""

    operation: str
    region: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Instance:
    """What EC2 says of one instance."""

    instance_id: str
    instance_type: str
    zone: str
    region: str
    market: str
    state: InstanceState
    launched_at: float  # unix seconds
    address: str = ""  # public, as far as it has one
    private_address: str = ""
    ssh_port: int = 22
    reason_code: str = ""  # StateReason.Code, e.g. Server.SpotInstanceTermination
    reason: str = ""
    client_token: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_gone(self) -> bool:
        """Whether it is no longer there (and no longer billed)."""
        return self.state == "terminated"


class Cloud(Protocol):
    """A place that rents machines. Every method may raise `CloudError` or one of its kinds."""

    title: str
    """How it is named to people: "AWS" or "embedded cloud"."""

    def offerings(self, instance_types: Sequence[str]) -> list[Pool]:
        """Return the pools in which these types are offered at all."""
        ...

    def spot_prices(self, pools: Sequence[Pool]) -> dict[Pool, PricePoint]:
        """Return the price in force now for each pool that has one."""
        ...

    def on_demand_prices(self, pools: Sequence[Pool]) -> dict[Pool, float]:
        """Return on-demand prices an hour of those pools that the price list has; none if it does not answer."""
        ...

    def price_history(self, pool: Pool, start: float, end: float) -> list[PricePoint]:
        """Return the changes between `start` and `end` and the last one before, oldest first."""
        ...

    def image(self, region: str, image_id: str | None = None) -> Image:
        """Return the image to start: the one named, else AWS's Deep Learning AMI."""
        ...

    def network(self, region: str, subnets: Sequence[str]) -> Network:
        """Return where these subnets are; without any, EC2's own choice.

        Raises:
            SpecError: one is not in this region, or there is neither a subnet nor a default VPC.
        """
        ...

    def quota_vcpus(self, region: str, code: str) -> float | None:
        """Return the limit in vCPUs that a quota code stands for; None if we may not read it."""
        ...

    def rehearse(self, call: Call) -> None:
        """Send the request as a DryRun: nothing is created. Raises what the request itself would raise."""
        ...

    def credentials_end_at(self) -> float | None:
        """Return when our credentials expire (unix seconds); None if they do not, or nobody can say."""
        ...

    def open_door(self, region: str, call: Call, cidr: str | None) -> str:
        """Make the run's security group, which admits SSH from `cidr` only (from nowhere if None); return its id.

        Asked twice, it makes one.
        """
        ...

    def close_door(self, region: str, run: str) -> None:
        """Remove the run's security groups and launch templates; none there is no error."""
        ...

    def launch(self, call: Call, template: Call | None = None) -> Instance:
        """Send one RunInstances, or one CreateFleet with its launch template; once, without the SDK's retries.

        Raises:
            CapacityError: try the next pool.
            QuotaError, AccessError: a person must act.
        """
        ...

    def instances(self, run: str | None = None) -> list[Instance]:
        """Return the instances with our tag (of one run, or of all), also those that ended lately."""
        ...

    def terminate(self, region: str, instance_ids: Sequence[str]) -> None:
        """Ask for their end. Asked twice, or for one that is gone, is no error."""
        ...

    def caller_cidr(self) -> str:
        """Return the address from which we reach its instances, as a /32."""
        ...


def admission(region: str, group: str, cidr: str) -> Call:
    """Return the request that lets one network knock at a security group's SSH, and nobody else."""
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    rule = {**ssh, "IpRanges": [{"CidrIp": cidr, "Description": "pixel-orch: the caller"}]}
    return Call("AuthorizeSecurityGroupIngress", region, {"GroupId": group, "IpPermissions": [rule]})
