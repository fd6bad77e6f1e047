"""What groups of machines are estimated to do and to cost, one row for each type and number of machines; pure.

The model is `market.scaling`'s. The speed of one GPU is measured where a run of the workload was on that GPU, else
predicted. Every figure is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from model.config import TrainConfig
from orchestrator.market import catalog
from orchestrator.market.catalog import InstanceType
from orchestrator.market.scaling import Estimate, Group, group, refusal
from orchestrator.market.spot_prices import MarketRow, lowest
from orchestrator.market.throughput import Observation, predict, work_of

WORTH_SAYING = 1.05  # by how much one machine is faster before a sentence says so


@dataclass(frozen=True)
class GroupRow:
    """The estimate for N machines of one type, or the reason why there is none. Prices are of one machine."""

    instance_type: str
    nodes: int
    gpus: int  # of one machine
    network_gbit_s: float | None  # baseline of one machine's first network card
    group: Group | None
    why_not: str  # "" with an estimate
    price_usd_h: float | None  # the lowest spot price that is known, else on-demand
    market: str  # "spot", "on-demand", or "" without a price
    on_demand_usd_h: float | None
    images_per_epoch: float
    basis: str  # where the speed of one GPU is from

    @property
    def name(self) -> str:
        """The machines in words: `4 x g5.xlarge`."""
        return named(self.instance_type, self.nodes)

    @property
    def usd_per_epoch(self) -> Estimate | None:
        """Dollars for an epoch, of the instances alone."""
        return self.usd_of_epoch(self.price_usd_h)

    def usd_of_epoch(self, usd_h: float | None) -> Estimate | None:
        """Return the dollars for an epoch at a price of one machine."""
        return None if self.group is None or not usd_h else self.group.usd_per_images(self.images_per_epoch, usd_h)


@dataclass(frozen=True)
class Better:
    """One larger machine that is faster than a group with as many of the same GPUs. Prices are on-demand ones."""

    one: GroupRow
    many: GroupRow

    @property
    def is_cheaper(self) -> bool | None:
        """Whether an epoch costs less on it; None without both prices."""
        one, many = (row.usd_of_epoch(row.on_demand_usd_h) for row in (self.one, self.many))
        return None if one is None or many is None else one.mid < many.mid


def named(instance_type: str, nodes: int) -> str:
    """Return machines in words: `4 x g5.xlarge`."""
    return f"{nodes} x {instance_type}"


def group_rows(
    names: Sequence[str],
    nodes: Sequence[int],
    config: TrainConfig,
    *,
    measured: Mapping[str, float],
    prices: Sequence[MarketRow],
) -> list[GroupRow]:
    """Return a row for each type and number of machines.

    Args:
        names: types of the catalog.
        nodes: numbers of machines.
        config: what is trained; its batch is that of a whole group.
        measured: images/s of types with one GPU that have run it, by name.
        prices: known prices.
    """
    types = [catalog.find(name) for name in names]
    speeds = _speeds(types, config, measured)
    best = lowest(prices)
    rows = []
    for known in types:
        on_demand = _on_demand(known.name, prices)
        spot = best[known.name].rank_usd_h if known.name in best else None
        price = spot if spot is not None else on_demand
        speed, basis = speeds[known.name]
        for count in nodes:
            why = refusal(known, count, config)
            rows.append(
                GroupRow(
                    instance_type=known.name,
                    nodes=count,
                    gpus=known.gpus,
                    network_gbit_s=known.network.gbit_s,
                    group=None if why else group(known, count, config, speed),
                    why_not=why,
                    price_usd_h=None if price is None else float(price),
                    market="" if price is None else "on-demand" if spot is None else "spot",
                    on_demand_usd_h=None if on_demand is None else float(on_demand),
                    images_per_epoch=float(config.data.train),
                    basis=basis,
                )
            )
    return rows


def _speeds(
    types: Sequence[InstanceType], config: TrainConfig, measured: Mapping[str, float]
) -> dict[str, tuple[Estimate, str]]:
    """Return images/s of one GPU and where they are from: measured on the type, on its GPU, else predicted."""
    work = work_of(config)
    runs = {name: catalog.find(name) for name in measured if catalog.find(name).gpus == 1}
    observed = [Observation(known, measured[name], work) for name, known in runs.items()]
    found = {}
    for known, prediction in zip(types, predict(observed, types, work).of_types, strict=True):
        same = [known.name] if known.name in runs else [name for name, run in runs.items() if run.gpu == known.gpu]
        if same:
            found[known.name] = Estimate.measured(measured[same[0]]), f"measured on {same[0]}"
        else:
            found[known.name] = Estimate.of(prediction), f"predicted from {prediction.basis}"
    return found


def _on_demand(name: str, prices: Sequence[MarketRow]) -> Decimal | None:
    known = [row.on_demand_usd_h for row in prices if row.instance_type == name and row.on_demand_usd_h]
    return min(known, default=None)


def larger(rows: Iterable[GroupRow]) -> list[tuple[str, int]]:
    """Return (type, GPUs) of the cheapest current machine with as many of the same GPUs as each group of several."""
    found: dict[tuple[str, int], None] = {}
    for row in rows:
        one = _as_one(row)
        if one is not None:
            found[one.name, one.gpus] = None
    return list(found)


def _as_one(row: GroupRow) -> InstanceType | None:
    """Return the cheapest current machine whose GPUs are as many and of the same kind as those of a group."""
    if row.nodes < 2 or row.group is None:
        return None
    gpu = catalog.find(row.instance_type).gpu
    able = [
        known
        for known in catalog.all_types()
        if known.gpu == gpu and known.gpus == row.group.ranks and not known.is_retired
    ]
    return min(able, key=lambda known: min(known.on_demand_usd_h.values(), default=float("inf")), default=None)


def better(rows: Sequence[GroupRow], ones: Sequence[GroupRow]) -> list[Better]:
    """Return where one larger machine is faster than a group with as many of the same GPUs.

    Args:
        rows: the groups.
        ones: single machines, `larger`'s among them.
    """
    single = {row.instance_type: row for row in ones if row.nodes == 1 and row.group is not None}
    found = []
    for row in rows:
        known = _as_one(row)
        one = single.get(known.name) if known else None
        if one is None or one.group is None or row.group is None:
            continue
        if one.group.images_per_s.mid > WORTH_SAYING * row.group.images_per_s.mid:
            found.append(Better(one, row))
    return found


def groups_json(rows: Sequence[GroupRow]) -> list[dict[str, Any]]:
    """Return the rows for `-o json`; amounts are of the whole group, `price_usd_h` is of one machine."""
    return [_json(row) for row in rows]


def _json(row: GroupRow) -> dict[str, Any]:
    told: dict[str, Any] = {
        "origin": "estimated",
        "instance_type": row.instance_type,
        "nodes": row.nodes,
        "gpus_per_node": row.gpus,
        "network_baseline_gbit_s": row.network_gbit_s,
        "price_usd_h": row.price_usd_h,
        "market": row.market or None,
        "why_not": row.why_not,
        "basis": row.basis,
    }
    found, price = row.group, row.price_usd_h
    if found is None:
        return told
    return {
        **told,
        "ranks": found.ranks,
        "batch_of_rank": found.batch_of_rank,
        "gradient_bytes": found.gradient_bytes,
        "compute_s": asdict(found.compute_s),
        "all_reduce_s": asdict(found.reduce_s),
        "step_s": asdict(found.step_s),
        "images_per_s": asdict(found.images_per_s),
        "efficiency": asdict(found.efficiency),
        "limit": found.limit,
        "usd_h": None if price is None else price * row.nodes,
        "usd_per_image": None if not price else asdict(found.usd_per_images(1, price)),
        "usd_per_step": None if not price else asdict(found.usd_per_step(price)),
        "usd_per_epoch": None if row.usd_per_epoch is None else asdict(row.usd_per_epoch),
        "interruptions_of_one_machine": row.nodes,
    }
