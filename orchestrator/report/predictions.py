"""Predicts the types that have no run of a workload, from those that have one; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from orchestrator.errors import SpecError
from orchestrator.market import catalog
from orchestrator.market.scaling import Estimate, group, refusal, work_of_rank
from orchestrator.market.spot_prices import MarketRow
from orchestrator.market.throughput import Observation, Prediction, predict
from orchestrator.report.rows import LeftOutRow, PredictedRow, TypeRow, Workload


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
    targets = [
        known
        for known in catalog.all_types()
        if known.name not in fastest and (not (known.is_retired or known.like) or known.name in asked)
    ]
    found = predict(list(fastest.values()), targets, workload.work)
    rows = []
    for one in found.of_types:
        price, source = _price_of(one.instance_type, best, prices)
        on_demand, _ = _price_of(one.instance_type, {}, prices)
        epoch = workload.images_per_epoch
        known = catalog.find(one.instance_type)
        all_gpus = _all_gpus(known, one, workload)
        rows.append(
            PredictedRow(
                workload=workload.name,
                instance_type=one.instance_type,
                images_per_s=one.images_per_s,
                low_images_per_s=one.low,
                high_images_per_s=one.high,
                price_usd_h=price,
                price_source=source,
                usd_per_epoch=None if price is None or not epoch else usd_for(epoch, one.images_per_s, price),
                images_per_usd=None if not price else one.images_per_s * 3600 / float(price),
                basis=one.basis,
                is_bound_by_kernels=one.is_bound_by_kernels,
                gpus=known.gpus,
                all_gpus_images_per_s=all_gpus,
                all_gpus_usd_per_epoch=usd_for(epoch, all_gpus, price) if all_gpus and price and epoch else None,
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


def _all_gpus(known: catalog.InstanceType, one_gpu: Prediction, workload: Workload) -> float | None:
    """Return the estimated images/s of a machine with a process on each of its GPUs."""
    if known.gpus == 1:
        return one_gpu.images_per_s
    config = workload.config
    if config is None or refusal(known, 1, config):
        return None
    return group(known, 1, config, Estimate.of(one_gpu)).images_per_s.mid


def find_type(name: str) -> catalog.InstanceType | None:
    """Return a type of the catalog; None for one that only a newer catalog lists."""
    try:
        return catalog.find(name)
    except SpecError:
        return None


def _price_of(name: str, best: Mapping[str, MarketRow], prices: Sequence[MarketRow]) -> tuple[Decimal | None, str]:
    """Return (dollars per hour, source): the lowest spot price, else the on-demand price."""
    if name in best:
        return best[name].rank_usd_h, f"spot, {best[name].source}"
    on_demand = [row.on_demand_usd_h for row in prices if row.instance_type == name and row.on_demand_usd_h]
    return (min(on_demand), "on-demand") if on_demand else (None, "no price known")


def usd_for(images: float, images_per_s: float | None, price_usd_h: Decimal) -> Decimal:
    """Return the cost of so many images at a speed and a price per hour."""
    return Decimal(repr(float(images))) * price_usd_h / 3600 / Decimal(repr(images_per_s or 1.0))
