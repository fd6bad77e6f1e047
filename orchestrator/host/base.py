"""The protocol of a rented machine, and the plain data that passes through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from orchestrator.cloud.base import Instance
from orchestrator.runs.output_tree import TreeChanges, TreeFile, TreeState, TreeStatus
from orchestrator.runs.outputs import ExtraOutput, Output


@dataclass(frozen=True)
class CommandResult:
    """The result of a command on a host. `exit_code` is -1 if a signal ended it."""

    command: str
    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0


@dataclass(frozen=True)
class BucketPlace:
    """Where a run's copy in S3 is."""

    bucket: str
    prefix: str  # the run's part of it
    region: str


@dataclass(frozen=True)
class Job:
    """What is to be run on a host, independent of the host."""

    root: str  # relative to the login user's home: `pixel-orch/<run>`
    command: tuple[str, ...]  # "{python}" stands for the interpreter that the bootstrap chooses
    env: Mapping[str, str]
    config_json: bytes | None  # the bundled trainer's settings
    tree: Path  # the folder to send
    files: tuple[str, ...]  # those of its files that are sent, relative to it
    digests: Mapping[str, str] | None = field(default=None, kw_only=True)  # of the files, where they are known
    owner_timeout_s: float
    stop_timeout_s: float
    metadata_poll_s: float
    time_limit_s: float | None = None
    idle_s: float | None = None  # without a new line of metrics or log; counts while no process leads the run
    bucket: BucketPlace | None = None
    output_rules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # patterns: `only`, `ignored`, `never`
    keep_outputs_s: float = 1800.0  # after the trainer's end a machine waits so long for its outputs to be downloaded
    has_gpu: bool = False  # the instance type has one: without it, or its driver, the set-up fails
    metric_patterns: Mapping[str, str] = field(default_factory=dict)  # of the user's, for the log, by name
    stop_signal: str = "SIGTERM"
    allow_cpu: bool = False  # train on the CPU where torch has no kernels for the GPU
    data: str | None = None  # the name of a data set that must be on the machine before the trainer starts
    data_url: str | None = (
        None  # where in S3 its prepared form is, or is put; None: it is prepared from the published files
    )
    data_words: tuple[str, ...] = ()  # arguments of `data prepare`
    data_asked: Mapping[str, Any] | None = None  # the recipe that they give; prepared data in S3 must have the same one
    trains_alone: bool = False  # as with `bucket`: the owner's silence does not end it while its program runs
    generation: int = 0  # of the group that the machine is in; 0: it is alone
    user_setup: Mapping[str, Any] | None = None  # what is installed for the user's program, as `user_setup.py` reads it

    @property
    def image(self) -> str | None:
        """The Docker image in which the program runs."""
        return (self.user_setup or {}).get("image")

    @property
    def is_bundled(self) -> bool:
        """Whether it is the bundled trainer, which needs torch."""
        return self.config_json is not None


@dataclass(frozen=True)
class Setup:
    """What the bootstrap chose."""

    python: str
    torch: str
    gpu: str
    why: str
    s3_python: str = ""  # the interpreter that has boto3, where S3 is used
    data_s: float = 0.0  # time until the data were there; overlaps with the bootstrap
    data_how: str = ""  # "prepared", "fetched" from S3, or both: "prepared and being kept"
    path_first: str = ""  # the folders before all others in PATH, for the user's own program; "" for `python`'s
    user_setup_s: float = 0.0  # until the program's own packages were installed, after all else
    user_setup_how: str = ""  # from which file, with which tool


@dataclass(frozen=True)
class Cursor:
    """How much of the metrics and the log of one attempt is downloaded, in bytes."""

    metrics: int = 0
    log: int = 0


NOTHING_NEW = Cursor(1 << 49, 1 << 49)
"""Behind the end of every file, and a size that `host/answers.py` takes: a poll from here on brings no text."""


@dataclass(frozen=True)
class RestoredOutputs:
    """What a host wrote of the outputs that are in S3."""

    instance_id: str = ""  # that stored the state; "" where none was written
    number: int = 0  # that this instance knows the state by
    files: int = 0
    size_bytes: int = 0
    refused: tuple[str, ...] = ()  # states that could not be used, and why
    problem: str = ""  # why S3 cannot be read


@dataclass(frozen=True)
class HostStatus:
    """What one poll of a host tells of its trainer."""

    trainer: Literal["absent", "starting", "running", "exited"]
    exit_code: int | None
    asked: bool  # SIGTERM was sent to it
    notice_ends_at: float | None  # unix seconds by the host's clock; None while there is no notice
    rebalance: bool
    ending: str  # why the agent is about to end the instance, "" if it is not
    agent_alive: bool
    metrics: bytes
    log: bytes
    cursor: Cursor
    outputs: tuple[Output, ...]
    stored: tuple[Output, ...] = ()  # checkpoints that are completely stored in S3
    s3_trouble: str = ""
    metadata_trouble: str = ""  # why the instance metadata does not answer: no interruption notice would be seen
    gpu_trouble: str = ""  # what is wrong with the GPU, which worked when the trainer started
    s3_done: bool = False  # the trainer has ended, and S3 has its metrics, its exit code and its outputs
    stored_state: int = 0  # number of the state of the outputs that S3 has, 0 for none
    stored_bytes: int = 0  # of outputs that this machine has sent to S3 so far
    metrics_left_bytes: int = 0  # that the host has beyond `cursor`: an answer brings a part of a long file
    log_left_bytes: int = 0
    metrics_source: str = ""  # where the measurements come from, in words; "" for the bundled trainer, and for none
    metrics_total: int = 0  # steps or epochs that there are to do, as the program's own output says; 0: it does not
    metrics_trouble: str = ""  # for example a pattern that takes too long
    saves: int = 0  # that were seen in the program's files
    saves_every_s: float = 0.0  # the mean between two of them; 0 with fewer than two
    catches_stop: bool | None = None  # whether the program handles the signal to stop; None: not known
    waiting_files: int = 0  # checkpoints and sample grids that are not listed yet: their digests are being computed
    waiting_bytes: int = 0
    gpu: Mapping[str, Any] = field(
        default_factory=dict
    )  # what nvidia-smi reports while the trainer runs; {} without a GPU
    tree: TreeStatus | None = None  # of the outputs; None from an agent that makes no states, and before its first look


class Host(Protocol):
    """A rented machine with an open connection. Every method may raise `UnreachableError`.

    What the machine answers is checked (`answers.py`); an answer that makes no sense is a `HostError`.
    """

    @property
    def received_bytes(self) -> int:
        """How many bytes have come from the machine over this connection: data out is billed."""
        ...

    def look_with(self, look: Callable[[], None]) -> None:
        """Call `look` about once a second while a command or a transfer runs, in the thread that calls this method.

        What `look` raises ends the command and comes out of the method that ran it.
        """
        ...

    def set_up(self, job: Job) -> Setup:
        """Send agent, bootstrap and code; find or install the Python to use.

        Raises:
            CommandError: the bootstrap failed; its last lines are in the error.
            UserSetupError: what the user's program needs cannot be installed.
        """
        ...

    def setup_words(self) -> str:
        """Return the newest line that the set-up has printed, "" where none is new; from any thread, at any time."""
        ...

    def renew_host_key(self, job_root: str, pin: Callable[[str], None]) -> str:
        """Let the host make a host key of its own, and reconnect with it; return its public key.

        `pin` gets the new key before the host uses it, so that a crash in between does not lock us out.

        Raises:
            CommandError: the host refuses; it keeps its present key.
        """
        ...

    def send(self, job: Job, path: Path) -> None:
        """Upload a local checkpoint to where the trainer looks for it."""
        ...

    def restore(
        self, job: Job, setup: Setup, least_step: int, instance_ids: Sequence[str]
    ) -> tuple[tuple[Output, ...], str]:
        """Let the host fetch the newest whole checkpoints from the job's bucket, none of a step before `least_step`.

        Only what these instances stored there is taken: those of the run, in the order of their launch.
        Returns the checkpoints that the host has now, and what went wrong ("" if nothing did).
        """
        ...

    def restore_outputs(
        self, job: Job, setup: Setup, known: Mapping[str, int], instance_ids: Sequence[str]
    ) -> RestoredOutputs:
        """Let the host write the newest state of the outputs that the job's bucket has, unless ours is newer.

        Args:
            job: has the bucket.
            setup: of this host.
            known: of the state that is here: the numbers that instances know it by.
            instance_ids: the run's, in the order of their launch: only what these stored is taken.
        """
        ...

    def renew(self, job_root: str, generation: int) -> None:
        """End what ran here for an earlier generation of the group, so that `start` starts again.

        A second call changes nothing. The files of the program stay; log and metrics of the earlier generation are
        moved aside.
        """
        ...

    def start(self, job: Job, setup: Setup) -> None:
        """Start agent and trainer. A second call starts nothing."""
        ...

    def poll(self, job_root: str, cursor: Cursor, allow_s: float | None = None, allow_bytes: float = 0.0) -> HostStatus:
        """Return what is new since `cursor`. A new state of the outputs is made if it costs at most `allow_bytes`.

        A poll is also the heartbeat: without another one within `allow_s` seconds the instance ends itself, because
        the budget is guaranteed to pay for no more.
        """
        ...

    def fetch(self, job_root: str, output: Output, destination: Path) -> bool:
        """Download a file, whole and with the announced size and digest, or not at all.

        No more bytes are taken than announced. Returns False if the trainer has removed or replaced it meanwhile.
        """
        ...

    def tree_changes(self, job_root: str, state: int, base: int) -> TreeChanges:
        """Return how a state of the outputs differs from the base that this machine has.

        Where the host knows another base the changes are from nothing: `base` is 0 in them. Where it has a newer state,
        `state` is that one's number, and there are no files.
        """
        ...

    def fetch_tree(
        self, job_root: str, files: Sequence[TreeFile], folder: Path, had: Mapping[str, Path]
    ) -> frozenset[str]:
        """Download contents into a folder, each under its SHA-256, whole or not at all.

        Args:
            job_root: of the job.
            files: of the newest state.
            folder: where they go; what an earlier call began there is gone on with.
            had: by name, where the content is that the file's `after_bytes` refer to.

        Returns:
            The digests that are there now. What is missing was replaced on the host.

        Raises:
            OSError: they cannot be written.
        """
        ...

    def acknowledge_tree(self, job_root: str, state: int) -> None:
        """Tell that a state is here. The next one is told as the difference from it."""
        ...

    def send_tree(self, job: Job, state: TreeState, contents: Callable[[TreeFile], Path]) -> None:
        """Write a state on the host, to the same paths and with the same times, before the trainer starts.

        Raises:
            HostError: it did not arrive as it was sent.
        """
        ...

    def extra_outputs(self, job_root: str) -> tuple[ExtraOutput, ...]:
        """Return the other files that the trainer wrote: not checkpoints, samples, metrics or log."""
        ...

    def fetch_extra_outputs(self, job_root: str, files: Sequence[ExtraOutput], folder: Path) -> tuple[ExtraOutput, ...]:
        """Download such files into a folder, under their relative paths; none larger than announced.

        Returns those that are there now, with their true sizes.

        Raises:
            OSError: they cannot be written.
            HostError: what arrives is not what was asked for.
        """
        ...

    def stop(self, job_root: str) -> None:
        """Tell the trainer to write a checkpoint and exit."""
        ...

    def close(self) -> None:
        """Close the connection. What runs on the host goes on."""
        ...


Connect = Callable[[Instance, str, str], Host]
"""(instance, login user, public host key) -> host."""
