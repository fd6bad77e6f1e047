"""The story of a run that lost an instance: what each attempt did and when, from interruption to resume; pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.report.metrics import Digest
from orchestrator.report.series import main_keys
from orchestrator.runs.events import (
    CheckpointEvent,
    CheckpointPulled,
    CheckpointStored,
    Event,
    HostReady,
    InterruptionNoticed,
    LossReason,
    Progress,
)
from orchestrator.runs.generations import Generation, generations_of
from orchestrator.runs.state import Attempt, RunState

MOST_POINTS = 150  # of a curve
BITS = "bits/dim"
UNNEEDED = (LossReason.MOVED, LossReason.REGROUPED)  # such a machine was well
Moment = tuple[float, float]  # unix seconds, and a step or a value


@dataclass(frozen=True)
class Chapter:
    """One attempt of a story. Times are unix seconds; None: it did not come to that, or it is not known."""

    number: int
    instance_type: str
    zone: str
    market: str
    price_usd_h: float  # at the launch
    started_at: float
    set_up_at: float | None  # the machine is there, and its set-up begins
    trained_at: float | None  # the trainer starts
    stopped_at: float | None  # the trainer exits
    ended_at: float  # or now
    is_over: bool
    noticed_at: float | None  # the notice of the interruption
    is_interrupted: bool
    lost_because: str  # "" for an attempt that was not lost
    resumed_from: int
    last_step: int
    steps_again: int  # of its steps: trained again later
    lost_at: float | None  # from here on its training was lost
    steps: tuple[Moment, ...]
    checkpoints: tuple[Moment, ...]  # when each was complete here or in S3
    losses: tuple[Moment, ...]
    nodes: int = 1  # machines that trained together
    lost_nodes: tuple[int, ...] = ()  # of a group: the ranks of those that were lost

    @property
    def lost_count(self) -> int:
        """How many machines the run lost in it."""
        return len(self.lost_nodes) if self.nodes > 1 else int(self.is_lost)

    @property
    def is_lost(self) -> bool:
        """Whether the run lost the instance before the training was done."""
        return self.is_interrupted or bool(self.lost_because)


@dataclass(frozen=True)
class Story:
    """A run whose training went on on another instance."""

    run: str
    unit: str  # what its steps are
    loss_name: str  # what `losses` are; "" without any
    chapters: tuple[Chapter, ...]


def is_lost(state: RunState) -> bool:
    """Return whether a run lost an instance: only then there is a story."""
    return any(attempt.is_interrupted or attempt.is_lost for attempt in state.attempts)


def story_of(
    state: RunState, events: Iterable[Event], digests: Mapping[int, Digest], now: float, again: Sequence[int] = ()
) -> Story:
    """Return the story of a run.

    Args:
        state: the fold of its events.
        events: the same events, for the times that the fold does not keep.
        digests: the digests of the metrics, by attempt.
        now: unix seconds; attempts that still run are drawn up to it.
        again: of each attempt the steps that were trained again later.
    """
    mine: dict[int, list[Event]] = {}
    for event in events:
        mine.setdefault(getattr(event, "attempt", -1), []).append(event)
    name = _loss_name(digests.values())
    generations = generations_of(state)
    chapters = []
    for place, one in enumerate(generations):
        lead = one.lead
        lost = again[place] if place < len(again) else 0
        later = min((other.lead.resumed_from for other in generations[place + 1 :]), default=lead.last_step)
        points = _losses(digests.get(lead.number, Digest()), name)
        chapter = _chapter(lead, mine.get(lead.number, []), losses=points, now=now, lost=lost, later=later)
        chapters.append(_of_group(chapter, one, mine, now) if one.is_group else chapter)
    unit = next((attempt.unit for attempt in reversed(state.attempts)), "step")
    return Story(state.run, unit, name, tuple(chapters))


def _chapter(
    attempt: Attempt,
    events: Sequence[Event],
    *,
    losses: Sequence[tuple[int, float]],
    now: float,
    lost: int,
    later: int,
) -> Chapter:
    ended_at = max(attempt.ended_at if attempt.ended_at is not None else now, attempt.started_at)

    def within(at: float | None) -> float | None:
        return None if at is None else min(max(at, attempt.started_at), ended_at)

    ready = next((event for event in events if isinstance(event, HostReady)), None)
    set_up_at = attempt.ran_at if ready is None else ready.at - ready.setup_s
    noticed = next((event.at for event in events if isinstance(event, InterruptionNoticed)), None)
    steps = _steps(attempt, events, ended_at)
    return Chapter(
        number=attempt.number,
        instance_type=attempt.instance_type,
        zone=attempt.zone,
        market=attempt.market,
        price_usd_h=attempt.price_usd_h,
        started_at=attempt.started_at,
        set_up_at=within(set_up_at),
        trained_at=within(attempt.trainer_started_at),
        stopped_at=within(attempt.trainer_exit.at if attempt.trainer_exit is not None else None),
        ended_at=ended_at,
        is_over=attempt.is_over,
        noticed_at=within(noticed),
        is_interrupted=attempt.is_interrupted,
        lost_because=attempt.lost_because,
        resumed_from=attempt.resumed_from,
        last_step=attempt.last_step,
        steps_again=lost,
        lost_at=time_at(steps, max(later, attempt.resumed_from)) if lost else None,
        steps=steps,
        checkpoints=_checkpoints(events, attempt.started_at, ended_at),
        losses=tuple((at, value) for step, value in losses if (at := time_at(steps, step)) is not None),
    )


def _of_group(chapter: Chapter, one: Generation, events: Mapping[int, Sequence[Event]], now: float) -> Chapter:
    """Return the chapter of all machines of a generation; the steps and the losses are those of the first one."""
    told = [event for member in one.members for event in events.get(member.number, [])]
    noticed = min((event.at for event in told if isinstance(event, InterruptionNoticed)), default=None)
    lost = [member for member in one.joined if member.lost_cause not in (None, *UNNEEDED) or member.is_interrupted]
    trained = [member.trainer_started_at for member in one.joined if member.trainer_started_at is not None]
    began_at, ended_at = one.started_at, one.ended_at(now)

    def within(at: float | None) -> float | None:
        return None if at is None else min(max(at, began_at), ended_at)

    return replace(
        chapter,
        price_usd_h=sum(member.price_usd_h for member in one.joined),
        started_at=began_at,
        set_up_at=within(chapter.set_up_at),
        trained_at=within(min(trained, default=None)),
        stopped_at=within(one.stopped_at),
        ended_at=ended_at,
        is_over=one.is_over,
        noticed_at=within(noticed),
        number=one.number,
        is_interrupted=any(member.is_interrupted for member in lost),
        lost_because=next((member.lost_because for member in lost), ""),
        nodes=one.nodes,
        lost_nodes=tuple(member.rank for member in lost),
    )


def _steps(attempt: Attempt, events: Sequence[Event], ended_at: float) -> tuple[Moment, ...]:
    """Return how the steps went on: at the start, as they were told, at the end of the program."""
    began = attempt.trainer_started_at
    if began is None:
        return ()
    told: list[Moment] = [(began, float(attempt.resumed_from))]
    told += [(event.at, float(event.step)) for event in events if isinstance(event, Progress | CheckpointEvent)]
    if attempt.trainer_exit is not None:
        told.append((attempt.trainer_exit.at, float(attempt.trainer_exit.last_step)))
    found: list[Moment] = []
    for at, step in sorted(told):
        if began <= at <= ended_at and (not found or step >= found[-1][1]):
            found.append((at, step))
    if found and found[-1][1] < attempt.last_step:
        found.append((ended_at, float(attempt.last_step)))
    size = -(-len(found) // MOST_POINTS)
    return tuple(found if size <= 1 else [*found[:-1:size], found[-1]])


def _checkpoints(events: Sequence[Event], started_at: float, ended_at: float) -> tuple[Moment, ...]:
    first: dict[int, float] = {}
    for event in events:
        if isinstance(event, CheckpointPulled | CheckpointStored):
            first.setdefault(event.step, event.at)
    return tuple((min(max(at, started_at), ended_at), float(step)) for step, at in sorted(first.items()))


def time_at(steps: Sequence[Moment], step: float) -> float | None:
    """Return when a step was done, between those that are known; None beyond the last one."""
    place = bisect_left(steps, step, key=lambda one: one[1])
    if place >= len(steps):
        return None
    at, done = steps[place]
    if place == 0 or done <= step:
        return at
    before_at, before = steps[place - 1]
    return before_at + (at - before_at) * (step - before) / (done - before)


def _loss_name(digests: Iterable[Digest]) -> str:
    """Return the value to draw: bits/dim, or the loss of a program of the user's own; "" if there is none."""
    known = list(digests)
    if any(len(one.train_curve) > 1 for one in known):
        return BITS
    names = main_keys({key for one in known for key, points in one.curves.items() if len(points) > 1})
    return next((name for name in names if "loss" in name.lower()), "")


def _losses(one: Digest, name: str) -> Sequence[tuple[int, float]]:
    return one.train_curve if name == BITS else one.curves.get(name, ())
