"""A cloud, its hosts and a clock in memory, for thousands of simulations in virtual time per minute.

`MemoryCloud` passes the same contract suite as the embedded cloud (`tests/contract/test_cloud.py`). Each event of a
machine is an attribute with its time: `noticed_at`, `gone_at`, `frozen_from`, `crashes_at_step`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from orchestrator.cloud.aws.errors import MEANINGS
from orchestrator.cloud.aws.fleet import refusal
from orchestrator.cloud.base import ATTEMPT_TAG, MANAGED_TAG, RUN_TAG, Call, Image, Instance, Leftover, Network
from orchestrator.errors import AccessError, CloudError, ThrottledError
from orchestrator.market import catalog
from orchestrator.market.pools import Pool
from orchestrator.market.price_series import PricePoint
from tests.support.memory_bucket import carried_until
from tests.support.memory_groups import PlacementGroups
from tests.support.memory_host import Agent, BrokenSetup, Configure, Machine, MemoryHost, guard_s
from tests.support.memory_tree import StoredTree

EPOCH = 1_790_000_000.0
BOOT_S = 20.0
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
WEST = ("us-west-2a", "us-west-2b")
PRICES = {"us-east-1a": 0.40, "us-east-1b": 0.30, "us-east-1c": 0.35, "us-west-2a": 0.45, "us-west-2b": 0.42}


class VirtualClock:
    """A clock that moves when somebody sleeps, and does on the way what was planned for then."""

    def __init__(self, now: float = EPOCH) -> None:
        self._now = now
        self._count = itertools.count()
        self._planned: list[tuple[float, int, Callable[[], None]]] = []

    def now(self) -> float:
        """Return unix seconds."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Move on; what is planned on the way happens at its own time."""
        until = self._now + max(seconds, 0.001)
        while self._planned and self._planned[0][0] <= until:
            at, _, action = heapq.heappop(self._planned)
            self._now = max(self._now, at)
            action()
        self._now = max(self._now, until)

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Plan something."""
        heapq.heappush(self._planned, (when, next(self._count), action))


def refusal_of(code: str, where: str) -> CloudError:
    """Return the error that one of EC2's codes becomes."""
    meaning = MEANINGS[code]
    return meaning.kind(f"RunInstances ({where}): {code}: as told", code=code, scope=meaning.scope)


class MemoryCloud:
    """The `Cloud` seam, in memory.

    Args:
        clock: the time.
        configure: is given every new machine, in order, to decide its fate.
        regions: us-east-1, us-west-2 or both.
    """

    title = "AWS"

    def __init__(
        self, clock: VirtualClock, configure: Configure | None = None, regions: Sequence[str] = ("us-east-1",)
    ) -> None:
        self.clock = clock
        self.configure = configure or (lambda number, machine: None)
        self.regions = regions
        self.machines: list[Machine] = []
        self.agents: dict[str, Agent] = {}
        self.calls: list[Call] = []
        self.security_groups: dict[str, str] = {}
        self.refusals: dict[str, list[CloudError]] = {}  # zone -> what the next launches there get
        self.empty_zones: set[str] = set()
        self.zones_without_spot: set[str] = set()
        self.families_without_quota: set[str] = set()
        self.regions_without_image: set[str] = set()
        self.prices: dict[str, list[PricePoint]] = {  # zone -> changes in the order of time
            zone: [PricePoint(EPOCH - 3600, Decimal(str(price)))] for zone, price in PRICES.items()
        }
        self.listed: dict[str, float] = {}  # on-demand, by type
        self.terminations: list[str] = []
        self.quotas: dict[str, float] = {}
        self.room_for: int | None = None  # machines in each region; None: any number
        self.room_in: dict[str, int] = {}  # zone -> machines that it has room for
        self.placement = PlacementGroups()
        self.admits_itself: set[str] = set()  # security groups
        self.credentials_end: float | None = None
        self.bucket: dict[int, bytes] = {}  # S3, by step
        self.bucket_trees: dict[str, StoredTree] = {}  # the outputs in S3, by instance
        self.s3_refusals: list[tuple[float, float]] = []  # it takes nothing and gives nothing, from when to when
        self.fail_after_serving = 0  # so many launches are served and their answer is lost
        self.address = "192.0.2.1/32"  # ours, as the world sees it
        self.has_moved = False  # to another address than that of the first launch
        self.admitted: set[str | None] = set()  # by the security group
        self.is_offline = False  # our own network: the hosts do not answer either
        self.write: Callable[[Path, bytes], Any] = Path.write_bytes  # to the disk at home
        self._asked: dict[str, Any] = {}  # token -> what it stood for

    # -- the seam

    def offerings(self, instance_types: Sequence[str]) -> list[Pool]:
        zones = [z for z in (*ZONES, *WEST) if z[:-1] in self.regions]
        return [Pool(name, zone, zone[:-1]) for name in instance_types for zone in zones]

    def spot_prices(self, pools: Sequence[Pool]) -> dict[Pool, PricePoint]:
        now = self.clock.now()
        return {p: [c for c in self.prices[p.zone] if c.at <= now][-1] for p in pools}

    def on_demand_prices(self, pools: Sequence[Pool]) -> dict[Pool, float]:
        return {pool: self.listed[pool.instance_type] for pool in pools if pool.instance_type in self.listed}

    def price_history(self, pool: Pool, start: float, end: float) -> list[PricePoint]:
        changes = self.prices.get(pool.zone, [])
        before = [c for c in changes if c.at <= start][-1:]
        return before + [c for c in changes if start < c.at <= end]

    def image(self, region: str, image_id: str | None = None) -> Image:
        return Image(image_id or "ami-00000000000000001")

    def network(self, region: str, subnets: Sequence[str]) -> Network:
        return Network(vpc_id="vpc-1", subnets=dict(zip(ZONES, subnets, strict=False))) if subnets else Network()

    def quota_vcpus(self, region: str, code: str) -> float | None:
        return self.quotas.get(code, 64.0)

    def dry_run(self, call: Call) -> None:
        """Let it through."""

    def credentials_end_at(self) -> float | None:
        return self.credentials_end

    def caller_cidr(self) -> str:
        return self.address

    def open_security_group(self, region: str, call: Call, cidr: str | None, *, within: bool = False) -> str:
        self.admitted.add(cidr)
        name = self.security_groups.setdefault(tags_of(call)[RUN_TAG], f"sg-{len(self.security_groups):017d}")
        self.admits_itself |= {name} if within else set()
        return name

    def open_placement_group(self, call: Call) -> None:
        self.calls.append(call)
        self.placement.open(call)

    def close_placement_groups(self, region: str, run: str, home_id: str = "") -> list[str]:
        return self.placement.close(region, run, home_id, self._gone_ids())

    def _gone_ids(self) -> set[str]:
        return {m.instance.instance_id for m in self.machines if self._now_of(m).is_gone}

    def leftovers(self, home_id: str) -> list[Leftover]:
        return self.placement.leftovers(home_id)

    def remove_leftover(self, left: Leftover) -> bool:
        return self.placement.remove(left.name, self._gone_ids())

    def cluster_types(self, instance_types: Sequence[str]) -> set[str]:
        return {name for name in instance_types if name not in self.placement.types_without}

    def close_security_group(self, region: str, run: str, home_id: str = "") -> None:
        self.security_groups.pop(run, None)

    def launch(self, call: Call, template: Call | None = None) -> Instance:
        return self._launch(call, template)[0]

    def launch_group(self, call: Call) -> tuple[Instance, ...]:
        return self._launch(call, None)

    def _launch(self, call: Call, template: Call | None) -> tuple[Instance, ...]:
        """Start all that a request asks for, or none; a repeated request gives what it gave."""
        self.calls.append(call)
        token = call.parameters["ClientToken"]
        asked = (call.parameters, template.parameters if template else None)
        before = [machine for machine in self.machines if machine.instance.client_token == token]
        if before:
            if self._asked[token] != asked:
                raise refusal_of("IdempotentParameterMismatch", call.region)
            return tuple(self._now_of(machine) for machine in before)
        if template is not None:
            machines = [self._launch_any(call, template, token)]
        else:
            zone, count = call.parameters["Placement"]["AvailabilityZone"], call.parameters["MinCount"]
            is_spot = "InstanceMarketOptions" in call.parameters
            problem = self._refusal(call.parameters["InstanceType"], zone, is_spot=is_spot, count=count)
            problem = problem or self.placement.refusal(call, zone)
            if problem is not None:
                raise problem
            machines = [self._new_machine(call, token, zone, index) for index in range(count)]
            self.placement.put(call, zone, [machine.instance.instance_id for machine in machines])
        self._asked[token] = asked
        return self._served(machines)

    def _refusal(self, instance_type: str, zone: str, *, is_spot: bool = True, count: int = 1) -> CloudError | None:
        """Return what a pool answers instead of its instances."""
        if self.refusals.get(zone):
            return self.refusals[zone].pop(0)
        if self.room_for is not None and self._counted(zone) + count > self.room_for:
            return refusal_of("MaxSpotInstanceCountExceeded", f"{instance_type}, {zone}")
        if catalog.find(instance_type).quota_family in self.families_without_quota:
            return refusal_of("VcpuLimitExceeded", f"{instance_type}, {zone}")
        if zone[:-1] in self.regions_without_image:
            return refusal_of("InvalidAMIID.NotFound", f"{instance_type}, {zone}")
        is_full = zone in self.room_in and self._in_zone(zone) + count > self.room_in[zone]
        if is_full or zone in self.empty_zones or (is_spot and zone in self.zones_without_spot):
            return refusal_of("InsufficientInstanceCapacity", f"{instance_type}, {zone}")
        return None

    def _in_zone(self, zone: str) -> int:
        return sum(m.instance.zone == zone and not self._now_of(m).is_gone for m in self.machines)

    def _counted(self, zone: str) -> int:
        """Return the machines of a region that count against its quota: also those that are on their way out."""
        there = [m for m in self.machines if m.instance.region == zone[:-1]]
        return sum(m.gone_at is None or self.clock.now() < m.gone_at + m.shutting_down_s for m in there)

    def _launch_any(self, fleet: Call, template: Call, token: str) -> Machine:
        """Start in the first pool that serves, as an `instant` fleet over them would."""
        errors = []
        for override in fleet.parameters["LaunchTemplateConfigs"][0]["Overrides"]:
            problem = self._refusal(override["InstanceType"], override["AvailabilityZone"])
            if isinstance(problem, (ThrottledError, AccessError)):
                raise problem  # not one pool's answer, but the whole request's
            if problem is None:
                data = template.parameters["LaunchTemplateData"]
                spot = fleet.parameters["TargetCapacitySpecification"]["DefaultTargetCapacityType"] == "spot"
                asked = {
                    **data,
                    "InstanceType": override["InstanceType"],
                    **({"InstanceMarketOptions": {}} if spot else {}),
                }
                return self._new_machine(Call("CreateFleet", fleet.region, asked), token, override["AvailabilityZone"])
            overrides = {"Overrides": override}
            entry = {"ErrorCode": problem.code, "ErrorMessage": str(problem), "LaunchTemplateAndOverrides": overrides}
            errors.append(entry)
        raise refusal(errors, fleet.region)

    def _served(self, machines: Sequence[Machine]) -> tuple[Instance, ...]:
        for machine in machines:
            self.machines.append(machine)
            agent = self.agents[machine.instance.instance_id] = Agent(self, machine)
            self.configure(len(self.machines), machine)
            agent.plan()
        if self.fail_after_serving:
            self.fail_after_serving -= 1
            raise CloudError("the connection broke", code="ReadTimeoutError")
        return tuple(self._now_of(machine) for machine in machines)

    def _new_machine(self, call: Call, token: str, zone: str, index: int = 0) -> Machine:
        now, number = self.clock.now(), len(self.machines) + 1 + index
        instance = Instance(
            instance_id=f"i-{number:017x}",
            private_address=f"10.0.{number >> 8}.{number & 255}",
            launch_index=index,
            instance_type=call.parameters["InstanceType"],
            zone=zone,
            region=call.region,
            market="spot" if "InstanceMarketOptions" in call.parameters else "on-demand",
            state="pending",
            launched_at=now,
            client_token=token,
            tags=tags_of(call),
        )
        return Machine(instance, ready_at=now + BOOT_S, timer_s=guard_s(call.parameters["UserData"]))

    def instances(self, run: str | None = None) -> list[Instance]:
        now = self.clock.now()
        listed = [m for m in self.machines if now >= m.instance.launched_at + m.listed_after_s]
        ours = [m for m in listed if m.instance.tags.get(MANAGED_TAG) == "true"]
        return [self._now_of(m) for m in ours if run is None or m.instance.tags[RUN_TAG] == run]

    def terminate(self, region: str, instance_ids: Sequence[str]) -> None:
        for machine in self.machines:
            if machine.instance.instance_id in instance_ids:
                self.terminations.append(machine.instance.instance_id)
                self.end(machine, "Client.UserInitiatedShutdown")

    # -- fate

    def end(self, machine: Machine, code: str) -> None:
        """Begin an instance's end, unless it has begun."""
        if machine.gone_at is None:
            machine.gone_at = self.clock.now()
            machine.instance = replace(machine.instance, reason_code=code, reason=code)

    def interrupt(self, machine: Machine, *, notice_s: float = 120.0) -> None:
        """Interrupt as EC2 does; with `notice_s=0` without a word before."""
        if notice_s:
            machine.noticed_at = self.clock.now()
            self.clock.at(self.clock.now() + notice_s, lambda: self.end(machine, "Server.SpotInstanceTermination"))
        else:
            self.end(machine, "Server.SpotInstanceTermination")

    def _now_of(self, machine: Machine) -> Instance:
        now = self.clock.now()
        state = "pending" if now < machine.ready_at else "running"
        if machine.gone_at is not None:
            state = "shutting-down" if now < machine.gone_at + machine.shutting_down_s else "terminated"
        address = "192.0.2.10" if state == "running" else ""
        return replace(machine.instance, state=state, address=address)  # type: ignore[arg-type]

    def alive(self) -> list[str]:
        """Return the ids of what is still billed."""
        return [m.instance.instance_id for m in self.machines if m.gone_at is None]

    def move(self, address: str) -> None:
        """Let our laptop have another public address from now on."""
        self.address, self.has_moved = address, True

    # -- S3

    @property
    def is_s3_refusing(self) -> bool:
        """Whether it is just now."""
        return any(since <= self.clock.now() < to for since, to in self.s3_refusals)

    def carried_until(self, machine: Machine) -> float | None:
        """Return up to which moment what the machine had finished is in S3 by now; None: nothing of it is."""
        return carried_until(machine, self.clock.now(), self.s3_refusals)

    def carry(self) -> None:
        """Let every machine have carried what it has by now."""
        for machine in self.machines:
            until = self.carried_until(machine)
            for output in MemoryHost(self, machine).outputs_at(until) if until is not None else ():
                if output.step > machine.carried:
                    self.bucket[output.step] = f"weights after step {output.step}".encode()
                    machine.carried = output.step
            tree = MemoryHost(self, machine).stored_tree(until) if until is not None else None
            before = self.bucket_trees.get(machine.instance.instance_id)
            if tree is not None and (before is None or before.number <= tree.number):
                self.bucket_trees[machine.instance.instance_id] = tree

    def connect(self, instance: Instance, user: str, host_key: str) -> MemoryHost:
        """The engine's `Connect`."""
        machine = next(m for m in self.machines if m.instance.instance_id == instance.instance_id)
        host = MemoryHost(self, machine)
        host.greet()
        return host


def tags_of(call: Call) -> dict[str, str]:
    """Return the instance tags of a RunInstances call."""
    return {tag["Key"]: tag["Value"] for tag in call.parameters["TagSpecifications"][0]["Tags"]}


__all__ = ["ATTEMPT_TAG", "BrokenSetup", "Machine", "MemoryCloud", "MemoryHost", "VirtualClock", "tags_of"]
