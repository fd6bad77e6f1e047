"""One machine of the in-memory cloud: its trainer, the agent that watches over it, and the link to it.

The trainer's state is a function of the time. The agent's own limits are as `infra/instance/watch.py` has them: an
owner who is silent for too long, and what the budget surely buys; until it is started, the guard of user-data holds.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.clock import iso
from orchestrator.cloud.base import Instance
from orchestrator.errors import CommandError, CommandTimeoutError, NoCommandsError, UnreachableError
from orchestrator.host import answers
from orchestrator.host.base import Cursor, HostStatus, Job, RestoredOutputs, Setup
from orchestrator.runs.output_tree import TreeChanges, TreeFile, TreeState, TreeStatus
from orchestrator.runs.outputs import ExtraOutput, Output
from tests.support import memory_group
from tests.support.lies import told
from tests.support.memory_tree import MemoryTree, StoredTree, downloaded

if TYPE_CHECKING:
    from tests.support.memory import MemoryCloud

FIRST_HOUR_S = 3600.0
OUTLIVED_S = 240.0  # watch.py: then nothing trains there any more
LEAVE_TO_AWS_S = 180.0  # watch.py: from a notice on, in the first hour


@dataclass
class Machine:
    """One instance and what runs on it."""

    instance: Instance
    ready_at: float
    shutting_down_s: float = 5.0
    listed_after_s: float = 3.0  # EC2 is eventually consistent: a describe right after a launch may not know of it
    noticed_at: float | None = None
    gone_at: float | None = None  # when EC2 accepted its end: billed no longer
    rebalance: bool = False
    # the link
    frozen_from: float | None = None  # nothing goes through
    froze_at: list[float] = field(default_factory=list)  # each time; what a group has lost by it stays lost
    slow_from: float | None = None  # it answers, and every command runs out of time
    no_commands: str = ""  # it answers, and its login shell runs nothing of ours: why
    mute_from: float | None = None  # what we say arrives, no answer comes back
    skew_s: float = 0.0  # its clock is so much ahead
    setup_s: float = 0.0
    pull_s: float = 0.0  # for one file
    # the agent
    timer_s: float | None = None  # of the guard: it ends the machine so long after the boot, unless the agent starts
    job: Job | None = None
    watched_from: float | None = None
    owner_at: float | None = None  # the last sign of life of ours
    allow_s: float | None = None  # what the last look let it go on for
    allowed_at: float = 0.0
    ending: str = ""
    # the trainer
    command_started_at: float | None = None
    resumed_from: int = 0
    steps_per_s: float = 1.0
    steps: int = 100
    checkpoint_every: int = 10
    crashes_at_step: int | None = None
    ends_alone: tuple[float, int] | None = None  # so long after its start, with this code; the others do not notice
    gpu_problem: str = ""  # what is wrong with its GPU once its trainer has failed
    has_gpu: bool = False  # nvidia-smi says each second another use of it
    setup_problem: tuple[int, str] | None = None  # with which its bootstrap ends: exit code, output
    stuck_at_step: int | None = None
    save_s: float = 0.0  # from SIGTERM to the checkpoint
    digest_s: float = 0.0  # from a finished checkpoint until it has its digest
    carry_s: float = 0.0  # from a finished checkpoint until it is whole in S3
    carried: int = 0  # the step of the last one that is
    stop_at: float | None = None
    sent: dict[int, bytes] = field(default_factory=dict)
    rest: dict[str, bytes] = field(default_factory=dict)  # other files of the trainer's
    has_tree: bool = False  # its trainer writes other files, which are mirrored
    tree: MemoryTree | None = None
    tree_step: int = 0  # of the outputs that were restored
    has_checkpoints: bool = True  # its trainer writes them, and not the other files only
    crashes_at_outputs_of: int | None = None  # restored outputs of this step make its trainer fail; -1: all do
    refuses: set[str] = field(default_factory=set)
    sent_bytes: int = 0  # to us
    lie: str = ""  # one of `lies.LIES`, which its answers to a poll tell
    text: bytes = b""  # metrics.jsonl of all the steps so far
    ends: list[int] = field(default_factory=list)  # of its lines, in bytes


def guard_s(user_data: str) -> float | None:
    """Return when the guard in a cloud-config ends the machine, in seconds from its boot on; None without one."""
    if not user_data.startswith("#cloud-config"):
        user_data = base64.b64decode(user_data).decode()  # a launch template holds it encoded
    for command in json.loads(user_data.partition("\n")[2]).get("bootcmd", []):
        if command[3:4] == ["pixel-orch-guard"]:
            return 60.0 * int(command[4])
    return None


class Agent:
    """What ends a machine from within: `Watch.enforce_limits` of infra/instance/watch.py, and the timer before it."""

    def __init__(self, cloud: MemoryCloud, machine: Machine) -> None:
        self.cloud = cloud
        self.machine = machine
        self._next: float | None = None  # when we look again

    def plan(self) -> None:
        """Look again at the moment at which something may be due."""
        due = self._due_at()[0]
        if due is not None and due < float("inf") and (self._next is None or due < self._next):
            self._next = due
            self.cloud.clock.at(due, self._look)

    def _due_at(self) -> tuple[float | None, str, float]:
        """Return (when its limits are reached, which one, how long the trainer may take to save)."""
        machine = self.machine
        if machine.watched_from is None or machine.job is None:
            at = None if machine.timer_s is None else machine.ready_at + machine.timer_s
            return at, "the guard", 0.0
        due = (machine.owner_at or machine.watched_from) + machine.job.owner_timeout_s
        if machine.job.bucket is not None or machine.job.trains_alone:
            due = max(due, self._trained_at())
        why, grace_s = "no contact with the owner", machine.job.stop_timeout_s
        if machine.allow_s is not None:
            saving_s = min(machine.job.stop_timeout_s / 3, machine.allow_s / 2)
            if machine.allowed_at + machine.allow_s - saving_s < due:
                due, why, grace_s = machine.allowed_at + machine.allow_s - saving_s, "its money is used up", saving_s
        if machine.job.time_limit_s is not None and machine.watched_from + machine.job.time_limit_s < due:
            due, why, grace_s = machine.watched_from + machine.job.time_limit_s, "its time limit is reached", 0.0
        late_at = (machine.noticed_at or 0.0) + OUTLIVED_S
        if machine.noticed_at is not None and late_at < due and self._has_exited(late_at):
            due, why, grace_s = late_at, "it outlived its notice", 0.0
        if machine.noticed_at is not None and due < machine.watched_from + FIRST_HOUR_S:
            due = max(due, min(machine.noticed_at + LEAVE_TO_AWS_S, machine.watched_from + FIRST_HOUR_S))
        return due, why, grace_s

    def _has_exited(self, at: float) -> bool:
        machine = self.machine
        return machine.command_started_at is not None and MemoryHost(self.cloud, machine).trainer_at(at)[0] == "exited"

    def _trained_at(self) -> float:
        """Return when the trainer ends by itself. With checkpoints in S3, a silent owner does not end it earlier."""
        machine = self.machine
        if machine.stuck_at_step is not None or machine.command_started_at is None:
            return float("inf")
        last = min(machine.steps, machine.crashes_at_step or machine.steps)
        return machine.command_started_at + max(0, last - machine.resumed_from) / machine.steps_per_s

    def _look(self) -> None:
        machine, now = self.machine, self.cloud.clock.now()
        if machine.gone_at is not None or self._next is None or now < self._next:
            return
        self._next = None
        due, why, grace_s = self._due_at()
        if due is None or now < due:
            self.plan()
            return
        machine.ending = why
        if machine.command_started_at is not None:
            machine.stop_at = machine.stop_at if machine.stop_at is not None else now
            ends_at = machine.stop_at + min(machine.save_s, grace_s)
            if now < ends_at:
                self._next = ends_at
                self.cloud.clock.at(ends_at, self._look)
                return
        self.cloud.end(machine, "Client.InstanceInitiatedShutdown")


class MemoryHost:
    """The `Host` seam."""

    def __init__(self, cloud: MemoryCloud, machine: Machine) -> None:
        self.cloud = cloud
        self.clock = cloud.clock
        self.machine = machine
        self._sent_before = machine.sent_bytes
        self._look: Callable[[], None] = lambda: None

    @property
    def received_bytes(self) -> int:
        return self.machine.sent_bytes - self._sent_before

    def look_with(self, look: Callable[[], None]) -> None:
        self._look = look

    def _transfer(self, seconds: float) -> None:
        """Let the time of a transfer pass, as far as the engine does not break it off."""
        until = self.clock.now() + seconds
        while (left_s := until - self.clock.now()) > 0:
            self.clock.sleep(min(left_s, 1.0))
            self._look()

    def check(self) -> None:
        """Answer, or be unreachable."""
        now, machine = self.clock.now(), self.machine
        frozen = self.cloud.is_offline or (machine.frozen_from is not None and now >= machine.frozen_from)
        frozen |= self.cloud.has_moved and self.cloud.address not in self.cloud.admitted  # its packets are dropped
        if now < machine.ready_at or machine.gone_at is not None or frozen:
            self.clock.sleep(10.0 if frozen else 0.1)
            raise UnreachableError(f"{machine.instance.instance_id}: no answer")
        if machine.slow_from is not None and now >= machine.slow_from:
            self.clock.sleep(30.0)
            raise CommandTimeoutError(machine.instance.instance_id, "agent.py status", 30.0, "one\nlast words")

    def greet(self) -> None:
        """Open the connection, as `connect.connector` does."""
        self.check()
        if self.machine.no_commands:
            raise NoCommandsError(f"{self.machine.instance.instance_id}: {self.machine.no_commands}")

    def _answered(self) -> None:
        """Let the answer come back, or not, to what was already done."""
        machine = self.machine
        if machine.mute_from is not None and self.clock.now() >= machine.mute_from:
            self.clock.sleep(10.0)
            raise UnreachableError(f"{machine.instance.instance_id}: no answer")

    def set_up(self, job: Job) -> Setup:
        self.check()
        if self.machine.setup_s:
            self._transfer(self.machine.setup_s)
            self.check()
        if self.machine.setup_problem is not None:
            raise CommandError("bootstrap.sh", *self.machine.setup_problem)
        self._answered()
        return Setup(python="/usr/bin/python3", torch="2.13.0", gpu="", why="found")

    def setup_words(self) -> str:
        return "installing torch" if self.machine.setup_s else ""

    def renew_host_key(self, job_root: str, pin: Callable[[str], None]) -> str:
        self.check()
        public = f"ssh-ed25519 {base64.b64encode(self.machine.instance.instance_id.encode()).decode()}"
        pin(public)
        return public

    def send(self, job: Job, path: Path) -> None:
        self.check()
        assert path.read_bytes() != b"damaged", "a damaged checkpoint was sent out"
        self.machine.sent[int(path.stem.split("-")[1])] = path.read_bytes()
        self._answered()

    def restore(
        self, job: Job, setup: Setup, least_step: int, instance_ids: Sequence[str]
    ) -> tuple[tuple[Output, ...], str]:
        self.check()
        assert self.machine.instance.instance_id in instance_ids, "each instance of the run is known"
        self.cloud.carry()
        if self.cloud.is_s3_refusing:
            self._answered()
            return (), "AccessDenied"
        found = sorted(step for step in self.cloud.bucket if step >= least_step)[-2:]
        for step in found:
            self.machine.sent[step] = self.cloud.bucket[step]
        self._answered()
        return tuple(output_of(step) for step in found), ""

    def restore_outputs(
        self, job: Job, setup: Setup, known: Mapping[str, int], instance_ids: Sequence[str]
    ) -> RestoredOutputs:
        self.check()
        self.cloud.carry()
        if self.cloud.is_s3_refusing:
            self._answered()
            return RestoredOutputs(problem="AccessDenied")
        ranks = {instance_id: rank for rank, instance_id in enumerate(instance_ids)}
        newest = max(((ranks[one], number) for one, number in known.items()), default=(-1, -1))
        restored = RestoredOutputs()
        for one in reversed(instance_ids):
            tree = self.cloud.bucket_trees.get(one)
            if (
                tree is not None
                and tree.is_own
                and ((ranks[one], tree.number) > newest or known.get(one) == tree.number)
            ):
                self._tree().begin_with(tree.number, tree.files, is_home=known.get(one) == tree.number)
                size = sum(map(len, tree.files.values()))
                restored = RestoredOutputs(one, tree.number, len(tree.files), size)
                break
        self._answered()
        return restored

    def start(self, job: Job, setup: Setup) -> None:
        self.check()
        machine = self.machine
        machine.owner_at = self.clock.now()
        if machine.command_started_at is None:
            machine.command_started_at = machine.watched_from = self.clock.now()
            machine.job = job
            good = [step for step in machine.sent if f"checkpoint-{step}.pt" not in machine.refuses]
            machine.resumed_from = max([*good, machine.tree_step])
            if machine.tree_step and machine.crashes_at_outputs_of in (machine.tree_step, -1):
                machine.crashes_at_step = machine.resumed_from
            self.cloud.agents[machine.instance.instance_id].plan()
        self._answered()

    # -- the trainer

    def renew(self, job_root: str, generation: int) -> None:
        self.check()
        machine = self.machine
        if machine.job is not None and machine.job.generation < generation:
            for output in self.outputs_at(self.clock.now()):
                machine.sent[output.step] = weights(output.step)  # what it has written stays on its disk
            machine.command_started_at = machine.stop_at = machine.job = None
            machine.text, machine.ends = b"", []
        self._answered()

    def _steps_at(self, at: float) -> int:
        machine = memory_group.lead_of(self.cloud, self.machine)
        began_at, broken_at = (
            memory_group.began_at(self.cloud, self.machine),
            memory_group.broken_at(self.cloud, self.machine),
        )
        if began_at is None:
            return machine.resumed_from
        at = max(began_at, at if broken_at is None else min(at, broken_at))
        done = machine.resumed_from + int((at - began_at) * machine.steps_per_s)
        last = max(machine.resumed_from, machine.stuck_at_step) if machine.stuck_at_step is not None else machine.steps
        crashes_at_step = memory_group.crash_of(self.cloud, self.machine)
        crash = machine.steps if crashes_at_step is None else max(crashes_at_step, machine.resumed_from)
        return min(done, machine.steps, crash, last)

    def _stopped_at(self) -> float | None:
        moment = memory_group.stopped_at(self.cloud, self.machine)
        return None if moment is None else max(moment, self.machine.command_started_at or 0.0)

    def poll(self, job_root: str, cursor: Cursor, allow_s: float | None = None, allow_bytes: float = 0.0) -> HostStatus:
        self.check()
        machine, now = self.machine, self.clock.now()
        machine.owner_at = now
        if allow_s is not None:
            machine.allow_s, machine.allowed_at = allow_s, now
        self.cloud.agents[machine.instance.instance_id].plan()
        self._answered()
        notice = None if machine.noticed_at is None else machine.noticed_at + 120.0 + machine.skew_s
        if machine.command_started_at is None:
            return HostStatus("absent", None, False, notice, False, "", False, b"", b"", Cursor(0, 0), ())
        trainer, code, asked = self.trainer_at(now)
        text = self.metrics_at(now)
        new = text[cursor.metrics :]
        since = max(machine.command_started_at, now - machine.digest_s)
        outputs = tuple(self.outputs_at(since))
        waiting = len(tuple(self.outputs_at(now))) - len(outputs)
        stored = self._stored(outputs)
        end = Cursor(max(len(text), cursor.metrics), 0)
        tree, in_s3 = self._tree_status(now, allow_bytes), self._stored_now()
        is_whole = tree is None or (in_s3 is not None and in_s3.is_final and in_s3.number == tree.state)
        true = HostStatus(
            trainer,  # type: ignore[arg-type]
            code,
            asked,
            notice,
            machine.rebalance,
            machine.ending,
            True,
            new,
            b"",
            end,
            outputs,
            stored,
            "AccessDenied" if self._has_bucket and self.cloud.is_s3_refusing else "",
            gpu_trouble=machine.gpu_problem if trainer == "exited" and code else "",
            s3_done=trainer == "exited" and len(stored) == len(outputs) and not waiting and is_whole,
            stored_state=0 if in_s3 is None else in_s3.number,
            waiting_files=waiting,
            waiting_bytes=waiting << 30,
            tree=tree,
            gpu={"name": "T4", "utilization_now_percent": now % 100} if machine.has_gpu else {},
        )
        lie = self.machine.lie
        if not lie:
            return true
        return answers.host_status(told(lie, raw_of(true, now)), cursor, where=self.machine.instance.instance_id)

    @property
    def _has_bucket(self) -> bool:
        return self.machine.job is not None and self.machine.job.bucket is not None

    def trainer_at(self, at: float) -> tuple[str, int | None, bool]:
        """Return (state, exit code, whether it was told to end) of the trainer at that moment."""
        machine, stopped_at, step = self.machine, self._stopped_at(), self._step_at(at)
        trainer, code = "running", None
        alone = machine.ends_alone
        if alone is not None and at >= (machine.command_started_at or 0.0) + alone[0]:
            return "exited", alone[1], False
        if step >= machine.steps:
            trainer, code = "exited", 0
        elif machine.crashes_at_step is not None and step >= machine.crashes_at_step:
            trainer, code = "exited", 1
        elif self._has_lost_peer(at, step, stopped_at):
            trainer, code = "exited", memory_group.PEER_LOST
        elif stopped_at is not None and at >= stopped_at + machine.save_s:
            trainer, code = "exited", 143
        own = [t for t in (machine.stop_at, machine.noticed_at) if t is not None]
        return trainer, code, bool(own) and min(own) <= at and code not in (0, memory_group.PEER_LOST)

    def _has_lost_peer(self, at: float, step: int, stopped_at: float | None) -> bool:
        """Return whether another machine of the group has crashed, or was lost before all had stopped."""
        crash, broken_at = (
            memory_group.crash_of(self.cloud, self.machine),
            memory_group.broken_at(self.cloud, self.machine),
        )
        if crash is not None and step >= crash:
            return True
        is_first = stopped_at is None or (broken_at is not None and broken_at < stopped_at + self.machine.save_s)
        return broken_at is not None and at >= broken_at and is_first

    def metrics_at(self, at: float) -> bytes:
        """Return metrics.jsonl as it is at that moment; of a group the first machine has it."""
        return self._metrics(self._step_at(at)) if memory_group.rank_of(self.machine) == 0 else b""

    def outputs_at(self, at: float) -> Iterator[Output]:
        """Yield the checkpoints that are finished at that moment."""
        if memory_group.rank_of(self.machine) > 0:
            return iter(())
        _, code, _ = self.trainer_at(at)
        return self._outputs(self._step_at(at), at_end=code in (0, 143))

    def _step_at(self, at: float) -> int:
        stopped_at = self._stopped_at()
        return self._steps_at(min(at, stopped_at) if stopped_at is not None else at)

    def _stored(self, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        """Return the checkpoints that are complete in S3, if the run stores them there."""
        if not self._has_bucket:
            return ()
        self.cloud.carry()
        return tuple(output for output in outputs if output.step <= self.machine.carried)

    def _metrics(self, step: int) -> bytes:
        """Return metrics.jsonl as it is after that step; what was written once is kept."""
        machine = self.machine
        lines = []
        if not machine.ends:
            refused = [{"name": n, "reason": "digest differs"} for n in sorted(machine.refuses)]
            lines.append(
                {
                    "event": "start",
                    "device_name": "simulated",
                    "resumed_from": machine.resumed_from,
                    "refused": refused,
                    "batch_size": 32,
                    "images_per_epoch": 3200,
                }
            )
        for done in range(machine.resumed_from + max(len(machine.ends), 1), step + 1):
            wall_s = (done - machine.resumed_from) / machine.steps_per_s
            lines.append({"step": done, "images_per_s": 32 * machine.steps_per_s, "wall_s": wall_s})
        for line in lines:
            machine.text += json.dumps(line).encode() + b"\n"
            machine.ends.append(len(machine.text))
        return machine.text[: machine.ends[min(step - machine.resumed_from, len(machine.ends) - 1)]]

    def _outputs(self, step: int, *, at_end: bool) -> Iterator[Output]:
        machine = self.machine
        if not machine.has_checkpoints:
            return
        every, first = machine.checkpoint_every, machine.resumed_from + 1
        for mark in range(-(-first // every) * every, step + 1, every):
            yield output_of(mark)
        if at_end and step >= first and step % every:
            yield output_of(step)

    def fetch(self, job_root: str, output: Output, destination: Path) -> bool:
        self.check()
        if self.machine.pull_s:
            self._transfer(self.machine.pull_s)
            self.check()
        self.machine.owner_at = self.clock.now()
        self._answered()
        content = weights(output.step)
        self.machine.sent_bytes += len(content)
        self.cloud.write(destination, content)
        return True

    # -- the outputs

    def _tree(self) -> MemoryTree:
        if self.machine.tree is None:
            self.machine.tree = MemoryTree(self.machine)
        return self.machine.tree

    def _tree_status(self, now: float, allow_bytes: float) -> TreeStatus | None:
        if not self.machine.has_tree:
            return None
        is_over = self.trainer_at(now)[0] == "exited"
        is_hurried = self.machine.noticed_at is not None
        return self._tree().status(self._step_at(now), is_over=is_over, is_hurried=is_hurried, allowed=allow_bytes)

    def stored_tree(self, at: float) -> StoredTree | None:
        """Return what of the outputs is whole at that moment, as it goes to S3."""
        if not self.machine.has_tree:
            return None
        return self._tree().stored_at(self._step_at(at), is_over=self.trainer_at(at)[0] == "exited")

    def told_of_tree(self, at: float) -> dict[str, int | bool] | None:
        """Return what the agent of an ended trainer says of its outputs."""
        if not self.machine.has_tree:
            return None
        told = dict.fromkeys(("home", "new_files", "new_bytes", "pending_files", "pending_bytes", "files", "bytes"), 0)
        return {**told, "state": self._tree().number_at(self._step_at(at)), "is_final": True}

    def _stored_now(self) -> StoredTree | None:
        self.cloud.carry()
        return self.cloud.bucket_trees.get(self.machine.instance.instance_id)

    def tree_changes(self, job_root: str, state: int, base: int) -> TreeChanges:
        self.check()
        self._answered()
        return self._tree().changes(state, base)

    def fetch_tree(
        self, job_root: str, files: Sequence[TreeFile], folder: Path, had: Mapping[str, Path]
    ) -> frozenset[str]:
        self.check()
        if self.machine.pull_s:
            self._transfer(self.machine.pull_s)
            self.check()
        self.machine.owner_at = self.clock.now()
        self._answered()
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            self.machine.sent_bytes += file.size_bytes - file.after_bytes
            if file.after_bytes:
                begins = had[file.name].read_bytes()[: file.after_bytes]
                assert (self._tree().content(file) or begins).startswith(begins), "it is another file's beginning"
        return downloaded(files, self._tree(), lambda digest, content: self.cloud.write(folder / digest, content))

    def acknowledge_tree(self, job_root: str, state: int) -> None:
        self.check()
        self._tree().acknowledge(state)
        self._answered()

    def send_tree(self, job: Job, state: TreeState, contents: Callable[[TreeFile], Path]) -> None:
        self.check()
        self._tree().restore(state, contents)
        self._answered()

    def extra_outputs(self, job_root: str) -> tuple[ExtraOutput, ...]:
        self.check()
        self._answered()
        return tuple(ExtraOutput(name, len(content)) for name, content in sorted(self.machine.rest.items()))

    def fetch_extra_outputs(self, job_root: str, files: Sequence[ExtraOutput], folder: Path) -> tuple[ExtraOutput, ...]:
        self.check()
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            self.machine.sent_bytes += file.size_bytes
            self.cloud.write(folder / file.name, self.machine.rest[file.name])
        return tuple(files)

    def stop(self, job_root: str) -> None:
        self.check()
        self.machine.stop_at = self.machine.stop_at or self.clock.now()
        self._answered()

    def close(self) -> None:
        """Hang up."""


def raw_of(status: HostStatus, now: float) -> dict[str, Any]:
    """Return a status as `agent.py status` writes it."""
    notice = None if status.notice_ends_at is None else {"action": "terminate", "time": iso(status.notice_ends_at)}
    return {
        "protocol": answers.PROTOCOL,
        "now": now,
        "agent_alive": status.agent_alive,
        "trainer": {"state": status.trainer, "exit_code": status.exit_code, "asked": status.asked},
        "notice": notice,
        "rebalance": status.rebalance,
        "ending": status.ending,
        "metrics": status.metrics.decode(),
        "metrics_offset": status.cursor.metrics,
        "log": status.log.decode(),
        "log_offset": status.cursor.log,
        "metrics_bytes": status.cursor.metrics,
        "log_bytes": status.cursor.log,
        "outputs": [asdict(output) for output in status.outputs],
        "waiting_files": status.waiting_files,
        "waiting_bytes": status.waiting_bytes,
        "stored": [asdict(output) for output in status.stored],
        "s3_problem": status.s3_trouble,
        "s3_done": status.s3_done,
        "s3_outputs": {"state": status.stored_state, "bytes": status.stored_bytes},
        "gpu_problem": status.gpu_trouble,
        "gpu": dict(status.gpu),
        "mirror": None if status.tree is None else {**asdict(status.tree), "bytes": status.tree.size_bytes},
    }


def weights(step: int) -> bytes:
    """Return the content of the checkpoint of a step."""
    return f"weights after step {step}".encode()


OUTPUTS: dict[int, Output] = {}


def output_of(step: int) -> Output:
    """Return the checkpoint of a step; they are the same in every story."""
    if step not in OUTPUTS:
        content = weights(step)
        OUTPUTS[step] = Output(f"checkpoint-{step}.pt", step, len(content), hashlib.sha256(content).hexdigest())
    return OUTPUTS[step]


class BrokenSetup(MemoryHost):
    """A host whose bootstrap fails."""

    def set_up(self, job: Job) -> Setup:
        raise CommandError("bootstrap.sh", 3, "no torch build has kernels for this GPU")


Configure = Callable[[int, Machine], None]
"""Is given the number of each new machine (from 1) and the machine."""
