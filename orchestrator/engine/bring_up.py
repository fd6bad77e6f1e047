"""From a rented instance to a running trainer: reach it, set it up, send what to resume from, start."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NoReturn, TypeVar

from orchestrator.cloud.base import Instance
from orchestrator.engine.older_checkpoint import is_second_try
from orchestrator.engine.output_restore import restore_from_s3, restore_outputs
from orchestrator.engine.parts import Parts
from orchestrator.errors import (
    BrokenMachineError,
    CloudError,
    CommandError,
    CommandTimeoutError,
    HostError,
    NoCommandsError,
    SpecError,
    UnreachableError,
    WrongHostKeyError,
    may_heal,
)
from orchestrator.host.base import NOTHING_NEW, Connect, Host, Setup
from orchestrator.host.host_keys import fingerprint
from orchestrator.host.rendezvous import Rendezvous
from orchestrator.market import catalog
from orchestrator.plan.job import slots_of
from orchestrator.runs.events import (
    CheckpointPulled,
    CheckpointRefused,
    HostKeyRenewed,
    HostReady,
    SetupProgress,
    TrainerStarted,
)
from orchestrator.runs.files import write_atomically
from orchestrator.runs.state import Attempt

T = TypeVar("T")

RESUME_WITH = 2  # checkpoints sent to a new instance: should the newest be refused there, the one before it is at hand
SET_UP_TRIES = 3  # on one instance, should the connection be cut
BROKEN_EXIT = 75  # of the bootstrap: the machine's GPU is broken
LARGE_BOOT = 3  # times as long may a machine of 8 GPUs take to boot


class BringUp:
    """Makes a rented instance train.

    Args:
        parts: of the run's engine.
        connect: opens a connection to a host.
    """

    def __init__(self, parts: Parts, connect: Connect) -> None:
        self.spec = parts.spec
        self.policy = parts.spec.recovery
        self.job = parts.job
        self.journal = parts.journal
        self.store = parts.journal.store
        self.clock = parts.journal.clock
        self.stop = parts.stop
        self.allowance = parts.allowance
        self.reaper = parts.reaper
        self.provisioner = parts.provisioner
        self.remote = parts.remote
        self.connect = connect

    def ready(self, attempt: Attempt) -> Host:
        """Return the host with its trainer started.

        A connection that is cut is no reason for another machine, and neither is one slow answer. Each step can be done
        twice: what was sent is compared, what runs is found running.

        Raises:
            UnreachableError: it does not answer, is gone, or was cut off again and again.
            CommandTimeoutError: it answers too slowly, again and again.
        """

        def begin(host: Host) -> None:
            if not self.is_started(attempt, host):
                self._start(attempt, host, self.set_up(attempt, host))
            self.journal.move("RUNNING")

        return self.reached(attempt, begin)[0]

    def reached(self, attempt: Attempt, step: Callable[[Host], T]) -> tuple[Host, T]:
        """Return the host, and what a step on it gives; the step is repeated where the connection is cut.

        Raises:
            as `ready`, and what the step raises.
        """
        within_s = self.policy.boot_timeout_s * (LARGE_BOOT if is_large(attempt.instance_type) else 1)
        for tries_left in reversed(range(SET_UP_TRIES)):
            host = self._reach(attempt, within_s)
            host.look_with(partial(self._look, attempt, host))
            within_s = self.policy.unreachable_after_s
            try:
                result = step(host)
            except (UnreachableError, CommandTimeoutError):
                host.close()
                if not tries_left or not self.reaper.is_running(attempt):
                    raise
                self.stop.check()
                self.clock.sleep(min(1.0, self.policy.poll_s))
            except BaseException:
                host.close()
                raise
            else:
                return host, result
        raise AssertionError("the last try raises")

    def is_started(self, attempt: Attempt, host: Host) -> bool:
        """Return whether a process before this one has started the trainer.

        Then nothing is sent again: the program may have changed what was sent, and that is its output.
        """
        if not any(isinstance(e, TrainerStarted) and e.attempt == attempt.number for e in self.journal.events):
            return False
        try:
            status = host.poll(self.job.root, NOTHING_NEW, self.allowance.alone_s(attempt))
        except CommandError:
            return False  # the agent is not there
        return status.trainer != "absent"

    def _look(self, attempt: Attempt, host: Host) -> None:
        """Tell what the set-up does; break off a transfer, or it, where the run is to stop or a limit is reached.

        Raises:
            Cancelled: it is.
        """
        now = self.clock.now()
        words = host.setup_words()
        if words:
            self.journal.tell(SetupProgress(at=now, attempt=attempt.number, words=words))
        reached = None if self.stop.reason else self.allowance.reached_at(now, heard_at=now)
        if reached is not None:
            self.stop.request_by_limit(reached)
        self.stop.check()

    def _reach(self, attempt: Attempt, within_s: float) -> Host:
        """Wait until EC2 says `running` and SSH answers with the host key that we made.

        Raises:
            UnreachableError: it did not within that time, or it is gone.
            NoCommandsError: it answers, and runs no command of ours.
        """
        host_key = self.store.host_key_path(attempt.number).read_text()
        began_at = self.clock.now()
        give_up_at = began_at + within_s
        problem, wrong_since = "EC2 does not list it yet", None
        refusal: NoCommandsError | None = None
        while (asked_at := self.clock.now()) < give_up_at:
            is_deaf = False  # EC2 cannot be asked: that says nothing of the host
            try:
                instance = self.reaper.instance(attempt.instance_id)
                if instance is not None and instance.state not in ("pending", "running"):
                    break
                if instance is not None and instance.state == "running":
                    self.reaper.note_running(self.journal.state().attempt(attempt.number) or attempt, instance)
                    if self._has_address(instance):
                        return self.connect(instance, attempt.login_user, host_key)
                    problem = "it runs and has no address that this machine can reach; see --subnet, --private"
            except (UnreachableError, CommandTimeoutError, NoCommandsError, CloudError) as error:
                problem = str(error)
                is_deaf = isinstance(error, CloudError) and may_heal(error)
                refusal = error if isinstance(error, NoCommandsError) else None
                if refusal or isinstance(error, WrongHostKeyError):  # cloud-init may be about to install ours
                    wrong_since = wrong_since or self.clock.now()
                    give_up_at = min(give_up_at, wrong_since + self.policy.unreachable_after_s)
                elif not isinstance(error, CommandTimeoutError) and self.provisioner.readmit(attempt.region):
                    give_up_at = self.clock.now() + within_s
            self.clock.sleep(min(1.0, self.policy.poll_s))
            self.stop.check()
            if is_deaf and self.clock.now() < began_at + self.policy.owner_timeout_s:
                give_up_at += self.clock.now() - asked_at
        if refusal is not None:
            raise refusal
        waited_s = self.clock.now() - began_at
        raise UnreachableError(f"{attempt.instance_id} did not answer within {waited_s:.0f} s ({problem})")

    def _has_address(self, instance: Instance) -> bool:
        return bool(instance.address or self.spec.ssh_proxy or self.spec.is_private)

    def set_up(self, attempt: Attempt, host: Host) -> Setup:
        """Set the host up, write down what it has, and replace the host key of user-data.

        Raises:
            HostError: the set-up failed, and another machine would not help.
            BrokenMachineError: its GPU is broken.
        """
        began_at = self.clock.now()
        try:
            setup = host.set_up(self.job)
        except CommandError as error:
            _raise_set_up_failed(attempt, error)
        except CommandTimeoutError as error:
            if error.timeout_s < self.policy.setup_timeout_s:
                raise  # a short command on a machine that is slow now
            _raise_set_up_failed(attempt, error)
        host.setup_words()  # what is not told yet is over
        now = self.clock.now()
        self.journal.emit(
            HostReady(
                at=now,
                attempt=attempt.number,
                instance_id=attempt.instance_id,
                python=setup.python,
                setup_s=now - began_at,
                data_s=setup.data_s,
                data_how=setup.data_how,
                user_setup_s=setup.user_setup_s,
                user_setup_how=setup.user_setup_how,
            )
        )
        self._renew_host_key(attempt, host)
        return setup

    def _renew_host_key(self, attempt: Attempt, host: Host) -> None:
        """Replace the host key of user-data: everyone who may read user-data knows it."""
        if any(isinstance(e, HostKeyRenewed) and e.attempt == attempt.number for e in self.journal.events):
            return
        path = self.store.host_key_path(attempt.number)
        old = path.read_text()
        public, problem = "", ""
        try:
            public = host.renew_host_key(self.job.root, lambda new: write_atomically(path, f"{new}\n{old}".encode()))
            write_atomically(path, f"{public}\n".encode())
        except CommandError as error:
            problem = str(error)
        self.journal.emit(
            HostKeyRenewed(
                at=self.clock.now(),
                attempt=attempt.number,
                instance_id=attempt.instance_id,
                fingerprint=fingerprint(public) if public else "",
                problem=problem,
            )
        )

    def _start(self, attempt: Attempt, host: Host, setup: Setup) -> None:
        """Send what to resume from and start; a trainer that an earlier process started is left alone."""
        status = host.poll(self.job.root, NOTHING_NEW, self.allowance.alone_s(attempt))
        if status.trainer == "absent":
            step = self.send_saved(attempt, host, setup)
            is_own = not self.job.is_bundled
            now = self.clock.now()
            self.journal.emit(TrainerStarted(at=now, attempt=attempt.number, resumed_from=step, is_own=is_own))
            env = {**self._variables(attempt), **self.job.env}
            host.start(replace(self.job, env=env, time_limit_s=self.allowance.left_s()), setup)

    def _variables(self, attempt: Attempt) -> dict[str, str]:
        """Return the variables of a machine that is alone: the line that starts a program on a group works there too.

        The bundled trainer needs no address: its processes meet on any port that is free.
        """
        slots = slots_of(self.spec, attempt.instance_type)
        if self.job.is_bundled:
            return {"PIXEL_ORCH_GPUS_PER_NODE": str(slots)}
        address = ""
        with contextlib.suppress(CloudError):
            machine = self.reaper.instance(attempt.instance_id)
            address = machine.private_address if machine is not None else ""
        return Rendezvous([address or "127.0.0.1"], 0, slots, generation=1).variables()

    def send_saved(self, attempt: Attempt, host: Host, setup: Setup) -> int:
        """Send what to resume from, or let the host fetch it from S3; return the step of it, 0 for none."""
        resume_from = self._whole_checkpoints()[-RESUME_WITH:]
        step = resume_from[-1].step if resume_from else 0
        is_again = is_second_try(self.journal, attempt.number)  # S3 has what was given up
        step_in_s3 = 0 if step > 0 and is_again else self.remote.restore_on(host, setup, attempt, step)
        for pulled in resume_from if not step_in_s3 else []:
            for one in [*self._beside(pulled), pulled]:
                host.send(self.job, self.store.checkpoint_path(one))
        self._restore_outputs(attempt, host, setup, may_ask_s3=not is_again)
        return max(step, step_in_s3)

    def _restore_outputs(self, attempt: Attempt, host: Host, setup: Setup, *, may_ask_s3: bool) -> None:
        if self.job.bucket is not None and may_ask_s3:
            is_restored, problem = restore_from_s3(self.journal, self.job, host, setup, attempt)
            self.remote.note_trouble(attempt.number, problem)
            if is_restored:
                return
        restore_outputs(self.journal, self.job, host, attempt)

    def _beside(self, pulled: CheckpointPulled) -> list[CheckpointPulled]:
        """Return the other whole files of a checkpoint: a program may write `checkpoint-5.json` beside `.bin`."""
        same = [e for e in self.journal.events if isinstance(e, CheckpointPulled) and e.step == pulled.step]
        newest = {event.name: event for event in same if event.name != pulled.name}
        return [event for event in newest.values() if self.store.is_whole(event)]

    def _whole_checkpoints(self) -> list[CheckpointPulled]:
        """Return what was downloaded and is still whole, oldest first.

        A damaged one is written down, and never used again.
        """
        whole = []
        for _, pulled in sorted(self.journal.state().checkpoints.items()):
            if self.store.is_whole(pulled):
                whole.append(pulled)
        for pulled in list(self.journal.state().checkpoints.values()):
            is_newest = not whole or pulled.step > whole[-1].step
            if pulled not in whole and (is_newest or self.store.checkpoint_path(pulled).exists()):
                reason = "its digest is not what was pulled: damaged on this machine"
                self.journal.emit(CheckpointRefused(at=self.clock.now(), name=pulled.name, reason=reason))
        return whole


def _raise_set_up_failed(attempt: Attempt, error: HostError) -> NoReturn:
    if isinstance(error, CommandError) and error.command_exit_code == BROKEN_EXIT and error.tail:
        words = error.tail.splitlines()[-1].removeprefix("bootstrap: ")
        raise BrokenMachineError(f"{attempt.instance_id}: set-up failed: {words}") from None
    raise HostError(f"{attempt.instance_id}: set-up failed, another machine would not help: {error}") from None


def is_large(instance_type: str) -> bool:
    """Return whether it is a machine that takes long to boot."""
    try:
        return catalog.find(instance_type).gpus >= 8
    except SpecError:
        return False  # of a newer version's catalog
