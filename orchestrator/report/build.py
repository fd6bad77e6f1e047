"""Runs -> Report: what each run and each instance type cost, and how fast it was, by measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.billing import bill
from orchestrator.events import Attempt, RunState

EMBEDDED = "embedded cloud"
Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class AttemptRow:
    """One instance that was really had."""

    number: int
    instance_id: str
    instance_type: str
    zone: str
    region: str
    market: str
    price_usd_h: float
    started_at: float
    ended_at: float | None
    ended_by: str | None
    end_reason: str
    first_step: int
    last_step: int
    images_per_s: float | None
    steps_per_s: float | None
    device: str
    billed_usd: float
    billed_s: float
    is_free: bool
    is_estimate: bool


@dataclass(frozen=True)
class RunRow:
    """One run over all its attempts."""

    run: str
    state: str
    reason: str
    cloud: str
    steps: int
    steps_lost: int  # trained, and done again after an interruption
    interruptions: int
    capacity_failures: int
    attempts: tuple[AttemptRow, ...]
    images_per_s: float | None
    usd_per_1000_steps: float | None
    usd_per_epoch: float | None
    nats: float | None  # the last validation
    bits_per_dim: float | None
    device: str
    cost_usd: float
    is_estimate: bool
    duration_s: float


@dataclass(frozen=True)
class TypeRow:
    """One instance type in one market on one cloud, over all runs."""

    cloud: str
    instance_type: str
    market: str
    attempts: int
    interruptions: int
    images_per_s: float | None
    price_usd_h: float
    usd_per_1000_steps: float | None
    usd_per_epoch: float | None
    cost_usd: float


@dataclass(frozen=True)
class Report:
    """Everything that the forms of the report show."""

    generated_at: float
    runs: tuple[RunRow, ...]
    types: tuple[TypeRow, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What must stand beside the figures for them to be honest."""
        if not any(run.cloud == EMBEDDED for run in self.runs):
            return ()
        return (
            "embedded cloud: the prices are recorded ones, nothing was paid; "
            "the throughput is this machine's CPU's, not the GPU's.",
        )


def _measured(lines: Metrics) -> list[Mapping[str, Any]]:
    """Return the training lines with a speed, less the first, which holds the warm-up (unless it is all there is)."""
    lines = [x for x in lines if isinstance(x.get("step"), int) and x.get("split") != "valid" and "event" not in x]
    with_speed = [x for x in lines if isinstance(x.get("images_per_s"), (int, float)) and x["images_per_s"] > 0]
    return with_speed[1:] or with_speed


def speed(lines: Metrics) -> tuple[float | None, float | None]:
    """Return (images/s, steps/s) of one attempt's metrics in steady state: each line weighs as long as it took."""
    measured = _measured(lines)
    if not measured:
        return None, None
    total_s = images = steps = 0.0
    before: Mapping[str, Any] | None = None
    for line in measured:
        if before is not None and all(isinstance(x.get("wall_s"), (int, float)) for x in (line, before)):
            seconds = line["wall_s"] - before["wall_s"]
            if seconds > 0:
                total_s += seconds
                images += line["images_per_s"] * seconds
                steps += line["step"] - before["step"]
        before = line
    if total_s == 0:
        mean = sum(x["images_per_s"] for x in measured) / len(measured)
        return mean, None
    return images / total_s, steps / total_s


def _start_line(lines: Metrics) -> Mapping[str, Any]:
    return next((x for x in lines if x.get("event") == "start"), {})


def _attempt_row(attempt: Attempt, lines: Metrics, now: float) -> AttemptRow:
    images_per_s, steps_per_s = speed(lines)
    batch = _start_line(lines).get("batch_size")
    if steps_per_s is None and images_per_s and isinstance(batch, int) and batch > 0:
        steps_per_s = images_per_s / batch
    billed = bill(attempt, now)
    return AttemptRow(
        number=attempt.number,
        instance_id=attempt.instance_id,
        instance_type=attempt.instance_type,
        zone=attempt.zone,
        region=attempt.region,
        market=attempt.market,
        price_usd_h=attempt.price_usd_h,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        ended_by=attempt.ended_by,
        end_reason=attempt.end_reason,
        first_step=attempt.first_step,
        last_step=attempt.last_step,
        images_per_s=images_per_s,
        steps_per_s=steps_per_s,
        device=attempt.device,
        billed_usd=float(billed.usd),
        billed_s=float(billed.seconds),
        is_free=billed.is_free,
        is_estimate=billed.is_estimate,
    )


def _weighted(rows: Sequence[AttemptRow]) -> float | None:
    """Return images/s over several attempts, each weighing as many steps as it did."""
    rows = [row for row in rows if row.images_per_s]
    weight = sum(max(row.last_step - row.first_step + 1, 1) for row in rows)
    if not rows:
        return None
    # images are proportional to steps: total images over total time is the harmonic mean weighted by steps
    return weight / sum(max(row.last_step - row.first_step + 1, 1) / (row.images_per_s or 1) for row in rows)


def _usd_per(rows: Sequence[AttemptRow], images: float | None) -> float | None:
    """Return what so many images cost while training runs: price an hour over measured images/s."""
    rows = [row for row in rows if row.images_per_s]
    if not rows or images is None:
        return None
    weights = [max(row.last_step - row.first_step + 1, 1) for row in rows]
    each = [row.price_usd_h / 3600 / (row.images_per_s or 1) for row in rows]
    return images * sum(w * usd for w, usd in zip(weights, each, strict=True)) / sum(weights)


def run_row(state: RunState, metrics: Metrics, now: float) -> RunRow:
    """Return the row of one run.

    Args:
        state: the fold of its events.
        metrics: the lines of all its attempts, each with an `attempt`, as written (also what was done twice).
        now: unix seconds, for what is still running.
    """
    by_attempt: dict[int, list[Mapping[str, Any]]] = {}
    for line in metrics:
        by_attempt.setdefault(int(line.get("attempt", 0)), []).append(line)
    rows = tuple(_attempt_row(a, by_attempt.get(a.number, []), now) for a in state.attempts)
    start = next((s for lines in by_attempt.values() if (s := _start_line(lines))), {})
    batch, epoch = start.get("batch_size"), start.get("images_per_epoch")
    valid = [x for x in metrics if x.get("split") == "valid" and isinstance(x.get("nats"), (int, float))]
    lost = sum(max(0, a.last_step - b.resumed_from) for a, b in zip(state.attempts, state.attempts[1:], strict=False))
    ended_at = state.updated_at if state.is_final else now
    return RunRow(
        run=state.run,
        state=state.state,
        reason=state.reason,
        cloud=state.cloud,
        steps=max((a.last_step for a in state.attempts), default=0),
        steps_lost=lost,
        interruptions=state.interruptions,
        capacity_failures=len(state.failures),
        attempts=rows,
        images_per_s=_weighted(rows),
        usd_per_1000_steps=_usd_per(rows, 1000.0 * batch if isinstance(batch, int) else None),
        usd_per_epoch=_usd_per(rows, float(epoch) if isinstance(epoch, (int, float)) else None),
        nats=valid[-1]["nats"] if valid else None,
        bits_per_dim=valid[-1].get("bits_per_dim") if valid else None,
        device=next((row.device for row in reversed(rows) if row.device), ""),
        cost_usd=sum(row.billed_usd for row in rows),
        is_estimate=any(row.is_estimate for row in rows),
        duration_s=max(0.0, ended_at - state.created_at),
    )


def build(runs: Sequence[RunRow], now: float) -> Report:
    """Return the report over these runs."""
    groups: dict[tuple[str, str, str], list[tuple[RunRow, AttemptRow]]] = {}
    for run in runs:
        for row in run.attempts:
            groups.setdefault((run.cloud, row.instance_type, row.market), []).append((run, row))
    return Report(now, tuple(runs), tuple(_type_row(key, pairs) for key, pairs in sorted(groups.items())))


def _type_row(key: tuple[str, str, str], pairs: Sequence[tuple[RunRow, AttemptRow]]) -> TypeRow:
    rows = [row for _, row in pairs]
    runs = list({id(run): run for run, _ in pairs}.values())
    same = len({(run.usd_per_epoch is None, run.usd_per_1000_steps is None) for run in runs}) == 1
    return TypeRow(
        cloud=key[0],
        instance_type=key[1],
        market=key[2],
        attempts=len(rows),
        interruptions=sum(row.ended_by == "aws" for row in rows),
        images_per_s=_weighted(rows),
        price_usd_h=sum(row.price_usd_h for row in rows) / len(rows),
        usd_per_1000_steps=_mean([run.usd_per_1000_steps for run in runs]) if same else None,
        usd_per_epoch=_mean([run.usd_per_epoch for run in runs]) if same else None,
        cost_usd=sum(row.billed_usd for row in rows),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
