"""The door for what machines say of outputs: how a state differs from another, what S3 has, what was restored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import HostError
from orchestrator.host import answers
from orchestrator.host.base import RestoredOutputs
from orchestrator.runs import bounded_json
from orchestrator.runs.output_tree import (
    MOST_STATE_BYTES,
    MOST_TREE_FILES,
    TreeChanges,
    TreeStatus,
    check_tree,
    read_entry,
)


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class ChangesAnswer(_Answer):
    """The answer of `agent.py changes`."""

    state: answers.StateNumber
    base: answers.StateNumber
    is_final: bool = False
    files: Annotated[list[dict[str, Any]], Field(max_length=MOST_TREE_FILES)]
    deleted: Annotated[list[str], Field(max_length=MOST_TREE_FILES)]

    def changes(self) -> TreeChanges:
        """Return the same, each file checked.

        Raises:
            ValueError: one makes no sense, or is listed twice.
        """
        files = tuple(read_entry(raw) for raw in self.files)
        if len({file.name for file in files}) < len(files):
            raise ValueError("files: one is listed twice")
        return TreeChanges(self.state, self.base, self.is_final, files, tuple(self.deleted))


class RestoredTreeAnswer(_Answer):
    """The answer of `agent.py restore`."""

    restored: answers.Size
    damaged: Annotated[list[answers.Words], Field(max_length=100)]


class StoredAnswer(_Answer):
    """`outputs/state.json` of a machine's folder."""

    number: answers.StateNumber
    is_final: bool
    is_own: bool = True
    files: Annotated[list[dict[str, Any]], Field(max_length=MOST_TREE_FILES)]


class RestoredAnswer(_Answer):
    """The last line of `checkpoint_uploader.py restore-outputs`."""

    instance: Annotated[str, Field(pattern=r"^(?:i-[0-9a-f]{1,40})?\z")]
    number: answers.StateNumber
    files: answers.Size
    bytes: answers.TreeSize
    refused: Annotated[list[answers.Words], Field(max_length=100)] = []
    problem: answers.Words = ""


def tree_changes(raw: bytes, *, where: str) -> TreeChanges:
    """Return how a state of the outputs differs from its base.

    Raises:
        HostError: the answer makes no sense.
    """
    program = "agent.py changes"
    answer = answers.read(ChangesAnswer, raw, where=where, program=program)
    return answers.made(answer.changes, where=where, program=program)


def stored_state(raw: bytes, *, where: str) -> TreeChanges:
    """Return a state that a machine stored, as the changes from nothing.

    Raises:
        HostError: it makes no sense.
    """
    try:
        value = bounded_json.loads(raw, most_bytes=MOST_STATE_BYTES, keeps_surrogates=True)
        answer = StoredAnswer.model_validate(value)
        files = tuple(read_entry(entry) for entry in answer.files)
        named = {file.name: file for file in files}
        if len(named) < len(files):
            raise ValueError("files: one is listed twice")
        check_tree(named)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise HostError(f"{where}: the list of its outputs in S3 makes no sense: {field}: {first['msg']}") from None
    except ValueError as error:
        raise HostError(f"{where}: the list of its outputs in S3 makes no sense: {error}") from None
    return TreeChanges(answer.number, 0, answer.is_final, files, (), answer.is_own)


def last_outputs(words: dict[str, Any]) -> TreeStatus | None:
    """Return what an agent's last state in S3 says of the outputs; None if it says nothing, or nothing of sense."""
    try:
        return answers.MirrorAnswer.model_validate(words.get("outputs")).status()
    except ValidationError:
        return None


def restored_outputs(raw: bytes, *, where: str) -> RestoredOutputs:
    """Return what a machine has restored; the last line of `raw` says it.

    Raises:
        HostError: the answer makes no sense.
    """
    program = "checkpoint_uploader.py restore-outputs"
    answer = answers.read(RestoredAnswer, answers.last_line(raw), where=where, program=program)
    return RestoredOutputs(
        answer.instance, answer.number, answer.files, answer.bytes, tuple(answer.refused), answer.problem
    )
