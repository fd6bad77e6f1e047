"""The rows of the report: plain data; each field name carries its unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from model.config import TrainConfig
from orchestrator.market.throughput import Work
from orchestrator.report.slow_nodes import SlowNode
from orchestrator.report.story import Story
from orchestrator.runs.listing import BrokenRun
from orchestrator.runs.spec import EMBEDDED_TITLE

PAGE_ONLY = {"page_only": True}  # of a field that is drawn in the HTML page and is in no JSON


@dataclass(frozen=True)
class Workload:
    """What a run trains. Speeds are comparable only within one workload."""

    name: str
    batch_size: int | None = None
    images_per_epoch: float | None = None
    work: Work | None = None  # None for the user's own program
    is_own: bool = False  # a program of the user's own
    config: TrainConfig | None = None  # of the bundled trainer


@dataclass(frozen=True)
class MemberRow:
    """One machine of an attempt, and its share of the bill."""

    instance_id: str
    rank: int | None  # among the machines that train together; None: it has not joined them, or never did
    instance_type: str
    zone: str
    market: str
    price_usd_h: Decimal  # at the launch
    started_at: float  # when it was launched, or went on in this attempt
    ended_at: float | None
    ended_by: str | None  # "kept": it goes on in the next attempt
    lost_because: str  # "" unless it was given up
    billed_usd: Decimal
    is_interrupted: bool
    is_free: bool
    state: str  # boots, set-up, waits, trains, notice, ends; ended, lost, interrupted, went on
    state_since: float
    group_wait_s: float = 0.0  # billed while it waited for the others
    group_wait_usd: Decimal = Decimal(0)


@dataclass(frozen=True)
class AttemptRow:
    """One attempt: its machines, their training, their bill.

    Of a group it is one generation. `instance_id`, `zone`, `price_usd_h`, the steps, and the speed are those of its
    first machine; the amounts are the sums over all of them.
    """

    number: int
    instance_id: str
    instance_type: str
    zone: str
    region: str
    market: str
    price_usd_h: Decimal  # at the launch
    started_at: float
    ended_at: float | None
    ended_by: str | None
    end_reason: str
    is_interrupted: bool
    noticed: bool
    first_step: int
    last_step: int
    steps_lost: int  # trained in this attempt and again in a later one
    images_per_s: float | None
    slow_images_per_s: float | None
    fast_images_per_s: float | None
    steps_per_s: float | None  # images_per_s / batch size
    device: str
    to_first_step_s: float  # from the start of billing: boot, set-up, data; the whole attempt if it made no step
    data_s: float  # the part of it until the data were ready
    to_first_step_usd: Decimal  # the instance price for these seconds
    data_usd: Decimal
    instance_usd: Decimal
    volume_usd: Decimal
    address_usd: Decimal
    data_out_usd: Decimal
    billed_usd: Decimal  # the sum of the four
    on_demand_usd: Decimal | None
    billed_s: float
    is_free: bool
    is_estimate: bool
    problems: tuple[str, ...]
    user_setup_s: float = 0.0  # before the first step: the packages of the user's program
    user_setup_usd: Decimal = Decimal(0)
    unit: str = "step"  # "epoch": the program tells its epochs only
    metrics_source: str = ""  # of a program of the user's own, in words; "" where none was found
    is_measured: bool = True  # False: nothing is known of the steps of a program of the user's own
    ranks: int = 1  # processes that shared each batch, one for each GPU
    nodes: int = 1  # machines that train together
    group_usd_h: Decimal | None = None  # of all machines of its group, at the launch
    members: tuple[MemberRow, ...] = ()
    group_wait_s: float = 0.0  # machine time that was billed while machines waited for others
    group_wait_usd: Decimal = Decimal(0)
    slow_nodes: tuple[SlowNode, ...] = ()
    is_group: bool = field(default=False, metadata=PAGE_ONLY)
    prices: tuple[tuple[float, float], ...] = field(default=(), metadata=PAGE_ONLY)  # unix seconds, dollars per hour

    @property
    def usd_h(self) -> Decimal:
        """What an hour of the machines costs that train together: of one, or of its group."""
        return self.price_usd_h if self.group_usd_h is None else self.group_usd_h

    @property
    def has_free(self) -> bool:
        """Whether AWS does not bill one of its machines."""
        return self.is_free or any(one.is_free for one in self.members)

    @property
    def interruptions(self) -> int:
        """How many of its machines AWS interrupted."""
        return sum(one.is_interrupted for one in self.members)

    @property
    def machines(self) -> str:
        """The type, and of several machines their number: `3 x g5.xlarge`."""
        return f"{self.nodes} x {self.instance_type}" if self.nodes > 1 else self.instance_type


@dataclass(frozen=True)
class NodesRow:
    """The attempts of a run at one size of its group. $/step is of the training alone, as in `RunRow`."""

    nodes: int  # machines that train together
    attempts: int
    steps: int  # trained there and not again later
    images_per_s: float | None
    seconds_per_step: float | None
    usd_per_step: Decimal | None
    usd_per_1000_steps: Decimal | None
    usd_per_epoch: Decimal | None
    cost_usd: Decimal  # all that these attempts were billed
    group_wait_usd: Decimal


@dataclass(frozen=True)
class RunRow:
    """One run over all its attempts."""

    run: str
    state: str
    reason: str
    cloud: str
    workload: str
    created_at: float
    steps: int
    steps_lost: int
    interruptions: int
    capacity_failures: int
    attempts: tuple[AttemptRow, ...]
    images_per_s: float | None
    usd_per_1000_steps: Decimal | None
    usd_per_epoch: Decimal | None
    nats: float | None  # of the last validation
    bits_per_dim: float | None
    device: str
    instance_usd: Decimal
    volume_usd: Decimal
    address_usd: Decimal
    data_out_usd: Decimal
    cost_usd: Decimal
    on_demand_usd: Decimal | None  # the same seconds at on-demand prices; None if a price is unknown
    is_estimate: bool
    duration_s: float  # from creation to end, pauses included
    machine_s: float  # the sum of the durations of all attempts
    to_first_step_usd: Decimal  # over the attempts: billed before the first step
    data_s: float
    data_usd: Decimal
    batch_size: int | None
    images_per_epoch: float | None
    problems: tuple[str, ...]
    user_setup_s: float = 0.0
    user_setup_usd: Decimal = Decimal(0)
    is_own: bool = False  # a program of the user's own
    unit: str = "step"
    metrics_source: str = ""
    is_measured: bool = True
    seconds_per_step: float | None = None
    usd_per_step: Decimal | None = None
    steps_per_epoch: float | None = None  # as the program's own lines give it
    values: Mapping[str, float] = field(default_factory=dict)  # the last one of each number that it wrote
    group_wait_s: float = 0.0  # machine time that was billed while machines waited for others of their group
    group_wait_usd: Decimal = Decimal(0)
    by_nodes: tuple[NodesRow, ...] = ()  # of a group: what the steps cost at each size
    slots: int | None = field(default=None, metadata=PAGE_ONLY)  # processes on a machine, as `--slots` says
    story: Story | None = field(default=None, metadata=PAGE_ONLY)  # of a run that lost an instance

    @property
    def instances(self) -> int:
        """How many machines it had."""
        return len({one.instance_id for attempt in self.attempts for one in attempt.members})

    @property
    def is_untrained(self) -> bool:
        """Whether no attempt trained a step, as far as its steps are known."""
        return self.is_measured and all(attempt.last_step < attempt.first_step for attempt in self.attempts)


@dataclass(frozen=True)
class TypeRow:
    """One instance type in one market on one cloud, over all runs of one workload. Measured and billed."""

    cloud: str
    workload: str
    instance_type: str
    market: str
    attempts: int
    interruptions: int
    images_per_s: float | None
    slow_images_per_s: float | None
    fast_images_per_s: float | None
    seconds_per_step: float | None
    price_usd_h: Decimal  # of all machines of a group, at the launch; over several attempts the time-weighted mean
    usd_per_step: Decimal | None
    usd_per_1000_steps: Decimal | None
    usd_per_epoch: Decimal | None
    images_per_usd: float | None
    cost_usd: Decimal
    device: str
    is_ranked: bool  # False on the embedded cloud, which measures this machine's CPU
    ranks: int = 1  # processes that shared each batch, one for each GPU; each number has a row of its own
    nodes: int = 1  # machines that trained together; each number has a row of its own
    on_demand_usd_h: Decimal | None = field(default=None, metadata=PAGE_ONLY)  # None: unknown

    @property
    def label(self) -> str:
        """The type, of a group with its machines: `4 x g5.xlarge`, `g5.12xlarge, 4 processes`."""
        if self.nodes > 1 or self.ranks == 1:
            return self.machines
        return f"{self.instance_type}, {self.ranks} processes"

    @property
    def machines(self) -> str:
        """The type, and of a group how many of them: `2 x g5.xlarge`."""
        return self.instance_type if self.nodes == 1 else f"{self.nodes} x {self.instance_type}"

    @property
    def is_embedded(self) -> bool:
        """Whether the throughput was measured on this machine."""
        return self.cloud == EMBEDDED_TITLE


@dataclass(frozen=True)
class PredictedRow:
    """The prediction for a type that has no run of the workload on AWS."""

    workload: str
    instance_type: str
    images_per_s: float
    low_images_per_s: float
    high_images_per_s: float
    price_usd_h: Decimal | None
    price_source: str  # live, cached, recorded; "on-demand" without a spot price
    usd_per_epoch: Decimal | None
    images_per_usd: float | None
    basis: str
    is_bound_by_kernels: bool = False  # by kernel starts, which take the same time on every type
    gpus: int = 1  # of the machine that train, with a process on each of them
    one_gpu_images_per_s: float | None = None  # of one of them with the whole batch
    on_demand_usd_h: Decimal | None = field(default=None, metadata=PAGE_ONLY)  # the lowest of the regions


@dataclass(frozen=True)
class LeftOutRow:
    """The prediction for a measured type from the other types alone."""

    workload: str
    instance_type: str
    measured_images_per_s: float
    predicted_images_per_s: float
    error: float


@dataclass(frozen=True)
class Report:
    """All data of the report; every output form shows it."""

    generated_at: float
    billing_rule: str
    runs: tuple[RunRow, ...]
    types: tuple[TypeRow, ...]
    predicted: tuple[PredictedRow, ...] = ()
    left_out: tuple[LeftOutRow, ...] = ()
    price_note: str = ""
    extra_notes: tuple[str, ...] = field(default=())
    slot_notes: tuple[str, ...] = field(default=())  # which machines have fewer processes than GPUs
    broken: tuple[BrokenRun, ...] = ()

    @property
    def problems(self) -> tuple[tuple[str, str], ...]:
        """The problems in the data: (run, problem)."""
        found = [(run.run, problem) for run in self.runs for problem in run.problems]
        return (*((one.run, f"cannot be read: {one.why}") for one in self.broken), *found)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks without which the figures would mislead."""
        notes = list(self.extra_notes)
        if any(run.cloud == EMBEDDED_TITLE for run in self.runs):
            notes.append(
                "embedded cloud: prices are recorded and nothing was paid; "
                "the throughput is that of this machine's CPU, not of the GPU."
            )
        return (*notes, *self.slot_notes)

    @property
    def billing_note(self) -> str:
        """How the bill is computed."""
        rule = {
            "hour-start": "at the spot price in force at the start of each instance-hour",
            "in-effect": "at the spot price in effect at each second",
        }[self.billing_rule]
        return (
            f"The bill is computed from events, not taken from an invoice: per second, at least 60 s, {rule}; "
            "an instance that AWS interrupts within its first hour is free. The bill includes disk (gp3), public "
            "address, and data out at list price (AWS does not charge an account's first 100 GB a month). "
            "~ marks an estimate."
        )
