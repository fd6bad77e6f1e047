"""The rows of the report: plain data, each field with its unit in its name."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from orchestrator.market.throughput import Work

EMBEDDED = "embedded cloud"


@dataclass(frozen=True)
class Workload:
    """What was trained: only runs of one workload can be compared by speed."""

    name: str
    batch_size: int | None = None
    images_per_epoch: float | None = None
    work: Work | None = None  # counted; None for a program of one's own


@dataclass(frozen=True)
class AttemptRow:
    """One instance that was really had."""

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
    noticed: bool
    first_step: int
    last_step: int
    steps_lost: int  # trained here, and trained again by a later attempt
    images_per_s: float | None
    slow_images_per_s: float | None
    fast_images_per_s: float | None
    steps_per_s: float | None  # images_per_s / batch size: of the same measurements
    device: str
    to_first_step_s: float  # from the start of billing: boot, set-up, data; all of it where no step was made
    data_s: float  # of that, while data were fetched or prepared beside the bootstrap
    to_first_step_usd: Decimal  # the instance's bill of these seconds
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
    nats: float | None  # the last validation
    bits_per_dim: float | None
    device: str
    instance_usd: Decimal
    volume_usd: Decimal
    address_usd: Decimal
    data_out_usd: Decimal
    cost_usd: Decimal
    on_demand_usd: Decimal | None  # the same seconds on on-demand; None where a price is not known
    is_estimate: bool
    duration_s: float  # from its creation to its end, pauses too
    machine_s: float  # that instances were had, over the attempts
    to_first_step_usd: Decimal  # over the attempts: paid while nothing was trained yet
    data_s: float
    data_usd: Decimal
    batch_size: int | None
    images_per_epoch: float | None
    problems: tuple[str, ...]

    @property
    def is_untrained(self) -> bool:
        """Whether no attempt came to a step of its own."""
        return all(attempt.last_step < attempt.first_step for attempt in self.attempts)


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
    price_usd_h: Decimal  # at the launch; over several attempts the mean by time trained (plain where none was timed)
    usd_per_step: Decimal | None
    usd_per_1000_steps: Decimal | None
    usd_per_epoch: Decimal | None
    images_per_usd: float | None
    cost_usd: Decimal
    device: str
    is_ranked: bool  # false on the embedded cloud: this machine's CPU is no GPU type

    @property
    def is_embedded(self) -> bool:
        """Whether the throughput is this machine's."""
        return self.cloud == EMBEDDED


@dataclass(frozen=True)
class PredictedRow:
    """One type that was not run (or only on the embedded cloud) for one workload."""

    workload: str
    instance_type: str
    images_per_s: float
    low_images_per_s: float
    high_images_per_s: float
    price_usd_h: Decimal | None
    price_source: str  # live, cached, recorded; "on-demand" where no spot price is a market's
    usd_per_epoch: Decimal | None
    images_per_usd: float | None
    basis: str
    is_bound_by_kernels: bool = False  # by starting them, which takes as long on every type


@dataclass(frozen=True)
class LeftOutRow:
    """What would have been predicted for a type that was measured, from the others alone."""

    workload: str
    instance_type: str
    measured_images_per_s: float
    predicted_images_per_s: float
    error: float


@dataclass(frozen=True)
class Report:
    """Everything that the forms of the report show."""

    generated_at: float
    billing_rule: str
    runs: tuple[RunRow, ...]
    types: tuple[TypeRow, ...]
    predicted: tuple[PredictedRow, ...] = ()
    left_out: tuple[LeftOutRow, ...] = ()
    price_note: str = ""
    extra_notes: tuple[str, ...] = field(default=())

    @property
    def notes(self) -> tuple[str, ...]:
        """What must stand beside the figures for them to be honest."""
        notes = list(self.extra_notes)
        if any(run.cloud == EMBEDDED for run in self.runs):
            notes.append(
                "embedded cloud: the prices are recorded ones, nothing was paid; "
                "the throughput is this machine's CPU's, not the GPU's."
            )
        return tuple(notes)

    @property
    def billing_note(self) -> str:
        """How the money was reckoned."""
        rule = {
            "hour-start": "at the spot price in force at the start of each instance-hour",
            "in-effect": "at the spot price in effect at each second",
        }[self.billing_rule]
        return (
            f"Billed by our reckoning, not taken from an invoice: per second, 60 s at least, {rule}; nothing for an "
            "instance that AWS interrupts within its first hour. With disk (gp3), public address, and data out at "
            "list price, though an account's first 100 GB a month are free. ~ marks an estimate."
        )
