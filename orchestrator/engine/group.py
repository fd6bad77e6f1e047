"""Keeps a group together: rents it all or none, replaces what is lost, shrinks it, lets it grow, or moves it.

The machines of a group are in one pool: one type, one zone. Whatever happens to one of them ends the generation of all;
those that are well stay rented, and go on in the next generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from orchestrator.engine.group_attempt import GroupLeader, GroupOutcome
from orchestrator.engine.member import Member
from orchestrator.engine.outcome import Outcome
from orchestrator.engine.parts import Parts
from orchestrator.engine.patience import Patience
from orchestrator.engine.provisioner import CAPACITY_WAITS_S, growing
from orchestrator.engine.side_by_side import Task
from orchestrator.errors import HostError, PixelOrchError
from orchestrator.market.pools import Offer, pool_of
from orchestrator.plan.group import sizes
from orchestrator.runs.events import AttemptLost, CapacityAwaited, LossReason
from orchestrator.runs.files import write_atomically
from orchestrator.runs.group_events import GroupFormed
from orchestrator.runs.state import Attempt, RunState

GROW_EVERY_S = 600.0  # between two questions whether a group that has shrunk can be as large as it was
BRING_UP_S = 300.0  # from the request to the trainer, before it was measured
SHORTEST_WAIT_S, LONGEST_WAIT_S = 30.0, 900.0  # for a replacement, while the others are billed and idle
FRUITLESS_MOST = 3  # generations in a row that made no new step


class GroupKeeper:
    """Leads a run on a group to its end.

    Args:
        parts: of the run's engine.
        leader: leads one generation; its `regroup` is this object's `wants_to_grow`.
        patience: asks EC2 again while it does not answer.
    """

    def __init__(self, parts: Parts, leader: GroupLeader, patience: Patience) -> None:
        self.spec = parts.spec
        self.policy = parts.spec.recovery
        self.journal = parts.journal
        self.clock = parts.journal.clock
        self.store = parts.journal.store
        self.stop = parts.stop
        self.reaper = parts.reaper
        self.provisioner = parts.provisioner
        self.remote = parts.remote
        self.deadline = parts.deadline
        self.start_beside = leader.beside.start
        self.leader = leader
        self.patience = patience
        self.sizes = sizes(parts.spec)
        self._joining: tuple[list[Attempt], Task] | None = None
        self._grow_at = self.clock.now() + GROW_EVERY_S
        leader.regroup = self.wants_to_grow

    def attempts(self) -> Outcome:
        """Lead one generation after the other, until the trainers are done.

        Raises:
            HostError: too many generations were lost, or three in a row made no new step.
            PixelOrchError: see `GroupLeader.lead_group` and `Provisioner.rent_group`.
        """
        members = self._unfinished()
        while True:
            members = members or self._form()
            result = self.leader.lead_group(members)
            if result.outcome.kind != "lost":
                return result.outcome
            self._note_losses(members, result)
            done = self.remote.after_loss(self.journal.state().attempt(members[0].number) or members[0])
            if done is not None:
                return done
            self._give_up_if_hopeless(result.outcome.reason)
            members = []

    def usable(self) -> list[Attempt]:
        """Return the machines that can go on, those of the newest generation first, by rank."""
        found = [
            one
            for one in self.journal.state().open_attempts()
            if not one.is_lost and not one.terminate_requested and self.store.host_key_path(one.number).exists()
        ]
        return sorted(found, key=lambda one: (-one.generation, one.rank, one.number))

    def used(self) -> list[Attempt]:
        """Return the machines that a process which takes over goes on with; the others are of no use to it."""
        return self._unfinished() or self.usable()

    def _unfinished(self) -> list[Attempt]:
        """Return the newest generation, if all its machines are there: a process before this one has led it."""
        state = self.journal.state()
        members = state.members(state.generation) if state.generation else []
        usable = {one.number for one in self.usable()}
        return members if members and all(one.number in usable for one in members) else []

    # -- the next generation

    def _form(self) -> list[Attempt]:
        """Return the members of a new generation: those that are well, and what is rented for the others."""
        self._await_joining()
        while True:
            self.journal.move("PROVISIONING")
            kept = self.usable()
            if not kept and self.deadline is not None:
                self.deadline.rent()
            elif not kept:
                self.provisioner.rent_group(self.sizes)
            elif len(kept) < self.sizes[0] and not self._replaced(kept):
                self.reaper.poll(force=True)
            kept = self.usable()
            size = next((size for size in self.sizes if size <= len(kept)), None)
            if size is None:
                where = f"{kept[0].instance_type} in {kept[0].zone}" if kept else "its pool"
                self._release(kept, LossReason.MOVED, f"the group moves: no capacity for the rest of it ({where})")
                continue
            self._release(kept[size:], LossReason.REGROUPED, f"the group goes on with {size} machines")
            return self._begin(kept[:size])

    def _begin(self, kept: Sequence[Attempt]) -> list[Attempt]:
        """Write the generation down; each machine that goes on has a further attempt in it."""
        state = self.journal.state()
        generation, number = state.generation + 1, state.next_number
        numbers, before = [], []
        for attempt in ranked(kept):
            is_new = attempt.generation == 0
            numbers.append(attempt.number if is_new else number)
            before.append(0 if is_new else attempt.number)
            if not is_new:
                self.store.attempt_folder(number)  # makes it
                write_atomically(
                    self.store.host_key_path(number), self.store.host_key_path(attempt.number).read_bytes()
                )
                number += 1
        event = GroupFormed(
            at=self.clock.now(), generation=generation, attempts=tuple(numbers), kept_from=tuple(before)
        )
        self.journal.emit(event)
        self._grow_at = self.clock.now() + GROW_EVERY_S
        return self.journal.state().members(generation)

    def _replaced(self, kept: Sequence[Attempt]) -> bool:
        """Rent what is missing in the pool of the others; return whether that was possible in a time that pays.

        They are billed meanwhile, and idle. The wait may cost as much as bringing up all machines in another pool: so
        it costs at most twice what the better of both ways would have cost.
        """
        began_at = self.clock.now()
        most_s = self._wait_s(kept) if self.deadline is None else 0.0  # there is another market, and no time
        offer = self._offer_beside(kept[0])
        for wait_s in growing(CAPACITY_WAITS_S):
            missing = self.sizes[0] - len(kept)
            if self.provisioner.rent_group_now([offer], missing):
                return True
            now = self.clock.now()
            if now - began_at + wait_s > most_s:
                return False
            self.journal.emit(CapacityAwaited(at=now, pools=1, again_at=now + wait_s))
            self.stop.sleep(wait_s)
            self.reaper.poll()
            kept = self.usable()
            if not kept:
                return False
        raise AssertionError("the waits do not end")

    def _wait_s(self, kept: Sequence[Attempt]) -> float:
        took_s = [
            one.trainer_started_at - one.started_at
            for one in self.journal.state().attempts
            if one.kept_from is None and one.trainer_started_at is not None
        ]
        bring_up_s = max(took_s, default=BRING_UP_S)
        most_s = min(LONGEST_WAIT_S, self.policy.owner_timeout_s / 2)  # nobody polls the machines meanwhile
        return min(max(bring_up_s * self.sizes[0] / len(kept), SHORTEST_WAIT_S), most_s)

    def _offer_beside(self, attempt: Attempt) -> Offer:
        """Return the offer of the pool in which a machine is, at the price of now where that is known."""
        pool = pool_of(attempt)
        for offer in self.provisioner.offers_of_now():
            if offer.pool == pool and offer.market == attempt.market:
                return offer
        return Offer(pool, attempt.market, attempt.price_usd_h, "as at the launch")

    # -- losses

    def _note_losses(self, members: Sequence[Attempt], result: GroupOutcome) -> None:
        """Write down which machines are of no more use, and end them; the others stay."""
        self._joining = None if result.outcome.cause == LossReason.MOVED else self._joining
        for attempt in members:
            lost = result.gone.get(attempt.number) or self._lost_with(attempt, result.outcome)
            if lost is not None:
                self._lose(attempt, lost.cause or LossReason.UNREACHABLE, lost.reason)
        self.journal.move("RECOVERING", result.outcome.reason)
        for attempt in members:
            current = self.journal.state().attempt(attempt.number)
            if current is not None and current.is_lost:
                self._end(current, current.lost_because)

    def _lost_with(self, attempt: Attempt, outcome: Outcome) -> Outcome | None:
        """Return why a machine that still answers is of no more use: AWS takes it back, or it has failed."""
        current = self.journal.state().attempt(attempt.number)
        if current is not None and current.noticed_ends_at is not None:
            return Outcome("lost", "interruption notice", LossReason.INTERRUPTED)
        if outcome.cause == LossReason.MOVED:
            return outcome
        is_broken = outcome.cause in (LossReason.TRAINER_TOLD_TO_END, LossReason.RESUME_FAILED)
        return outcome if is_broken and attempt.rank == 0 else None

    def _lose(self, attempt: Attempt, cause: LossReason, reason: str) -> None:
        self.journal.emit(
            AttemptLost(
                at=self.clock.now(),
                attempt=attempt.number,
                instance_id=attempt.instance_id,
                reason=reason,
                cause=cause,
            )
        )

    def _release(self, surplus: Sequence[Attempt], cause: LossReason, reason: str) -> None:
        """End machines that are well and not needed."""
        for attempt in surplus:
            self._lose(attempt, cause, reason)
        for attempt in surplus:
            self._end(attempt, reason)

    def _end(self, attempt: Attempt, reason: str) -> None:
        def end() -> None:
            self.reaper.end(self.journal.state().attempt(attempt.number) or attempt, reason)

        self.patience.ask(end, check=self.reaper.poll)

    def _give_up_if_hopeless(self, reason: str) -> None:
        state = self.journal.state()
        if fruitless_generations(state) >= FRUITLESS_MOST:
            raise HostError(
                f"{self.spec.run}: {FRUITLESS_MOST} generations of the group in a row were lost without a new step "
                f"(the last: {reason}). Another would only cost: check image, --login-user, --subnet, --ssh-cidr"
            )
        if lost_generations(state) >= self.policy.max_attempts:
            raise HostError(
                f"{self.spec.run}: {self.policy.max_attempts} generations of the group were lost; the newest "
                "checkpoint is downloaded. Launch again later or on another type"
            )

    # -- growing

    def wants_to_grow(self, members: Sequence[Attempt]) -> str:
        """Return why the generation is to end for a larger one, "" if it is not.

        What is missing is asked for now and then; it is rented and set up while the others train on.
        """
        if self._joining is not None:
            return self._joined()
        now = self.clock.now()
        larger = [size for size in self.sizes if size > len(members)]
        if self.deadline is not None or not larger or now < self._grow_at:
            return ""
        self._grow_at = now + GROW_EVERY_S
        offer = self._offer_beside(members[0])
        new = next(filter(None, (self._rented(offer, size - len(members)) for size in larger)), None)
        if new:
            task = partial(self._set_up, [Member(attempt) for attempt in new])
            self._joining = new, self.start_beside(task)
        return ""

    def _rented(self, offer: Offer, count: int) -> list[Attempt]:
        """Return so many further machines, none where that fails: whatever it is, it does not end what trains."""
        try:
            return self.provisioner.rent_group_now([offer], count, is_patient=False)
        except PixelOrchError:
            return []  # a quota, the budget, a stop just now

    def _set_up(self, new: Sequence[Member]) -> None:
        """Set up machines that are to join; their connections are made again when they do."""
        results = self.leader.group_bring_up.connect(new)
        for member in new:
            if member.host is not None:
                member.host.close()
        for result in results:
            if result is not None:
                raise result

    def _await_joining(self) -> None:
        """Wait until the machines that are being set up for a larger group are ready, or have failed."""
        while self._joining is not None:
            if not self._joining[1].is_over:
                self.stop.sleep(1.0)
            self._joined()

    def _joined(self) -> str:
        """Return that the new machines are ready; end them if they could not be set up."""
        joining = self._joining
        if joining is None or not joining[1].is_over:
            return ""
        new, task = joining
        self._joining = None
        try:
            task.result()
        except PixelOrchError as error:
            current = [self.journal.state().attempt(one.number) or one for one in new]
            self._release([one for one in current if not one.is_over], LossReason.UNREACHABLE, str(error))
            return ""
        return f"the group grows by {len(new)}"


def ranked(kept: Sequence[Attempt]) -> list[Attempt]:
    """Return the machines by their rank in the next generation. Pure.

    A machine keeps its rank, so that a program finds on it what it wrote there; a new machine gets that of a lost one.
    """
    order: list[Attempt | None] = [None] * len(kept)
    others = []
    for attempt in kept:
        if attempt.generation and attempt.rank < len(kept) and order[attempt.rank] is None:
            order[attempt.rank] = attempt
        else:
            others.append(attempt)
    left = iter(others)
    return [attempt if attempt is not None else next(left) for attempt in order]


def fruitless_generations(state: RunState) -> int:
    """Return how many of the last generations in a row made no step that no earlier one had made. Pure.

    One in which AWS interrupted a machine, or that ended for a larger group, is no failure: it begins the count anew.
    """
    count = best = 0
    for generation in range(1, state.generation + 1):
        members = state.members(generation)
        if not members:
            continue
        lead = members[0]
        is_new = lead.first_step_at is not None and lead.last_step > best
        best = max(best, lead.last_step)
        excuses = (LossReason.MOVED, LossReason.REGROUPED)
        is_excused = is_new or any(one.is_interrupted or one.lost_cause in excuses for one in members)
        is_before = state.attempts.index(lead) < state.led_from
        count = 0 if is_before or is_excused else count + 1
    return count


def lost_generations(state: RunState) -> int:
    """Return how many generations lost a machine. Pure."""
    lost = {one.generation for one in state.attempts if one.is_lost and one.lost_cause != LossReason.REGROUPED}
    return len(lost - {0})
