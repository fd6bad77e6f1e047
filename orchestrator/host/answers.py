"""The one door for what a rented machine says: each answer of its programs is checked here before anything uses it.

A machine is not trusted: its user's code, or whoever broke into it, can answer anything. Every name is a path that
stays below its folder. Every size and step is in range, every number is finite, every list and text is bounded. An
answer that does not fit is a `HostError` that names the machine, the program and the field. Unknown keys are ignored: a
newer agent may have them. The models allow what version 0.1.0 of the agent sends.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from orchestrator.errors import HostError
from orchestrator.host.base import Cursor, HostStatus, Setup
from orchestrator.runs import bounded_json
from orchestrator.runs.checked import MOST_STEP
from orchestrator.runs.output_tree import MOST_STATE, TreeStatus
from orchestrator.runs.outputs import (
    MOST_FILES,
    MOST_PATH_BYTES,
    MOST_SIZE_BYTES,
    ExtraOutput,
    Output,
    check_relative_path,
    step_in_name,
)

PROTOCOL = 2
"""The version of the answers that this program knows best. Agents of 0.1.0 send none, which counts as 1."""

MOST_ANSWER_BYTES = 64 << 20  # 100,000 entries of 300 bytes, twice over
MOST_TEXT_BYTES = 1 << 20  # of metrics or log in one answer; the agent sends 256 KiB
MOST_WORDS = 4_000  # characters of a text for people; the rest is cut off
LATEST_S = 7.3e9  # unix seconds: the year 2201
NOTICE_S = 120.0  # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html

_HOST_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{68}")  # what `agent.py rekey` makes

Size = Annotated[int, Field(ge=0, le=MOST_SIZE_BYTES)]
Seconds = Annotated[float, Field(ge=0, le=LATEST_S, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]


def _shown(text: Any) -> Any:
    """Return a text for people: at most so long, and without lone surrogates."""
    return text[:MOST_WORDS].encode(errors="replace").decode() if isinstance(text, str) else text


def _named(name: Any) -> Any:
    """Return a file's name; one that is not UTF-8 gets a NUL, which no path may have, so that it is refused alone."""
    if not isinstance(name, str):
        return name
    return name[:MOST_WORDS] if bounded_json.is_encodable(name) else "\0" + _shown(name)


def _raw(text: Any) -> Any:
    """Return the bytes of a file that `trainer_files.new_text` decoded with surrogate escapes."""
    if not isinstance(text, str):
        raise ValueError("it is not a string")
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("it holds half a surrogate pair") from None


Words = Annotated[str, BeforeValidator(_shown)]
FileText = Annotated[bytes, BeforeValidator(_raw), Field(max_length=MOST_TEXT_BYTES)]


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class OutputEntry(_Answer):
    """A checkpoint or a sample grid as `trainer_files.outputs` lists it."""

    name: Annotated[str, AfterValidator(check_relative_path)]
    step: Annotated[int, Field(ge=0, le=MOST_STEP)] | None = None
    size_bytes: Size
    sha256: Sha256

    def output(self) -> Output:
        """Return the same, with the step of its name.

        Raises:
            ValueError: the name is not one of a checkpoint or a sample grid, or it has another step.
        """
        step = step_in_name(self.name)
        if step is None:
            raise ValueError(f"{self.name!r} is not the name of a checkpoint or a sample grid")
        if self.step not in (None, step):
            raise ValueError(f"{self.name!r} is listed with step {self.step}")
        return Output(self.name, step, self.size_bytes, self.sha256)


class ExtraEntry(_Answer):
    """Another file of the trainer."""

    name: Annotated[str, BeforeValidator(_named)]
    size_bytes: Size

    def output(self) -> ExtraOutput:
        """Return the same; a name that cannot be a path on this machine is its problem, not that of the others."""
        try:
            return ExtraOutput(check_relative_path(self.name), self.size_bytes)
        except ValueError as error:
            return ExtraOutput(self.name, self.size_bytes, str(error))


class Trainer(_Answer):
    """The state of the trainer's process."""

    state: Literal["absent", "starting", "running", "exited"]
    exit_code: Annotated[int, Field(ge=-255, le=255)] | None = None
    asked: bool = False


class Notice(_Answer):
    """An interruption notice as the instance metadata gives it."""

    time: Annotated[str, Field(max_length=64)] = ""


class GpuFacts(_Answer):
    """What nvidia-smi reports; `watch.gpu_facts` makes it."""

    name: Annotated[str, Field(max_length=200)]
    sm_clock_mhz: Annotated[float, Field(ge=0, le=1e6)] | None = None
    memory_clock_mhz: Annotated[float, Field(ge=0, le=1e6)] | None = None
    utilization_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    memory_peak_mib: Annotated[float, Field(ge=0, le=1e9)] | None = None
    memory_total_mib: Annotated[float, Field(ge=0, le=1e9)] | None = None
    looks: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    utilization_now_percent: Annotated[float, Field(ge=0, le=100)] | None = None  # of the last 15 s
    memory_now_mib: Annotated[float, Field(ge=0, le=1e9)] | None = None
    temperature_c: Annotated[float, Field(ge=-100, le=500)] | None = None


Entries = Annotated[list[OutputEntry], Field(max_length=MOST_FILES)]


StateNumber = Annotated[int, Field(ge=0, le=MOST_STATE)]
TreeSize = Annotated[int, Field(ge=0, le=MOST_FILES * MOST_SIZE_BYTES)]


class MirrorAnswer(_Answer):
    """What `mirror.told` says of the outputs."""

    state: StateNumber
    home: StateNumber
    is_final: bool
    new_files: Size
    new_bytes: TreeSize
    pending_files: Size
    pending_bytes: TreeSize
    files: Size
    bytes: TreeSize
    left: Annotated[list[Annotated[list[Words], Field(min_length=2, max_length=2)]], Field(max_length=100)] = []
    left_files: Size = 0
    is_cut: bool = False
    unmatched: Annotated[list[Words], Field(max_length=100)] = []

    def status(self) -> TreeStatus:
        """Return the same."""
        found = self.model_dump(exclude={"bytes", "left", "unmatched"})
        found["unmatched"] = tuple(self.unmatched)
        return TreeStatus(**found, size_bytes=self.bytes, left=tuple((path, why) for path, why in self.left))


class StoredAnswer(_Answer):
    """What `outputs/uploader.py` says of the outputs in S3."""

    state: StateNumber
    bytes: TreeSize = 0


class StatusAnswer(_Answer):
    """The answer of `agent.py status`."""

    protocol: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    now: Seconds
    agent_alive: bool
    trainer: Trainer
    notice: Notice | None = None
    rebalance: bool = False
    ending: Words = ""
    metrics: FileText
    metrics_offset: Size
    log: FileText
    log_offset: Size
    metrics_bytes: Size | None = None  # of the whole file; an agent of 0.1.0 does not say it
    log_bytes: Size | None = None
    metrics_source: Words = ""
    metrics_problem: Words = ""
    metrics_total: Size = 0
    saves: Size = 0
    saves_every_s: Seconds = 0.0
    catches_stop: bool | None = None
    outputs: Entries
    waiting_files: Size = 0
    waiting_bytes: Annotated[int, Field(ge=0, le=MOST_FILES * MOST_SIZE_BYTES)] = 0
    stored: Entries = []
    s3_problem: Words = ""
    metadata_problem: Words = ""
    gpu_problem: Words = ""
    s3_done: bool = False
    s3_outputs: StoredAnswer | None = None
    gpu: GpuFacts | dict[str, None] = Field(default_factory=dict, union_mode="left_to_right")
    mirror: MirrorAnswer | None = None


class BootstrapAnswer(_Answer):
    """The last line of `bootstrap.sh`."""

    python: Annotated[str, Field(min_length=1, max_length=1_000)]
    torch: Annotated[str, Field(max_length=200)] = ""
    gpu: Annotated[str, Field(max_length=200)] = ""
    why: Words = ""
    s3_python: Annotated[str, Field(max_length=1_000)] = ""
    path_first: Annotated[str, Field(max_length=4_000)] = ""


class UserSetupAnswer(_Answer):
    """The last line of `user_setup.py`."""

    seconds: Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False, strict=False)]
    how: Words = ""
    python: Annotated[str, Field(max_length=1_000)] = ""
    path_first: Annotated[str, Field(max_length=4_000)] = ""
    failed: Words = ""
    tail: Words = ""


class DataAnswer(_Answer):
    """The last line of `data.sh`."""

    seconds: Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False, strict=False)]
    how: Annotated[str, Field(max_length=200)]


class Refused(_Answer):
    """A checkpoint in S3 that the machine did not take."""

    name: Annotated[str, Field(max_length=300)]
    reason: Words


class RestoreAnswer(_Answer):
    """The last line of `checkpoint_uploader.py restore`."""

    restored: Entries
    refused: Annotated[list[Refused], Field(max_length=1_000)] = []
    problem: Words | None = None


class ExtraAnswer(_Answer):
    """The answer of `agent.py rest`."""

    files: Annotated[list[ExtraEntry], Field(max_length=MOST_FILES)]


class ApplyAnswer(_Answer):
    """The answer of `agent.py apply`. An agent of 0.1.0 does not say what it has written."""

    written: Sha256 | Literal[""] = ""


class RekeyAnswer(_Answer):
    """The answer of `agent.py rekey ROOT prepare`."""

    public: Annotated[str, Field(max_length=200)]


AnyAnswer = TypeVar("AnyAnswer", bound=BaseModel)
Made = TypeVar("Made")


def read(model: type[AnyAnswer], raw: bytes, *, where: str, program: str) -> AnyAnswer:
    """Return an answer that fits its model.

    Args:
        model: of the answer.
        raw: what the program printed.
        where: the machine, for the error.
        program: what answered, for the error.

    Raises:
        HostError: it does not fit; the error says which field, and why.
    """
    try:
        return model.model_validate(_object(raw))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise _senseless(where, program, f"{field}: {first['msg']}") from None
    except ValueError as error:
        raise _senseless(where, program, str(error)) from None


def read_names(raw: bytes, *, where: str, program: str) -> dict[str, str]:
    """Return the answer of `agent.py manifest`: the digest of each sent file by its path.

    Raises:
        HostError: it is no object of texts.
    """
    try:
        answer = _object(raw)
    except ValueError as error:
        raise _senseless(where, program, str(error)) from None
    if not all(isinstance(value, str) for value in answer.values()):
        raise _senseless(where, program, "a digest is not a string")
    return answer


def made(make: Callable[[], Made], *, where: str, program: str) -> Made:
    """Return what `make` makes of an answer; a ValueError of it is one of the machine.

    Raises:
        HostError: `make` raised a ValueError.
    """
    try:
        return make()
    except ValueError as error:
        raise _senseless(where, program, str(error)) from None


def host_status(raw: bytes, cursor: Cursor, *, where: str) -> HostStatus:
    """Return what `agent.py status` answered to a poll from `cursor` on.

    Raises:
        HostError: the answer makes no sense.
    """
    program = "agent.py status"
    answer = read(StatusAnswer, raw, where=where, program=program)
    return made(lambda: _status(answer, cursor), where=where, program=program)


def _status(answer: StatusAnswer, cursor: Cursor) -> HostStatus:
    new = Cursor(answer.metrics_offset, answer.log_offset)
    for name, before, text, after in (
        ("metrics", cursor.metrics, answer.metrics, new.metrics),
        ("log", cursor.log, answer.log, new.log),
    ):
        if after != before + len(text):
            raise ValueError(f"{name}_offset: {len(text)} bytes from {before} on do not end at {after}")
    return HostStatus(
        trainer=answer.trainer.state,
        exit_code=answer.trainer.exit_code,
        asked=answer.trainer.asked,
        notice_ends_at=None if answer.notice is None else notice_time(answer.notice.time, answer.now),
        rebalance=answer.rebalance,
        ending=answer.ending,
        agent_alive=answer.agent_alive,
        metrics=answer.metrics,
        log=answer.log,
        cursor=new,
        metrics_left_bytes=_left(answer.metrics_bytes, new.metrics, answer.metrics),
        log_left_bytes=_left(answer.log_bytes, new.log, answer.log),
        outputs=tuple(entry.output() for entry in answer.outputs),
        metrics_source=answer.metrics_source,
        metrics_trouble=answer.metrics_problem,
        metrics_total=answer.metrics_total,
        saves=answer.saves,
        saves_every_s=answer.saves_every_s,
        catches_stop=answer.catches_stop,
        waiting_files=answer.waiting_files,
        waiting_bytes=answer.waiting_bytes,
        stored=tuple(entry.output() for entry in answer.stored),
        s3_trouble=answer.s3_problem,
        metadata_trouble=answer.metadata_problem,
        gpu_trouble=answer.gpu_problem,
        s3_done=answer.s3_done,
        stored_state=0 if answer.s3_outputs is None else answer.s3_outputs.state,
        stored_bytes=0 if answer.s3_outputs is None else answer.s3_outputs.bytes,
        gpu=answer.gpu.model_dump() if isinstance(answer.gpu, GpuFacts) else {},
        tree=None if answer.mirror is None else answer.mirror.status(),
    )


def _left(size_bytes: int | None, offset: int, text: bytes) -> int:
    """Return how much of a file is left. An agent of 0.1.0 does not say it: there may be more after what it sent."""
    return min(1, len(text)) if size_bytes is None else max(0, size_bytes - offset)


def notice_time(text: str, now: float) -> float:
    """Return when AWS ends the instance (unix seconds), two minutes from `now` if the notice does not say."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        return now + NOTICE_S
    return seconds if 0 <= seconds <= LATEST_S else now + NOTICE_S


def setup_of(raw: bytes, *, where: str) -> Setup:
    """Return what the bootstrap chose; its answer is the last line of `raw`.

    Raises:
        HostError: the answer makes no sense.
    """
    answer = read(BootstrapAnswer, last_line(raw), where=where, program="bootstrap.sh")
    return Setup(**answer.model_dump())


def restored(raw: bytes, *, where: str) -> tuple[tuple[Output, ...], str]:
    """Return (the checkpoints that the machine fetched from S3, what went wrong); the last line of `raw` says it.

    Raises:
        HostError: the answer makes no sense.
    """
    program = "checkpoint_uploader.py restore"
    answer = read(RestoreAnswer, last_line(raw), where=where, program=program)
    found = made(lambda: tuple(entry.output() for entry in answer.restored), where=where, program=program)
    troubles = [f"{one.name}: {one.reason}" for one in answer.refused]
    return found, "; ".join([*troubles, *([answer.problem] if answer.problem else [])])


def extra_outputs(raw: bytes, *, where: str) -> tuple[ExtraOutput, ...]:
    """Return the other files of the trainer.

    Raises:
        HostError: the answer makes no sense.
    """
    answer = read(ExtraAnswer, raw, where=where, program="agent.py rest")
    return tuple(entry.output() for entry in answer.files)


def public_host_key(raw: bytes, *, where: str) -> str:
    """Return the public host key that the machine made: it is written into `known_hosts`, so it must be one line.

    Raises:
        HostError: it is no Ed25519 key.
    """
    public = read(RekeyAnswer, raw, where=where, program="agent.py rekey").public
    if not _HOST_KEY.fullmatch(public):
        raise _senseless(where, "agent.py rekey", f"{public[:40]!r} is not an Ed25519 public key")
    return public


def folder_path(raw: bytes, *, where: str) -> str:
    """Return the absolute path that `pwd` printed.

    Raises:
        HostError: it is none.
    """
    text = raw.removesuffix(b"\n").decode(errors="replace")
    if not text.startswith("/") or not text.isprintable() or len(text) > MOST_PATH_BYTES:
        raise _senseless(where, "pwd", f"{text[:40]!r} is not an absolute path")
    return text


def last_line(raw: bytes) -> bytes:
    """Return the last line of what a program printed, b"" without one."""
    lines = raw.strip().splitlines()
    return lines[-1] if lines else b""


def _object(raw: bytes) -> dict[str, Any]:
    value = bounded_json.loads(raw, most_bytes=MOST_ANSWER_BYTES, keeps_surrogates=True)
    if not isinstance(value, dict):
        raise ValueError(f"it is not a JSON object: {raw[:80]!r}")
    return value


def _senseless(where: str, program: str, problem: str) -> HostError:
    return HostError(f"{where}: the answer of {program} makes no sense: {problem}")
