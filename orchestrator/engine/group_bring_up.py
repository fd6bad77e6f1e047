"""Makes all machines of a group train: set up side by side, then started together, by a static rendezvous."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from orchestrator.engine.bring_up import BringUp
from orchestrator.engine.member import Member
from orchestrator.engine.output_restore import restore_outputs
from orchestrator.engine.patience import Patience
from orchestrator.engine.side_by_side import SideBySide
from orchestrator.errors import CommandError, UnreachableError
from orchestrator.host.base import NOTHING_NEW, Host, Job, Setup
from orchestrator.host.rendezvous import Rendezvous
from orchestrator.plan.job import slots_of
from orchestrator.runs.events import TrainerStarted

T = TypeVar("T")


class GroupBringUp:
    """Brings up the generations of one group.

    Args:
        bring_up: brings up one machine.
        side_by_side: does the same on all machines.
        patience: asks EC2 again while it does not answer.
    """

    def __init__(self, bring_up: BringUp, side_by_side: SideBySide, patience: Patience) -> None:
        self.bring_up = bring_up
        self.side_by_side = side_by_side
        self.patience = patience
        self.journal = bring_up.journal
        self.resumed_from = 0  # of the generation that is started
        self.setups: dict[str, Setup] = {}  # by instance, of this process: a machine that goes on is not set up again

    def connect(self, members: Sequence[Member]) -> list[Exception | None]:
        """Reach and set up each machine; return what went wrong, by member."""
        return self.side_by_side([partial(self._connect, member) for member in members])

    def _connect(self, member: Member) -> None:
        attempt = member.attempt

        def step(host: Host) -> Setup | None:
            if self.bring_up.is_started(attempt, host):
                return None
            known = self.setups.get(attempt.instance_id)
            return known or self.bring_up.set_up(attempt, host)

        member.host, member.setup = self.bring_up.reached(attempt, step)
        if member.setup is not None:
            self.setups[attempt.instance_id] = member.setup

    def start(self, members: Sequence[Member]) -> list[Exception | None]:
        """Start the trainer of each machine that has none of this generation yet; return what went wrong, by member.

        The first machine gets what to resume from before any starts: its rank 0 tells the others.
        """
        waiting = [member for member in members if member.setup is not None]
        problems: dict[int, Exception] = {}
        steps: list[Callable[[Member], None]] = [self._renew, self._send_saved]
        addresses = self._addresses(members) if waiting else []
        if waiting and not all(addresses):  # the others could not find it
            unknown = {one.attempt.number for one, found in zip(members, addresses, strict=True) if not found}
            return [
                UnreachableError("EC2 tells no address of it") if one.attempt.number in unknown else None
                for one in members
            ]
        steps.append(partial(self._start, members, addresses))
        for step in steps:
            results = self.side_by_side([partial(step, member) for member in waiting])
            for member, result in zip(waiting, results, strict=True):
                if isinstance(result, Exception):
                    problems[member.attempt.number] = result
            if problems:
                break
        if not problems:
            self.journal.move("RUNNING")
        return [problems.get(member.attempt.number) for member in members]

    def _addresses(self, members: Sequence[Member]) -> list[str]:
        """Return the private addresses by rank: between machines of a zone traffic over them is free."""
        reaper = self.bring_up.reaper
        listed = self.patience.ask(lambda: reaper.cloud.instances(reaper.run))
        known = {one.instance_id: one for one in listed}
        found = [known.get(member.attempt.instance_id) for member in members]
        return [(one.private_address or one.address) if one is not None else "" for one in found]

    def _renew(self, member: Member) -> None:
        """End what ran here before; a machine where that is not possible is of no more use."""
        try:
            if member.host is not None:
                member.host.renew(self.bring_up.job.root, member.attempt.generation)
        except CommandError as error:
            raise UnreachableError(f"{member.attempt.instance_id} cannot begin anew: {error}") from None

    def _send_saved(self, member: Member) -> None:
        """Send what to resume from, unless the machine has it: it was the same node before."""
        attempt, host, setup = member.attempt, member.host, member.setup
        if host is None or setup is None:
            return
        is_there = attempt.kept_from is not None and attempt.kept_from.rank == attempt.rank
        if attempt.rank > 0 and not is_there and not self.bring_up.job.is_bundled:
            restore_outputs(self.journal, self.bring_up.job, host, attempt)
        elif attempt.rank == 0 and is_there:
            self.resumed_from = max(self.journal.state().checkpoints, default=0)
        elif attempt.rank == 0:
            self.resumed_from = self.bring_up.send_saved(attempt, host, setup)

    def _start(self, members: Sequence[Member], addresses: Sequence[str], member: Member) -> None:
        attempt, host, setup = member.attempt, member.host, member.setup
        if host is None or setup is None:
            return
        job = self.job_of(attempt.rank)
        slots = slots_of(self.bring_up.spec, attempt.instance_type)
        place = Rendezvous(addresses, attempt.rank, slots, attempt.generation)
        is_own = not job.is_bundled
        self.journal.emit(
            TrainerStarted(
                at=self.journal.clock.now(), attempt=attempt.number, resumed_from=self.resumed_from, is_own=is_own
            )
        )
        env = {**place.variables(), **job.env}
        allowance = self.bring_up.allowance
        host.poll(job.root, NOTHING_NEW, allowance.alone_s(attempt))  # tells how long it may go on without us
        left_s = allowance.left_s()
        host.start(replace(job, env=env, time_limit_s=left_s, generation=attempt.generation), setup)

    def job_of(self, rank: int) -> Job:
        """Return what a machine of that rank runs: only the first one stores checkpoints and outputs in S3."""
        job = self.bring_up.job
        return job if rank == 0 else replace(job, bucket=None, trains_alone=job.bucket is not None)
