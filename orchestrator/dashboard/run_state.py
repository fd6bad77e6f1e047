"""What the page of one run shows: its attempts, bill, events, samples and files."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from orchestrator.clock import iso
from orchestrator.dashboard.appended import Mark, mark_of
from orchestrator.dashboard.curves import RunCurves
from orchestrator.dashboard.downloads import files_of
from orchestrator.dashboard.event_log import EventLog
from orchestrator.dashboard.rows import KnownRun, Row, spelled
from orchestrator.market.billing import DEFAULT_RULE, NOTHING
from orchestrator.report.attempt_rows import attempt_row
from orchestrator.report.group_text import EventLines
from orchestrator.report.metrics import Digest
from orchestrator.report.records import workload_of
from orchestrator.report.rows import AttemptRow, MemberRow
from orchestrator.report.slow_nodes import slow_nodes
from orchestrator.report.summary import samples_of
from orchestrator.runs.checked import is_figure
from orchestrator.runs.events import Event, GpuSeen, Progress
from orchestrator.runs.generations import Generation, generations_of
from orchestrator.runs.state import Attempt, RunState
from orchestrator.runs.store import RunStore

MOST_EVENTS = 200  # the newest ones
MOST_SAMPLES = 300  # pictures of a slider; of more, every second or third
MOST_ATTEMPTS = 60  # the newest ones
MOST_PRICES = 100  # of one attempt
LEAST_SPAN_S = 1.0  # from which a rate is computed


class OpenRun:
    """A run whose page is open. Its methods can be called from several threads.

    Args:
        store: the run.
    """

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._words: deque[tuple[float, str]] = deque(maxlen=MOST_EVENTS)
        self._has_looked = False
        self._lines = EventLines()
        self._number = 0  # of the events with words, so that a page knows them again
        self._curves = RunCurves(store)
        self._known = KnownRun(store, EventLog(store, self._watch, self._restart))
        self._files: tuple[tuple[Mark | None, ...], dict[str, Any]] | None = None
        self._steps: dict[int, int] = {}  # the newest one of an attempt
        self._first: dict[int, tuple[float, int]] = {}  # (when, step) of the first progress of an attempt

    def _restart(self) -> None:
        self._words.clear()
        self._lines = EventLines()
        self._first.clear()
        self._steps.clear()
        self._curves.begin()

    def _watch(self, event: Event) -> None:
        words = _joined(self._lines.words(event, event.at))
        if words:
            self._number += 1
            self._words.append((event.at, words))
        if isinstance(event, Progress):
            self._steps[event.attempt] = event.step
            self._first.setdefault(event.attempt, (event.at, event.step))
            self._curves.tell(event)
        if isinstance(event, GpuSeen) and self._lines.is_first_node(event.attempt):
            newest = self._steps.get(event.attempt, 0)
            self._curves.tell_gpu(event, newest)

    def page(self, now: float) -> dict[str, Any]:
        """Return all that the page shows at `now` (unix seconds) but the curves, of which the version is told.

        Raises:
            OSError: the run cannot be read.
        """
        with self._lock:
            is_reading = self._look()
            state = self._known.seen(now).state
            row = self._known.row(now)
            work = workload_of(self._known.spec)
            generations = generations_of(state)
            rows = [attempt_row(one, [], Digest(), now, DEFAULT_RULE, is_own=work.is_own) for one in generations]
            shown = list(zip(generations, rows, strict=True))[-MOST_ATTEMPTS:]
            first = self._number - len(self._words)
            words = [
                {"number": first + place, "at": iso(at), "words": spelled(text)}
                for place, (at, text) in enumerate(self._words, 1)
            ]
            return {
                "now": iso(now),
                "run": row,
                "work": spelled(work.name),
                "eta_s": self._eta_s(row, state),
                "attempts": [_attempt(one, row, now, is_own=work.is_own) for one, row in shown],
                "gpu": _gpu(state),
                "attempts_left_out": len(generations) - len(shown),
                "slow_nodes": self._slow_nodes(generations),
                "bill": _bill(rows, row),
                "events": words[::-1],
                "samples": self._samples(),
                "files": self._files_of(state),
                "marks": spelled(_marks(state)),
                "log": self._log(state),
                "log_names": _log_names(generations),
                "version": self._curves.version,
                "share_read": round(self._curves.share_read, 3),
                "is_reading": is_reading,
            }

    def curves(self) -> dict[str, Any]:
        """Return the curves as far as they are read."""
        with self._lock:
            if not self._has_looked:
                self._look()
            return self._curves.as_json(_leads(self._known.state))

    def _look(self) -> bool:
        """Read what is new of the events and, up to a few megabytes, of the metrics; return whether there is more."""
        self._known.look()
        self._has_looked = True
        return self._curves.look(_leads(self._known.state))

    def _eta_s(self, row: Row, state: RunState) -> float | None:
        """Return the seconds until the last step at the speed of the current attempt, None where that is not known."""
        attempt = state.lead
        if attempt is None or attempt.newest is None or attempt.is_over or state.is_final or not row["steps"]:
            return None
        at, step = self._first.get(attempt.number, (attempt.newest.at, attempt.newest.step))
        seconds, steps = attempt.newest.at - at, attempt.newest.step - step
        if seconds < LEAST_SPAN_S or steps <= 0:
            return None
        left: int = max(0, row["steps"] - row["step"])
        return round(left * seconds / steps, 1)

    def _slow_nodes(self, generations: list[Generation]) -> list[str]:
        """Return what is known of machines of the group that is trained on that are slower than the others."""
        if not generations or generations[-1].nodes < 2:
            return []
        newest = generations[-1]
        return [one.words for one in slow_nodes(self.store.metrics_path(newest.lead.number), newest.nodes)]

    def _samples(self) -> list[int]:
        steps = [step for step, _ in samples_of(self.store)]
        every = -(-len(steps) // MOST_SAMPLES) or 1
        return steps[::-1][::every][::-1]  # the newest is always one of them

    def _files_of(self, state: RunState) -> dict[str, Any]:
        """List the files again where an event may have told of a new one, or a folder has changed."""
        folder = self.store.folder
        marks = tuple(mark_of(folder / name) for name in ("events.jsonl", "checkpoints", "outputs"))
        if self._files is None or self._files[0] != marks:
            self._files = marks, files_of(folder)
        return self._files[1]

    def _log(self, state: RunState) -> dict[str, Any]:
        """Return the attempts that have a log, with its size in bytes."""
        sizes = {}
        for attempt in state.attempts[-MOST_ATTEMPTS:]:
            mark = mark_of(self.store.log_path(attempt.number))
            if mark is not None:
                sizes[str(attempt.number)] = mark[1]
        return sizes


def _joined(text: str) -> str:
    """Return a text of several lines as one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "".join(line + (" " if line.endswith(".") else "; ") for line in lines[:-1]) + "".join(lines[-1:])


def _gpu(state: RunState) -> dict[str, Any] | None:
    """Return what is known of the GPU of the newest machine that has one, as numbers or None."""
    facts = next((attempt.gpu for attempt in reversed(state.attempts) if attempt.gpu), None)
    if facts is None:
        return None
    use = facts.get("utilization_percent") if state.is_final else facts.get("utilization_now_percent")
    figures = {
        "use_percent": use if use is not None else facts.get("utilization_percent"),
        "memory_mib": facts.get("memory_peak_mib") if state.is_final else facts.get("memory_now_mib"),
        "memory_total_mib": facts.get("memory_total_mib"),
        "temperature_c": None if state.is_final else facts.get("temperature_c"),
    }
    return {key: value if is_figure(value) else None for key, value in figures.items()}


def _leads(state: RunState) -> list[Attempt]:
    """Return the first machine of each attempt: it has the metrics."""
    return [one.lead for one in generations_of(state)]


def _log_names(generations: list[Generation]) -> dict[str, str]:
    """Return what the log of each machine is called, in the order in which they are offered."""
    return {
        str(member.number): f"{one.number}, node {member.rank}" if one.is_group else str(one.number)
        for one in generations[-MOST_ATTEMPTS:]
        for member in reversed(one.joined)
    }


def _attempt(one: Generation, row: AttemptRow, now: float, *, is_own: bool) -> dict[str, Any]:
    lead, is_over = one.lead, one.is_over
    ended_at = (one.ended_at(now) if one.is_group else lead.ended_at) if is_over else None
    started_at = one.started_at
    end = ended_at if ended_at is not None else max(now, started_at)
    first_at = lead.trainer_started_at if is_own else lead.first_step_at  # own ones may tell none
    found: dict[str, Any] = spelled(
        {
            "number": one.number,
            "type": lead.instance_type,
            "zone": lead.zone,
            "market": lead.market,
            "device": lead.device,
            "nodes": one.nodes,
            "price_usd_h": float(row.usd_h),
            "started_at": started_at,
            "first_step_at": first_at,
            "ended_at": ended_at,
            "seconds": max(0.0, end - started_at),
            "ended_by": row.ended_by,
            "why": _why(one),
            "first_step": lead.first_step,
            "last_step": lead.last_step,
            "is_interrupted": row.is_interrupted,
            "usd": float(row.billed_usd),
            "is_free": row.has_free,
            "is_estimate": row.is_estimate,
            "prices": [(at, usd_h * one.nodes) for at, usd_h in _prices(lead, end)],
            "members": [_member(member, now) for member in row.members],
        }
    )
    return found


def _why(one: Generation) -> str:
    """Return why an attempt ended: of a group, which of its machines were lost."""
    if not one.is_group:
        return one.lead.lost_because or one.lead.end_reason
    lost = [
        f"node {member.rank}: {member.lost_because or member.end_reason}" for member in one.joined if member.is_lost
    ]
    return "; ".join(lost)


def _member(member: MemberRow, now: float) -> dict[str, Any]:
    end = member.ended_at if member.ended_at is not None else max(now, member.started_at)
    return {
        "instance_id": member.instance_id,
        "rank": member.rank,
        "type": member.instance_type,
        "zone": member.zone,
        "market": member.market,
        "price_usd_h": float(member.price_usd_h),
        "started_at": member.started_at,
        "ended_at": member.ended_at,
        "ended_by": member.ended_by,
        "seconds": max(0.0, end - member.started_at),
        "state": member.state,
        "state_since": member.state_since,
        "why": member.lost_because,
        "is_interrupted": member.is_interrupted,
        "usd": float(member.billed_usd),
        "is_free": member.is_free,
        "is_estimate": member.ended_at is None,
    }


def _prices(attempt: Attempt, end: float) -> list[tuple[float, float]]:
    """Return (unix seconds, $/h from then on) of an attempt's pool, its own price first."""
    changes = sorted(attempt.price_changes.items())
    before = [usd_h for at, usd_h in changes if at <= attempt.started_at]
    hours = sorted(attempt.prices_usd_h.items())
    first = before[-1] if before else hours[0][1] if hours else attempt.price_usd_h
    later = [(at, usd_h) for at, usd_h in changes if attempt.started_at < at < end]
    if not changes:
        later = [(attempt.started_at + 3600 * hour, usd_h) for hour, usd_h in hours[1:]]
    return [(attempt.started_at, first), *later[-MOST_PRICES:]]


def _bill(rows: list[AttemptRow], row: Row) -> dict[str, Any]:
    on_demand = [one.on_demand_usd for one in rows]
    known = [usd for usd in on_demand if usd is not None]
    return {
        "instance_usd": float(sum((one.instance_usd for one in rows), NOTHING)),
        "volume_usd": float(sum((one.volume_usd for one in rows), NOTHING)),
        "address_usd": float(sum((one.address_usd for one in rows), NOTHING)),
        "data_out_usd": float(sum((one.data_out_usd for one in rows), NOTHING)),
        "group_wait_usd": float(sum((one.group_wait_usd for one in rows), NOTHING)),  # a part of the instances
        "on_demand_usd": float(sum(known, NOTHING)) if known and len(known) == len(rows) else None,
        "usd": row["usd"],
        "is_estimate": row["usd_is_estimate"],
        "budget_usd": row["budget_usd"],
    }


def _marks(state: RunState) -> list[dict[str, Any]]:
    """Return where the steps were interrupted: after which step, and from which one the next attempt went on."""
    found = []
    generations = generations_of(state)
    for one, after in zip(generations, [*generations[1:], None], strict=False):
        lost = one.lost
        if lost is None:
            continue
        why = "interrupted by AWS" if lost.is_interrupted else lost.lost_because or "lost"
        node = f"node {lost.rank} " if one.is_group else ""
        words = f"attempt {one.number}: {node}{why}"
        if after is not None and after.lead.trainer_started_at is not None:
            words += f"; attempt {after.number} goes on from step {after.lead.resumed_from}"
        found.append({"step": one.lead.last_step, "words": words, "is_interrupted": lost.is_interrupted})
    return found[-MOST_ATTEMPTS:]
