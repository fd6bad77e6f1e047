"""Predicts the types that have no run of a workload, from those that have one; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from orchestrator.errors import SpecError
from orchestrator.market import catalog
from orchestrator.market.scaling import Estimate, group, refusal, work_of_rank
from orchestrator.market.spot_prices import MarketRow
from orchestrator.market.throughput import Observation, Prediction, predict
from orchestrator.report.rows import AttemptRow, LeftOutRow, PredictedRow, TypeRow, Workload


def predictions(
    workload: Workload, types: Sequence[TypeRow], best: Mapping[str, MarketRow], prices: Sequence[MarketRow]
) -> tuple[list[PredictedRow], list[LeftOutRow]]:
    """Return predictions for the types on offer that were not measured on AWS, and the leave-one-out checks."""
    mine = [row for row in types if row.workload == workload.name and row.is_ranked and row.images_per_s]
    fastest: dict[str, Observation] = {}
    for row in sorted(mine, key=lambda row: -row.ranks):  # one process is the surest measure of a GPU
        known = find_type(row.instance_type)
        if known is not None and row.images_per_s:
            fastest[known.name] = _observation(known, row.images_per_s, max(row.ranks, row.nodes), workload)
    asked = {row.instance_type for row in types if row.workload == workload.name}
    alone = {row.instance_type for row in mine if is_of_one_machine(row)}
    targets = [
        known
        for known in catalog.all_types()
        if known.name not in alone and (not (known.is_retired or known.like) or known.name in asked)
    ]
    found = predict(list(fastest.values()), targets, workload.work)
    rows = []
    for one in found.of_types:
        price, source = _price_of(one.instance_type, best, prices)
        on_demand, _ = _price_of(one.instance_type, {}, prices)
        epoch = workload.images_per_epoch
        machine = _machine(one, workload)
        speed = machine.images_per_s
        rows.append(
            PredictedRow(
                workload=workload.name,
                instance_type=one.instance_type,
                images_per_s=speed.mid,
                low_images_per_s=speed.low,
                high_images_per_s=speed.high,
                price_usd_h=price,
                price_source=source,
                usd_per_epoch=None if price is None or not epoch else usd_for(epoch, speed.mid, price),
                images_per_usd=None if not price else speed.mid * 3600 / float(price),
                basis=one.basis,
                is_bound_by_kernels=machine.is_bound_by_kernels,
                gpus=machine.gpus,
                one_gpu_images_per_s=one.images_per_s,
                on_demand_usd_h=on_demand,
            )
        )
    rows.sort(key=lambda row: -(row.images_per_usd or 0))
    checks = [LeftOutRow(workload.name, c.instance_type, c.measured, c.predicted, c.error) for c in found.left_out]
    return rows, checks


def _observation(known: catalog.InstanceType, images_per_s: float, ranks: int, workload: Workload) -> Observation:
    """Return the measured speed of one GPU: of several processes the share of one, at its share of the batch.

    The time for adding up the gradients is in such a share, so that the GPU itself is somewhat faster.
    """
    config = workload.config
    work = workload.work if config is None or config.batch_size % ranks else work_of_rank(config, ranks)
    return Observation(known, images_per_s / ranks, work)


@dataclass(frozen=True)
class _Machine:
    images_per_s: Estimate
    gpus: int
    is_bound_by_kernels: bool


def _machine(one_gpu: Prediction, workload: Workload) -> _Machine:
    """Return what a machine does with a process on each of its GPUs; with one where nothing says how they share."""
    known, config = catalog.find(one_gpu.instance_type), workload.config
    if known.gpus == 1 or config is None or refusal(known, 1, config):
        return _Machine(Estimate.of(one_gpu), 1, one_gpu.is_bound_by_kernels)
    found = group(known, 1, config, Estimate.of(one_gpu))
    return _Machine(found.images_per_s, known.gpus, found.limit == "kernels")


def find_type(name: str) -> catalog.InstanceType | None:
    """Return a type of the catalog; None for one that only a newer catalog lists."""
    try:
        return catalog.find(name)
    except SpecError:
        return None


def is_of_one_machine(row: TypeRow | AttemptRow) -> bool:
    """Return whether a speed is of one machine, with no more processes than it has GPUs."""
    known = find_type(row.instance_type)
    return row.nodes == 1 and row.ranks <= (known.gpus if known is not None else 1)


def _price_of(name: str, best: Mapping[str, MarketRow], prices: Sequence[MarketRow]) -> tuple[Decimal | None, str]:
    """Return (dollars per hour, source): the lowest spot price, else the on-demand price."""
    if name in best:
        return best[name].rank_usd_h, f"spot, {best[name].source}"
    on_demand = [row.on_demand_usd_h for row in prices if row.instance_type == name and row.on_demand_usd_h]
    return (min(on_demand), "on-demand") if on_demand else (None, "no price known")


def usd_for(images: float, images_per_s: float | None, price_usd_h: Decimal) -> Decimal:
    """Return the cost of so many images at a speed and a price per hour."""
    return Decimal(repr(float(images))) * price_usd_h / 3600 / Decimal(repr(images_per_s or 1.0))
