"""The one exception to "a trainer that fails by itself is not started again": one that fails right after a resume.

The newest checkpoint may be at fault: a program may write to its final name, and an interruption leaves half of it. The
one before it is then tried once. If that fails too, it is not the checkpoint, and the newest one counts again.
"""

from __future__ import annotations

from orchestrator.engine.journal import Journal
from orchestrator.runs.events import CheckpointPulled, CheckpointRefused, CheckpointTakenBack, LossReason


def refuse_newest(journal: Journal, number: int, step: int, why: str) -> str:
    """Give up the checkpoint that an attempt failed right after, if there is an older one.

    Args:
        journal: of the run.
        number: of the attempt.
        step: the last one that it is known to have done.
        why: how the trainer ended, for people.

    Returns:
        The reason of the loss, for people; "" if the failure stands.
    """
    state = journal.state()
    attempt = state.attempt(number)
    if attempt is None or not attempt.resumed_from or max(step, attempt.last_step) > attempt.resumed_from:
        return ""
    if is_second_try(journal, number):
        _take_back(journal)
        return ""
    newest = state.checkpoints.get(attempt.resumed_from)
    older = [one for one in state.checkpoints if one < attempt.resumed_from]
    if newest is None or not older:
        return ""
    words = f"{why} before its first step after {newest.name}"
    journal.emit(CheckpointRefused(at=journal.clock.now(), name=newest.name, reason=words))
    return f"{words}; the checkpoint of step {max(older)} is tried once"


def is_second_try(journal: Journal, number: int) -> bool:
    """Return whether an attempt, which may be about to start, follows one that gave its checkpoint up."""
    before = [one for one in journal.state().attempts if one.number < number and one.rank == 0]
    return bool(before) and before[-1].lost_cause == LossReason.RESUME_FAILED


def _take_back(journal: Journal) -> None:
    """Let the checkpoint that was given up last count again: the older one has not helped."""
    refused = next(event for event in reversed(journal.events) if isinstance(event, CheckpointRefused))
    for event in reversed(journal.events):
        if isinstance(event, CheckpointPulled) and event.name == refused.name:
            journal.emit(CheckpointTakenBack(**{**vars(event), "at": journal.clock.now()}))
            return
