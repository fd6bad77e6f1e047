"""Writes the newest whole state of the outputs on the next machine; tries an older one where a program dies at it."""

from __future__ import annotations

from orchestrator.engine.journal import Journal
from orchestrator.host.base import Host, Job, Setup
from orchestrator.runs.events import LossReason
from orchestrator.runs.output_events import OutputsPulled, OutputsRefused, OutputsRestored
from orchestrator.runs.output_states import OutputStates
from orchestrator.runs.output_tree import TreeState
from orchestrator.runs.state import Attempt

MOST_NAMES = 3
MOST_WORDS = 300  # characters of a reason


def restore_from_s3(journal: Journal, job: Job, host: Host, setup: Setup, attempt: Attempt) -> tuple[bool, str]:
    """Let a machine write the newest state that is in S3, unless what is here is newer: its way there is the shorter.

    A state that is damaged in S3 is written down; it is never used.

    Returns:
        Whether it has, and why S3 cannot be read ("" if it can).

    Raises:
        HostError: its answer makes no sense.
        UnreachableError: it does not answer.
    """
    states = OutputStates(journal.store.folder)
    state, now = states.newest(), journal.clock.now()
    ids = {one.number: one.instance_id for one in journal.state().attempts}
    known = {ids[number]: on for number, on in state.on.items() if number in ids}
    found = host.restore_outputs(job, setup, known, journal.state().instance_ids)
    for reason in found.refused:
        journal.emit(OutputsRefused(at=now, number=state.number + 1, reason=reason[:MOST_WORDS]))
    if not found.instance_id:
        return False, found.problem
    is_here = known.get(found.instance_id) == found.number
    if is_here:
        states.note_on(attempt.number, found.number)
    journal.emit(
        OutputsRestored(
            at=journal.clock.now(),
            attempt=attempt.number,
            number=state.number if is_here else state.number + 1,
            files=found.files,
            size_bytes=found.size_bytes,
            source="S3",
            machine_number=found.number,
        )
    )
    return True, found.problem


def restore_outputs(journal: Journal, job: Job, host: Host, attempt: Attempt) -> None:
    """Send the newest state that is whole to a machine whose program has not started yet: that of its node.

    A state that was changed or damaged on this disk is written down and put aside; it is never sent.

    Raises:
        HostError: the machine does not take it.
    """
    states = OutputStates(journal.store.node_folder(attempt.rank))
    state = _whole_state(journal, states)
    if not state.files:
        return
    paths = {file.name: path for file, path in states.contents(state)}
    host.send_tree(job, state, lambda file: paths[file.name])
    states.note_on(attempt.number, state.number)
    journal.emit(
        OutputsRestored(
            at=journal.clock.now(),
            attempt=attempt.number,
            number=state.number,
            files=len(state.files),
            size_bytes=state.size_bytes,
        )
    )


def _whole_state(journal: Journal, states: OutputStates) -> TreeState:
    newest = states.newest()
    damaged = states.damaged(newest)
    if not damaged:
        return newest
    older = states.older()
    reason = f"{_some(damaged)} in {states.outputs} differ from what was downloaded"
    if older.files and not states.damaged(older):
        reason += "; the outputs before them are used"
        journal.emit(OutputsRefused(at=journal.clock.now(), number=newest.number, reason=reason))
        return states.swap()
    reason += f"; they are moved to {states.set_aside}, and the next machine begins without them"
    journal.emit(OutputsRefused(at=journal.clock.now(), number=newest.number, reason=reason))
    states.put_aside()
    return states.newest()


def _some(names: list[str]) -> str:
    told = ", ".join(name.partition("/")[2] for name in names[:MOST_NAMES])
    return told + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")


def refuse_restored(journal: Journal, number: int, why: str) -> str:
    """Give up the outputs that an attempt's program failed right after, if there are older ones.

    That is the one exception to "a program that fails by itself is not started again": an interruption may have left
    half of what belongs together. If it fails after the older ones too, the newer ones count again.

    Args:
        journal: of the run.
        number: of the attempt.
        why: how the program ended, for people.

    Returns:
        The reason of the loss, for people; "" if the failure stands.
    """
    state = journal.state()
    attempt = state.attempt(number)
    if attempt is None or attempt.restored is None or attempt.last_step > attempt.resumed_from:
        return ""
    states = OutputStates(journal.store.folder)
    newest, restored = states.newest(), attempt.restored
    is_newest = bool(restored.machine_number) and newest.on.get(number) == restored.machine_number
    if not is_newest and any(isinstance(e, OutputsPulled) and e.attempt == number for e in journal.events):
        return ""  # it has written more than lines since
    before = [one for one in state.attempts if one.number < number and one.rank == attempt.rank]
    if before and before[-1].lost_cause == LossReason.RESUME_FAILED and before[-1].restored is not None:
        refused = [event.number for event in journal.events if isinstance(event, OutputsRefused)]
        if refused and refused[-1] < newest.number and states.older().files:
            states.swap()  # the older ones did not help
        return ""
    is_here = is_newest or not restored.source  # else it is in S3 only, and what is here is older
    if not (states.older() if is_here else newest).files:
        return ""
    words = f"{why} right after the outputs were restored"
    journal.emit(OutputsRefused(at=journal.clock.now(), number=newest.number + (not is_here), reason=words))
    if is_here:
        states.swap()
    return f"{words}; the outputs before them are tried once"
