"""The lines for the events of one run: of a group one for what all its machines do, and not one for each of them."""

from __future__ import annotations

import time

from orchestrator.formatting import counted, one_line
from orchestrator.report.event_text import event_words
from orchestrator.runs import events as ev
from orchestrator.runs.generations import Generation
from orchestrator.runs.group_events import GroupFormed
from orchestrator.runs.state import Attempt, RunState, extend

PASSED_OVER = (ev.Progress, ev.GpuSeen, ev.PriceSeen, ev.PriceChanged, ev.DataReceived, ev.CheckpointPulled)
"""Events that change no line of another one."""
UNNEEDED = (ev.LossReason.MOVED, ev.LossReason.REGROUPED)


class EventLines:
    """Gives the text of each event of a run, in their order. Of a run on one machine it is that of `event_words`."""

    def __init__(self) -> None:
        self._state = RunState()  # of a group; that of another run is never needed
        self._earlier: list[ev.Event] = []  # until it is known that the run is led on a group
        self._is_group = False
        self._said: set[str] = set()  # about the newest generation, what is said once

    def note(self, event: ev.Event) -> None:
        """Take over an event that is not told."""
        if isinstance(event, PASSED_OVER):
            return
        self._earlier.append(event)
        several = isinstance(event, ev.LaunchRequested) and event.count > 1
        self._is_group = self._is_group or several or isinstance(event, GroupFormed)
        if self._is_group:
            extend(self._state, self._earlier)
            self._earlier.clear()

    def words(self, event: ev.Event, now: float) -> str:
        """Return the text for an event at `now` (unix seconds), "" for an event that is not shown."""
        if isinstance(event, GroupFormed):
            self._said.clear()
        self.note(event)
        return self._group_words(event, now) if self._is_group else event_words(event, now)

    def is_first_node(self, number: int) -> bool:
        """Return whether the machine of an attempt is the first one of its group, or alone."""
        attempt = self._state.attempt(number)
        return attempt is None or attempt.rank == 0

    def _group_words(self, event: ev.Event, now: float) -> str:
        match event:
            case GroupFormed():
                return self._formed(event)
            case ev.StateChanged(state="RECOVERING"):
                return self._recovering(event)
            case ev.AttemptLost() | ev.InstanceStarted() | ev.TerminateRequested() | ev.InstanceEnded():
                return self._machine_words(event)
            case ev.HostReady() | ev.SetupProgress() | ev.TrainerStarted():
                return self._start_words(event, now)
            case ev.CapacityAwaited():
                return self._awaited(event) or event_words(event, now)
            case _:
                return self._of_node(event, event_words(event, now))

    def _start_words(self, event: ev.HostReady | ev.SetupProgress | ev.TrainerStarted, now: float) -> str:
        match event:
            case ev.HostReady():
                return self._ready(event, now)
            case ev.SetupProgress():
                return self._once(event_words(event, now))
            case _:
                return event_words(event, now) if self._rank(event.attempt) == 0 else ""

    def _once(self, text: str) -> str:
        if text in self._said:
            return ""
        self._said.add(text)
        return text

    # -- the machines

    def _newest(self) -> list[Attempt]:
        return self._state.members(self._state.generation) if self._state.generation else []

    def _rank(self, number: int) -> int | None:
        attempt = self._state.attempt(number)
        return attempt.rank if attempt is not None and attempt.generation else None

    def _node(self, event: ev.Event) -> str:
        """Return `node 1 (i-...)`, without the node for a machine that has not joined."""
        rank = self._rank(getattr(event, "attempt", -1))
        name = one_line(str(getattr(event, "instance_id", "")))
        return name if rank is None else f"node {rank} ({name})"

    def _of_node(self, event: ev.Event, text: str) -> str:
        """Say which node a line is about, unless it is the first one, which has the metrics and the checkpoints."""
        if isinstance(event, (ev.InterruptionNoticed, ev.RebalanceRecommended)):
            return text.replace(one_line(event.instance_id), self._node(event))
        rank = self._rank(getattr(event, "attempt", -1))
        if not text or not rank:
            return text
        bare = text.lstrip()
        indent = text[: len(text) - len(bare)]
        bare = bare.replace("; in outputs/: ", f"; in nodes/{rank}/outputs/: ")
        return f"{indent}node {rank}: {bare}"

    def _formed(self, event: GroupFormed) -> str:
        members = self._state.members(event.generation)
        if not members:
            return ""
        lead = members[0]
        where = f"{one_line(lead.instance_type)} ({lead.market}) in {one_line(lead.zone)}"
        text = f"attempt {event.generation}: {counted(len(members), 'machine')} {where}"
        before = self._state.members(event.generation - 1) if event.generation > 1 else []
        if all(one.kept_from is None for one in members):
            before = []  # nothing of the earlier group is left: it is another one
        if before and len(members) != len(before):
            size = counted(len(members), "machine")
            grows = f"grows from {len(before)} to {size}"
            text += f"\n  the group {grows if len(members) > len(before) else f'goes on with {size}'}"
        new = [one for one in members if one.kept_from is None]
        if len(new) < len(members):
            text += "".join(f"\n  node {one.rank} is new ({one_line(one.instance_id)})" for one in new)
        return text

    def _recovering(self, event: ev.StateChanged) -> str:
        members = self._newest()
        lost = [one for one in members if one.is_lost]
        if not lost:
            return f"RECOVERING: {one_line(event.reason)}" if event.reason else event_words(event, event.at)
        if len(lost) == len(members):
            return f"RECOVERING: all {counted(len(members), 'machine')} are replaced"
        ranks = ", ".join(str(one.rank) for one in lost)
        which = f"node {ranks} is" if len(lost) == 1 else f"nodes {ranks} are"
        left = len(members) - len(lost)
        return f"RECOVERING: {which} replaced; {counted(left, 'machine')} {'waits' if left == 1 else 'wait'}"

    def _machine_words(
        self, event: ev.AttemptLost | ev.InstanceStarted | ev.TerminateRequested | ev.InstanceEnded
    ) -> str:
        match event:
            case ev.AttemptLost():
                reason = one_line(event.reason)
                return self._once(f"  {reason}") if event.cause in UNNEEDED else f"  {self._node(event)} lost: {reason}"
            case ev.InstanceStarted():
                members = self._newest()
                alive = any(not one.is_over for one in members)  # not those of a run that is resumed
                going = alive and Generation(0, tuple(members), is_group=True).stopped_at is None
                return f"  {one_line(event.instance_id)} started; it joins the group once it is set up" if going else ""
            case _:
                return self._end_words(event)

    def _end_words(self, event: ev.TerminateRequested | ev.InstanceEnded) -> str:
        """Return the line for the end of a machine; all that end together have one."""
        attempt = self._state.attempt(event.attempt)
        if attempt is None or attempt.lost_cause in UNNEEDED:
            return ""
        text = event_words(event, event.at).replace(one_line(event.instance_id), self._node(event))
        if attempt.is_lost or (isinstance(event, ev.InstanceEnded) and event.ended_by != "pixel-orch"):
            return text
        if isinstance(event, ev.TerminateRequested):
            return self._once(f"  terminating {counted(self._together(), 'machine')}")
        is_last = all(one.is_over or one.is_lost for one in self._state.attempts)
        return self._once(f"  {counted(self._together(), 'machine')} terminated (by pixel-orch)") if is_last else ""

    def _together(self) -> int:
        """Return how many machines end with the run."""
        mine = [one for one in self._state.attempts if one.kept_as is None and not one.is_lost]
        return sum(one.ended_by in (None, "pixel-orch") for one in mine)

    def _ready(self, event: ev.HostReady, now: float) -> str:
        """Return one line once the last of the new machines is set up."""
        attempt = self._state.attempt(event.attempt)
        text = event_words(event, now)
        if attempt is None or not attempt.generation:
            return f"  {one_line(event.instance_id)}: {text.lstrip()}"
        new = [one for one in self._newest() if one.kept_from is None and not one.is_lost]
        if any(one.ready_at is None for one in new):
            return ""
        if len(new) == 1:
            return f"  node {attempt.rank}: {text.lstrip()}" if len(self._newest()) > 1 else text
        slowest = max(one.setup_s for one in new)
        alone = f"host ready after {event.setup_s:.1f} s of set-up"
        return text.replace(alone, f"all {len(new)} hosts ready after {slowest:.1f} s of set-up")

    def _awaited(self, event: ev.CapacityAwaited) -> str:
        waiting = [one for one in self._state.open_attempts() if not one.is_lost and not one.terminate_requested]
        if not waiting:
            return ""
        again_at = time.strftime("%H:%M:%S", time.localtime(event.again_at))
        are = "waits, and is" if len(waiting) == 1 else "wait, and are"
        return (
            f"  no capacity in their pool; {counted(len(waiting), 'machine')} {are} billed; next request at {again_at}"
        )
