"""The row of a run: what the list and the head of its page show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.clock import iso
from orchestrator.dashboard.appended import Mark, mark_of
from orchestrator.dashboard.event_log import EventLog
from orchestrator.errors import SpecError
from orchestrator.formatting import one_line
from orchestrator.market.billing import total_usd
from orchestrator.report.as_of import Seen, seen_at
from orchestrator.report.summary import steps_done
from orchestrator.runs.checked import is_figure
from orchestrator.runs.generations import Generation, generations_of
from orchestrator.runs.listing import BrokenRun
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.state import RunState
from orchestrator.runs.store import RunStore

Row = dict[str, Any]
LOOKED_AT = ("spec.json", "program.json", "events.jsonl", "lock", "checkpoints", "attempts")
LONGEST_TEXT = 2_000  # letters of a reason
NO_ROW: Row = {
    "is_final": True, "cloud": "", "where": "", "device": "", "attempts": 0, "machines": 0, "nodes": 0,
    "open_machines": 0, "interruptions": 0, "step": 0, "notice_node": None,
    "steps": None, "unit": "step", "images_per_s": None, "steps_per_s": None, "usd": 0.0, "usd_is_estimate": True,
    "budget_usd": None, "seconds": 0.0, "created_at": "", "notice_ends_at": None, "is_led": True,
}  # fmt: skip


def spelled(value: Any) -> Any:
    """Return JSON values whose texts hold no control characters and no endless words."""
    if isinstance(value, str):
        return one_line(value[:LONGEST_TEXT])
    if isinstance(value, (list, tuple)):
        return [spelled(one) for one in value]
    return {one_line(key): spelled(one) for key, one in value.items()} if isinstance(value, dict) else value


def broken_row(one: BrokenRun) -> Row:
    """Return the row of a run that cannot be read: the keys of any row, and why."""
    row: Row = spelled({**NO_ROW, "reason": f"cannot be read: {one.why}", **one.as_json()})
    return row


class KnownRun:
    """What is known of one run between two looks: nothing that has not changed is read again.

    Args:
        store: the run.
        log: its events.
    """

    def __init__(self, store: RunStore, log: EventLog | None = None) -> None:
        self.store = store
        self.log = log or EventLog(store)
        self.spec: RunSpec | None = None
        self._marks: tuple[Mark | None, ...] | None = None
        self._paths = [f"{store.folder}/{name}" for name in LOOKED_AT]
        self._spec_defects: list[str] = []
        self._defects: list[str] = []
        self._metrics: tuple[Path, Mark | None] | None = None
        self._step = 0
        self._row: Row | None = None  # of a run that is over: nothing of it depends on the time

    def look(self) -> bool:
        """Read what has changed, and return whether anything has.

        Raises:
            OSError: the run cannot be read; the error names why in one line.
        """
        marks = tuple(map(mark_of, self._paths))
        if marks == self._marks:
            return False
        trouble = self.store.trouble()
        if trouble:
            self._marks = None
            raise OSError(trouble)
        self.log.look()
        if self._marks is None or marks[:2] != self._marks[:2]:
            self._read_spec()
        self._defects = [*self._spec_defects, *self.store.other_defects(self.log.state)]
        self._marks, self._row, self._metrics = marks, None, None
        return True

    def _read_spec(self) -> None:
        try:
            self.spec, self._spec_defects = self.store.spec(), []
        except SpecError as error:
            self.spec, self._spec_defects = None, [self.store.spec_defect(error)]

    @property
    def state(self) -> RunState:
        """The fold of its events, without a correction of the clock."""
        return self.log.state

    def seen(self, now: float) -> Seen:
        """Return its state as it can be at `now` (unix seconds)."""
        return seen_at(self.state, now)

    def row(self, now: float) -> Row:
        """Return the row at `now` (unix seconds)."""
        if self._row is not None:
            return self._row
        seen = self.seen(now)
        row: Row = spelled(self._made(seen, now))
        if seen.state.is_final and seen.state is self.state and not row["usd_is_estimate"]:
            self._row = row
        return row

    def _made(self, seen: Seen, now: float) -> Row:
        state = seen.state
        generations = generations_of(state)
        one = generations[-1] if generations else None
        attempt = one.lead if one else None
        newest = next((one.newest for one in reversed(state.attempts) if one.newest is not None), None)
        budget = self.spec.limits.budget_usd if self.spec else None
        return {
            "run": self.store.run,
            "state": state.state,
            "reason": "; ".join([*state.reason.splitlines()[:1], *self._defects, *seen.remarks]),
            "is_final": state.is_final,
            "cloud": state.cloud,
            "where": _where(one) if one else "",
            "device": attempt.device if attempt else "",
            "attempts": len(generations),
            "machines": len(set(state.instance_ids)),
            "nodes": one.nodes if one else 0,
            "open_machines": len(state.open_attempts()),
            "interruptions": state.interruptions,
            "step": self._steps_done(state),
            "steps": (self.spec.steps if self.spec else None) or (newest.total if newest else None),
            "unit": attempt.unit if attempt else "step",
            "images_per_s": _speed(newest.images_per_s if newest else None),
            "steps_per_s": _speed(newest.steps_per_s if newest else None),
            "usd": round(float(total_usd(state.attempts, now)), 8),
            "usd_is_estimate": seen.is_estimate or any(not one.is_over for one in state.attempts),
            "budget_usd": None if budget is None else float(budget),
            "seconds": max(0.0, (state.updated_at if state.is_final else now) - state.created_at),
            "created_at": iso(state.created_at),
            **_notice(one),
            "is_led": state.is_final or self.store.owner_pid() is not None,
        }

    def _steps_done(self, state: RunState) -> int:
        """Return the last step known here; the metrics are looked into only where they have changed."""
        if state.is_final or not state.attempts:
            return steps_done(self.store, state)
        path = self.store.metrics_path((state.lead or state.attempts[-1]).number)
        now = (path, mark_of(path))
        if now != self._metrics:
            self._metrics, self._step = now, steps_done(self.store, state)
        return self._step


def _speed(value: float | None) -> float | None:
    return value if is_figure(value, 1e-12) else None


def _where(one: Generation) -> str:
    lead, count = one.lead, f"{one.nodes} x " if one.nodes > 1 else ""
    return f"{count}{lead.instance_type} {lead.market} in {lead.zone}"


def _notice(one: Generation | None) -> dict[str, Any]:
    """Return when AWS ends a machine that is under a notice, and of a group which one: the first of them."""
    members = one.members if one is not None else ()
    noticed = [
        (each.noticed_ends_at, each) for each in members if each.noticed_ends_at is not None and not each.is_over
    ]
    if one is None or not noticed:
        return {"notice_ends_at": None, "notice_node": None}
    ends_at, attempt = min(noticed, key=lambda each: each[0])
    return {"notice_ends_at": iso(ends_at), "notice_node": one.rank_of(attempt) if one.is_group else None}
