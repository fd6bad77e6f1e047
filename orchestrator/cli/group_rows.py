"""What the live view of a run says of a group: a row for each machine, and what the group does; pure."""

from __future__ import annotations

from orchestrator.formatting import counted, one_line, span
from orchestrator.runs.generations import Generation
from orchestrator.runs.state import Attempt, RunState

MOST_NODES = 8  # that have a row each


def node_cells(one: Generation, now: float) -> list[tuple[str, str, str]]:
    """Return (label, text, style) of each machine of an attempt, by rank; of many those that are not well first."""
    shown = list(one.members)
    if len(shown) > MOST_NODES:
        shown.sort(key=lambda member: one.state_of(member)[0] in ("trains", "went on", "ended"))
        shown = sorted(shown[: MOST_NODES - 1], key=one.members.index)
    cells = [_cell(one, member, now) for member in shown]
    left = len(one.members) - len(shown)
    return [*cells, ("", f"and {left} more", "quiet")] if left else cells


def _cell(one: Generation, attempt: Attempt, now: float) -> tuple[str, str, str]:
    rank = one.rank_of(attempt)
    state, since = one.state_of(attempt)
    how = f"{state} {span(max(0.0, now - since))}" if state in ("boots", "set-up", "waits") else state
    if state == "notice" and attempt.noticed_ends_at is not None:
        how = f"notice, {span(max(0.0, attempt.noticed_ends_at - now))} left"
    style = "notice" if state in ("notice", "lost", "interrupted") else "quiet" if state in ("ended", "went on") else ""
    label = "joins" if rank is None else f"node {rank}"
    return label, f"{one_line(attempt.instance_id)}  {how}  {one_line(attempt.zone)}", style


def group_phase(state: RunState, one: Generation) -> tuple[str, float] | None:
    """Return what a group does between two of its generations or before its first step, and since when.

    None where the words for a single machine are right.
    """
    if state.is_final or all(member.is_over or member.terminate_requested for member in one.members):
        return None
    well = [member for member in one.members if not (member.is_over or member.is_lost or member.terminate_requested)]
    lost = [str(member.rank) for member in one.joined if member.is_lost]
    waits = f"{counted(len(well), 'machine')} {'waits' if len(well) == 1 else 'wait'}"
    if lost:
        which = f"node {lost[0]} is" if len(lost) == 1 else f"nodes {', '.join(lost)} are"
        return f"{which} replaced; {waits}", one.stopped_at or one.started_at
    if one.stopped_at is not None:
        return f"forms anew; {waits}" if state.state == "RECOVERING" else "saves and ends", one.stopped_at
    setting_up = [member for member in one.joined if member.kept_from is None and member.ready_at is None]
    if setting_up and len(setting_up) < len(one.joined):
        return f"set-up of {len(setting_up)} of {len(one.joined)} machines; the others wait", one.started_at
    if not setting_up and all(member.trainer_started_at is None for member in one.joined):
        ready = [member.ready_at for member in one.joined if member.ready_at is not None]
        return f"starts on {counted(len(one.joined), 'machine')}", max([*ready, one.started_at])
    return None
