"""How an attempt comes to its end, and what the end of a trainer means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.errors import OutputsLostError, TrainingError
from orchestrator.formatting import counted, megabytes
from orchestrator.runs.events import LossReason
from orchestrator.runs.state import Attempt

PEER_LOST = 75
"""Exit code of the bundled trainer where another rank was lost, and nothing is wrong with this one."""
STOPPED_TOGETHER = (143, 130)
"""Its exit codes in a group of which another machine was told to stop."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt came to its end.

    `reason` is for people. `cause` is what decisions are made on, and is there for a lost attempt only.
    """

    kind: Literal["finished", "lost", "stopped"]
    reason: str = ""
    cause: LossReason | None = None


@dataclass(frozen=True)
class TrainerEnd:
    """How a trainer's process ended.

    Args:
        exit_code: negative for a signal.
        asked: pixel-orch, or an interruption notice, had told it to stop.
        finished: its metrics say that all steps are done.
        tail: the last lines of its log.
        why: what the agent on the instance says about it, "" for nothing.
        gpu_problem: what is wrong with the machine's GPU, which worked before; "" for nothing.
    """

    exit_code: int
    asked: bool
    finished: bool
    tail: str = ""
    why: str = ""
    gpu_problem: str = ""


def verdict(end: TrainerEnd, *, is_bundled: bool, in_group: bool = False) -> Outcome | None:
    """Return what an ended trainer means; None if it was told to stop, and did so before its last step.

    The bundled trainer exits with 0 only when all steps are done. Another program may exit with 0 because it was
    told to stop. One that fails with its GPU has lost its machine: another one helps. One that lost another rank of its
    group starts again with the group.

    Raises:
        TrainingError: it ended by itself, and has not finished.
    """
    if end.exit_code == 0 and (not end.asked or is_bundled or end.finished):
        return Outcome("finished")
    if is_bundled and end.exit_code in (PEER_LOST, *(STOPPED_TOGETHER if in_group else ())):
        return None
    if not end.asked and end.gpu_problem:
        return gpu_failed(end.gpu_problem)
    if not end.asked:
        how = f"{exit_text(end.exit_code)}{f' ({end.why})' if end.why else ''}"
        raise TrainingError(f"the trainer ended by itself with {how}", end.tail)
    return None


def gpu_failed(problem: str) -> Outcome:
    """Return the outcome of a trainer whose GPU failed."""
    return Outcome("lost", f"the GPU failed under the trainer: {problem}", LossReason.GPU_FAILED)


def exit_text(code: int) -> str:
    """Return an exit code for people; a signal by its number."""
    if code < 0:
        hint = " (out of memory?)" if code == -9 else ""
        return f"signal {-code}{hint}"
    return f"exit code {code}"


def outputs_lost(attempt: Attempt | None) -> OutputsLostError:
    """Return the error of a run that finished without all of its outputs."""
    left = attempt.outputs_lost if attempt is not None else None
    if left is None:
        return OutputsLostError("the program finished, and outputs of it were not downloaded")
    what = f"{counted(left.files, 'output')} ({megabytes(left.size_bytes)})"
    names = f": {left.names}" if left.names else ""
    return OutputsLostError(f"the program finished, and {what} were not downloaded, because {left.reason}{names}")
