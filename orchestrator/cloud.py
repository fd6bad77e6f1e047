"""The seams: what the engine asks of a cloud and of a host, and the plain data that passes through.

`aws/` implements `Cloud`; `host.py` implements `Host` over SSH. The tests bring an in-memory one of each, which
passes the same contract suite.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

RUN_TAG = "pixel-orch:run"
ATTEMPT_TAG = "pixel-orch:attempt"
MANAGED_TAG = "pixel-orch:managed"
OWNER_TAG = "pixel-orch:home"  # which store knows the run: `sweep` names runs of other homes instead of ending them

InstanceState = Literal["pending", "running", "shutting-down", "terminated", "stopping", "stopped"]


@dataclass(frozen=True, order=True)
class Pool:
    """A capacity pool: what EC2 has, or has not, at one moment."""

    instance_type: str
    zone: str
    region: str


@dataclass(frozen=True)
class Offer:
    """A pool and a market with its price in dollars per hour.

    `source` says whose price: "spot history" or "recorded".
    """

    pool: Pool
    market: str
    price_usd_h: float
    source: str


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


@dataclass(frozen=True)
class PricePoint:
    """The spot price of a pool from `at` (unix seconds) on."""

    at: float
    price_usd_h: float


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


@dataclass(frozen=True)
class CommandResult:
    """What a command on a host came to. `exit_code` is -1 for a death by signal."""

    command: str
    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        """Whether it ended with 0."""
        return self.exit_code == 0


@dataclass(frozen=True)
class BucketPlace:
    """A run's second home in S3."""

    bucket: str
    prefix: str  # the run's part of it
    region: str


@dataclass(frozen=True)
class Job:
    """What is to be run on a host, whatever the host."""

    root: str  # relative to the login user's home: `pixel-orch/<run>`
    command: tuple[str, ...]  # "{python}" stands for the interpreter that the bootstrap chooses
    env: Mapping[str, str]
    config_json: bytes | None  # the bundled trainer's settings
    tree: Path  # the folder to send
    files: tuple[str, ...]  # what of it, relative
    owner_timeout_s: float
    stop_timeout_s: float
    metadata_poll_s: float
    time_limit_s: float | None = None
    idle_s: float | None = None  # without a new line of metrics or log, should nobody lead the run
    bucket: BucketPlace | None = None
    has_gpu: bool = False  # the instance type has one: without it, or without its driver, nothing is trained
    allow_cpu: bool = False  # go on where torch has no kernels for the GPU
    data: str | None = None  # a data set that is to be there before the trainer starts, by name
    data_url: str | None = None  # where in S3 it lies prepared, or will; None: it is made from the published files
    data_words: tuple[str, ...] = ()  # of `data prepare`
    data_asked: Mapping[str, Any] | None = None  # what they make of the recipe: what lies in S3 must have been so made

    @property
    def is_bundled(self) -> bool:
        """Whether it is our own trainer, which needs torch."""
        return self.config_json is not None


@dataclass(frozen=True)
class Setup:
    """What the bootstrap chose."""

    python: str
    torch: str
    gpu: str
    why: str
    s3_python: str = ""  # the interpreter that has boto3, where it was asked for
    data_s: float = 0.0  # that the data took, beside the bootstrap
    data_how: str = ""  # "prepared", "fetched" from S3, or both: "prepared and being kept"


CHECKPOINT_NAME = re.compile(r"checkpoint-(\d{1,12})\.[A-Za-z0-9]+")
"""As `infra/instance/trainer_files.py` finds them; group 1 is the step."""


@dataclass(frozen=True)
class Output:
    """A file that the trainer finished: a checkpoint or a sample grid."""

    name: str
    step: int
    size_bytes: int
    sha256: str

    @property
    def is_checkpoint(self) -> bool:
        """Whether a run can be resumed from it."""
        return self.name.startswith("checkpoint-")


@dataclass(frozen=True)
class Cursor:
    """How far the metrics and the log of one attempt are home, in bytes."""

    metrics: int = 0
    log: int = 0


@dataclass(frozen=True)
class RestFile:
    """A file that the trainer wrote and that we know nothing of."""

    name: str  # its path below the trainer's folder
    size_bytes: int


@dataclass(frozen=True)
class Look:
    """One look at a trainer."""

    trainer: Literal["absent", "starting", "running", "exited"]
    exit_code: int | None
    asked: bool  # SIGTERM was sent to it
    notice_ends_at: float | None  # unix seconds by the host's word; None while there is no notice
    rebalance: bool
    ending: str  # why the agent is about to end the instance, "" if it is not
    agent_alive: bool
    metrics: str
    log: str
    cursor: Cursor
    outputs: tuple[Output, ...]
    stored: tuple[Output, ...] = ()  # the checkpoints that are whole in S3
    s3_trouble: str = ""
    s3_done: bool = False  # the trainer has ended, and S3 has its metrics and its end too
    gpu: Mapping[str, Any] = field(default_factory=dict)  # what nvidia-smi said while the trainer ran; {} without one


class Host(Protocol):
    """A rented machine that answers. Every method may raise `UnreachableError`."""

    def set_up(self, job: Job) -> Setup:
        """Send agent, bootstrap and code; find or make the Python to use.

        Raises:
            CommandError: the bootstrap failed; its last lines are in the error.
        """
        ...

    def renew_host_key(self, job_root: str, pin: Callable[[str], None]) -> str:
        """Let the host make a host key of its own, and connect anew by it; return its public half.

        `pin` is given the new key before the host uses it, so that a crash between the two locks nobody out.

        Raises:
            CommandError: the host does not let us; it keeps the key that it has.
        """
        ...

    def send(self, job: Job, path: Path) -> None:
        """Put a checkpoint of ours where the trainer will look for it."""
        ...

    def restore(self, job: Job, setup: Setup, least_step: int) -> tuple[tuple[Output, ...], str]:
        """Fetch the newest whole checkpoints from the job's bucket, none of a step before `least_step`.

        Returns those that it has now, and what went wrong ("" if nothing did).
        """
        ...

    def start(self, job: Job, setup: Setup) -> None:
        """Start agent and trainer. Asked twice, it starts one."""
        ...

    def look(self, job_root: str, cursor: Cursor, allow_s: float | None = None) -> Look:
        """Return what is new since `cursor`.

        It is also our heartbeat: without another one within `allow_s` the instance ends itself, since that is all that
        the budget surely buys.
        """
        ...

    def fetch(self, job_root: str, output: Output, destination: Path) -> bool:
        """Bring a file home, whole and compared by digest, or not at all.

        Returns False if the trainer has removed it meanwhile.
        """
        ...

    def rest(self, job_root: str) -> tuple[RestFile, ...]:
        """Return what else the trainer wrote: neither checkpoints nor samples, metrics or log."""
        ...

    def fetch_rest(self, job_root: str, files: Sequence[RestFile], folder: Path) -> None:
        """Bring such files home, below a folder.

        Raises:
            OSError: they cannot be written.
        """
        ...

    def stop(self, job_root: str) -> None:
        """Ask the trainer to write a checkpoint and end."""
        ...

    def close(self) -> None:
        """Hang up. What runs on the host runs on."""
        ...
