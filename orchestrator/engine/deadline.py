"""Keeps a deadline: where a run goes on, decided before each machine and while it trains.

The policies are those of the simulator (`orchestrator/policy/`), and the safety rule stands above them here as there.
What they are told is measured: the work that is left by the steps and their speed, change-overs by those that were
seen, the market by the answers to this run's own requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING

from orchestrator.engine.journal import Journal
from orchestrator.engine.provisioner import Provisioner, may_pass
from orchestrator.engine.stop import Cancelled, StopRequest
from orchestrator.engine.work_left import WorkLeft
from orchestrator.errors import BudgetError, CapacityError, CloudError, QuotaError, SpecError
from orchestrator.formatting import counted, span
from orchestrator.market.billing import total_usd
from orchestrator.market.pools import Offer
from orchestrator.plan.deadline import prior_of
from orchestrator.plan.requests import Plan
from orchestrator.policy.names import NAMES
from orchestrator.report import change_overs, market_history
from orchestrator.runs.deadline_events import DeadlineDecided, DeadlineEndangered
from orchestrator.runs.spec import Deadline
from orchestrator.runs.state import Attempt

if TYPE_CHECKING:
    from orchestrator.policy.base import Job
    from orchestrator.policy.live import Answer, LivePolicy

TICK_S = 60.0  # between two decisions; less where the deadline is near
LEAST_TICK_S = 1.0
TICKS = 200  # of a short deadline
PROBE_S = (600.0, 1200.0, 2400.0, 3600.0)  # between two requests for spot while an on-demand machine trains
SOON, LATER = 10, 3  # after so many refusals it is asked for after so many ticks
AGAIN_S = 15.0  # where on-demand has no capacity either
RETELL_S = 3600.0  # a decision that stays is told again after so long
OFFERS_S = 600.0  # prices are asked for again after so long
REPLAN = 0.1  # a plan is made anew where work or change-over differ by so much
WORDS = ("wait", "spot", "on-demand")  # as `orchestrator.policy.base` counts them
WAIT, SPOT, ON_DEMAND = range(3)


class DeadlineKeeper:
    """Decides for one run.

    Args:
        deadline: what was asked for.
        plan: the offers of both markets.
        journal, stop, provisioner: the parts of the run's engine.
        policy: decides; the safety rule stands above it.
    """

    def __init__(
        self,
        deadline: Deadline,
        plan: Plan,
        *,
        journal: Journal,
        stop: StopRequest,
        provisioner: Provisioner,
        policy: LivePolicy,
    ) -> None:
        self.deadline, self.plan, self.policy = deadline, plan, policy
        self.journal, self.stop, self.provisioner = journal, stop, provisioner
        self.clock = journal.clock
        self.work = WorkLeft(plan.spec, journal)
        self.earlier = change_overs.of_earlier_runs(journal.store.home, plan.spec)
        self.moves_because = ""  # why the machine that trains is to be left, "" if it is not
        self._refused_at = -math.inf  # the last time that spot was refused
        self._asked_at = -math.inf  # the last time that on-demand was asked for
        self._empty_since = math.inf  # since when on-demand has no capacity
        self._offers: tuple[float, Sequence[Offer]] = (-math.inf, ())
        self._probes = 0  # refused ones in a row, while an on-demand machine trains
        self._looked_at = -math.inf
        self._told: tuple[int, bool] | None = None
        self._told_at = -math.inf
        warned = (event.at for event in journal.events if isinstance(event, DeadlineEndangered))
        self._warned_at = max(warned, default=-math.inf)
        self._job: Job | None = None

    @classmethod
    def of(cls, plan: Plan, journal: Journal, stop: StopRequest, provisioner: Provisioner) -> DeadlineKeeper | None:
        """Return the keeper of a run's deadline, None for a run without one."""
        deadline = plan.spec.deadline
        if deadline is None:
            return None
        if deadline.policy not in NAMES:
            raise SpecError(f"{plan.spec.run}: its settings name no policy that there is: {deadline.policy[:40]!r}")
        from orchestrator.policy.live import LivePolicy

        policy = LivePolicy(deadline.policy, prior_of(deadline), pools=len(plan.offers))
        for at, is_up in market_history.of_earlier_runs(journal.store.home, plan.spec, journal.clock.now()):
            policy.see(is_up=is_up, at=at)
        return cls(deadline, plan, journal=journal, stop=stop, provisioner=provisioner, policy=policy)

    # -- before a machine

    def rent(self) -> Attempt:
        """Return a new attempt: on spot or on-demand, at once or after a wait, as the policy and the safety rule say.

        Of a group it is the first one; the others are rented by the same request.

        Raises:
            QuotaError, AccessError, CloudError: no pool would help.
            BudgetError: the rest of the budget does not pay for another minute.
            Cancelled: a stop was asked for.
        """
        self._prepare()
        if self._empty_since < math.inf:
            self._empty_since = self.clock.now()  # a machine was had since
        while True:
            self.stop.check()
            answer = self._decide(WAIT, None, is_likely=self._is_spot_likely(self._tick_s()))
            self._look_ahead(None)
            attempt = self._ask_for_spot() if answer.mode == SPOT else None
            if answer.mode == SPOT and attempt is None:
                self._probes += 1
                continue  # the market is known to be empty now
            self._tell(answer)
            if answer.mode == ON_DEMAND:
                attempt = self._on_demand_or_spot()
            if attempt is not None:
                self._probes = 0
                return attempt
            self.stop.sleep(self._pause_s() if answer.mode == WAIT else AGAIN_S)

    def _pause_s(self) -> float:
        """Return how long to wait for spot before it is asked for again: longer once it was refused for a while."""
        tick_s = self._tick_s()
        wished_s = tick_s * (1 if self._probes <= SOON else LATER)
        last_at = self.deadline.at - self.work.left_s(None) - self._margin_s() - tick_s
        return max(LEAST_TICK_S, min(wished_s, last_at - self.clock.now()))

    def _on_demand_or_spot(self) -> Attempt | None:
        """Ask for on-demand, and where there is none for spot: a machine that may be lost does more than none."""
        refusal = None
        try:
            attempt = self._ask_for_on_demand()
        except QuotaError as error:
            attempt, refusal, self._empty_since = None, error, min(self._empty_since, self.clock.now())
        if attempt is None and self.policy.name != "on-demand" and self._is_spot_likely(self._tick_s()):
            attempt = self._ask_for_spot()
        if attempt is None and refusal is not None:
            raise refusal
        return attempt

    def _ask_for_spot(self, *, is_patient: bool = True) -> Attempt | None:
        """Ask every spot pool once; note whether there was capacity."""
        try:
            attempt = self._ask(self._spot_offers(), is_patient=is_patient)
        except QuotaError:
            attempt = None  # on-demand has a quota of its own
        now = self.clock.now()
        self.policy.see(is_up=attempt is not None, at=now)
        if attempt is None:
            self._refused_at = now
        return attempt

    def _ask(self, offers: Sequence[Offer], *, is_patient: bool) -> Attempt | None:
        """Ask these pools once, for all machines of a group; an API that is unwell is one without capacity."""
        try:
            found = self.provisioner.rent_group_now(offers, self._nodes, is_patient=is_patient)
            return found[0] if found else None
        except CloudError as error:
            if not may_pass(error):
                raise
            self.provisioner.patience.tell(error)
            return None

    def _ask_beside(self, market: int) -> Attempt | None:
        """Ask for a machine of the other market while one trains; None: none is had now, and that one goes on.

        Whatever is wrong with the request, with AWS or with the budget, it is no reason to end a machine that trains.
        """
        try:
            if market == SPOT:
                return self._ask_for_spot(is_patient=False)
            return self._ask_for_on_demand(is_patient=False)
        except Cancelled:
            return None  # the machine that trains is told to save
        except (BudgetError, CloudError) as error:
            now = self.clock.now()
            if market == SPOT:
                self._refused_at = now
            if isinstance(error, CloudError):
                self.provisioner.patience.tell(error)
            return None

    def _ask_for_on_demand(self, *, is_patient: bool = True) -> Attempt | None:
        """Ask every on-demand pool once.

        Raises:
            CapacityError: none had capacity for hours.
        """
        self._asked_at = self.clock.now()
        attempt = self._ask(self.plan.on_demand, is_patient=is_patient)
        now = self.clock.now()
        if attempt is not None:
            self._empty_since = math.inf
            return attempt
        self._empty_since = min(self._empty_since, now)
        limit_s = self.plan.spec.recovery.capacity_wait_s
        if now - self._empty_since > limit_s:
            raise CapacityError(
                f"{self.plan.spec.run}: on-demand had no capacity for {span(limit_s)}, "
                f"{counted(len(self.plan.on_demand), 'pool')} tried. Add types with --instance a,b, or a --region",
                code="NoCapacity",
            )
        return None

    def _spot_offers(self) -> Sequence[Offer]:
        now = self.clock.now()
        if now - self._offers[0] >= OFFERS_S:
            self._offers = (now, self.provisioner.offers_of_now())
        return self._offers[1]

    def _is_spot_likely(self, after_s: float) -> bool:
        """Return whether spot is worth asking for: it was not refused within that time."""
        return self.clock.now() - self._refused_at >= after_s

    # -- while a machine begins, and while it trains

    @contextmanager
    def move_on_in_time(self, attempt: Attempt) -> Iterator[None]:
        """Give up a spot machine that is not ready by the last moment at which on-demand is in time."""
        self.moves_because = ""
        is_there_another = self._empty_since == math.inf  # of on-demand, as far as is known
        if attempt.market == "spot" and self.policy.name != "spot" and is_there_another:
            work_s = self.work.left_s(None)
            last_at = self.deadline.at - work_s - self._margin_s() - self._tick_s()
            if last_at > self.clock.now() or self._slack_s(work_s) > 0:
                self.stop.move_on_at = max(last_at, self.clock.now() + LEAST_TICK_S)
        try:
            yield
        finally:
            self.stop.move_on_at = math.inf

    def look(self, attempt: Attempt, *, saves_at_stop: bool) -> None:
        """Decide, once a tick, whether the machine that trains is to be left; `moves_because` says so then.

        Args:
            attempt: whose machine trains.
            saves_at_stop: whether its program saves when it is told to stop.
        """
        now = self.clock.now()
        if self.moves_because or now - self._looked_at < self._tick_s():
            return
        self._looked_at = now
        current = self.journal.state().attempt(attempt.number) or attempt
        self._look_ahead(current)
        if current.noticed_ends_at is not None or current.trainer_exit is not None:
            return
        if current.market == "spot":
            self.policy.see(is_up=True, at=now)
            answer = self._decide(SPOT, current, is_likely=True, saves_at_stop=saves_at_stop)
            may_ask = now - self._asked_at >= AGAIN_S
            if answer.mode == ON_DEMAND and may_ask and self._ask_beside(ON_DEMAND) is not None:
                self._leave(answer, "the work since its newest save could be lost too late")
        elif self._may_return(current):
            answer = self._decide(ON_DEMAND, current, is_likely=True)
            if answer.mode == SPOT and self._ask_beside(SPOT) is not None:
                self._probes = 0
                self._leave(answer, "a spot instance is there")
            elif answer.mode == SPOT:
                self._probes += 1

    def _may_return(self, attempt: Attempt) -> bool:
        """Return whether spot may be asked for again while an on-demand machine trains."""
        pause_s = min(PROBE_S[min(self._probes, len(PROBE_S) - 1)], 10 * self._tick_s() * 2**self._probes)
        return attempt.first_step_at is not None and self._is_spot_likely(pause_s) and self._return_pays(attempt)

    def _return_pays(self, attempt: Attempt) -> bool:
        """Return whether the rest is cheaper on spot than on the machine that trains, the change-over counted."""
        left_s, spot_usd_h = self.work.left_s(attempt), self._spot_price()
        return left_s * (self._on_demand_price() - spot_usd_h) > self._typical_s() * spot_usd_h

    def _leave(self, answer: Answer, why: str) -> None:
        self._tell(answer)
        self.moves_because = f"moves to {WORDS[answer.mode]}: {why}"

    # -- what is decided on

    def _tick_s(self) -> float:
        whole_s = self.deadline.at - self._since()
        return max(LEAST_TICK_S, min(TICK_S, whole_s / TICKS))

    def _since(self) -> float:
        state = self.journal.state()
        return state.led_since or state.created_at

    def _samples(self) -> list[float]:
        return [*self.earlier, *change_overs.measured(self.journal.state().attempts)]

    def _margin_s(self) -> float:
        return change_overs.margin_s(self._samples(), is_embedded=self.plan.spec.is_embedded)

    def _typical_s(self) -> float:
        return change_overs.typical_s(self._samples(), is_embedded=self.plan.spec.is_embedded)

    def _slack_s(self, work_s: float) -> float:
        return self.deadline.at - self.clock.now() - work_s

    def _wanted_job(self) -> Job:
        from orchestrator.policy.base import Job

        work_s = max(1.0, self.work.whole_s())
        typical_s = self._typical_s()
        return Job(
            work_s=work_s,
            deadline_s=max(1.0, self.deadline.at - self._since()),
            changeover_s=typical_s,
            margin_s=max(typical_s, self._margin_s()),
        )

    def _prepare(self) -> None:
        """Make the plan, or make it anew where what it was made for has changed."""
        wanted, old = self._wanted_job(), self._job
        if old is not None and _is_near(wanted.work_s, old.work_s) and _is_near(wanted.changeover_s, old.changeover_s):
            return
        self._job = wanted
        self.policy.prepare(wanted, self._spot_price(), self._on_demand_price())

    @property
    def _nodes(self) -> int:
        """How many machines train at once."""
        return self.plan.spec.group.max_nodes

    def _spot_price(self) -> float:
        """Return the price of an hour on spot, of all machines together."""
        return self._nodes * min(offer.price_usd_h for offer in self.plan.offers)

    def _on_demand_price(self) -> float:
        """Return the price of an hour on-demand, of all machines together."""
        return self._nodes * min(offer.price_usd_h for offer in self.plan.on_demand)

    def _decide(self, mode: int, attempt: Attempt | None, *, is_likely: bool, saves_at_stop: bool = True) -> Answer:
        from orchestrator.policy.live import Now

        if self._job is None:  # a process before this one has rented the machine
            self._prepare()
        now = self.clock.now()
        typical_s = self._typical_s()
        trains = attempt is not None and attempt.first_step_at is not None
        age_s = 0.0 if attempt is None else now - attempt.started_at
        told = Now(
            elapsed_s=now - self._since(),
            left_s=self.deadline.at - now,
            tick_s=self._tick_s(),
            work_s=self.work.left_s(attempt if trains else None),
            at_risk_s=0.0 if saves_at_stop or attempt is None else self.work.unsaved_s(attempt),
            mode=mode,
            starting_s=0.0 if trains or attempt is None else max(0.0, typical_s - age_s),
            is_spot_likely=is_likely,
            spot_price=self._spot_price(),
            on_demand_price=self._on_demand_price(),
        )
        margin_s = max(typical_s, self._margin_s())
        return self.policy.decide(told, margin_s=margin_s, saves_at_notice=saves_at_stop)

    def _tell(self, answer: Answer) -> None:
        """Write a decision down where it differs from the last one, and every hour."""
        now, key = self.clock.now(), (answer.mode, answer.is_forced)
        if key == self._told and now - self._told_at < RETELL_S:
            return
        self._told, self._told_at = key, now
        self.journal.emit(
            DeadlineDecided(
                at=now,
                mode=WORDS[answer.mode],  # type: ignore[arg-type]  # one of three words
                policy=self.policy.name,
                is_forced=answer.is_forced,
                left_s=self.deadline.at - now,
                work_s=self.work.left_s(None),
                margin_s=self._margin_s(),
                costs={name: round(usd, 4) for name, usd in answer.costs.items()},
            )
        )

    # -- warnings

    def _look_ahead(self, attempt: Attempt | None) -> None:
        """Say once that the deadline, or it and the budget together, cannot be kept, and what would help."""
        if self._warned_at >= self._since():
            return None
        trains = attempt is not None and attempt.first_step_at is not None
        work_s = self.work.left_s(attempt if trains else None)
        left_s = self.deadline.at - self.clock.now()
        starts_s = 0.0 if trains else self._typical_s()
        if work_s + starts_s > left_s and self.work.is_measured(attempt):
            later = span(work_s + starts_s - left_s)
            return self._warn(
                f"{span(work_s)} of work are left and {span(max(0.0, left_s))} of time: it will be late by {later}",
                "a faster --instance, or a later --deadline",
            )
        budget_usd = self.plan.spec.limits.budget_usd
        if budget_usd is not None and work_s + starts_s > left_s - self._margin_s():
            now_usd = total_usd(self.journal.state().attempts, self.clock.now())
            needs_usd = Decimal(str((work_s + starts_s) / 3600 * self._on_demand_price()))
            if now_usd + needs_usd > budget_usd:
                return self._warn(
                    f"to be in time on on-demand takes ${needs_usd:.2f} more, and "
                    f"${max(budget_usd - now_usd, Decimal(0)):.2f} of the budget are left: both cannot be kept",
                    "a larger --budget, or a later --deadline",
                )
        return None

    def _warn(self, reason: str, remedy: str) -> None:
        self._warned_at = self.clock.now()
        self.journal.emit(DeadlineEndangered(at=self._warned_at, reason=reason, remedy=remedy))


def _is_near(one: float, other: float) -> bool:
    return abs(one - other) <= REPLAN * max(one, other, 1.0)
