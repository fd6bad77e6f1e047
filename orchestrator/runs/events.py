"""Events: frozen facts about a run.

Events are only appended. After a crash they are all that pixel-orch knows of a run. `state.fold` gives its state.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Literal, TypeVar

from orchestrator.runs.outputs import Output

State = Literal["PENDING", "PROVISIONING", "RUNNING", "RECOVERING", "SUCCEEDED", "FAILED", "CANCELLED", "STOPPED"]
FINAL_STATES: frozenset[str] = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "STOPPED"})

EndedBy = Literal["aws", "pixel-orch", "instance", "other", "kept"]
"""Who ended an instance: AWS by a spot interruption, pixel-orch, the instance's own shutdown, or another program.

`kept`: nobody; the machine went on in the next generation of its group.
"""


class LossReason(str, Enum):
    """Why an instance can no longer be used. The value is what `events.jsonl` holds."""

    INTERRUPTED = "interrupted"  # AWS takes it back: with a notice, or without one
    INSTANCE_ENDED = "instance-ended"  # EC2 says that it ended, and not for spot capacity
    UNREACHABLE = "unreachable"
    TOO_SLOW = "too-slow"  # it answers, and its commands run out of time
    AGENT_GONE = "agent-gone"
    GPU_FAILED = "gpu-failed"  # the machine's GPU, or its driver, does not work (any more)
    RESUME_FAILED = "resume-failed"  # the trainer failed before its first step after a checkpoint
    MOVED = "moved"  # by a run with a deadline: to on-demand, or back to spot
    GROUP_BROKEN = "group-broken"  # the ranks lost each other, and every machine of the group answers
    REGROUPED = "regrouped"  # the group goes on with more or fewer machines
    TRAINER_TOLD_TO_END = "trainer-told-to-end"  # by the agent: its own limits, or silence of the owner


def loss_reason(event: AttemptLost) -> LossReason:
    """Return the cause of a loss; version 0.1.0 wrote only a sentence, of which these are the beginnings."""
    if event.cause is not None:
        return LossReason(event.cause)
    begins = {"interrupt": LossReason.INTERRUPTED, "ended": LossReason.INSTANCE_ENDED}
    begins |= {"no answer": LossReason.UNREACHABLE, "the agent": LossReason.AGENT_GONE}
    found = [cause for words, cause in begins.items() if event.reason.startswith(words)]
    return found[0] if found else LossReason.TRAINER_TOLD_TO_END


@dataclass(frozen=True, kw_only=True)
class Event:
    """A fact, and when it happened (`at`: unix seconds)."""

    at: float
    kind: ClassVar[str] = ""

    def to_json(self) -> dict[str, Any]:
        """Return what goes into `events.jsonl`."""
        return {"kind": self.kind, **dataclasses.asdict(self)}


@dataclass(frozen=True, kw_only=True)
class RunCreated(Event):
    """The run exists in the store; nothing is rented yet."""

    kind: ClassVar[str] = "run_created"
    run: str
    cloud: str


@dataclass(frozen=True, kw_only=True)
class LaunchRequested(Event):
    """Written and synced before RunInstances is sent, so that an instance can always be found again by its token."""

    kind: ClassVar[str] = "launch_requested"
    attempt: int
    client_token: str
    instance_type: str
    zone: str
    region: str
    market: str
    price_usd_h: float
    count: int = 1  # instances, all or none; their attempts have the numbers from `attempt` on


@dataclass(frozen=True, kw_only=True)
class LaunchFailed(Event):
    """The launch was refused. `scope` is the type of the error."""

    kind: ClassVar[str] = "launch_failed"
    attempt: int
    client_token: str
    instance_type: str
    zone: str
    code: str
    scope: str
    message: str


@dataclass(frozen=True, kw_only=True)
class InstanceStarted(Event):
    """EC2 gave an instance, which is billed from `at` on."""

    kind: ClassVar[str] = "instance_started"
    attempt: int
    instance_id: str
    instance_type: str
    zone: str
    region: str
    market: str
    price_usd_h: float
    disk_gib: float = 0.0  # of its volume; 0 in events of older versions
    public_addresses: int = 0  # IPv4, billed by the hour
    login_user: str = "ubuntu"


@dataclass(frozen=True, kw_only=True)
class InstanceRunning(Event):
    """EC2 says `running`: from then on the instance is billed."""

    kind: ClassVar[str] = "instance_running"
    attempt: int
    instance_id: str


@dataclass(frozen=True, kw_only=True)
class HostReady(Event):
    """The host is set up. `python` is the interpreter that the bootstrap chose."""

    kind: ClassVar[str] = "host_ready"
    attempt: int
    instance_id: str
    python: str
    setup_s: float
    data_s: float = 0.0  # the part of it until the data were there
    data_how: str = ""  # fetched or prepared
    user_setup_s: float = 0.0  # the part of it for the packages of the user's program
    user_setup_how: str = ""


@dataclass(frozen=True, kw_only=True)
class SetupProgress(Event):
    """What a long set-up does, in its own words. Told, and not written down."""

    kind: ClassVar[str] = "setup_progress"
    attempt: int
    words: str


@dataclass(frozen=True, kw_only=True)
class HostKeyRenewed(Event):
    """A host key made on the instance replaces that of user-data; or why it does not."""

    kind: ClassVar[str] = "host_key_renewed"
    attempt: int
    instance_id: str
    fingerprint: str  # SHA256, as `ssh-keygen -l` prints it; "" if it was not
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainerStarted(Event):
    """The trainer starts. `resumed_from` is the step of the checkpoint that was sent, 0 for none."""

    kind: ClassVar[str] = "trainer_started"
    attempt: int
    resumed_from: int
    is_own: bool = False  # a program of the user's own, whose steps are not known yet


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """The trainer has done `step` steps. Written for the first one, then every few seconds."""

    kind: ClassVar[str] = "progress"
    attempt: int
    step: int
    images_per_s: float | None = None
    device: str | None = None
    steps_per_s: float | None = None
    unit: Literal["step", "epoch"] = "step"  # what `step` counts: a program may tell its epochs only
    total: int | None = None  # how many there are to do, as the program's own output says
    values: dict[str, Any] = dataclasses.field(default_factory=dict)  # the newest loss, accuracy and the like


@dataclass(frozen=True, kw_only=True)
class RebalanceRecommended(Event):
    """EC2 says that the instance is at elevated risk of interruption."""

    kind: ClassVar[str] = "rebalance_recommended"
    attempt: int
    instance_id: str


@dataclass(frozen=True, kw_only=True)
class InterruptionNoticed(Event):
    """EC2 will end the instance at `ends_at` (unix seconds)."""

    kind: ClassVar[str] = "interruption_noticed"
    attempt: int
    instance_id: str
    ends_at: float


CheckpointEventT = TypeVar("CheckpointEventT", bound="CheckpointEvent")


@dataclass(frozen=True, kw_only=True)
class CheckpointEvent(Event):
    """A whole checkpoint of an attempt is somewhere; the subclass says where."""

    attempt: int
    step: int
    name: str
    sha256: str
    size_bytes: int

    @property
    def identity(self) -> tuple[str, str]:
        """Name and content, as `Output.identity`."""
        return self.name, self.sha256

    @classmethod
    def of(cls: type[CheckpointEventT], output: Output, attempt: int, at: float) -> CheckpointEventT:
        """Return the event of a checkpoint file (`at`: unix seconds)."""
        return cls(
            at=at,
            attempt=attempt,
            step=output.step,
            name=output.name,
            sha256=output.sha256,
            size_bytes=output.size_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointPulled(CheckpointEvent):
    """A checkpoint is downloaded and its digest verified: it is acknowledged, and must never be lost."""

    kind: ClassVar[str] = "checkpoint_pulled"


@dataclass(frozen=True, kw_only=True)
class CheckpointStored(CheckpointEvent):
    """A checkpoint is completely stored in S3: it is acknowledged, whether or not it is downloaded too."""

    kind: ClassVar[str] = "checkpoint_stored"


@dataclass(frozen=True, kw_only=True)
class RemoteStoreTroubled(Event):
    """S3 refuses, or the instance cannot reach it; the training goes on, its checkpoints are downloaded."""

    kind: ClassVar[str] = "second_home_troubled"
    attempt: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class CheckpointRefused(Event):
    """A checkpoint is damaged, or the trainer failed right after it; the one before it is used."""

    kind: ClassVar[str] = "checkpoint_refused"
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CheckpointTakenBack(CheckpointEvent):
    """A checkpoint that was refused counts again: the trainer failed after an older one too."""

    kind: ClassVar[str] = "checkpoint_taken_back"


@dataclass(frozen=True, kw_only=True)
class TrainerExited(Event):
    """The trainer exited. `asked`: pixel-orch, or an interruption notice, had told it to stop."""

    kind: ClassVar[str] = "trainer_exited"
    attempt: int
    exit_code: int
    asked: bool
    last_step: int
    tail: str = ""
    gpu_problem: str = ""  # what is wrong with the machine's GPU since then, "" for nothing


@dataclass(frozen=True, kw_only=True)
class AttemptLost(Event):
    """The instance cannot be used any more: interrupted, gone, or silent for too long."""

    kind: ClassVar[str] = "attempt_lost"
    attempt: int
    instance_id: str
    reason: str  # for people
    cause: LossReason | None = None  # None where version 0.1.0 did not write it down; `loss_reason` knows its words


@dataclass(frozen=True, kw_only=True)
class DataReceived(Event):
    """Bytes that came from an instance beside those that `CheckpointPulled` and the events of outputs tell.

    Metrics, log, and downloads that were refused: AWS bills what was sent, not what was of use.
    """

    kind: ClassVar[str] = "data_received"
    attempt: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class LogLeft(Event):
    """Parts of the log or of the metrics stayed on an instance that is gone; at least so many bytes."""

    kind: ClassVar[str] = "log_left"
    attempt: int
    log_bytes: int
    metrics_bytes: int


@dataclass(frozen=True, kw_only=True)
class DiskFull(Event):
    """The disk of this machine is full. Shown, but not written down: there is no room for that either."""

    kind: ClassVar[str] = "disk_full"
    folder: str
    gives_up_at: float  # unix seconds: then the run ends, resumable from what is downloaded


@dataclass(frozen=True, kw_only=True)
class CapacityAwaited(Event):
    """No pool had capacity in this round; nothing is billed until the next."""

    kind: ClassVar[str] = "capacity_awaited"
    pools: int
    again_at: float  # unix seconds


@dataclass(frozen=True, kw_only=True)
class TerminateRequested(Event):
    """Written before TerminateInstances is sent: an instance that ends after this was ended by pixel-orch."""

    kind: ClassVar[str] = "terminate_requested"
    attempt: int
    instance_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class InstanceEnded(Event):
    """EC2 says `terminated`, or no longer knows the instance: `ended_at` is when the billing stopped."""

    kind: ClassVar[str] = "instance_ended"
    attempt: int
    instance_id: str
    ended_at: float
    ended_by: EndedBy
    reason: str  # for people
    reason_code: str | None = None  # EC2's StateReason.Code; None where version 0.1.0 did not write it (`end_code`)


@dataclass(frozen=True, kw_only=True)
class PriceSeen(Event):
    """The spot price of the attempt's pool at an instance-hour's start, as the price history gives it."""

    kind: ClassVar[str] = "price_seen"
    attempt: int
    hour: int
    price_usd_h: float


@dataclass(frozen=True, kw_only=True)
class PriceChanged(Event):
    """The spot price of the attempt's pool from `since` (unix seconds) on, as the price history gives it."""

    kind: ClassVar[str] = "price_changed"
    attempt: int
    since: float
    price_usd_h: float


@dataclass(frozen=True, kw_only=True)
class GpuSeen(Event):
    """What nvidia-smi reports of the instance's first GPU while the trainer runs: name, clocks, utilisation, memory."""

    kind: ClassVar[str] = "gpu_seen"
    attempt: int
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ClockDiffers(Event):
    """This machine's clock is wrong.

    ahead_s: how far it is ahead (below zero: behind) of AWS's clock, which is used instead; or, where AWS has not
    answered, how far the newest event of the run is ahead of it.
    """

    kind: ClassVar[str] = "clock_differs"
    ahead_s: float
    of: Literal["aws", "events"]


@dataclass(frozen=True, kw_only=True)
class StateChanged(Event):
    """The run moved to another state. `reason` is for people."""

    kind: ClassVar[str] = "state_changed"
    state: State
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class CredentialsExpiring(Event):
    """The AWS credentials in hand end at `ends_at` (unix seconds), and are not renewed yet."""

    kind: ClassVar[str] = "credentials_expiring"
    ends_at: float


@dataclass(frozen=True, kw_only=True)
class MetadataSilent(Event):
    """The metadata service does not answer the instance, which can see no interruption notice."""

    kind: ClassVar[str] = "metadata_silent"
    attempt: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class CloudOutOfReach(Event):
    """AWS cannot be asked: no network, or credentials that do not work. Told, and not written down."""

    kind: ClassVar[str] = "cloud_out_of_reach"
    reason: str


@dataclass(frozen=True, kw_only=True)
class OwnerChanged(Event):
    """A process leads the run from now on (launch, attach, down)."""

    kind: ClassVar[str] = "owner_changed"
    pid: int
    verb: str
