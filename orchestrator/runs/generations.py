"""A run's attempts as people count them: one for each generation of its group, with the machines that were in it; pure.

A run on one machine at a time has one machine in each. In the events every machine of every generation has a number of
its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.runs.state import Attempt, RunState


@dataclass(frozen=True)
class Generation:
    """One attempt of a run.

    number: from 1; of a run on one machine at a time it is that of the machine.
    members: by rank, then machines that were rented and are in no generation: they wait to join, or never did.
    is_group: whether the run is led on several machines at once.
    """

    number: int
    members: tuple[Attempt, ...]
    is_group: bool = False

    @property
    def lead(self) -> Attempt:
        """The first machine: it has the metrics and the checkpoints."""
        return self.members[0]

    @property
    def joined(self) -> tuple[Attempt, ...]:
        """The machines that train, or are to begin together."""
        mine = tuple(one for one in self.members if one.generation)
        return mine or self.members

    @property
    def nodes(self) -> int:
        """How many machines train together."""
        return len(self.joined)

    @property
    def lost(self) -> Attempt | None:
        """The first of the machines that were given up, None without any."""
        return next((one for one in self.members if one.is_lost or one.is_interrupted), None)

    @property
    def started_at(self) -> float:
        """When it began (unix seconds): of machines that go on, when the group was formed."""
        kept = [one.started_at for one in self.members if one.kept_from is not None]
        return min(kept or [one.started_at for one in self.joined])

    def ended_at(self, now: float) -> float:
        """Return when it was over: of machines that go on, when the next group was formed; `now` while it goes on."""
        kept = [one.ended_at for one in self.members if one.kept_as is not None and one.ended_at is not None]
        ends = kept or [one.ended_at if one.ended_at is not None else now for one in self.joined]
        return max(*ends, self.started_at)

    @property
    def is_over(self) -> bool:
        """Whether its machines are gone, or have gone on."""
        return any(one.kept_as is not None for one in self.members) or all(one.is_over for one in self.members)

    @property
    def stopped_at(self) -> float | None:
        """When its training was over, or was known to be (unix seconds); None while it is not."""
        exited = [one.trainer_exit.at for one in self.members if one.trainer_exit is not None]
        lost = [one.lost_at for one in self.joined if one.lost_at is not None]
        return min([*exited, *lost], default=None)

    def rank_of(self, attempt: Attempt) -> int | None:
        """Return a machine's rank, None for one that has not joined."""
        return attempt.rank if attempt.generation or not self.is_group else None

    def state_of(self, attempt: Attempt) -> tuple[str, float]:
        """Return what a machine does, in a word or two, and since when (unix seconds)."""
        if attempt.ended_at is not None:
            lost = "interrupted" if attempt.is_interrupted else "lost" if attempt.is_lost else "ended"
            return "went on" if attempt.kept_as is not None else lost, attempt.ended_at
        stopped_at = self.stopped_at or attempt.started_at
        if attempt.is_lost or attempt.terminate_requested:
            return "lost" if attempt.is_lost else "ends", attempt.lost_at or stopped_at
        trained_at = attempt.trainer_started_at
        if attempt.noticed_ends_at is not None:
            return "notice", attempt.noticed_at or attempt.started_at
        if trained_at is not None:
            return ("trains", trained_at) if self.stopped_at is None else ("waits", stopped_at)
        return self._before_training(attempt)

    @staticmethod
    def _before_training(attempt: Attempt) -> tuple[str, float]:
        if attempt.kept_from is not None or attempt.ready_at is not None:
            return "waits", attempt.ready_at or attempt.started_at
        return ("set-up", attempt.ran_at) if attempt.ran_at is not None else ("boots", attempt.started_at)

    def waited_s(self, attempt: Attempt, now: float) -> float:
        """Return how long a machine was billed and waited for the others.

        A machine that is set up waits until its trainer starts. One that goes on waits from the end of its training.
        """
        waited_s = self.waited_to_start_s(attempt, now)
        trained_at, stopped_at = attempt.trainer_started_at, self.stopped_at
        if attempt.kept_as is not None and trained_at is not None and stopped_at is not None:
            waited_s += max(0.0, (attempt.ended_at or now) - max(stopped_at, trained_at))
        return waited_s

    def waited_to_start_s(self, attempt: Attempt, now: float) -> float:
        """Return how long a machine waited, ready, until its trainer started."""
        began_at = attempt.started_at if attempt.kept_from is not None else attempt.ready_at
        if not self.is_group or began_at is None:
            return 0.0
        ended_at = attempt.ended_at if attempt.ended_at is not None else max(now, attempt.started_at)
        return max(0.0, min(attempt.trainer_started_at or ended_at, ended_at) - began_at)


def generations_of(state: RunState) -> list[Generation]:
    """Return the attempts of a run as people count them, in their order. Every machine is in one of them."""
    if not state.generation:
        return _without_generation(state)
    found: dict[int, list[Attempt]] = {}
    for attempt in state.attempts:
        found.setdefault(attempt.generation or _next_of(state, attempt), []).append(attempt)
    return [
        Generation(number, tuple(sorted(members, key=lambda one: (not one.generation, one.rank))), is_group=True)
        for number, members in sorted(found.items())
    ]


def _without_generation(state: RunState) -> list[Generation]:
    """Return them where no group has been formed: the machines of one request belong together."""
    several = [request for request in state.requests if request.count > 1]
    if not several:
        return [Generation(attempt.number, (attempt,)) for attempt in state.attempts]
    found: dict[int, list[Attempt]] = {}
    for attempt in state.attempts:
        mine = (one.attempt for one in several if one.attempt <= attempt.number < one.attempt + one.count)
        found.setdefault(next(mine, attempt.number), []).append(attempt)
    return [Generation(place, tuple(members), is_group=True) for place, members in enumerate(found.values(), 1)]


def _next_of(state: RunState, attempt: Attempt) -> int:
    """Return the generation in which a machine is shown that is in none: the one that it was rented for.

    That is the next one; without a next one the newest, if it trains on while the machine is set up.
    """
    for number in sorted({one.generation for one in state.attempts if one.generation}):
        mine = Generation(number, tuple(state.members(number)), is_group=True)
        if mine.started_at > attempt.started_at:
            return number
    newest = Generation(state.generation, tuple(state.members(state.generation)), is_group=True)
    stopped_at = newest.stopped_at
    is_beside = stopped_at is None or attempt.started_at < stopped_at
    return state.generation + (not is_beside)
