"""Runs -> Report: what each run and each instance type cost, and how fast it was.

Every figure names its origin: *measured* (from a trainer's metrics), *billed* (by the rules of `billing.py`),
*recorded* or live prices, *predicted*. The embedded cloud measures this machine's CPU: its figures are shown, but not
ranked among GPU types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypedDict

from orchestrator.market.billing import DEFAULT_RULE, SpotRule
from orchestrator.market.spot_prices import MarketRow, lowest
from orchestrator.report.attempt_rows import attempt_row, lasted_s
from orchestrator.report.metrics import Digest
from orchestrator.report.predictions import find_type, predictions, usd_for
from orchestrator.report.rows import AttemptRow, NodesRow, Report, RunRow, TypeRow, Workload
from orchestrator.runs.generations import generations_of
from orchestrator.runs.listing import BrokenRun
from orchestrator.runs.spec import EMBEDDED_TITLE
from orchestrator.runs.state import RunState

NOTHING = Decimal(0)


# -- a run


def run_row(
    state: RunState,
    digests: Mapping[int, Digest],
    now: float,
    *,
    workload: Workload | None = None,
    rule: SpotRule = DEFAULT_RULE,
) -> RunRow:
    """Return the row of one run.

    Args:
        state: the fold of its events.
        digests: the digests of the metrics, by attempt.
        now: unix seconds; attempts that still run are billed up to it.
        workload: what the run trains.
        rule: the rule by which a spot second is billed.
    """
    workload = workload or Workload("")
    is_own, generations = workload.is_own, generations_of(state)
    leads = [one.lead for one in generations]
    rows = tuple(
        attempt_row(one, leads[place:], digests.get(one.lead.number, Digest()), now, rule, is_own=is_own)
        for place, one in enumerate(generations, 1)
    )
    known = [digests[lead.number] for lead in leads if lead.number in digests]
    epoch = next((d.images_per_epoch for d in known if d.images_per_epoch), workload.images_per_epoch)
    rate = Rate.of(rows)
    epoch_steps = next((d.steps_per_epoch for d in reversed(known) if d.steps_per_epoch), None)
    return RunRow(
        run=state.run,
        state=state.state,
        reason=state.reason,
        cloud=state.cloud,
        workload=workload.name,
        created_at=state.created_at,
        steps=max((a.last_step for a in state.attempts), default=0),
        steps_lost=sum(row.steps_lost for row in rows),
        interruptions=state.interruptions,
        capacity_failures=len(state.failures),
        attempts=rows,
        images_per_s=rate.images_per_s,
        usd_per_1000_steps=rate.usd_of_steps(1000),
        usd_per_epoch=rate.usd_of_epoch(epoch, epoch_steps),
        **_last_validation(known),
        **_bill_of(rows),
        is_estimate=any(row.is_estimate for row in rows),
        data_s=sum(row.data_s for row in rows),
        duration_s=max(0.0, (state.updated_at if state.is_final else now) - state.created_at),
        machine_s=sum(lasted_s(attempt, now) for attempt in state.attempts),
        batch_size=next((d.batch_size for d in known if d.batch_size), workload.batch_size),
        images_per_epoch=epoch,
        problems=_run_problems(rows),
        user_setup_s=sum(row.user_setup_s for row in rows),
        **_program_of(rows, known, is_own=is_own),
        seconds_per_step=rate.seconds_per_step,
        usd_per_step=rate.usd_of_steps(1),
        steps_per_epoch=epoch_steps,
        group_wait_s=sum(row.group_wait_s for row in rows),
        by_nodes=_by_nodes(rows, epoch, epoch_steps),
    )


def _by_nodes(rows: Sequence[AttemptRow], epoch: float | None, epoch_steps: float | None) -> tuple[NodesRow, ...]:
    """Return what the steps of a group cost at each of its sizes; nothing for a run on one machine at a time."""
    sizes = sorted({row.nodes for row in rows}) if any(row.is_group for row in rows) else []
    found = []
    for nodes in sizes:
        mine = [row for row in rows if row.nodes == nodes]
        rate = Rate.of(mine)
        found.append(
            NodesRow(
                nodes=nodes,
                attempts=len(mine),
                steps=sum(max(0, row.last_step - row.first_step + 1 - row.steps_lost) for row in mine),
                images_per_s=rate.images_per_s,
                seconds_per_step=rate.seconds_per_step,
                usd_per_step=rate.usd_of_steps(1),
                usd_per_1000_steps=rate.usd_of_steps(1000),
                usd_per_epoch=rate.usd_of_epoch(epoch, epoch_steps),
                cost_usd=_sum(row.billed_usd for row in mine),
                group_wait_usd=_sum(row.group_wait_usd for row in mine),
            )
        )
    return tuple(found)


class _Program(TypedDict):
    device: str
    is_own: bool
    unit: str
    metrics_source: str
    is_measured: bool
    values: dict[str, float]


def _program_of(rows: Sequence[AttemptRow], known: Sequence[Digest], *, is_own: bool) -> _Program:
    """Return what is known of the program: of the last attempt that tells it."""
    return {
        "device": next((row.device for row in reversed(rows) if row.device), ""),
        "is_own": is_own,
        "unit": next((row.unit for row in reversed(rows) if row.is_measured), "step"),
        "metrics_source": next((row.metrics_source for row in reversed(rows) if row.metrics_source), ""),
        "is_measured": not is_own or any(row.is_measured for row in rows),
        "values": next((dict(one.values) for one in reversed(known) if one.values), {}),
    }


class _Validation(TypedDict):
    nats: float | None
    bits_per_dim: float | None


def _last_validation(digests: Sequence[Digest]) -> _Validation:
    valid = [d for d in digests if d.valid_nats is not None or d.valid_bits is not None]
    if not valid:
        return {"nats": None, "bits_per_dim": None}
    return {"nats": valid[-1].valid_nats, "bits_per_dim": valid[-1].valid_bits}


class _Bill(TypedDict):
    instance_usd: Decimal
    volume_usd: Decimal
    address_usd: Decimal
    data_out_usd: Decimal
    cost_usd: Decimal
    on_demand_usd: Decimal | None
    to_first_step_usd: Decimal
    data_usd: Decimal
    user_setup_usd: Decimal
    group_wait_usd: Decimal


def _bill_of(rows: Sequence[AttemptRow]) -> _Bill:
    """Return the amounts of a run: the sums over its attempts."""
    on_demand = [row.on_demand_usd for row in rows]
    return {
        "instance_usd": _sum(row.instance_usd for row in rows),
        "volume_usd": _sum(row.volume_usd for row in rows),
        "address_usd": _sum(row.address_usd for row in rows),
        "data_out_usd": _sum(row.data_out_usd for row in rows),
        "cost_usd": _sum(row.billed_usd for row in rows),
        "on_demand_usd": None if None in on_demand else _sum(usd for usd in on_demand if usd is not None),
        "to_first_step_usd": _sum(row.to_first_step_usd for row in rows),
        "data_usd": _sum(row.data_usd for row in rows),
        "user_setup_usd": _sum(row.user_setup_usd for row in rows),
        "group_wait_usd": _sum(row.group_wait_usd for row in rows),
    }


def _run_problems(rows: Sequence[AttemptRow]) -> tuple[str, ...]:
    if not rows:
        return ("no instance was started",)
    return tuple(f"attempt {row.number}: {problem}" for row in rows for problem in row.problems)


def _sum(values: object) -> Decimal:
    return sum(values, NOTHING)  # type: ignore[call-overload, no-any-return]  # a generator of Decimals


def _steps(row: AttemptRow) -> int:
    return max(row.last_step - row.first_step + 1, 1)


@dataclass(frozen=True)
class Rate:
    """Speed and cost of training over attempts at several speeds and prices: the one definition for all figures.

    Each attempt is weighted by the time of its steps: images/s is all images over all time, dollars per hour is the
    time-weighted mean. So dollars per epoch, per step and per 1,000 steps are the same money over the same images.
    """

    images_per_s: float | None
    seconds_per_step: float | None
    usd_h: Decimal | None

    @classmethod
    def of(cls, rows: Sequence[AttemptRow]) -> Rate:
        """Return the rate over the attempts that have a measured speed, in steps where none tells images."""
        rows = [row for row in rows if row.images_per_s] or [row for row in rows if row.steps_per_s]
        if not rows:
            return cls(None, None, None)
        times = [_trained_s(row) for row in rows]
        total_s = sum(times)
        images = sum(t * (row.images_per_s or 0) for t, row in zip(times, rows, strict=True))
        usd = _sum(_decimal(t) * row.usd_h for t, row in zip(times, rows, strict=True))
        steps = sum(map(_steps, rows)) if all(row.steps_per_s for row in rows) else None
        return cls(images / total_s or None, total_s / steps if steps else None, usd / _decimal(total_s))

    def usd_of_steps(self, steps: float) -> Decimal | None:
        """Return the cost of so many steps, for the training time alone."""
        if self.usd_h is None or self.seconds_per_step is None:
            return None
        return _decimal(steps) * _decimal(self.seconds_per_step) * self.usd_h / 3600

    def usd_of_images(self, images: float | None) -> Decimal | None:
        """Return the cost of so many images, for the training time alone."""
        if self.usd_h is None or images is None or self.images_per_s is None:
            return None
        return usd_for(images, self.images_per_s, self.usd_h)

    def usd_of_epoch(self, images: float | None, steps: float | None) -> Decimal | None:
        """Return the cost of an epoch: by its images, else by its steps."""
        if self.images_per_s is None:
            return None if steps is None else self.usd_of_steps(steps)
        return self.usd_of_images(images)


def _trained_s(row: AttemptRow) -> float:
    """Return the seconds of an attempt's steps; without steps/s a step counts as one image."""
    return _steps(row) / (row.steps_per_s or row.images_per_s or 1.0)


def _decimal(value: float) -> Decimal:
    return Decimal(repr(float(value)))


# -- the report


def build(
    runs: Sequence[RunRow],
    now: float,
    *,
    rule: SpotRule = DEFAULT_RULE,
    workloads: Mapping[str, Workload] | None = None,
    prices: Sequence[MarketRow] = (),
    price_note: str = "",
    broken: Sequence[BrokenRun] = (),
) -> Report:
    """Return the report over these runs.

    Args:
        runs: the rows of the runs.
        now: unix seconds.
        rule: the rule by which the runs were billed.
        workloads: the known workloads by name; types without a run are predicted for them.
        prices: the current market prices, for the predictions.
        price_note: the source and the time of these prices.
        broken: the runs that cannot be read.
    """
    groups: dict[_Key, list[tuple[RunRow, AttemptRow]]] = {}
    for run in runs:
        for row in run.attempts:
            key = run.cloud, run.workload, row.instance_type, row.market, row.nodes, row.ranks
            groups.setdefault(key, []).append((run, row))
    types = tuple(_type_row(key, pairs) for key, pairs in sorted(groups.items(), key=lambda item: item[0]))
    predicted, left_out = [], []
    for workload in (workloads or {}).values():
        made, checks = predictions(workload, types, lowest(prices), prices)
        predicted += made
        left_out += checks
    return Report(
        now,
        rule,
        tuple(runs),
        types,
        tuple(predicted),
        tuple(left_out),
        price_note if predicted else "",
        slot_notes=_slot_notes(runs),
        broken=tuple(broken),
    )


def _slot_notes(runs: Sequence[RunRow]) -> tuple[str, ...]:
    """Say of which machines of the embedded cloud one process stands for several GPUs."""
    found: dict[str, int] = {}
    for run in runs:
        if run.cloud == EMBEDDED_TITLE and run.slots in (None, 1):
            for row in run.attempts:
                known = find_type(row.instance_type)
                if known is not None and known.gpus > 1 and row.ranks <= row.nodes:
                    found[known.name] = known.gpus
    names = ", ".join(f"{name} ({gpus} GPUs)" for name, gpus in found.items())
    if not names:
        return ()
    return (f"embedded cloud: one process trains on each machine, also where the type has more GPUs: {names}.",)


_Key = tuple[str, str, str, str, int, int]  # cloud, workload, type, market, machines, processes


def _type_row(key: _Key, pairs: Sequence[tuple[RunRow, AttemptRow]]) -> TypeRow:
    cloud, workload, instance_type, market, nodes, ranks = key
    rows = [row for _, row in pairs]
    measured = [row for row in rows if row.images_per_s]
    rate = Rate.of(rows)
    speed = rate.images_per_s
    price = rate.usd_h if rate.usd_h is not None else _sum(row.usd_h for row in rows) / len(rows)
    epoch = next((run.images_per_epoch for run, _ in pairs if run.images_per_epoch), None)
    epoch_steps = next((run.steps_per_epoch for run, _ in pairs if run.steps_per_epoch), None)
    return TypeRow(
        cloud=cloud,
        workload=workload,
        instance_type=instance_type,
        market=market,
        attempts=len(rows),
        interruptions=sum(row.interruptions for row in rows),
        images_per_s=speed,
        slow_images_per_s=min((row.slow_images_per_s for row in measured if row.slow_images_per_s), default=None),
        fast_images_per_s=max((row.fast_images_per_s for row in measured if row.fast_images_per_s), default=None),
        seconds_per_step=rate.seconds_per_step,
        price_usd_h=price,
        usd_per_step=rate.usd_of_steps(1),
        usd_per_1000_steps=rate.usd_of_steps(1000),
        usd_per_epoch=rate.usd_of_epoch(epoch, epoch_steps),
        images_per_usd=None if not speed or not price else speed * 3600 / float(price),
        cost_usd=_sum(row.billed_usd for row in rows),
        device=next((row.device for row in rows if row.device), ""),
        is_ranked=cloud != EMBEDDED_TITLE and rate.usd_h is not None,
        ranks=ranks,
        nodes=nodes,
        on_demand_usd_h=_on_demand_usd_h(rows),
    )


def _on_demand_usd_h(rows: Sequence[AttemptRow]) -> Decimal | None:
    """Return the on-demand price per hour of a type, of all machines of a group.

    As paid, else as the catalog has it for the newest region.
    """
    newest = rows[-1]
    if newest.market == "on-demand":
        return newest.usd_h
    known = find_type(newest.instance_type)
    usd_h = known.on_demand_usd_h.get(newest.region) if known else None
    return None if usd_h is None else Decimal(str(usd_h)) * newest.nodes
