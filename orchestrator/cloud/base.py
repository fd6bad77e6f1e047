"""The protocol of a cloud, and the plain data that passes through it.

`cloud/aws/` implements `Cloud`. The tests have an in-memory one, which passes the same contract suite. `host/base.py`
has the protocol of a rented machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from orchestrator.market.pools import Pool
from orchestrator.market.price_series import PricePoint
from orchestrator.runs.state_reasons import is_spot_interruption

RUN_TAG = "pixel-orch:run"
ATTEMPT_TAG = "pixel-orch:attempt"
MANAGED_TAG = "pixel-orch:managed"
OWNER_TAG = "pixel-orch:home"  # the home of the run: `cleanup` lists instances of other homes and does not end them

InstanceState = Literal["pending", "running", "shutting-down", "terminated", "stopping", "stopped"]


@dataclass(frozen=True)
class Image:
    """What an instance starts from."""

    image_id: str
    login_user: str = "ubuntu"
    root_device: str = "/dev/sda1"
    least_disk_gib: int = 0  # the size of its snapshot; EC2 refuses a smaller disk
    name: str = ""
    source: str = ""  # how it was found
    families: tuple[str, ...] = ()  # that its driver supports; empty: unknown


@dataclass(frozen=True)
class Network:
    """Where in a region instances are put.

    `subnets` (zone -> subnet id) is empty where EC2's default subnets are used. Then `zones` are the zones with a
    default subnet, if known: an account that is older than a zone has none there.
    """

    vpc_id: str = ""
    subnets: Mapping[str, str] = field(default_factory=dict)
    zones: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """One request to the cloud, exactly as it will be sent. Values that are known later are `<...>`."""

    operation: str
    region: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Instance:
    """One instance as EC2 describes it."""

    instance_id: str
    instance_type: str
    zone: str
    region: str
    market: str
    state: InstanceState
    launched_at: float  # unix seconds
    address: str = ""  # public; "" without one
    private_address: str = ""  # in its network; known from the launch on
    launch_index: int = 0  # its place among the instances of one request, from 0
    ssh_port: int = 22
    reason_code: str = ""  # StateReason.Code, e.g. Server.SpotInstanceTermination
    reason: str = ""
    client_token: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_spot_interruption(self) -> bool:
        """Whether EC2 ended it, or ends it, to take the spot capacity back."""
        return is_spot_interruption(self.reason_code)

    @property
    def end_text(self) -> str:
        """EC2's words on why it ends or has ended, with their code; "" if it does not say."""
        if self.reason_code in self.reason:
            return self.reason
        return f"{self.reason_code}: {self.reason}" if self.reason else self.reason_code

    @property
    def attempt(self) -> int:
        """The number of the attempt in its tag, 0 without one; anybody in the account may have changed the tag."""
        text = self.tags.get(ATTEMPT_TAG, "")
        return int(text) if re.fullmatch("[0-9]{1,6}", text) else 0

    @property
    def is_gone(self) -> bool:
        """Whether it is terminated, and so no longer billed."""
        return self.state == "terminated"


@dataclass(frozen=True)
class Leftover:
    """Something besides an instance that is of a run and can be removed: a volume, a placement group and the like."""

    kind: str
    name: str  # its name or id
    region: str
    run: str  # in its tag; "" without one
    says: str = ""  # more about it, for people


class Cloud(Protocol):
    """A cloud that rents instances. Every method may raise `CloudError` or a subclass."""

    title: str
    """Its name for people: "AWS" or "embedded cloud"."""

    def offerings(self, instance_types: Sequence[str]) -> list[Pool]:
        """Return the pools in which these types are offered at all."""
        ...

    def spot_prices(self, pools: Sequence[Pool]) -> dict[Pool, PricePoint]:
        """Return the price in force now for each pool that has one."""
        ...

    def on_demand_prices(self, pools: Sequence[Pool]) -> dict[Pool, float]:
        """Return the on-demand prices of the pools that the price list has; none if it does not answer."""
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
        """Return the limit in vCPUs of a quota code; None if the policy does not allow to read it."""
        ...

    def dry_run(self, call: Call) -> None:
        """Send the request with DryRun, which creates nothing. Raises what the request itself would raise."""
        ...

    def credentials_end_at(self) -> float | None:
        """Return when the credentials expire (unix seconds); None if they do not, or it is unknown."""
        ...

    def open_security_group(self, region: str, call: Call, cidr: str | None, *, within: bool = False) -> str:
        """Create the run's security group, which admits SSH from `cidr` only (from nowhere if None); return its id.

        `within`: it also admits all TCP from its own instances, which have connections on any port among themselves.
        A second call creates no second group, and adds no rule twice.
        """
        ...

    def close_security_group(self, region: str, run: str, home_id: str = "") -> None:
        """Delete the run's security groups and launch templates, if there are any."""
        ...

    def open_placement_group(self, call: Call) -> None:
        """Send a CreatePlacementGroup. A second call with the same name is no error."""
        ...

    def close_placement_groups(self, region: str, run: str, home_id: str = "") -> list[str]:
        """Delete the run's placement groups; return the names of those that still have an instance.

        EC2 counts an instance until it is terminated. A group that is gone is no error.
        """
        ...

    def leftovers(self, home_id: str) -> list[Leftover]:
        """Return what a home has made besides instances, whichever run it is of; of its volumes those without one."""
        ...

    def remove_leftover(self, left: Leftover) -> bool:
        """Delete one of them; return False if an instance still has it. One that is gone is no error."""
        ...

    def cluster_types(self, instance_types: Sequence[str]) -> set[str]:
        """Return those of the types that can be in a cluster placement group; none if EC2 does not tell."""
        ...

    def launch_group(self, call: Call) -> tuple[Instance, ...]:
        """Send one RunInstances for all of `MinCount` = `MaxCount` instances or none; once, as `launch` does.

        Returns them in the order of their `launch_index`. If EC2 starts fewer, those are terminated.

        Raises:
            CapacityError: the pool has no room for all of them.
            QuotaError, AccessError: a person must act.
        """
        ...

    def launch(self, call: Call, template: Call | None = None) -> Instance:
        """Send one RunInstances, or one CreateFleet with its launch template; once, without the SDK's retries.

        Raises:
            CapacityError: try the next pool.
            QuotaError, AccessError: a person must act.
        """
        ...

    def instances(self, run: str | None = None) -> list[Instance]:
        """Return pixel-orch's instances (of one run, or all), also recently terminated ones."""
        ...

    def terminate(self, region: str, instance_ids: Sequence[str]) -> None:
        """Terminate them. A second call, and an instance that is gone, is no error."""
        ...

    def caller_cidr(self) -> str:
        """Return the public address of this machine, as a /32."""
        ...


def admission(region: str, group: str, cidr: str) -> Call:
    """Return the request that admits SSH from one network to a security group."""
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    rule = {**ssh, "IpRanges": [{"CidrIp": cidr, "Description": "pixel-orch: the caller"}]}
    return Call("AuthorizeSecurityGroupIngress", region, {"GroupId": group, "IpPermissions": [rule]})


def admission_within(region: str, group: str) -> Call:
    """Return the request that admits all TCP among the instances of a security group.

    Every pair of processes of NCCL and gloo has a connection on a port that the system chooses.
    """
    source = {"GroupId": group, "Description": "pixel-orch: the instances of the run"}
    rule = {"IpProtocol": "tcp", "FromPort": 0, "ToPort": 65535, "UserIdGroupPairs": [source]}
    return Call("AuthorizeSecurityGroupIngress", region, {"GroupId": group, "IpPermissions": [rule]})
