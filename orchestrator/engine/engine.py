"""THE file: launch, watch, recover, finish, always terminate. It reads in the order in which it happens.

An interruption is an event here, not an error: notice -> checkpoint -> pull -> the next pool -> resume. Every fact is
written down before the next step is taken, so that after a SIGKILL another process goes on from the events and from
the tags alone.
"""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal, Protocol

from orchestrator.clock import Clock
from orchestrator.cloud.base import ATTEMPT_TAG, Cloud, Instance
from orchestrator.engine.collect import bring_rest
from orchestrator.engine.monitor import Ear
from orchestrator.engine.provisioner import Renter, started
from orchestrator.engine.reaper import Reaper
from orchestrator.engine.remote_store import CARRY_WAIT_S, SecondHome, after_loss, catch_up, is_carried, restored
from orchestrator.errors import (
    BudgetError,
    CloudError,
    CommandError,
    DiskFullError,
    HostError,
    PixelOrchError,
    SpecError,
    TrainingError,
    UnreachableError,
    WrongHostKeyError,
)
from orchestrator.host.base import Connect, Cursor, Host, Job, Look, Setup
from orchestrator.host.host_keys import fingerprint
from orchestrator.market import budget as limits
from orchestrator.market import catalog
from orchestrator.market.pools import Offer
from orchestrator.plan.requests import Plan
from orchestrator.runs.events import (
    AttemptLost,
    CheckpointPulled,
    CheckpointRefused,
    CredentialsExpiring,
    DiskFull,
    Event,
    HostKeyRenewed,
    HostReady,
    OwnerChanged,
    State,
    StateChanged,
    TrainerExited,
    TrainerStarted,
)
from orchestrator.runs.files import clear_parts, write_atomically
from orchestrator.runs.spec import Limits
from orchestrator.runs.state import Attempt, RunState, fold
from orchestrator.runs.store import RunStore

RESUME_WITH = 2  # checkpoints sent to a new instance: should the newest be refused there, the one before it is at hand
CREDENTIALS_EVERY_S = 60.0
CREDENTIALS_AHEAD_S = 600.0  # botocore renews those of SSO or a role before that: these it could not
STOP_SEEN_WITHIN_S = 15.0
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_TOLD_EVERY_S = 60.0
SET_UP_TRIES = 3  # on one instance, should the connection be cut
LARGE_BOOT = 3  # times as long may a machine of 8 GPUs take to boot
SMALLEST_SHARE = 5  # of a limit, kept for saving: one in so many seconds
FRUITLESS_MOST = 3  # machines in a row that did not come to a first step
LISTED_WITHIN_S = 15.0  # after a launch of which we know no answer: EC2 is eventually consistent


class Watcher(Protocol):
    """Who looks on: the terminal, the embedded cloud's saboteur, a test."""

    def event(self, event: Event) -> None:
        """Be told of a fact that has just been written down."""
        ...

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Be told, after each look, how far the trainer is."""
        ...


class Keys(Protocol):
    """Makes SSH keys; see `ssh.make_key_pair`."""

    def __call__(self, comment: str) -> tuple[str, str]:
        """Return (private, public)."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How an attempt came to its end."""

    kind: Literal["finished", "lost", "stopped"]
    reason: str = ""


class Cancelled(PixelOrchError):  # noqa: N818  (being told to stop is no error)
    """Somebody pressed Ctrl-C, closed the terminal, or said `down`."""

    exit_code = 130


class Engine:
    """Leads one run to its end.

    Args:
        store: the run's folder; the caller holds its lock.
        plan: what to request, in which order.
        job: what to run on a host.
        cloud, connect, make_keys, clock: the world.
        watchers: who is told what happens.
        refresh: gives the offers at the prices of now, for a run that recovers after hours or days.
        second_home: the run's place in S3, if it has one.
    """

    def __init__(
        self,
        *,
        store: RunStore,
        plan: Plan,
        job: Job,
        cloud: Cloud,
        connect: Connect,
        make_keys: Keys,
        clock: Clock,
        watchers: tuple[Watcher, ...] = (),
        refresh: Callable[[], tuple[Offer, ...]] | None = None,
        second_home: SecondHome | None = None,
    ) -> None:
        self.store = store
        self.plan = plan
        self.spec = plan.spec
        self.policy = plan.spec.recovery
        self.job = job
        self.cloud = cloud
        self.connect = connect
        self.make_keys = make_keys
        self.clock = clock
        self.watchers = watchers
        self.refresh = refresh
        self.second_home = second_home
        self._is_finishing = False
        self.stop_state: State = "CANCELLED"  # what a stop ends in: STOPPED if the run is to be resumed
        self.stop_reason = ""  # set by `request_stop`; read between any two steps
        self.interruptible = False  # whether a signal handler may raise into what we do now
        self._thread = threading.get_ident()
        self.events = store.events()
        self._unwritten: list[Event] = []  # facts of the finish for which the disk had no room
        self._state: RunState | None = None
        self._is_watching = self._limit_is_reached = False
        self._full_since: float | None = None  # our own disk
        self._told_of_full_at = -math.inf
        self._credentials_checked_at = -math.inf
        self._credentials_told: float | None = None
        self.renter = Renter(self)
        self.reaper = Reaper(
            run=self.spec.run,
            cloud=cloud,
            clock=clock,
            state=self.state,
            emit=self.emit,
            outlives_notice_s=self.policy.outlives_notice_s,
            look_every_s=max(self.policy.poll_s, 0.25),
            spec=self.spec,
            home_id=plan.home_id,
        )

    # -- facts

    def emit(self, event: Event) -> None:
        """Write a fact down, then tell the watchers."""
        self._unwritten.append(event)
        try:
            while self._unwritten:
                self.store.append(self._unwritten[0])
                del self._unwritten[0]
        except OSError as error:  # the disk is full: that must not keep a machine from being ended, nor end one
            if not self._is_finishing and not (self._is_watching and error.errno in NO_ROOM):
                self._unwritten.clear()
                raise
        self.events.append(event)
        self._state = None
        for watcher in self.watchers:
            watcher.event(event)

    def state(self) -> RunState:
        """Return the fold of the events so far."""
        if self._state is None:
            self._state = fold(self.events)
        return self._state

    def _move(self, state: State, reason: str = "") -> None:
        if self.state().state != state:
            self.emit(StateChanged(at=self.clock.now(), state=state, reason=reason))

    def request_stop(self, reason: str, state: State = "CANCELLED") -> None:
        """Ask for a stop: checkpoint, pull, terminate; the run ends in `state`.

        Safe in a signal handler, where it raises if we are merely waiting, and from another thread.
        """
        if not self.stop_reason:
            self.stop_reason, self.stop_state = reason, state
        if self.interruptible and threading.get_ident() == self._thread:
            self.interruptible = False
            raise Cancelled(reason)

    def check_stop(self) -> None:
        """Raise Cancelled if we were told to stop."""
        if self.stop_reason:
            raise Cancelled(self.stop_reason)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Mark what may be broken off at any point, since the machine that it is about will be ended anyway."""
        self.check_stop()
        self.interruptible = True
        try:
            yield
        finally:
            self.interruptible = False

    # -- the story

    def run(self, verb: str = "launch", pid: int = 0) -> RunState:
        """Lead the run to a final state and return it. Whatever happens, no instance of it is left behind.

        Raises:
            PixelOrchError: the run ended as FAILED or CANCELLED; everything is written down and ended by then.
        """
        failure: BaseException | None = None
        self._thread = threading.get_ident()
        self.emit(OwnerChanged(at=self.clock.now(), pid=pid, verb=verb))
        clear_parts(self.store.checkpoints)
        try:
            self._reconcile()
            outcome = self._told_before() or catch_up(self) or self._attempts()
            state, reason = ("SUCCEEDED", "") if outcome.kind == "finished" else (self.stop_state, outcome.reason)
        except Cancelled as error:
            state, reason, failure = self.stop_state, str(error), error
        except BudgetError as error:
            state, reason, failure = "STOPPED", str(error), error
        except KeyboardInterrupt:
            state, reason, failure = "CANCELLED", "interrupted twice: ended at once", Cancelled("interrupted")
        except PixelOrchError as error:
            state, reason, failure = "FAILED", error.reason, error
        except BaseException as error:
            self._finish("FAILED", f"{type(error).__name__}: {error}")
            raise
        self._finish(state, reason)  # type: ignore[arg-type]  # the four assignments above are all of them final states
        if failure is not None:
            raise failure
        if state == "STOPPED" and self._limit_is_reached:
            raise BudgetError(reason, is_budget="budget" in reason)
        if state in ("CANCELLED", "STOPPED"):
            raise Cancelled(reason)
        return self.state()

    def _told_before(self) -> Outcome | None:
        """Return what the last attempt's trainer came to, if a process before us had heard it and died of something."""
        state = self.state()
        last = state.attempts[-1] if state.attempts else None
        if last is None or last.trainer_exit is None or last.started_at < state.led_since:
            return None  # or the run was resumed since: then what failed is tried again
        end = last.trainer_exit
        return self._verdict(end.exit_code, asked=end.asked, finished=False, why="", tail=end.tail)

    def _verdict(self, code: int, *, asked: bool, finished: bool, why: str, tail: str) -> Outcome | None:
        """Return what an ended trainer means; None if it was told to end, and did so.

        Raises:
            TrainingError: it ended by itself, and has not finished.
        """
        if code == 0 and (not asked or self.job.is_bundled or finished):
            return Outcome("finished")
        if not asked:
            raise TrainingError(f"the trainer ended by itself with {_exit_words(code)}{why}; its last lines:\n{tail}")
        return None

    def _attempts(self) -> Outcome:
        """One instance after the other, until the trainer is done."""
        while True:
            current = self._current() or self._rent()
            outcome = self._use(current)
            if outcome.kind != "lost":
                return outcome
            self.emit(
                AttemptLost(
                    at=self.clock.now(), attempt=current.number, instance_id=current.instance_id, reason=outcome.reason
                )
            )
            self._move("RECOVERING", outcome.reason)
            attempt = self.state().attempt(current.number)
            if attempt is not None:
                self.reaper.end(attempt, outcome.reason)
                done = after_loss(self, attempt)
                if done is not None:
                    return done
            self._give_up_if_none_gets_to_train(outcome.reason)
            if len(self.state().attempts) >= self.policy.max_attempts:
                raise HostError(
                    f"{self.spec.run}: {self.policy.max_attempts} instances were lost; the newest checkpoint is home, "
                    "launch again later or on another type"
                )

    def _give_up_if_none_gets_to_train(self, reason: str) -> None:
        """Rent no fourth machine where three in a row did not come to a first step: a fourth would not either.

        Those that AWS took away do not count: that is the market, not what we ask for.

        Raises:
            HostError: so it is.
        """
        state = self.state()
        here = [a for a in state.attempts if a.started_at >= state.led_since]
        tail = here[-FRUITLESS_MOST:]
        taken = any(a.ended_by == "aws" or a.lost_because.startswith("interrupt") for a in tail)
        if len(tail) == FRUITLESS_MOST and not taken and all(a.first_step_at is None for a in tail):
            raise HostError(
                f"{self.spec.run}: {FRUITLESS_MOST} machines in a row were lost before a first step (the last: "
                f"{reason}). Another would only cost: check image, --login-user, --subnet, --ssh-cidr"
            )

    def _rent(self) -> Attempt:
        self._move("PROVISIONING")
        return self.renter.rent()

    def _current(self) -> Attempt | None:
        """Return the attempt to go on with: its instance was neither lost nor told to end."""
        usable = [
            a
            for a in self.state().open_attempts()
            if not a.lost_because and not a.terminate_requested and self.host_key_path(a.number).exists()
        ]
        return usable[-1] if usable else None

    # -- after a crash of ours

    def _reconcile(self) -> None:
        """Bring events and cloud together.

        Adopt instances whose launch was never answered, note those that are gone.
        """
        if not self.state().requests:
            return
        with self._waiting():
            while True:
                for instance in self.reaper.lost_requests():
                    self._adopt(instance)
                unanswered = self.state().unanswered_requests()
                if all(self.clock.now() - request.at > LISTED_WITHIN_S for request in unanswered):
                    break  # none is left, or EC2 would list its instance by now
                self.clock.sleep(min(2.0, self.policy.poll_s))
        self.reaper.look(force=True)
        current = self._current()
        for attempt in self.state().open_attempts():
            if current is None or attempt.number != current.number:
                with suppress(CloudError):  # at the end of the run it is asked again
                    self.reaper.end(attempt, "nobody trains on it")

    def _adopt(self, instance: Instance) -> None:
        number = int(instance.tags.get(ATTEMPT_TAG, "0") or 0)
        asked = next((r for r in reversed(self.state().requests) if r.attempt == number), None)
        is_used = self.state().attempt(number) is not None
        if asked is None or is_used or instance.state not in ("pending", "running"):
            self.reaper.note(instance)  # nothing that we could use, but it is billed
        else:
            self.emit(started(self.clock.now(), number, instance, asked.price_usd_h, self.plan))

    def host_key_path(self, number: int) -> Path:
        """Return where the public host key of an attempt's instance is kept."""
        return self.store.attempt_folder(number) / "host_key.pub"

    # -- use one instance

    def _use(self, attempt: Attempt) -> Outcome:
        """Boot, set up, start, watch: until the trainer ends or the instance is lost."""
        host: Host | None = None
        try:
            with self._waiting():
                host = self._ready(attempt)
            self._is_watching = True
            return self._watch(attempt, host)
        except HostError as error:
            if not isinstance(error, UnreachableError) and self._is_running(attempt):
                raise
            return Outcome("lost", self._why_lost(attempt, str(error)))  # a command died with its machine
        finally:
            self._is_watching = False
            if host is not None:
                host.close()

    def _ready(self, attempt: Attempt) -> Host:
        """Reach it, set it up, start the trainer. A connection that is cut meanwhile is no reason for another machine.

        Each step can be done twice: what was sent is compared, what runs is found running.

        Raises:
            UnreachableError: it does not answer, is gone, or was cut off again and again.
        """
        within_s = self.policy.boot_timeout_s * (LARGE_BOOT if is_large(attempt.instance_type) else 1)
        for tries_left in reversed(range(SET_UP_TRIES)):
            host = self._reach(attempt, within_s)
            within_s = self.policy.unreachable_after_s
            try:
                self._start(attempt, host, self._set_up(attempt, host))
            except UnreachableError:
                host.close()
                if not tries_left or not self._is_running(attempt):
                    raise
                self.check_stop()
                self.clock.sleep(min(1.0, self.policy.poll_s))
            except BaseException:
                host.close()
                raise
            else:
                return host
        raise AssertionError("the last try raises")

    def _reach(self, attempt: Attempt, within_s: float) -> Host:
        """Wait until EC2 says `running` and SSH answers with the key that we gave it.

        Raises:
            UnreachableError: it did not within that time, or it is gone.
        """
        host_key = self.host_key_path(attempt.number).read_text()
        began_at = self.clock.now()
        give_up_at = began_at + within_s
        problem, wrong_since = "EC2 does not list it yet", None
        while self.clock.now() < give_up_at:
            try:
                instance = self.reaper.instance(attempt.instance_id)
                if instance is not None and instance.state not in ("pending", "running"):
                    break
                if instance is not None and instance.state == "running":
                    if instance.address or self.spec.ssh_proxy or self.spec.is_private:
                        return self.connect(instance, attempt.login_user, host_key)
                    problem = "it runs, and has no address that we could reach; see --subnet, --private"
            except (UnreachableError, CloudError) as error:
                problem = str(error)
                if isinstance(error, WrongHostKeyError):  # cloud-init may be about to put ours in its place
                    wrong_since = wrong_since or self.clock.now()
                    give_up_at = min(give_up_at, wrong_since + self.policy.unreachable_after_s)
                elif self.renter.knock_again(attempt.region):
                    give_up_at = self.clock.now() + within_s
            self.clock.sleep(min(1.0, self.policy.poll_s))
            self.check_stop()
        waited_s = self.clock.now() - began_at
        raise UnreachableError(f"{attempt.instance_id} did not answer within {waited_s:.0f} s ({problem})")

    def _set_up(self, attempt: Attempt, host: Host) -> Setup:
        began_at = self.clock.now()
        try:
            setup = host.set_up(self.job)
        except CommandError as error:
            raise HostError(
                f"{attempt.instance_id}: setting up failed, another machine would not help: {error}"
            ) from None
        now = self.clock.now()
        self.emit(
            HostReady(
                at=now,
                attempt=attempt.number,
                instance_id=attempt.instance_id,
                python=setup.python,
                setup_s=now - began_at,
                data_s=setup.data_s,
                data_how=setup.data_how,
            )
        )
        self._renew_host_key(attempt, host)
        return setup

    def _renew_host_key(self, attempt: Attempt, host: Host) -> None:
        """Replace the host key that user-data brought, which whoever may read user-data has read."""
        if any(isinstance(e, HostKeyRenewed) and e.attempt == attempt.number for e in self.events):
            return
        path = self.host_key_path(attempt.number)
        old = path.read_text()
        public, problem = "", ""
        try:
            public = host.renew_host_key(self.job.root, lambda new: write_atomically(path, f"{new}\n{old}".encode()))
            write_atomically(path, f"{public}\n".encode())
        except CommandError as error:
            problem = str(error)
        self.emit(
            HostKeyRenewed(
                at=self.clock.now(),
                attempt=attempt.number,
                instance_id=attempt.instance_id,
                fingerprint=fingerprint(public) if public else "",
                problem=problem,
            )
        )

    def _start(self, attempt: Attempt, host: Host, setup: Setup) -> None:
        """Send what to resume from and start; a trainer that runs already (we died meanwhile) is left alone."""
        look = host.look(self.job.root, Cursor(1 << 60, 1 << 60), self.allowed_s(attempt))
        if look.trainer == "absent":
            resume_from = self._whole_checkpoints()[-RESUME_WITH:]
            step = resume_from[-1].step if resume_from else 0
            in_s3 = restored(self, host, setup, attempt, step)
            for pulled in resume_from if not in_s3 else []:
                host.send(self.job, self.store.checkpoint_path(pulled))
            step = max(step, in_s3)
            self.emit(TrainerStarted(at=self.clock.now(), attempt=attempt.number, resumed_from=step))
            host.start(self.job, setup)
        self._move("RUNNING")

    def _whole_checkpoints(self) -> list[CheckpointPulled]:
        """Return what came home and is still whole, oldest first.

        A damaged one is written down, and never used again.
        """
        whole = []
        for _, pulled in sorted(self.state().checkpoints.items()):
            if self.store.is_whole(pulled):
                whole.append(pulled)
        for pulled in list(self.state().checkpoints.values()):
            if pulled not in whole and (
                not whole or pulled.step > whole[-1].step or self.store.checkpoint_path(pulled).exists()
            ):
                reason = "its digest is not what was pulled: damaged on this machine"
                self.emit(CheckpointRefused(at=self.clock.now(), name=pulled.name, reason=reason))
        return whole

    # -- watch

    def _watch(self, attempt: Attempt, host: Host) -> Outcome:
        """Look, bring home what is new, look again."""
        ear = Ear(self, attempt)
        silent_since: float | None = None
        stop_asked_at: float | None = None
        while True:
            self.reaper.look()
            now = self.clock.now()
            try:
                if self.stop_reason and stop_asked_at is None:
                    stop_asked_at = now
                    host.stop(self.job.root)
                look = ear.listen(host)
                silent_since = self._full_since = None
                if look.trainer == "exited":
                    return self._ended(ear, host, look)
                if not look.agent_alive and look.trainer != "absent":
                    return Outcome("lost", "the agent on the instance is gone")
            except HostError as error:
                silent_since = self._silent_since(attempt, silent_since or now)
                if silent_since is not None and silent_since > 0 and self.renter.knock_again(attempt.region):
                    silent_since = None  # it could not hear us, from where we are now
                if silent_since is not None and now - silent_since > self.policy.unreachable_after_s:
                    return self._lost(ear, str(error), stop_asked_at is not None)
            except OSError as error:
                self._bear_a_full_disk(error)
            self._keep_to_limits(ear)
            self._warn_of_credentials()
            if stop_asked_at is not None and (
                now - stop_asked_at > self.policy.stop_timeout_s or self._is_over_budget(ear)
            ):
                return Outcome("stopped", self.stop_reason)
            pause_s = self.policy.poll_s
            if ear.noticed:
                pause_s = min(pause_s, 0.5)
            elif stop_asked_at is not None:  # soon, then less and less so: hundreds of runs may be stopped at once
                pause_s = min(pause_s, max(0.5, (now - stop_asked_at) / 4))
            self.clock.sleep(pause_s)

    def _bear_a_full_disk(self, error: OSError) -> None:
        """Say that our disk is full and go on: the host is well, and what it has can come home later.

        Raises:
            OSError: it is something else.
            DiskFullError: it has been full for too long; nobody seems to be there.
        """
        if error.errno not in NO_ROOM:
            raise error
        now = self.clock.now()
        self._full_since = self._full_since if self._full_since is not None else now
        gives_up_at = self._full_since + self.policy.owner_timeout_s
        if now >= gives_up_at:
            raise DiskFullError(
                f"the disk of this machine was full for {self.policy.owner_timeout_s / 60:.0f} min "
                f"({self.store.folder}); free space, then: pixel-orch launch --resume {self.spec.run}"
            )
        if now - self._told_of_full_at >= FULL_TOLD_EVERY_S:
            self._told_of_full_at = now
            for watcher in self.watchers:
                watcher.event(DiskFull(at=now, folder=str(self.store.folder), gives_up_at=gives_up_at))

    def _keep_to_limits(self, ear: Ear) -> None:
        """Begin to stop so early that the checkpoint is written before the money, or the time, is gone."""
        if self.stop_reason or self.spec.limits == Limits():
            return
        self.reaper.note_prices(ear.attempt.number)
        reason = self._limit_at(ear, self.clock.now() + self._ahead_s(ear.attempt))
        if reason:
            self._limit_is_reached = True
            self.stop_reason, self.stop_state = reason, "STOPPED"

    def _ahead_s(self, attempt: Attempt) -> float:
        """Return how long before a limit the trainer is told to save; of a small limit a fifth at most."""
        limits_s = [self.policy.stop_timeout_s / 3 * SMALLEST_SHARE]
        asked = self.spec.limits
        if asked.max_duration_s is not None:
            limits_s.append(asked.max_duration_s)
        if asked.budget_usd is not None:
            cap_usd_h = limits.price_cap_usd_h(self.spec, limits.offer_of(attempt))
            limits_s.append(float(asked.budget_usd / cap_usd_h) * 3600)
        return min(limits_s) / SMALLEST_SHARE

    def _warn_of_credentials(self) -> None:
        """Say so before the credentials expire, and how; the training goes on over SSH, which needs none."""
        now = self.clock.now()
        if now - self._credentials_checked_at < CREDENTIALS_EVERY_S:
            return
        self._credentials_checked_at = now
        ends_at = None
        with suppress(CloudError):
            ends_at = self.cloud.credentials_end_at()
        if ends_at is not None and ends_at - now < CREDENTIALS_AHEAD_S and ends_at != self._credentials_told:
            self._credentials_told = ends_at
            self.emit(CredentialsExpiring(at=now, ends_at=ends_at))

    def _is_over_budget(self, ear: Ear) -> bool:
        """Return whether no second is left, whatever the trainer still wants to save."""
        return self._limit_is_reached and "budget" in self._limit_at(ear, self.clock.now() + self.policy.poll_s)

    def _limit_at(self, ear: Ear, moment: float) -> str:
        state = self.state()
        attempts = limits.feared(self.spec, state.attempts, moment)
        silent_s = self.clock.now() - ear.heard_at  # until now: the trainer may speak before that moment
        heard_at = moment - silent_s
        return limits.reached(self.spec.limits, attempts, led_since=state.led_since, heard_at=heard_at, now=moment)

    def allowed_s(self, attempt: Attempt) -> float | None:
        """Return how long the instance of an attempt may go on should it never hear from us again."""
        return self.allow_s(limits.price_cap_usd_h(self.spec, limits.offer_of(attempt)))

    def allow_s(self, cap_usd_h: Decimal) -> float | None:
        """Return how long an instance of that price cap may go on without us; None if there is no limit."""
        now, state, asked = self.clock.now(), self.state(), self.spec.limits
        attempts = limits.feared(self.spec, state.attempts, now)
        ends = [limits.surely_buys_s(asked, attempts, cap_usd_h, now)]
        if asked.max_duration_s is not None:  # and the time that we would give it to save
            ends.append(max(0.0, state.led_since + asked.max_duration_s + self.policy.stop_timeout_s - now))
        return min((each for each in ends if each is not None), default=None)

    def _lost(self, ear: Ear, problem: str, is_stopping: bool) -> Outcome:
        ear.note_progress(force=True)
        if is_stopping:
            return Outcome("stopped", self.stop_reason)
        return Outcome("lost", self._why_lost(ear.attempt, problem))

    def _ended(self, ear: Ear, host: Host, look: Look) -> Outcome:
        """Decide what the end of the trainer means, after all that it left is home."""
        for _ in range(3):
            with suppress(UnreachableError):
                look = ear.listen(host)
                if not ear.has_more:
                    break
            self.clock.sleep(min(self.policy.poll_s, 0.5))
        look = self._wait_for_s3(ear, host, look)
        code = -1 if look.exit_code is None else look.exit_code
        tail = "" if code == 0 or look.asked else self._log_tail(ear.attempt.number)
        self.emit(
            TrainerExited(
                at=self.clock.now(),
                attempt=ear.attempt.number,
                exit_code=code,
                asked=look.asked,
                last_step=ear.step,
                tail=tail,
            )
        )
        bring_rest(self, host, ear.attempt.number, is_hurried=look.notice_ends_at is not None)
        why = f" ({look.ending})" if look.ending else ""
        verdict = self._verdict(code, asked=look.asked, finished=ear.finished, why=why, tail=tail)
        if verdict is not None:
            return verdict
        if self.stop_reason:
            return Outcome("stopped", self.stop_reason)
        if look.notice_ends_at is not None:
            return Outcome("lost", "interruption notice")
        return Outcome("lost", look.ending or "the trainer was told to end")

    def _wait_for_s3(self, ear: Ear, host: Host, look: Look) -> Look:
        """Give the last checkpoint the time to reach S3 too; it is home already, so that this may be given up."""
        give_up_at = self.clock.now() + CARRY_WAIT_S
        while self.job.bucket is not None and not is_carried(look):
            if self.clock.now() > give_up_at or look.s3_trouble or look.notice_ends_at is not None:
                break
            self.clock.sleep(min(self.policy.poll_s, 1.0))
            try:
                look = ear.listen(host)
            except HostError:
                break
        return look

    def _silent_since(self, attempt: Attempt, since: float) -> float | None:
        """Return since when the host is silent by its own fault.

        For ever if EC2 says that it is gone; not at all if EC2 does not answer either: then our own network is away.
        """
        try:
            instance = self.reaper.instance(attempt.instance_id)
        except CloudError:
            return None
        return -math.inf if instance is not None and instance.state not in ("running", "pending") else since

    def _is_running(self, attempt: Attempt) -> bool:
        """Return whether EC2 does not say that the instance ends or is gone."""
        try:
            instance = self.reaper.instance(attempt.instance_id)
        except CloudError:
            return True
        return instance is not None and instance.state in ("pending", "running")

    def _why_lost(self, attempt: Attempt, problem: str) -> str:
        instance = None
        with suppress(CloudError):
            instance = self.reaper.instance(attempt.instance_id)
        if instance is not None and instance.state in ("shutting-down", "terminated"):
            noticed = self.state().attempt(attempt.number)
            if instance.reason_code.startswith("Server.Spot"):
                return "interrupted" if noticed and noticed.noticed_ends_at else "interrupted without notice"
            return f"ended: {instance.reason_code or instance.state}"
        return f"no answer: {problem}"

    def _log_tail(self, number: int) -> str:
        path = self.store.attempt_folder(number) / "trainer.log"
        if not path.exists():
            return ""
        return "\n".join(path.read_text(errors="replace").splitlines()[-10:])

    def sleep_watchfully(self, seconds: float) -> None:
        """Wait, unless we are told to stop: by a signal at once, by another thread within a slice."""
        until = self.clock.now() + seconds
        with self._waiting():
            while (left_s := until - self.clock.now()) > 0:
                self.clock.sleep(min(left_s, STOP_SEEN_WITHIN_S))
                self.check_stop()

    # -- finish

    def _finish(self, state: State, reason: str) -> None:
        """End every instance, wait until they are gone, close the door; only then is the run over."""
        self._is_finishing = True
        self.events, self._state = self.store.events(), None  # a signal may have come between writing and remembering
        left = self._end_everything(reason or "the run is over")
        regions = {request.region for request in self.state().requests} | set(self.renter.regions_opened)
        if left:
            reason = (
                f"{reason}; EC2 has not yet ended {', '.join(left)}: run `pixel-orch cleanup`; {self._alone()}"
            ).lstrip("; ")
        else:
            self.reaper.close_doors(regions)
        self._move(state, reason)

    def _alone(self) -> str:
        """Return what an instance does that nobody leads."""
        ends = f"without us an instance ends itself within {round(self._alone_s() / 60)} min"
        if self.job.bucket is None:
            return ends
        return f"{ends}, or trains on, its checkpoints going to S3, and ends itself so long after it is done"

    def _alone_s(self) -> float:
        """Return after how long without us an instance has ended itself: its agent's time, or that of its guard."""
        state = self.state()
        heard = all(attempt.first_step_at is not None for attempt in state.open_attempts())
        is_watched = heard and not state.unanswered_requests() and not self.reaper.has_unsure_requests()
        return self.policy.owner_timeout_s + (0.0 if is_watched else self.policy.setup_timeout_s)

    def _end_everything(self, reason: str) -> list[str]:
        problem = "interrupted again"
        for again in (False, True):  # asked again while AWS ends one for free: end it ourselves
            try:
                return self.reaper.end_all(reason, even_under_notice=again)
            except (KeyboardInterrupt, Cancelled):
                continue
            except CloudError as error:
                problem = str(error)
                break
        return [f"{a.instance_id} ({problem})" for a in self.state().open_attempts()] or [problem]


def is_large(instance_type: str) -> bool:
    """Return whether it is a machine that takes long to boot."""
    try:
        return catalog.find(instance_type).gpus >= 8
    except SpecError:
        return False  # of a newer version's catalog


def _exit_words(code: int) -> str:
    if code < 0:
        hint = " (out of memory?)" if code == -9 else ""
        return f"signal {-code}{hint}"
    return f"exit code {code}"


__all__ = ["Cancelled", "Engine", "Outcome", "Watcher"]
