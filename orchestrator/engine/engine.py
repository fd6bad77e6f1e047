"""Leads one run to its end: rent, use the machine, recover, finish; terminates every machine whatever happens.

An interruption is an event here, not an error: notice -> checkpoint -> pull -> the next pool -> resume. Every fact is
written down before the next step is taken, so that after a SIGKILL another process goes on from the events and from
the instances' tags alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from orchestrator.clock import Clock
from orchestrator.cloud.base import Cloud, Instance
from orchestrator.engine.allowance import Allowance
from orchestrator.engine.attempt import AttemptLeader
from orchestrator.engine.bring_up import BringUp
from orchestrator.engine.deadline import DeadlineKeeper
from orchestrator.engine.group import GroupKeeper
from orchestrator.engine.group_attempt import GroupLeader
from orchestrator.engine.journal import Journal, Watcher
from orchestrator.engine.local_trouble import CredentialsWatch, FullDisk
from orchestrator.engine.outcome import Outcome, TrainerEnd, outputs_lost, verdict
from orchestrator.engine.parts import Parts
from orchestrator.engine.patience import PATIENCE_S, Patience
from orchestrator.engine.provisioner import MakeKeys, Provisioner
from orchestrator.engine.reaper import Reaper
from orchestrator.engine.remote_place import RemoteStore
from orchestrator.engine.remote_store import RemoteCopy
from orchestrator.engine.side_by_side import Beside
from orchestrator.engine.started import instance_started
from orchestrator.engine.stop import Cancelled, StopRequest
from orchestrator.errors import BudgetError, CloudError, HostError, PixelOrchError
from orchestrator.host.base import Connect, Job
from orchestrator.market.budget import Limit
from orchestrator.market.pools import Offer
from orchestrator.plan.requests import Plan
from orchestrator.runs.events import AttemptLost, LossReason, OwnerChanged, State
from orchestrator.runs.files import clear_parts
from orchestrator.runs.state import Attempt, RunState
from orchestrator.runs.store import RunStore

FRUITLESS_MOST = 3  # machines in a row that made no new step
LISTED_WITHIN_S = 15.0  # after a launch of which we know no answer: EC2 is eventually consistent


class Engine:
    """Leads one run to its end.

    Args:
        store: the run's folder; the caller holds its lock.
        plan: what to request, in which order.
        job: what to run on a host.
        cloud, connect, make_keys, clock: where machines come from, how they are reached, and the time.
        watchers: who is told what happens.
        refresh: gives the offers at the prices of now, for a run that recovers after hours or days.
        remote_store: the run's place in S3, if it has one.
        beside: how the machines of a group are worked on at the same time; None: in threads.
    """

    def __init__(
        self,
        *,
        store: RunStore,
        plan: Plan,
        job: Job,
        cloud: Cloud,
        connect: Connect,
        make_keys: MakeKeys,
        clock: Clock,
        watchers: tuple[Watcher, ...] = (),
        refresh: Callable[[], tuple[Offer, ...]] | None = None,
        remote_store: RemoteStore | None = None,
        beside: Beside | None = None,
    ) -> None:
        self.store = store
        self.plan = plan
        self.spec = plan.spec
        self.policy = plan.spec.recovery
        self.job = job
        self.clock = clock
        self.journal = Journal(store, clock, watchers)
        self.stop = StopRequest(clock)
        self.patience = Patience(self.journal, self.stop)
        self.remote = RemoteCopy(self.journal, job, remote_store, self.spec.downloads)
        self.reaper = Reaper(
            spec=self.spec,
            cloud=cloud,
            clock=clock,
            state=self.journal.state,
            emit=self.journal.emit,
            image_of=plan.image,
            home_id=plan.home_id,
            trouble=self.patience.tell,
        )
        allowance = Allowance(self.spec, clock, self.journal.state)
        self.provisioner = Provisioner(
            plan,
            cloud,
            journal=self.journal,
            stop=self.stop,
            allowance=allowance,
            reaper=self.reaper,
            patience=self.patience,
            make_keys=make_keys,
            refresh=refresh,
        )
        self.deadline = DeadlineKeeper.of(plan, self.journal, self.stop, self.provisioner)
        parts = Parts(
            spec=self.spec,
            job=job,
            journal=self.journal,
            stop=self.stop,
            allowance=allowance,
            reaper=self.reaper,
            provisioner=self.provisioner,
            remote=self.remote,
            deadline=self.deadline,
        )
        self.attempt_leader, self.group = self._leaders(parts, BringUp(parts, connect), cloud, beside or Beside())

    def _leaders(
        self, parts: Parts, bring_up: BringUp, cloud: Cloud, beside: Beside
    ) -> tuple[AttemptLeader, GroupKeeper | None]:
        """Return what leads one machine, and what keeps a group of machines together, if the run has one."""
        disk = FullDisk(self.journal, self.policy.owner_timeout_s)
        credentials = CredentialsWatch(self.journal, cloud, self.patience.tell)
        if not self.spec.is_group:
            return AttemptLeader(parts, bring_up=bring_up, disk=disk, credentials=credentials), None
        leader = GroupLeader(
            parts, bring_up=bring_up, disk=disk, credentials=credentials, beside=beside, patience=self.patience
        )
        return leader, GroupKeeper(parts, leader, self.patience)

    def state(self) -> RunState:
        """Return the fold of the events so far."""
        return self.journal.state()

    def request_stop(self, reason: str, state: State = "CANCELLED", *, is_urgent: bool = False) -> None:
        """Ask for a stop from a signal handler or another thread; see `StopRequest.request`."""
        self.stop.request(reason, state, is_urgent=is_urgent)

    # -- the story

    def run(self, verb: str = "launch", pid: int = 0) -> RunState:
        """Lead the run to a final state and return it. Whatever happens, no instance of it is left behind.

        Raises:
            PixelOrchError: the run ended as FAILED, CANCELLED or STOPPED; everything is written down and ended then.
        """
        failure: BaseException | None = None
        state: State
        self.stop.lead_from_this_thread()
        self.journal.emit(OwnerChanged(at=self.clock.now(), pid=pid, verb=verb))
        clear_parts(self.store.checkpoints)
        try:
            self._reconcile()
            outcome = self._known_outcome() or self.patience.ask(self.remote.catch_up)
            outcome = outcome or (self._attempts() if self.group is None else self.group.attempts())
            state, reason = ("SUCCEEDED", "") if outcome.kind == "finished" else (self.stop.state, outcome.reason)
        except Cancelled as error:
            state, reason = self.stop.state, str(error)
        except BudgetError as error:
            state, reason, failure = "STOPPED", str(error), error
        except KeyboardInterrupt:
            state, reason, failure = "CANCELLED", "interrupted twice: ended at once", Cancelled("interrupted")
        except PixelOrchError as error:
            state, reason, failure = "FAILED", error.reason, error
        except BaseException as error:
            self.finish("FAILED", f"{type(error).__name__}: {error}")
            raise
        self.finish(state, reason)
        if failure is not None:
            raise failure
        if state == "STOPPED" and self.stop.limit is not None:
            raise BudgetError(reason, is_budget=self.stop.limit is Limit.BUDGET)
        if state in ("CANCELLED", "STOPPED"):
            raise Cancelled(reason)
        return self.state()

    def _known_outcome(self) -> Outcome | None:
        """Return what the last attempt's trainer came to, if a process before this one wrote that down and died."""
        state = self.state()
        last = state.lead
        if last is None or last.trainer_exit is None or last.started_at < state.led_since:
            return None  # or the run was resumed since: then what failed is tried again
        known = last.trainer_exit
        end = TrainerEnd(known.exit_code, known.asked, False, known.tail, gpu_problem=known.gpu_problem)
        outcome = verdict(end, is_bundled=self.job.is_bundled, in_group=self.group is not None)
        if outcome is not None and last.outputs_lost is not None:
            raise outputs_lost(last)
        return outcome if outcome is None or outcome.kind == "finished" else None

    def _attempts(self) -> Outcome:
        """One instance after the other, until the trainer is done."""
        while True:
            current = self._current() or self._rent()
            outcome = self.attempt_leader.lead(current)
            if outcome.kind != "lost":
                return outcome
            self._note_loss(current, outcome)
            attempt = self.state().attempt(current.number)
            if attempt is not None:
                self._end_lost(attempt, outcome.reason)
                done = self.remote.after_loss(attempt)
                if done is not None:
                    return done
            self._give_up_if_fruitless(outcome.reason)
            if self._counted() >= self.policy.max_attempts:
                raise HostError(
                    f"{self.spec.run}: {self.policy.max_attempts} instances were lost; the newest checkpoint is "
                    "downloaded. Launch again later or on another type"
                )

    def _counted(self) -> int:
        """Return how many machines count for `max_attempts`: with a deadline none that went as the market does."""
        excused = () if self.deadline is None else (LossReason.INTERRUPTED, LossReason.MOVED)
        return sum(attempt.lost_cause not in excused for attempt in self.state().attempts)

    def _end_lost(self, attempt: Attempt, reason: str) -> None:
        """End a machine that is of no more use, before another is rented; EC2 is asked again until it answers."""

        def end() -> None:
            self.reaper.end(self.state().attempt(attempt.number) or attempt, reason)

        self.patience.ask(end, check=self.reaper.poll)

    def _note_loss(self, attempt: Attempt, outcome: Outcome) -> None:
        self.journal.emit(
            AttemptLost(
                at=self.clock.now(),
                attempt=attempt.number,
                instance_id=attempt.instance_id,
                reason=outcome.reason,
                cause=outcome.cause,
            )
        )
        self.journal.move("RECOVERING", outcome.reason)

    def _give_up_if_fruitless(self, reason: str) -> None:
        """Rent no fourth machine where three in a row made no new step: a fourth would not either.

        Interrupted ones do not count: that is the spot market, not what this run asks for. Only EC2 says so: a machine
        may claim a notice, or a first step, for ever.

        Raises:
            HostError: three machines in a row were lost without a step that no earlier one had made.
        """
        while (count := fruitless(self.state())) >= FRUITLESS_MOST and self._may_be_interrupted():
            self.stop.sleep(self.reaper.poll_every_s)  # until EC2 says who ended them
            self.reaper.poll(force=True)
        if count >= FRUITLESS_MOST:
            remedy = "Another would only cost: check image, --login-user, --subnet, --ssh-cidr"
            last = self.state().attempts[-1]
            if last.lost_cause == LossReason.INSTANCE_ENDED and last.ran_at is None and not last.setup_s:
                remedy = "EC2 ended it before it ran: check image, --disk-size, --subnet, or try another type or region"
            if last.lost_cause == LossReason.GPU_FAILED:
                remedy = "Check the image's driver (--ami), or try another --instance, zone or region"
            if last.lost_cause == LossReason.TOO_SLOW:
                remedy = "They answer, and are too slow: check the image, or take a larger instance type"
            raise HostError(
                f"{self.spec.run}: {FRUITLESS_MOST} machines in a row were lost without a new step (the last: "
                f"{reason}). {remedy}"
            )

    def _may_be_interrupted(self) -> bool:
        """Return whether a lost machine seems to be interrupted, and EC2 has not yet said who ended it."""
        return any(not a.is_over and a.lost_cause == LossReason.INTERRUPTED for a in self.state().attempts)

    def _rent(self) -> Attempt:
        self.journal.move("PROVISIONING")
        return self.provisioner.rent() if self.deadline is None else self.deadline.rent()

    def _current(self) -> Attempt | None:
        """Return the attempt to go on with: its instance was neither lost nor told to end."""
        usable = [
            a
            for a in self.state().open_attempts()
            if not a.is_lost and not a.terminate_requested and self.store.host_key_path(a.number).exists()
        ]
        if self.deadline is not None:  # where one was about to be left for another, that which trains has the work
            usable.sort(key=lambda a: (a.first_step_at is not None and a.trainer_exit is None, a.number))
        return usable[-1] if usable else None

    # -- after a crash of a process before this one

    def _reconcile(self) -> None:
        """Bring events and cloud together.

        Adopt instances whose launch was never answered, note those that are gone.
        """
        if not self.state().requests:
            return
        with suppress(CloudError):
            self.reaper.lost_requests()  # the answer also says what the time is
        self.journal.reload()
        with self.stop.interruptible():
            while True:
                try:
                    found = self.patience.ask(self.reaper.lost_requests)
                except CloudError:
                    if self._current() is None:
                        raise
                    break  # the machine that the events name may be well; a later poll finds what they do not name
                for instance in found:
                    self._adopt(instance)
                unanswered = self.state().unanswered_requests()
                if all(self.clock.now() - request.at > LISTED_WITHIN_S for request in unanswered):
                    break  # none is left, or EC2 would list its instance by now
                self.clock.sleep(min(2.0, self.policy.poll_s))
        self.reaper.poll(force=True)
        current = self._current()
        used = [current] if self.group is None else self.group.used()
        numbers = {one.number for one in used if one is not None}
        for attempt in self.state().open_attempts():
            if attempt.number not in numbers:
                with suppress(CloudError):  # at the end of the run it is asked again
                    self.reaper.end(attempt, "nothing trains on it")

    def _adopt(self, instance: Instance) -> None:
        first = instance.attempt
        asked = next((r for r in reversed(self.state().requests) if r.attempt == first), None)
        number = first + (instance.launch_index if asked is not None and asked.count > 1 else 0)
        is_used = self.state().attempt(number) is not None
        if asked is None or is_used or instance.state not in ("pending", "running"):
            self.reaper.note(instance)  # of no use to the run, but it is billed
            return
        image = self.plan.image(instance.region)
        self.journal.emit(
            instance_started(
                instance,
                number,
                now=self.clock.now(),
                asked_at=self.state().asked_at(first),
                price_usd_h=asked.price_usd_h,
                spec=self.spec,
                image=image,
            )
        )

    # -- finish

    def finish(self, state: State, reason: str) -> None:
        """End every instance, wait until they are gone, remove the security groups; only then is the run over."""
        self.journal.begin_finish()
        left = self._end_everything(reason or "the run is over")
        regions = {request.region for request in self.state().requests} | set(self.provisioner.regions_opened)
        if left:
            reason = (
                f"{reason}; EC2 has not yet ended {', '.join(left)}: run `pixel-orch cleanup`; {self._unattended()}"
            ).lstrip("; ")
        else:
            self.reaper.close_security_groups(regions)
        self.journal.move(state, reason)

    def _unattended(self) -> str:
        """Return what an instance does that no process leads."""
        ends = f"without pixel-orch an instance ends itself within {round(self._unattended_s() / 60)} min"
        if self.job.bucket is None:
            return ends
        return f"{ends}, or trains on with its checkpoints going to S3, and ends itself so long after it is done"

    def _unattended_s(self) -> float:
        """Return how long an instance runs without contact: by its agent's time limit, or by that of its guard."""
        state = self.state()
        heard = all(attempt.first_step_at is not None for attempt in state.open_attempts())
        has_agent = heard and not state.unanswered_requests() and not self.reaper.has_unsure_requests()
        return self.policy.owner_timeout_s + (0.0 if has_agent else self.policy.setup_timeout_s)

    def _end_everything(self, reason: str) -> list[str]:
        problem = "interrupted again"
        for again in (False, True):  # interrupted while AWS ends one for free: end it ourselves
            try:
                return self.reaper.end_all(reason, even_under_notice=again, patience_s=PATIENCE_S)
            except (KeyboardInterrupt, Cancelled):
                continue
            except CloudError as error:
                problem = str(error)
                break
            except Exception as error:  # noqa: BLE001  (whatever it is, the run gets a final state that names what is left)
                problem = f"{type(error).__name__}: {error}"
                break
        return [f"{a.instance_id} ({problem})" for a in self.state().open_attempts()] or [problem]


def fruitless(state: RunState) -> int:
    """Return how many of the last machines in a row made no step that no earlier one had made. Pure.

    One that AWS interrupted is no failure: it begins the count anew.
    """
    count = best = 0
    for number, attempt in enumerate(state.attempts):
        is_new = attempt.first_step_at is not None and attempt.last_step > best
        best = max(best, attempt.last_step)
        is_excused = is_new or (attempt.is_over and attempt.is_interrupted) or attempt.lost_cause == LossReason.MOVED
        count = 0 if number < state.led_from or is_excused else count + 1
    return count
