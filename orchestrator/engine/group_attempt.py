"""The life of one generation of a group: brought up, watched until its trainers end or a machine is lost.

All trainers start together and end together. The first machine has the metrics and the checkpoints; the others are
watched for their log, for an interruption notice, and for an end of their own.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from orchestrator.engine.attempt import POLL_UNDER_NOTICE_S, AttemptLeader, StopPassedOn
from orchestrator.engine.bring_up import BringUp
from orchestrator.engine.group_bring_up import GroupBringUp
from orchestrator.engine.local_trouble import CredentialsWatch, FullDisk
from orchestrator.engine.member import Member, MemberMonitor
from orchestrator.engine.monitor import AttemptMonitor
from orchestrator.engine.outcome import PEER_LOST, Outcome, exit_text, outputs_lost
from orchestrator.engine.output_mirror import OutputMirror
from orchestrator.engine.parts import Parts
from orchestrator.engine.patience import Patience
from orchestrator.engine.side_by_side import Beside
from orchestrator.engine.stop import MoveOn
from orchestrator.errors import BrokenMachineError, CommandTimeoutError, HostError, UnreachableError
from orchestrator.host.base import NOTHING_NEW, HostStatus
from orchestrator.runs.events import LossReason
from orchestrator.runs.state import Attempt

TOGETHER_S = 20.0  # after the end of one trainer the others have so long to end by themselves
TOUCH_EVERY_S = 60.0  # between two signs of life to the first machine while others are waited for
BLOCKED_S = 10.0  # after the loss of a machine: a trainer that waits for it in a collective cannot save


@dataclass(frozen=True)
class GroupOutcome:
    """How a generation came to its end.

    Args:
        outcome: of the run's share in it.
        gone: by the number of its attempt, why a machine is of no more use; the others can go on.
    """

    outcome: Outcome
    gone: dict[int, Outcome]


class GroupLeader(AttemptLeader):
    """Leads one generation after the other, each to its outcome.

    Args:
        parts, bring_up, disk, credentials: as for `AttemptLeader`.
        beside: works on all machines at the same time.
        patience: asks EC2 again while it does not answer.
        regroup: asked at each poll; returns why the group is to start anew with other machines, "" if it is not.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        bring_up: BringUp,
        disk: FullDisk,
        credentials: CredentialsWatch,
        beside: Beside,
        patience: Patience,
        regroup: Callable[[Sequence[Attempt]], str] = lambda members: "",
    ) -> None:
        super().__init__(parts, bring_up=bring_up, disk=disk, credentials=credentials)
        self.beside = beside
        self.side_by_side = beside.all_of
        self.group_bring_up = GroupBringUp(bring_up, beside.all_of, patience)
        self.regroup = regroup
        self._members: list[Member] = []
        self._regroup_because = ""
        self._touching, self._touched_at = threading.Lock(), -math.inf
        self._failed: Member | None = None  # whose trainer failed by itself, before the others were told to end

    def lead_group(self, attempts: Sequence[Attempt]) -> GroupOutcome:
        """Boot, set up, start, watch: until the trainers end or a machine is lost.

        Args:
            attempts: of the generation, by rank.

        Raises:
            HostError: a command failed on a machine that is well; another machine would not help.
            TrainingError: a trainer failed by itself; its own last words are in the error.
            Cancelled: a stop was asked for before the trainers ran.
        """
        self._members = members = [Member(attempt) for attempt in attempts]
        self._regroup_because, self._failed = "", None
        try:
            with self.stop.interruptible(), self._move_on_in_time(attempts[0]):
                self._take(members, self.group_bring_up.connect(members))
                if not self._gone():
                    self._take(members, self.group_bring_up.start(members))
            if self._gone():
                return self._lost_members()
            self.journal.is_training = True
            return GroupOutcome(self._watch_group(), self._gone())
        except MoveOn as error:
            return GroupOutcome(Outcome("lost", str(error), LossReason.MOVED), self._gone())
        finally:
            self.journal.is_training = False
            for member in members:
                if member.host is not None:
                    member.host.close()

    def _take(self, members: Sequence[Member], results: Sequence[Exception | None]) -> None:
        """Note which machines could not be brought up; raise what another machine would not help against."""
        for member, error in zip(members, results, strict=True):
            if isinstance(error, BrokenMachineError):
                member.gone = Outcome("lost", str(error), LossReason.GPU_FAILED)
            elif isinstance(error, HostError):
                is_of_machine = isinstance(error, (UnreachableError, CommandTimeoutError))
                if not is_of_machine and self.reaper.is_running(member.attempt):
                    raise error
                member.gone = self._lost(member.attempt, error)
            elif error is not None:
                raise error

    def _gone(self) -> dict[int, Outcome]:
        return {one.attempt.number: one.gone for one in self._members if one.gone is not None}

    def _lost_members(self) -> GroupOutcome:
        """Return the outcome of a generation that ends because machines of it are lost."""
        gone = self._gone()
        ranks = [str(one.attempt.rank) for one in self._members if one.gone is not None]
        first = next(iter(gone.values()))
        which = f"node {', '.join(ranks)}" if len(ranks) == 1 else f"nodes {', '.join(ranks)}"
        return GroupOutcome(Outcome("lost", f"{which}: {first.reason}", first.cause), gone)

    # -- watch

    def _watch_group(self) -> Outcome:
        """Poll all machines until the generation is over, then decide what its end means."""
        for member in self._members:
            member.monitor = self._monitor_of(member.attempt)
        lead = self._members[0]
        monitor, stopping = lead.watched, StopPassedOn()
        lead.connected.look_with(partial(self._look, monitor, lead.connected, stopping))
        try:
            return self._poll_until_one_ends(monitor, stopping) or self._concluded(lead, stopping)
        finally:
            for member in self._members:
                member.watched.close()
            monitor.close_outputs()
            for member in self._members[1:]:
                if not self.job.is_bundled and (member.gone is not None or member.is_noticed or self.stop.reason):
                    member.watched.close_outputs()

    def _monitor_of(self, attempt: Attempt) -> AttemptMonitor:
        folder = self.journal.store.node_folder(attempt.rank)
        downloads = self.spec.downloads
        if attempt.rank > 0 and downloads.mode == "none":  # S3 gets the outputs of the first machine only
            downloads = downloads.model_copy(update={"mode": "newest"})
        outputs = OutputMirror(self.journal, self.job, attempt.number, downloads, folder)
        kind = AttemptMonitor if attempt.rank == 0 else MemberMonitor
        job = self.group_bring_up.job_of(attempt.rank)
        return kind(self.journal, job, attempt, allowance=self.allowance, remote=self.remote, outputs=outputs)

    def _poll_until_one_ends(self, monitor: AttemptMonitor, stopping: StopPassedOn) -> Outcome | None:
        """Return None once a trainer has ended or a machine is gone; an outcome where a stop took too long."""
        while True:
            self._poll_all()
            if self._gone() or self._ends():
                return None
            self._keep_to_limits(monitor)
            self.credentials.check()
            self._pass_to_all(stopping)
            stopping_for_s = None if stopping.at is None else self.clock.now() - stopping.at
            if stopping_for_s is not None and self._is_stop_over(monitor, stopping_for_s):
                return self._told_to_stop()
            self.clock.sleep(self._group_pause_s(monitor, stopping_for_s))

    def _ends(self) -> bool:
        """Return whether the end of a trainer is that of the generation.

        A user's own program may have more to do on one machine than on another: after a good end the others go on.
        """
        ended = [member for member in self._members if member.has_ended]
        if self.job.is_bundled or len(ended) == len(self._members):
            return bool(ended)
        return any(member.exit_code != 0 for member in ended)

    def _billed_with(self, attempt: Attempt) -> list[Attempt]:
        """Return all machines: an hour whose price is not known counts at the highest that it can be."""
        return self.journal.state().open_attempts()

    def _poll_all(self) -> None:
        """Ask every machine once, side by side."""
        self.reaper.poll()
        asked = [member for member in self._members if member.gone is None]
        began_at = self.clock.now()
        results = self.side_by_side([partial(self._poll_one, member) for member in asked])
        for member, result in zip(asked, results, strict=True):
            if isinstance(result, HostError):
                self._note_silence(member, result, began_at)
            elif isinstance(result, OSError):
                self.disk.bear(result)
            elif isinstance(result, Exception):
                raise result
            else:
                member.silent_since = None
                self.disk.clear()
                if not result.agent_alive and result.trainer not in ("absent", "exited"):
                    member.gone = Outcome("lost", "the agent on the instance is gone", LossReason.AGENT_GONE)

    def _poll_one(self, member: Member) -> HostStatus:
        return member.watched.poll(member.connected)

    def _note_silence(self, member: Member, error: HostError, now: float) -> None:
        attempt = member.attempt
        member.silent_since = self._silent_since(attempt, member.silent_since or now)
        since = member.silent_since
        if since is not None and since > 0 and self.provisioner.readmit(attempt.region):
            member.silent_since = None
        elif since is not None and self.clock.now() - since > self.policy.unreachable_after_s:
            member.gone = self._lost(attempt, error)

    def _pass_to_all(self, stopping: StopPassedOn) -> None:
        """Tell every trainer to save and end, once: for a stop, under a notice of one machine, or to regroup."""
        why = self.stop.reason or self._moves_because() or self._is_noticed() or self._regroup_because
        if not why:
            why = self._regroup_because = self.regroup([member.attempt for member in self._members])
        if why:
            stopping.at = self.clock.now() if stopping.at is None else stopping.at
            self._tell_all()

    def _pass_stop_on(self, host: object, stopping: StopPassedOn) -> None:
        """Tell all machines, where a single one is told: during a long transfer of the first one."""
        if self.stop.reason or self._moves_because():
            stopping.at = self.clock.now() if stopping.at is None else stopping.at
            self._tell_all()

    def _tell_all(self) -> None:
        waiting = [one for one in self._members if not one.is_told and one.gone is None and not one.has_ended]

        def tell(member: Member) -> None:
            if member.host is not None:
                member.host.stop(self.job.root)

        for member, result in zip(waiting, self.side_by_side([partial(tell, one) for one in waiting]), strict=True):
            member.is_told = not isinstance(result, Exception)

    def _group_pause_s(self, monitor: AttemptMonitor, stopping_for_s: float | None) -> float:
        if self._is_noticed():
            return min(self.policy.poll_s, POLL_UNDER_NOTICE_S)
        return self._pause_s(monitor, stopping_for_s)

    # -- the end of a generation

    def _concluded(self, lead: Member, stopping: StopPassedOn) -> Outcome:
        """Let the others end, take over what is left, and return what the end means."""
        self._let_all_end(stopping)
        self._download_the_rest()
        self._ask_who_is_gone()
        if lead.gone is not None or not lead.has_ended:
            return self._outcome_without_lead(lead, stopping)
        try:
            outcome = self._ended(lead.watched, lead.connected, lead.watched.poll(lead.connected))
        except HostError as error:
            if not isinstance(error, (UnreachableError, CommandTimeoutError)) and self.reaper.is_running(lead.attempt):
                raise
            lead.gone = self._lost(lead.attempt, error)
            return self._lost_members().outcome
        return self._of_all(outcome, lead)

    def _of_all(self, outcome: Outcome, lead: Member) -> Outcome:
        """Return what the end of the first machine's trainer means, with what became of the others."""
        if outcome.cause == LossReason.GPU_FAILED:
            (self._at_fault() or lead).gone = outcome
        if outcome.kind == "finished":
            left = next((one for one in self._members if one.left), None)
            if left is not None and left.gone is not None:
                return self._lost_members().outcome  # what the next generation has from here is older
            if left is not None:
                raise outputs_lost(self.journal.state().attempt(left.attempt.number))
        elif outcome.kind == "lost" and self._gone():
            return self._lost_members().outcome
        elif outcome.kind == "lost" and self._regroup_because:
            return Outcome("lost", self._regroup_because, LossReason.REGROUPED)
        elif outcome.kind == "lost" and not any(one.is_asked for one in self._members):
            return Outcome("lost", "the machines of the group lost each other", LossReason.GROUP_BROKEN)
        return outcome

    def _told_to_stop(self) -> Outcome:
        """Return the outcome of trainers that were told to stop and did not end in time."""
        if self.stop.reason or self._moves_because():
            return self._stopped()
        if self._regroup_because:
            return Outcome("lost", self._regroup_because, LossReason.REGROUPED)
        return Outcome("lost", "interruption notice", LossReason.INTERRUPTED)

    def _outcome_without_lead(self, lead: Member, stopping: StopPassedOn) -> Outcome:
        """Return what it means that the first machine is gone, or hangs."""
        if stopping.at is not None and (self.stop.reason or self._moves_because()):
            return self._stopped()
        if self._gone():
            return self._lost_members().outcome
        if self._failed is not None:
            host, monitor = self._failed.connected, self._failed.watched
            return self._ended(monitor, host, monitor.poll(host))
        if self._regroup_because:
            return Outcome("lost", self._regroup_because, LossReason.REGROUPED)
        return Outcome("lost", "the trainer of node 0 did not end with the others", LossReason.GROUP_BROKEN)

    def _let_all_end(self, stopping: StopPassedOn) -> None:
        """Wait until every trainer has ended.

        By itself within `TOGETHER_S`; then it is told to, and has the time to save. Where a machine is gone the others
        may be blocked in a collective, and cannot save: they get less time.
        """
        began_at, told_at = self.clock.now(), stopping.at
        while True:
            if all(member.gone is not None or member.has_ended for member in self._members):
                return
            now = self.clock.now()
            is_late = now - began_at > TOGETHER_S
            is_leaving = self.stop.reason or self._moves_because() or self._is_noticed()
            may_tell = self._gone() or is_late or is_leaving
            if told_at is None and may_tell:
                told_at = now
                self._failed = None if is_leaving else self._at_fault()
            if told_at is not None:
                self._tell_all()  # also a machine that could not be reached before
            if any(member.silent_since is not None and member.gone is None for member in self._members):
                began_at = now  # whether its machine is gone decides what the end of the others means
            limit_s = BLOCKED_S if self._gone() else self.policy.stop_timeout_s
            is_urgent = self.stop.is_urgent and bool(self.stop.reason)
            if is_urgent or (told_at is not None and now - max(told_at, began_at) > limit_s):
                return
            self.clock.sleep(min(self.policy.poll_s, POLL_UNDER_NOTICE_S))
            self._poll_all()

    def _ask_who_is_gone(self) -> None:
        """Ask EC2 which machines end: a program whose machine shuts down fails, and those of the others with it."""
        for member in self._members:
            if member.gone is None and member.exit_code != 0 and not self.reaper.is_running(member.attempt):
                member.gone = self._lost(member.attempt, UnreachableError("its machine ends"))

    def _is_noticed(self) -> bool:
        return any(member.is_noticed for member in self._members)

    def _download_the_rest(self) -> None:
        """Download the rest of the logs of the other machines, and what a user's own program wrote there."""
        waiting = [one for one in self._members[1:] if one.gone is None and one.has_ended]

        def take(member: Member) -> None:
            member.watched.poll(member.connected)
            while member.watched.has_more:
                member.watched.poll(member.connected)
            if not self.job.is_bundled and member.status is not None:
                _, member.left = self._wait_for_outputs(member.watched, member.connected, member.status)

        for member, result in zip(waiting, self.side_by_side([partial(take, one) for one in waiting]), strict=True):
            if isinstance(result, HostError):
                is_there = self.reaper.is_running(member.attempt)
                member.gone = None if is_there else self._lost(member.attempt, result)
                self._note_left(member, str(result))
            elif isinstance(result, Exception):
                raise result
        for member in self._members[1:]:
            if member.gone is not None and not member.left and member.exit_code == 0 and not self.job.is_bundled:
                self._note_left(member, member.gone.reason)

    def _stay_in_touch(self, monitor: AttemptMonitor) -> None:
        """Poll the first machine now and then: without contact it would end itself, and its outputs with it."""
        lead = self._members[0]
        if lead.monitor is monitor or lead.gone is not None or not self._touching.acquire(blocking=False):
            return  # or another thread does it
        try:
            if self.clock.now() - self._touched_at >= TOUCH_EVERY_S:
                self._touched_at = self.clock.now()
                with suppress(HostError):
                    lead.connected.poll(self.job.root, NOTHING_NEW, self.allowance.alone_s(lead.attempt))
        finally:
            self._touching.release()

    def _note_left(self, member: Member, reason: str) -> None:
        """Write down what is left on a machine that does not answer any more, if anything is."""
        member.watched.outputs.close(member.status, reason, is_loss=True)
        attempt = self.journal.state().attempt(member.attempt.number)
        member.left = reason if attempt is not None and attempt.outputs_lost is not None else ""

    def _at_fault(self) -> Member | None:
        """Return the machine whose trainer ended by a fault of its own, None if none did."""
        if self._gone():
            return None
        if self._failed is not None or any(member.is_asked for member in self._members):
            return self._failed
        failed = [member for member in self._members if member.exit_code not in (None, 0, PEER_LOST)]
        return failed[0] if failed else None

    def _as_judged(self, status: HostStatus) -> HostStatus:
        """Return the end of the group as one status.

        The exit code is that of the trainer which failed by itself: the others failed because of it. A trainer whose
        machine, or whose peer, was told to stop or is gone was told to stop too. That holds for exit code 0 of a user's
        program as well: machine 0 may hear of it from the others, before it is told itself. Nor is such a program done
        before it is on every machine.
        """
        faulty = self._at_fault()
        if faulty is not None and faulty.status is not None:
            of_it = faulty.status
            code, gpu = of_it.exit_code, of_it.gpu_trouble
            return replace(status, exit_code=code, asked=False, gpu_trouble=gpu, ending=of_it.ending)
        by_agent = any(one.is_noticed or (one.is_asked and not one.is_told) for one in self._members)
        is_whole = all(one.exit_code in (0, PEER_LOST) for one in self._members)
        if status.exit_code == 0 and (self.job.is_bundled or (is_whole and not by_agent)):
            return status
        notice = next((one.status.notice_ends_at for one in self._members if one.status and one.is_noticed), None)
        ending = status.ending or ("another machine of the group was lost" if self._gone() else "")
        return replace(status, asked=True, notice_ends_at=notice, ending=ending)

    def _tail(self, number: int) -> str:
        """Return the last words of the machine at fault."""
        faulty = self._at_fault()
        if faulty is None:
            return super()._tail(number)
        where = f"node {faulty.attempt.rank} ({faulty.attempt.instance_id}), {exit_text(faulty.exit_code or 0)}:\n"
        return (where if len(self._members) > 1 else "") + super()._tail(faulty.attempt.number)
