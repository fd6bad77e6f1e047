"""`fold`: from events to the state of a run and its attempts; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.runs.events import (
    FINAL_STATES,
    AttemptLost,
    CheckpointPulled,
    CheckpointRefused,
    CheckpointStored,
    CheckpointTakenBack,
    DataReceived,
    EndedBy,
    Event,
    GpuSeen,
    HostReady,
    InstanceEnded,
    InstanceRunning,
    InstanceStarted,
    InterruptionNoticed,
    LaunchFailed,
    LaunchRequested,
    LossReason,
    OwnerChanged,
    PriceChanged,
    PriceSeen,
    Progress,
    RemoteStoreTroubled,
    RunCreated,
    State,
    StateChanged,
    TerminateRequested,
    TrainerExited,
    TrainerStarted,
    loss_reason,
)
from orchestrator.runs.group_events import GroupFormed
from orchestrator.runs.output_events import (
    ExtraOutputsPulled,
    OutputsLeft,
    OutputsPulled,
    OutputsRefused,
    OutputsRestored,
    OutputsWaiting,
)
from orchestrator.runs.program_events import MetricsFound
from orchestrator.runs.state_reasons import FAILED_LAUNCHES, end_code, is_spot_interruption


@dataclass
class Attempt:
    """One instance's share of a run, as the events tell it: of one generation, where the run is led on a group.

    A machine that goes on in the next generation of its group has a further attempt there, which begins where this one
    ends. Its bill is split between them.
    """

    number: int
    instance_id: str
    instance_type: str
    zone: str
    region: str
    market: str
    price_usd_h: float  # at the launch
    started_at: float  # when the instance was launched, or joined this generation
    ended_at: float | None = None  # when the instance was gone, or left this generation
    ended_by: EndedBy | None = None
    end_code: str = ""  # EC2's StateReason.Code
    end_reason: str = ""  # for people
    resumed_from: int = 0
    last_step: int = 0  # steps done at the end of this attempt
    device: str = ""
    first_step_at: float | None = None
    noticed_ends_at: float | None = None
    noticed_at: float | None = None  # when the notice was first seen
    ran_at: float | None = None  # when EC2 was first seen to say `running`
    setup_s: float = 0.0  # from the first SSH session until the trainer could start
    data_s: float = 0.0  # the part of it until the data were there
    user_setup_s: float = 0.0  # the part of it for the packages of the user's program
    user_setup_how: str = ""
    trainer_started_at: float | None = None
    trainer_exit: TrainerExited | None = None
    metrics_source: str = ""  # in words; "" for the bundled trainer, and where none was found
    newest: Progress | None = None  # the last that is known of its training
    unit: str = "step"  # what its steps are: "epoch" for a program that tells its epochs only
    lost_because: str = ""  # for people
    lost_cause: LossReason | None = None
    lost_at: float | None = None  # when it was given up
    ready_at: float | None = None  # when its machine was set up; None for one that goes on in a new generation
    terminate_requested: bool = False
    prices_usd_h: dict[int, float] = field(default_factory=dict)  # by instance-hour
    price_changes: dict[float, float] = field(default_factory=dict)  # price by the time (unix seconds) of the change
    disk_gib: float = 0.0
    public_addresses: int = 0
    login_user: str = "ubuntu"
    pulled_bytes: int = 0  # all that was received from the instance: data out
    gpu: dict[str, Any] = field(default_factory=dict)  # as nvidia-smi reports it; {} without a GPU
    restored: OutputsRestored | None = None  # the state of the outputs that it began with
    outputs_waiting: OutputsWaiting | None = None  # its program has ended, and outputs are not here yet
    outputs_lost: OutputsLeft | None = None  # its program had ended, and these are gone
    generation: int = 0  # of the group; 0 without a group, and for a machine that is in none yet
    rank: int = 0  # among the machines of its generation
    kept_from: Attempt | None = field(default=None, repr=False, compare=False)  # of the same machine before this one
    kept_as: Attempt | None = field(default=None, repr=False, compare=False)  # the one after this one

    @property
    def first_step(self) -> int:
        """The first step that this attempt trains; `last_step` is one less while it has trained none."""
        return self.resumed_from + 1

    @property
    def launched_at(self) -> float:
        """When its instance was launched (unix seconds): the instance-hours of the bill count from here."""
        first = self
        while first.kept_from is not None:
            first = first.kept_from
        return first.started_at

    @property
    def whole(self) -> Attempt:
        """Its instance from the launch to the end, over all generations of the group that it was in."""
        if self.kept_from is None and self.kept_as is None:
            return self
        last = self
        while last.kept_as is not None:
            last = last.kept_as
        return replace(
            last,
            started_at=self.launched_at,
            prices_usd_h=self.prices_usd_h,
            price_changes=self.price_changes,
            kept_from=None,
            kept_as=None,
        )

    @property
    def is_lost(self) -> bool:
        """Whether its instance was given up: interrupted, gone, or silent for too long."""
        return self.lost_cause is not None

    @property
    def is_interrupted(self) -> bool:
        """Whether AWS took the spot capacity back: EC2's reason code says so, or AWS ended it after a notice."""
        if self.ended_at is None:
            return self.lost_cause == LossReason.INTERRUPTED
        return self.ended_by == "aws" and (is_spot_interruption(self.end_code) or self.noticed_ends_at is not None)

    @property
    def never_ran(self) -> bool:
        """Whether it went from `pending` to `terminated`, which AWS does not bill."""
        was_there = self.ran_at is not None or self.setup_s > 0 or self.pulled_bytes > 0
        return self.is_over and not was_there and self.end_code in FAILED_LAUNCHES

    @property
    def is_over(self) -> bool:
        """Whether EC2 has said that the instance is gone, or it has gone on in another generation."""
        return self.ended_at is not None


@dataclass
class RunState:
    """The state of a run, from its events."""

    run: str = ""
    cloud: str = ""
    state: State = "PENDING"
    reason: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)
    requests: list[LaunchRequested] = field(default_factory=list)
    failures: list[LaunchFailed] = field(default_factory=list)
    checkpoints: dict[int, CheckpointPulled] = field(default_factory=dict)  # by step
    stored: dict[int, CheckpointStored] = field(default_factory=dict)  # in S3, by step
    s3_trouble: str = ""  # why S3 last refused, "" if it never did
    refused: list[CheckpointRefused] = field(default_factory=list)
    node_outputs: dict[int, OutputsPulled] = field(default_factory=dict)  # the newest state here, by node rank
    step: int = 0
    led_since: float = 0.0  # when it was launched, or resumed
    led_from: int = 0  # how many attempts there were by then
    unread_lines: int = 0  # of `events.jsonl`, as `RunStore.state` counts them

    @property
    def is_final(self) -> bool:
        """Whether the run is over (it may be resumable)."""
        return self.state in FINAL_STATES

    @property
    def interruptions(self) -> int:
        """How many attempts AWS interrupted."""
        return sum(attempt.is_interrupted for attempt in self.attempts)

    def attempt(self, number: int) -> Attempt | None:
        """Return the attempt with this number, if EC2 gave its instance."""
        return next((attempt for attempt in self.attempts if attempt.number == number), None)

    @property
    def instance_ids(self) -> list[str]:
        """The ids of the run's instances, in the order of their launch."""
        return [attempt.instance_id for attempt in self.attempts]

    @property
    def generation(self) -> int:
        """The newest generation of the group, 0 without one."""
        return max((attempt.generation for attempt in self.attempts), default=0)

    def members(self, generation: int) -> list[Attempt]:
        """Return the attempts of one generation of the group, by rank."""
        found = [attempt for attempt in self.attempts if attempt.generation == generation]
        return sorted(found, key=lambda attempt: attempt.rank)

    @property
    def outputs(self) -> OutputsPulled | None:
        """The newest state of the outputs that is here; of a group that of its first machine."""
        return self.node_outputs.get(0)

    def outputs_of(self, number: int) -> OutputsPulled | None:
        """Return the newest state of the outputs that is here of the node that an attempt is."""
        attempt = self.attempt(number)
        return self.node_outputs.get(attempt.rank if attempt is not None else 0)

    @property
    def lead(self) -> Attempt | None:
        """The newest attempt; in a group that of the first machine of the newest generation."""
        members = self.members(self.generation) if self.generation else []
        return next(iter(members or self.attempts[-1:]), None)

    @property
    def next_number(self) -> int:
        """The number of the next attempt."""
        return 1 + max((attempt.number for attempt in self.attempts), default=0)

    def open_attempts(self) -> list[Attempt]:
        """Return the attempts whose instance EC2 has not yet called terminated."""
        return [attempt for attempt in self.attempts if not attempt.is_over]

    def asked_at(self, number: int) -> float:
        """Return when an instance was first requested for this attempt (unix seconds), 0 if it never was."""
        return min((request.at for request in self.requests if request.attempt == number), default=0.0)

    def unanswered_requests(self) -> list[LaunchRequested]:
        """Return the launches without all instances, or a refusal, in the events: a leading process died in between."""
        answered = {failure.client_token for failure in self.failures}
        had = {attempt.number for attempt in self.attempts}
        open_requests = [request for request in self.requests if request.client_token not in answered]
        return [one for one in open_requests if not had.issuperset(range(one.attempt, one.attempt + one.count))]


def fold(events: Iterable[Event]) -> RunState:
    """Return the state that the events give in their order. Pure: no I/O, no clock."""
    state = RunState()
    extend(state, events)
    return state


def extend(state: RunState, events: Iterable[Event]) -> None:
    """Fold further events into a state, in place: `fold` of a file that grows, without reading it again."""
    for event in events:
        state.updated_at = max(state.updated_at, event.at)
        _apply(state, event)


def _apply(state: RunState, event: Event) -> None:
    match event:
        case RunCreated():
            state.run, state.cloud, state.created_at = event.run, event.cloud, event.at
        case StateChanged():
            state.state, state.reason = event.state, event.reason
        case OwnerChanged() if event.verb in ("launch", "resume"):
            state.led_since, state.led_from = event.at, len(state.attempts)
        case LaunchRequested():
            state.requests.append(event)
        case LaunchFailed():
            state.failures.append(event)
        case InstanceStarted():
            if state.attempt(event.attempt) is None:
                state.attempts.append(_attempt_from(event))
        case GroupFormed():
            _form_group(state, event)
        case (
            CheckpointPulled()
            | CheckpointStored()
            | CheckpointRefused()
            | CheckpointTakenBack()
            | RemoteStoreTroubled()
        ):
            _apply_to_checkpoints(state, event)
        case OutputsPulled() | OutputsRestored() | OutputsWaiting() | OutputsLeft() | OutputsRefused():
            _apply_to_outputs(state, event)
        case _:
            _apply_to_attempt(state, event)


def _apply_to_checkpoints(
    state: RunState,
    event: CheckpointPulled | CheckpointStored | CheckpointRefused | CheckpointTakenBack | RemoteStoreTroubled,
) -> None:
    match event:
        case CheckpointPulled():
            state.checkpoints[event.step] = event
            source = state.attempt(event.attempt)
            if source is not None:
                source.pulled_bytes += max(0, event.size_bytes)
                source.last_step = max(
                    source.last_step, event.step
                )  # the leading process may have died before it wrote Progress
        case CheckpointStored():
            state.stored[event.step] = event
        case CheckpointRefused():
            state.refused.append(event)
            state.checkpoints = {s: c for s, c in state.checkpoints.items() if c.name != event.name}
        case CheckpointTakenBack():
            state.refused = [refused for refused in state.refused if refused.name != event.name]
            state.checkpoints[event.step] = CheckpointPulled(**vars(event))
        case RemoteStoreTroubled():
            state.s3_trouble = event.reason


def _apply_to_outputs(
    state: RunState, event: OutputsPulled | OutputsRestored | OutputsWaiting | OutputsLeft | OutputsRefused
) -> None:
    attempt = None if isinstance(event, OutputsRefused) else state.attempt(event.attempt)
    match event:
        case OutputsPulled():
            rank = attempt.rank if attempt is not None else 0
            state.node_outputs[rank] = event
            if attempt is not None:
                attempt.pulled_bytes += max(0, event.received_bytes)
                attempt.outputs_waiting = None
        case OutputsRestored() if attempt is not None:
            attempt.restored = event
        case OutputsWaiting() if attempt is not None:
            attempt.outputs_waiting = event
        case OutputsLeft() if attempt is not None and event.is_loss:
            attempt.outputs_lost = event


def _attempt_from(event: InstanceStarted) -> Attempt:
    return Attempt(
        number=event.attempt,
        instance_id=event.instance_id,
        instance_type=event.instance_type,
        zone=event.zone,
        region=event.region,
        market=event.market,
        price_usd_h=event.price_usd_h,
        started_at=event.at,
        disk_gib=event.disk_gib,
        public_addresses=event.public_addresses,
        login_user=event.login_user,
    )


def _form_group(state: RunState, event: GroupFormed) -> None:
    for rank, (number, before) in enumerate(zip(event.attempts, event.kept_from, strict=False)):
        found, old = state.attempt(number), state.attempt(before)
        if found is None and old is not None and not old.is_over:
            found = _kept(old, number, event.at)
            state.attempts.append(found)
        if found is not None:
            found.generation, found.rank = event.generation, rank


def _kept(old: Attempt, number: int, at: float) -> Attempt:
    """End an attempt whose machine goes on, and return the machine's next one. They share what is known of prices."""
    old.ended_at, old.ended_by = max(at, old.started_at), "kept"
    old.kept_as = Attempt(
        number=number,
        instance_id=old.instance_id,
        instance_type=old.instance_type,
        zone=old.zone,
        region=old.region,
        market=old.market,
        price_usd_h=old.price_usd_h,
        started_at=old.ended_at,
        ran_at=old.ran_at,
        prices_usd_h=old.prices_usd_h,
        price_changes=old.price_changes,
        disk_gib=old.disk_gib,
        public_addresses=old.public_addresses,
        login_user=old.login_user,
        gpu=old.gpu,
        kept_from=old,
    )
    return old.kept_as


def _apply_to_attempt(state: RunState, event: Event) -> None:
    attempt = state.attempt(getattr(event, "attempt", -1))
    if attempt is None:
        return
    match event:
        case HostReady():
            attempt.ready_at = event.at
            attempt.setup_s, attempt.data_s = event.setup_s, event.data_s
            attempt.user_setup_s, attempt.user_setup_how = event.user_setup_s, event.user_setup_how
        case TrainerStarted():
            attempt.resumed_from = event.resumed_from
            if attempt.first_step_at is None:
                attempt.last_step = event.resumed_from
            attempt.trainer_started_at = attempt.trainer_started_at or event.at
        case Progress():
            attempt.last_step = max(attempt.last_step, event.step)
            attempt.first_step_at = attempt.first_step_at or event.at
            attempt.device = event.device or attempt.device
            attempt.unit, attempt.newest = event.unit, event
            state.step = event.step
        case InterruptionNoticed():
            attempt.noticed_ends_at = event.ends_at
            attempt.noticed_at = attempt.noticed_at or event.at
        case TrainerExited():
            attempt.trainer_exit = event
            attempt.last_step = max(attempt.last_step, event.last_step)
            state.step = max(state.step, event.last_step)
        case AttemptLost():
            attempt.lost_because, attempt.lost_cause = event.reason, loss_reason(event)
            attempt.lost_at = event.at
        case TerminateRequested():
            attempt.terminate_requested = True
        case InstanceEnded():
            if not attempt.is_over:
                attempt.ended_at, attempt.ended_by = event.ended_at, event.ended_by
                attempt.end_code, attempt.end_reason = end_code(event), event.reason
        case _:
            _apply_seen(attempt, event)


def _apply_seen(attempt: Attempt, event: Event) -> None:
    match event:
        case MetricsFound():
            attempt.metrics_source = event.source or attempt.metrics_source
        case InstanceRunning():
            attempt.ran_at = attempt.ran_at or event.at
        case ExtraOutputsPulled() | DataReceived():
            attempt.pulled_bytes += max(0, event.size_bytes)
        case PriceSeen():
            attempt.prices_usd_h[event.hour] = event.price_usd_h
        case PriceChanged():
            attempt.price_changes[event.since] = event.price_usd_h
        case GpuSeen():
            attempt.gpu = event.facts
