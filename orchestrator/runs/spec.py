"""What the user asks for: checked before anything is created.

It imports `model.config`, which needs no torch, so that a bad trainer setting fails on the laptop and not on a machine
that is billed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from model.config import TrainConfig
from orchestrator.errors import SpecError

NAME_GRAMMAR = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")

Market = Literal["spot", "on-demand"]
CloudName = Literal["aws", "local"]
EMBEDDED_TITLE = "embedded cloud"
"""What a person reads for `local`, and what the events of such a run name."""
Strategy = Literal["price", "any"]
"""price: one pool after the other, cheapest first. any: all of them in one CreateFleet, and EC2 chooses."""


class RecoveryPolicy(BaseModel):
    """Time-outs, and how often a run starts again on another instance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_attempts: int = Field(default=20, ge=1)  # instances that EC2 gave
    first_capacity_wait_s: float = Field(default=0.0, ge=0)  # how long a launch asks for its first instance
    capacity_wait_s: float = Field(default=6 * 3600.0, ge=0)  # the same while recovering; nothing is billed meanwhile
    poll_s: float = Field(default=5.0, gt=0)  # between two polls of the trainer
    boot_timeout_s: float = Field(default=300.0, gt=0)  # from RunInstances to the first SSH session
    answer_timeout_s: float = Field(default=30.0, gt=0)  # for one short command on the host
    unreachable_after_s: float = Field(default=120.0, gt=0)  # silence after which an instance counts as lost
    stop_timeout_s: float = Field(default=90.0, gt=0)  # from SIGTERM to the checkpoint
    setup_timeout_s: float = Field(default=1800.0, gt=0)  # the bootstrap: pip may download gigabytes
    owner_timeout_s: float = Field(default=1800.0, gt=0)  # without contact, after which an instance ends itself
    outlives_notice_s: float = Field(
        default=60.0, gt=0
    )  # past its notice; then pixel-orch ends an instance that AWS has not ended


class Limits(BaseModel):
    """Limits at which a run ends before it is done: checkpointed, its machine ended, resumable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget_usd: Decimal | None = None  # over all attempts
    max_duration_s: float | None = Field(default=None, gt=0)  # since the launch, or since the resume
    idle_s: float | None = Field(default=None, gt=0)  # without a new line of metrics or log


class Downloads(BaseModel):
    """Which outputs are downloaded while the program runs, and how often. At its end the newest state always is.

    mode: `newest`: the newest state, and the newest checkpoint; `all`: each one; `none`: nothing, they go to S3 only.
    every_s: not more often; None: as often as a tenth of the machine's price pays for data out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["newest", "all", "none"] = "newest"
    every_s: float | None = Field(default=None, gt=0)
    only: tuple[str, ...] = ()  # patterns; where there are any, nothing else is an output
    ignored: tuple[str, ...] = ()  # patterns of what is no output
    keep_s: float = Field(default=1800.0, ge=0)  # a machine waits so long for outputs that cannot be downloaded


class Deadline(BaseModel):
    """By when the work is to be done; where it is done is then decided again and again (`orchestrator/policy/`)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: float = Field(gt=0, lt=1e11, allow_inf_nan=False)  # unix seconds
    policy: str = "planned"
    work_s: float | None = Field(
        default=None, gt=0, le=1e12, allow_inf_nan=False
    )  # training that there is, as the user says or earlier runs measured; None: unknown
    spot_range: int | None = Field(
        default=None, ge=0, le=4
    )  # of AWS's Spot Advisor, 0 (rarely interrupted) to 4; None: not asked for


class GroupSpec(BaseModel):
    """How many machines train together, and how many processes each of them has."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    min_nodes: int = Field(default=1, ge=1, le=1000)
    max_nodes: int = Field(default=1, ge=1, le=1000)
    slots: int | None = Field(default=None, ge=1, le=64)  # processes on a machine; None: one for each of its GPUs


class ProgramSpec(BaseModel):
    """How a program is run, and what becomes of its outputs. In `program.json`, beside the `spec.json` of 0.1.0.

    A run of version 0.1.0 has none; the defaults are what that version did.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    setup: str | None = None  # a command that is run on each machine before the program starts
    installs_dependencies: bool = False  # what the folder's requirements.txt or the like asks for
    downloads: Downloads = Downloads()
    metric_patterns: Mapping[str, str] = Field(default_factory=dict)  # for its log, by the names of the values
    stop_signal: str = "SIGTERM"  # tells it to save and end
    image: str | None = None  # the Docker image in which it runs
    export: tuple[str, ...] = ()  # the trackers that get metrics and bill
    notify: str | None = None  # a URL that is told of interruption, recovery, budget and end
    deadline: Deadline | None = None
    group: GroupSpec = GroupSpec()


class RunSpec(BaseModel):
    """One run as it was asked for. Written to `spec.json`; only `launch --resume` rewrites it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    cloud: CloudName
    instances: tuple[str, ...]
    market: Market
    regions: tuple[str, ...]
    max_price_usd_h: Decimal | None = None
    trainer: TrainConfig | None = None
    command: tuple[str, ...] = ()
    workdir: str | None = None
    include: tuple[str, ...] = ()
    env: Mapping[str, str] = Field(default_factory=dict)
    ami: str | None = None
    login_user: str | None = None  # None: what the image says
    strategy: Strategy = "price"
    subnets: tuple[str, ...] = ()
    is_private: bool = False  # no public address
    ssh_cidr: str | None = None  # who may connect; None: this machine's address, "none": no address
    ssh_proxy: str | None = None  # a ProxyCommand; %h %p %r as in ssh_config, %i is the instance's id
    key: str | None = None  # a private key of the user instead of one made for the run
    tags: Mapping[str, str] = Field(default_factory=dict)
    disk_gib: int = 100  # the Deep Learning AMI alone takes 65
    bucket: str | None = None  # S3 bucket for a copy of the checkpoints
    bucket_prefix: str = ""  # the run's part of it, made once
    bucket_region: str = ""
    data_url: str | None = None  # s3://bucket/prefix: where the prepared data set is, or is put by the first attempt
    prepare: Mapping[str, str] = Field(default_factory=dict)  # settings of `data prepare` on the machine
    instance_profile: str | None = None  # its role lets the instance write to the bucket
    allow_cpu: bool = False  # go on where torch has no kernels for the GPU
    profile: str | None = None  # of ~/.aws/config
    recovery: RecoveryPolicy = RecoveryPolicy()
    limits: Limits = Limits()
    program: ProgramSpec = Field(default_factory=ProgramSpec, exclude=True)

    @property
    def downloads(self) -> Downloads:
        """Which outputs are downloaded, and how often."""
        return self.program.downloads

    @property
    def deadline(self) -> Deadline | None:
        """By when the run is to be done, None if that was not asked for."""
        return self.program.deadline

    @property
    def group(self) -> GroupSpec:
        """How many machines train together."""
        return self.program.group

    @property
    def is_group(self) -> bool:
        """Whether the run is led on several machines at once."""
        return self.program.group.max_nodes > 1

    @property
    def steps(self) -> int | None:
        """Steps to do; None for a program of the user, whose steps are unknown."""
        return self.trainer.steps if self.trainer else None

    @property
    def is_embedded(self) -> bool:
        """Whether it runs on the embedded cloud, whose throughput is this machine's."""
        return self.cloud == "local"


def check_name(name: str, *, flag: str = "--name") -> str:
    """Return `name` if it matches `[a-z0-9][a-z0-9-]{0,39}`.

    Raises:
        SpecError: it does not. The name becomes a tag, a folder and part of a host name.
    """
    if NAME_GRAMMAR.fullmatch(name):
        return name
    raise SpecError(f"{flag}: {name!r} is not a run's name; use 1 to 40 of a-z, 0-9 and '-', not beginning with '-'")
