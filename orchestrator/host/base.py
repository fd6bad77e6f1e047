"""The protocol of a rented machine, and the plain data that passes through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from orchestrator.cloud.base import Instance
from orchestrator.runs.outputs import ExtraOutput, Output


@dataclass(frozen=True)
class CommandResult:
    """What a command on a host came to. `exit_code` is -1 for a death by signal."""

    command: str
    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        """Whether it ended with 0."""
        return self.exit_code == 0


@dataclass(frozen=True)
class BucketPlace:
    """A run's second home in S3."""

    bucket: str
    prefix: str  # the run's part of it
    region: str


@dataclass(frozen=True)
class Job:
    """What is to be run on a host, whatever the host."""

    root: str  # relative to the login user's home: `pixel-orch/<run>`
    command: tuple[str, ...]  # "{python}" stands for the interpreter that the bootstrap chooses
    env: Mapping[str, str]
    config_json: bytes | None  # the bundled trainer's settings
    tree: Path  # the folder to send
    files: tuple[str, ...]  # what of it, relative
    owner_timeout_s: float
    stop_timeout_s: float
    metadata_poll_s: float
    time_limit_s: float | None = None
    idle_s: float | None = None  # without a new line of metrics or log, should nobody lead the run
    bucket: BucketPlace | None = None
    has_gpu: bool = False  # the instance type has one: without it, or without its driver, nothing is trained
    allow_cpu: bool = False  # go on where torch has no kernels for the GPU
    data: str | None = None  # a data set that is to be there before the trainer starts, by name
    data_url: str | None = None  # where in S3 it lies prepared, or will; None: it is made from the published files
    data_words: tuple[str, ...] = ()  # of `data prepare`
    data_asked: Mapping[str, Any] | None = None  # what they make of the recipe: what lies in S3 must have been so made

    @property
    def is_bundled(self) -> bool:
        """Whether it is our own trainer, which needs torch."""
        return self.config_json is not None


@dataclass(frozen=True)
class Setup:
    """What the bootstrap chose."""

    python: str
    torch: str
    gpu: str
    why: str
    s3_python: str = ""  # the interpreter that has boto3, where it was asked for
    data_s: float = 0.0  # that the data took, beside the bootstrap
    data_how: str = ""  # "prepared", "fetched" from S3, or both: "prepared and being kept"


@dataclass(frozen=True)
class Cursor:
    """How far the metrics and the log of one attempt are home, in bytes."""

    metrics: int = 0
    log: int = 0


@dataclass(frozen=True)
class HostStatus:
    """What one poll of a host tells of its trainer."""

    trainer: Literal["absent", "starting", "running", "exited"]
    exit_code: int | None
    asked: bool  # SIGTERM was sent to it
    notice_ends_at: float | None  # unix seconds by the host's word; None while there is no notice
    rebalance: bool
    ending: str  # why the agent is about to end the instance, "" if it is not
    agent_alive: bool
    metrics: str
    log: str
    cursor: Cursor
    outputs: tuple[Output, ...]
    stored: tuple[Output, ...] = ()  # the checkpoints that are whole in S3
    s3_trouble: str = ""
    s3_done: bool = False  # the trainer has ended, and S3 has its metrics and its end too
    gpu: Mapping[str, Any] = field(default_factory=dict)  # what nvidia-smi said while the trainer ran; {} without one


class Host(Protocol):
    """A rented machine that answers. Every method may raise `UnreachableError`."""

    def set_up(self, job: Job) -> Setup:
        """Send agent, bootstrap and code; find or make the Python to use.

        Raises:
            CommandError: the bootstrap failed; its last lines are in the error.
        """
        ...

    def renew_host_key(self, job_root: str, pin: Callable[[str], None]) -> str:
        """Let the host make a host key of its own, and connect anew by it; return its public half.

        `pin` is given the new key before the host uses it, so that a crash between the two locks nobody out.

        Raises:
            CommandError: the host does not let us; it keeps the key that it has.
        """
        ...

    def send(self, job: Job, path: Path) -> None:
        """Put a checkpoint of ours where the trainer will look for it."""
        ...

    def restore(self, job: Job, setup: Setup, least_step: int) -> tuple[tuple[Output, ...], str]:
        """Fetch the newest whole checkpoints from the job's bucket, none of a step before `least_step`.

        Returns those that it has now, and what went wrong ("" if nothing did).
        """
        ...

    def start(self, job: Job, setup: Setup) -> None:
        """Start agent and trainer. Asked twice, it starts one."""
        ...

    def poll(self, job_root: str, cursor: Cursor, allow_s: float | None = None) -> HostStatus:
        """Return what is new since `cursor`.

        It is also our heartbeat: without another one within `allow_s` the instance ends itself, since that is all that
        the budget surely buys.
        """
        ...

    def fetch(self, job_root: str, output: Output, destination: Path) -> bool:
        """Bring a file home, whole and compared by digest, or not at all.

        Returns False if the trainer has removed it meanwhile.
        """
        ...

    def extra_outputs(self, job_root: str) -> tuple[ExtraOutput, ...]:
        """Return what else the trainer wrote: neither checkpoints nor samples, metrics or log."""
        ...

    def fetch_extra_outputs(self, job_root: str, files: Sequence[ExtraOutput], folder: Path) -> None:
        """Bring such files home, below a folder.

        Raises:
            OSError: they cannot be written.
        """
        ...

    def stop(self, job_root: str) -> None:
        """Ask the trainer to write a checkpoint and end."""
        ...

    def close(self) -> None:
        """Hang up. What runs on the host runs on."""
        ...


Connect = Callable[[Instance, str, str], Host]
"""(instance, login user, public host key) -> host."""
