"""What the page shows. It is read from the run folders alone; no request goes to AWS or to an instance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.clock import iso
from orchestrator.errors import SpecError
from orchestrator.formatting import one_line
from orchestrator.market.billing import total_usd
from orchestrator.report.as_of import seen_at
from orchestrator.report.event_text import event_words
from orchestrator.report.summary import newest_samples, steps_done
from orchestrator.runs.events import Progress
from orchestrator.runs.listing import BrokenRun, read_run
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.state import Attempt, RunState
from orchestrator.runs.store import RunStore

MOST_RUNS = 12  # first the open ones, then the newest of those that are over
MOST_EVENTS = 12
MOST_POINTS = 60


def snapshot(home: Path, now: float) -> dict[str, Any]:
    """Return the state of the open and the newest runs, the newest first.

    Args:
        home: PIXEL_ORCH_HOME.
        now: unix seconds.
    """
    stores = RunStore.folders(home)
    chosen = _chosen(stores)
    shown = [_broken(one) if isinstance(one, BrokenRun) else one for one in (_row(store, now) for store in chosen)]
    return {
        "now": iso(now),
        "runs": _spelled(shown),
        "others": len(stores) - len(shown),
        "usd": round(sum(run["usd"] for run in shown), 6),
        "going": sum(not run["is_final"] for run in shown),
    }


def _chosen(stores: list[RunStore]) -> list[RunStore]:
    """Return the runs to show; only the newest run folders are read."""
    newest = stores[::-1][: 4 * MOST_RUNS]
    is_open = [store for store in newest if _is_open(store)]
    return [*is_open, *(store for store in newest if store not in is_open)][:MOST_RUNS]


def _is_open(store: RunStore) -> bool:
    found = read_run(store, lambda one: not one.state().is_final)
    return found is True


def _row(store: RunStore, now: float) -> dict[str, Any] | BrokenRun:
    return read_run(store, lambda one: _run(one, now))


def _broken(one: BrokenRun) -> dict[str, Any]:
    """Return the row of a run that cannot be read: the keys of any row, and why."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("steps", "images_per_s", "budget_usd", "samples", "notice_ends_at"), None
    ) | dict.fromkeys(("attempts", "interruptions", "step", "usd", "seconds"), 0)
    words = {"cloud": "", "where": "", "device": "", "reason": f"cannot be read: {one.why}"}
    flags = {"is_final": True, "usd_is_estimate": True, "is_led": True}
    return {**nothing, **words, **flags, "speeds": [], "events": [], **one.as_json()}


def _spelled(value: Any) -> Any:
    """Return JSON values whose texts hold no control characters."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, list):
        return [_spelled(one) for one in value]
    return {key: _spelled(one) for key, one in value.items()} if isinstance(value, dict) else value


def _run(store: RunStore, now: float) -> dict[str, Any]:
    events, _ = store.read_events()
    seen = seen_at(store.state(), now)
    state = seen.state
    defects = [*store.defects(state), *seen.remarks]
    spec = _spec(store)
    attempt = state.attempts[-1] if state.attempts else None
    progress = [event for event in events if isinstance(event, Progress)]
    speed = next((event.images_per_s for event in reversed(progress) if event.images_per_s), None)
    budget = spec.limits.budget_usd if spec else None
    samples = newest_samples(store)
    words = [(event.at, event_words(event, event.at).strip()) for event in events]
    return {
        "run": store.run,
        "state": state.state,
        "reason": "; ".join([*state.reason.splitlines()[:1], *defects]),
        "is_final": state.is_final,
        "cloud": state.cloud,
        "where": _where(attempt),
        "attempts": len(state.attempts),
        "interruptions": state.interruptions,
        "step": steps_done(store, state),
        "steps": spec.steps if spec else None,
        "images_per_s": speed,
        "speeds": [[event.step, event.images_per_s] for event in progress if event.images_per_s][-MOST_POINTS:],
        "device": attempt.device if attempt else "",
        "usd": float(total_usd(state.attempts, now)),
        "usd_is_estimate": seen.is_estimate or any(not a.is_over for a in state.attempts),
        "budget_usd": None if budget is None else float(budget),
        "seconds": _seconds(state, now),
        "samples": samples.name if samples else None,
        "notice_ends_at": _notice(attempt),
        "is_led": state.is_final or store.owner_pid() is not None,
        "events": [{"at": iso(at), "words": text} for at, text in words if text][-MOST_EVENTS:][::-1],
    }


def _spec(store: RunStore) -> RunSpec | None:
    try:
        return store.spec()
    except SpecError:
        return None


def _where(attempt: Attempt | None) -> str:
    return f"{attempt.instance_type} {attempt.market} in {attempt.zone}" if attempt else ""


def _notice(attempt: Attempt | None) -> str | None:
    if attempt is None or attempt.noticed_ends_at is None or attempt.is_over:
        return None
    return iso(attempt.noticed_ends_at)


def _seconds(state: RunState, now: float) -> float:
    return max(0.0, (state.updated_at if state.is_final else now) - state.created_at)
