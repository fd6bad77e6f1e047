"""A cloud, its hosts and a clock in memory: stories in virtual time, thousands a minute.

`MemoryCloud` passes the same contract suite as the embedded cloud (`tests/contract/test_cloud.py`), so that neither can
lie. What befalls a machine is a time on it: `noticed_at`, `gone_at`, `frozen_from`, `crashes_at_step`.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.cloud import (
    ATTEMPT_TAG,
    MANAGED_TAG,
    RUN_TAG,
    Call,
    Cursor,
    Image,
    Instance,
    Job,
    Look,
    Network,
    Output,
    Pool,
    PricePoint,
    Setup,
)
from orchestrator.errors import CapacityError, CloudError, CommandError, UnreachableError

EPOCH = 1_790_000_000.0
BOOT_S = 20.0
LISTED_AFTER_S = 3.0  # EC2 is eventually consistent: a describe right after a launch may not know of it
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
PRICES = {"us-east-1a": 0.40, "us-east-1b": 0.30, "us-east-1c": 0.35}


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
        self._now = until

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Plan something."""
        heapq.heappush(self._planned, (when, next(self._count), action))


@dataclass
class Machine:
    """One instance and the trainer on it."""

    instance: Instance
    ready_at: float
    shutting_down_s: float = 5.0
    noticed_at: float | None = None
    gone_at: float | None = None
    frozen_from: float | None = None
    rebalance: bool = False
    allow_s: float | None = None  # what the last look let it go on for
    # the trainer
    command_started_at: float | None = None
    resumed_from: int = 0
    steps_per_s: float = 1.0
    steps: int = 100
    checkpoint_every: int = 10
    crashes_at_step: int | None = None
    stop_at: float | None = None
    sent: dict[int, bytes] = field(default_factory=dict)
    refuses: set[str] = field(default_factory=set)


class MemoryCloud:
    """The `Cloud` seam, in memory.

    Args:
        clock: the time.
        configure: is given every new machine, in order, to decide its fate.
    """

    title = "AWS"

    def __init__(self, clock: VirtualClock, configure: Callable[[int, Machine], None] | None = None) -> None:
        self.clock = clock
        self.configure = configure or (lambda number, machine: None)
        self.machines: list[Machine] = []
        self.calls: list[Call] = []
        self.doors: dict[str, str] = {}
        self.refusals: dict[str, list[CloudError]] = {}  # zone -> what the next launches there get
        self.empty_zones: set[str] = set()
        self.terminations: list[str] = []
        self.quotas: dict[str, float] = {}
        self.credentials_end: float | None = None
        self.fail_after_serving = 0  # so many launches are served and their answer is lost

    # -- the seam

    def offerings(self, instance_types: Sequence[str]) -> list[Pool]:
        return [Pool(name, zone, "us-east-1") for name in instance_types for zone in ZONES]

    def spot_prices(self, pools: Sequence[Pool]) -> dict[Pool, PricePoint]:
        return {pool: PricePoint(EPOCH - 3600, PRICES[pool.zone]) for pool in pools}

    def price_history(self, pool: Pool, start: float, end: float) -> list[PricePoint]:
        return [PricePoint(EPOCH - 3600, PRICES[pool.zone])] if pool.zone in PRICES else []

    def image(self, region: str, image_id: str | None = None) -> Image:
        return Image(image_id or "ami-00000000000000001")

    def network(self, region: str, subnets: Sequence[str]) -> Network:
        return Network(vpc_id="vpc-1", subnets=dict(zip(ZONES, subnets, strict=False))) if subnets else Network()

    def quota_vcpus(self, region: str, code: str) -> float | None:
        return self.quotas.get(code, 64.0)

    def rehearse(self, call: Call) -> None:
        """Let it through."""

    def credentials_end_at(self) -> float | None:
        return self.credentials_end

    def caller_cidr(self) -> str:
        return "192.0.2.1/32"

    def open_door(self, region: str, call: Call, cidr: str | None) -> str:
        tags = {tag["Key"]: tag["Value"] for tag in call.parameters["TagSpecifications"][0]["Tags"]}
        return self.doors.setdefault(tags[RUN_TAG], f"sg-{len(self.doors):017d}")

    def close_door(self, region: str, run: str) -> None:
        self.doors.pop(run, None)

    def launch(self, call: Call, template: Call | None = None) -> Instance:
        self.calls.append(call)
        token = call.parameters["ClientToken"]
        if template is not None:
            return self._launch_any(call, template, token)
        for machine in self.machines:
            if machine.instance.client_token == token:
                return self._now_of(machine)
        zone = call.parameters["Placement"]["AvailabilityZone"]
        if self.refusals.get(zone):
            raise self.refusals[zone].pop(0)
        if zone in self.empty_zones:
            raise CapacityError(f"no capacity in {zone}", code="InsufficientInstanceCapacity")
        return self._served(self._new_machine(call, token, zone))

    def _launch_any(self, fleet: Call, template: Call, token: str) -> Instance:
        """Start in the first pool that has capacity, as an `instant` fleet over them would."""
        for override in fleet.parameters["LaunchTemplateConfigs"][0]["Overrides"]:
            zone = override["AvailabilityZone"]
            if zone not in self.empty_zones and not self.refusals.get(zone):
                data = template.parameters["LaunchTemplateData"]
                spot = fleet.parameters["TargetCapacitySpecification"]["DefaultTargetCapacityType"] == "spot"
                asked = {
                    **data,
                    "InstanceType": override["InstanceType"],
                    **({"InstanceMarketOptions": {}} if spot else {}),
                }
                return self._served(self._new_machine(Call("CreateFleet", fleet.region, asked), token, zone))
        raise CapacityError("none of the pools served", code="UnfulfillableCapacity", scope="region")

    def _served(self, machine: Machine) -> Instance:
        self.machines.append(machine)
        self.configure(len(self.machines), machine)
        if self.fail_after_serving:
            self.fail_after_serving -= 1
            raise CloudError("the connection broke", code="ReadTimeoutError")
        return self._now_of(machine)

    def _new_machine(self, call: Call, token: str, zone: str) -> Machine:
        now = self.clock.now()
        tags = {tag["Key"]: tag["Value"] for tag in call.parameters["TagSpecifications"][0]["Tags"]}
        instance = Instance(
            instance_id=f"i-{len(self.machines) + 1:017x}",
            instance_type=call.parameters["InstanceType"],
            zone=zone,
            region=call.region,
            market="spot" if "InstanceMarketOptions" in call.parameters else "on-demand",
            state="pending",
            launched_at=now,
            client_token=token,
            tags=tags,
        )
        return Machine(instance, ready_at=now + BOOT_S)

    def instances(self, run: str | None = None) -> list[Instance]:
        now = self.clock.now()
        listed = [m for m in self.machines if now >= m.instance.launched_at + LISTED_AFTER_S]
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
        now_of = map(self._now_of, self.machines)
        return [i.instance_id for i in now_of if i.state in ("pending", "running")]

    def connect(self, instance: Instance, user: str, host_key: str) -> MemoryHost:
        """The engine's `Connect`."""
        machine = next(m for m in self.machines if m.instance.instance_id == instance.instance_id)
        host = MemoryHost(self, machine)
        host.check()
        return host


class MemoryHost:
    """The `Host` seam: a trainer whose state is a function of the time."""

    def __init__(self, cloud: MemoryCloud, machine: Machine) -> None:
        self.cloud = cloud
        self.clock = cloud.clock
        self.machine = machine

    def check(self) -> None:
        """Answer, or be unreachable."""
        now, machine = self.clock.now(), self.machine
        frozen = machine.frozen_from is not None and now >= machine.frozen_from
        if now < machine.ready_at or machine.gone_at is not None or frozen:
            self.clock.sleep(10.0 if frozen else 0.1)
            raise UnreachableError(f"{machine.instance.instance_id}: no answer")

    def set_up(self, job: Job) -> Setup:
        self.check()
        return Setup(python="/usr/bin/python3", torch="2.13.0", gpu="", why="found")

    def send(self, job: Job, path: Path) -> None:
        self.check()
        assert path.read_bytes() != b"damaged", "a damaged checkpoint was sent out"
        self.machine.sent[int(path.stem.split("-")[1])] = path.read_bytes()

    def start(self, job: Job, setup: Setup) -> None:
        self.check()
        machine = self.machine
        if machine.command_started_at is None:
            machine.command_started_at = self.clock.now()
            good = [step for step in machine.sent if f"checkpoint-{step}.pt" not in machine.refuses]
            machine.resumed_from = max(good, default=0)

    def _steps_at(self, at: float) -> int:
        machine = self.machine
        assert machine.command_started_at is not None
        done = machine.resumed_from + int((at - machine.command_started_at) * machine.steps_per_s)
        return min(done, machine.steps, machine.crashes_at_step or machine.steps)

    def _stopped_at(self) -> float | None:
        machine = self.machine
        moments = [t for t in (machine.stop_at, machine.noticed_at) if t is not None]
        return max(min(moments), machine.command_started_at or 0.0) if moments else None

    def look(self, job_root: str, cursor: Cursor, allow_s: float | None = None) -> Look:
        self.check()
        self.machine.allow_s = allow_s
        machine, now = self.machine, self.clock.now()
        notice = None if machine.noticed_at is None else machine.noticed_at + 120.0
        if machine.command_started_at is None:
            return Look("absent", None, False, notice, False, "", False, "", "", Cursor(0, 0), ())
        stopped_at = self._stopped_at()
        step = self._steps_at(min(now, stopped_at) if stopped_at is not None else now)
        trainer, code = "running", None
        if step >= machine.steps:
            trainer, code = "exited", 0
        elif machine.crashes_at_step is not None and step >= machine.crashes_at_step:
            trainer, code = "exited", 1
        elif stopped_at is not None:
            trainer, code = "exited", 143
        lines = list(self._metrics(step))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        asked = stopped_at is not None and code != 0
        new = text.encode()[cursor.metrics :].decode() if cursor.metrics < len(text) else ""
        outputs = tuple(self._outputs(step, at_end=trainer == "exited" and code in (0, 143)))
        end = Cursor(max(len(text), cursor.metrics), 0)
        rebalance = machine.rebalance
        return Look(trainer, code, asked, notice, rebalance, "", True, new, "", end, outputs)  # type: ignore[arg-type]

    def _metrics(self, step: int) -> Iterator[dict[str, object]]:
        machine = self.machine
        refused = [{"name": n, "reason": "digest differs"} for n in sorted(machine.refuses)]
        yield {
            "event": "start",
            "device_name": "simulated",
            "resumed_from": machine.resumed_from,
            "refused": refused,
            "batch_size": 32,
            "images_per_epoch": 3200,
        }
        for done in range(machine.resumed_from + 1, step + 1):
            wall_s = (done - machine.resumed_from) / machine.steps_per_s
            yield {"step": done, "images_per_s": 32 * machine.steps_per_s, "wall_s": wall_s}

    def _outputs(self, step: int, *, at_end: bool) -> Iterator[Output]:
        machine = self.machine
        marks = set(range(machine.checkpoint_every, step + 1, machine.checkpoint_every)) | ({step} if at_end else set())
        for mark in sorted(m for m in marks if m > machine.resumed_from):
            content = f"weights after step {mark}".encode()
            yield Output(f"checkpoint-{mark}.pt", mark, len(content), hashlib.sha256(content).hexdigest())

    def fetch(self, job_root: str, output: Output, destination: Path) -> bool:
        self.check()
        destination.write_bytes(f"weights after step {output.step}".encode())
        return True

    def stop(self, job_root: str) -> None:
        self.check()
        self.machine.stop_at = self.machine.stop_at or self.clock.now()

    def close(self) -> None:
        """Hang up."""


class BrokenSetup(MemoryHost):
    """A host whose bootstrap fails."""

    def set_up(self, job: Job) -> Setup:
        raise CommandError("bootstrap.sh", 3, "no torch build has kernels for this GPU")


def tags_of(call: Call) -> dict[str, str]:
    """Return the instance tags of a RunInstances call."""
    return {tag["Key"]: tag["Value"] for tag in call.parameters["TagSpecifications"][0]["Tags"]}


__all__ = ["ATTEMPT_TAG", "BrokenSetup", "Machine", "MemoryCloud", "MemoryHost", "VirtualClock", "tags_of"]
