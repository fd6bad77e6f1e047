"""Instance types side by side, from the catalog and from known prices; pure.

It begins with the comparison of 2016 that this project started from: g2.2xlarge against p2.xlarge, four figures each,
four ratios. `as_of_2016` gives them from their own inputs, beside today's values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from orchestrator.market import catalog
from orchestrator.market.catalog import InstanceType
from orchestrator.market.spot_prices import MarketRow, lowest


@dataclass(frozen=True)
class Claim:
    """The figures of the comparison of 2016 for one type."""

    gpu: str
    spot_usd_h: Decimal  # the lowest of all regions at that time
    region: str
    fp32_tflops: Decimal
    memory_gb: Decimal
    bandwidth_gb_s: Decimal


CLAIMS: Mapping[str, Claim] = {
    "g2.2xlarge": Claim("K10", Decimal("0.0736"), "ap-northeast-1", Decimal("2.29"), Decimal(4), Decimal(160)),
    "p2.xlarge": Claim("K80", Decimal("0.141"), "us-west-2", Decimal("4.365"), Decimal(12), Decimal(240)),
}


@dataclass(frozen=True)
class Then:
    """One line of the comparison of 2016: its inputs and ratio, and today's."""

    what: str
    then: tuple[Decimal, Decimal]  # g2.2xlarge, p2.xlarge
    known: tuple[Decimal, Decimal] | None
    why: str

    @property
    def then_ratio(self) -> Decimal:
        """p2.xlarge over g2.2xlarge, as it was given."""
        return self.then[1] / self.then[0]

    @property
    def known_ratio(self) -> Decimal | None:
        """The same from today's values."""
        return None if self.known is None else self.known[1] / self.known[0]


@dataclass(frozen=True)
class Side:
    """One type with its prices. Rates and memory are of the whole machine: all its GPUs together."""

    known: InstanceType
    spot: MarketRow | None  # the lowest over all zones and regions
    on_demand_usd_h: Decimal | None
    on_demand_region: str

    @property
    def spot_usd_h(self) -> Decimal | None:
        """The lowest spot price that is a market price."""
        return None if self.spot is None else self.spot.rank_usd_h

    @property
    def fp32_tflops(self) -> Decimal:
        """Peak single precision."""
        return Decimal(str(self.known.fp32_tflops)) * self.known.gpus

    @property
    def memory_gib(self) -> Decimal:
        """Nominal memory of its GPUs."""
        return Decimal(str(self.known.gpu_memory_gib)) * self.known.gpus

    @property
    def bandwidth_gb_s(self) -> Decimal:
        """Peak bandwidth of its GPUs' memory."""
        return Decimal(str(self.known.bandwidth_gb_s)) * self.known.gpus

    @property
    def tflops_per_usd(self) -> Decimal | None:
        """Peak TFLOPS for a dollar an hour, at the lowest spot price, else on-demand."""
        price = self.spot_usd_h or self.on_demand_usd_h
        return None if not price else self.fp32_tflops / price


@dataclass(frozen=True)
class Ratios:
    """One type over the first one that was named."""

    name: str
    spot: Decimal | None
    on_demand: Decimal | None
    fp32: Decimal
    memory: Decimal
    bandwidth: Decimal
    tflops_per_usd: Decimal | None


@dataclass(frozen=True)
class Comparison:
    """The comparison, for text and JSON."""

    sides: tuple[Side, ...]
    ratios: tuple[Ratios, ...]  # of the second type on
    then: tuple[Then, ...]  # empty unless both types of 2016 are compared
    price_note: str  # origin and date of the prices


def compare(names: Sequence[str], rows: Sequence[MarketRow], price_note: str) -> Comparison:
    """Return the comparison.

    Args:
        names: types of the catalog; ratios are to the first of them.
        rows: their known prices.
        price_note: origin and date of the prices.

    Raises:
        SpecError: a type is unknown; the message names the nearest.
    """
    best = lowest(rows)
    sides = tuple(_side(catalog.find(name, flag="TYPE"), best.get(name), rows) for name in dict.fromkeys(names))
    ratios = tuple(_ratios(side, sides[0]) for side in sides[1:])
    has_both = set(CLAIMS) <= {side.known.name for side in sides}
    return Comparison(sides, ratios, as_of_2016() if has_both else (), price_note)


def _side(known: InstanceType, spot: MarketRow | None, rows: Sequence[MarketRow]) -> Side:
    """On-demand of the region of the spot price if it is known there, else the lowest of all."""
    prices = {
        row.region: row.on_demand_usd_h
        for row in rows
        if row.instance_type == known.name and row.on_demand_usd_h is not None
    }
    if spot is not None and spot.region in prices:
        return Side(known, spot, prices[spot.region], spot.region)
    region = min(prices, key=lambda name: (prices[name], name), default="")
    return Side(known, spot, prices.get(region), region)


def _ratios(side: Side, first: Side) -> Ratios:
    return Ratios(
        name=side.known.name,
        spot=_over(side.spot_usd_h, first.spot_usd_h),
        on_demand=_over(side.on_demand_usd_h, first.on_demand_usd_h),
        fp32=side.fp32_tflops / first.fp32_tflops,
        memory=side.memory_gib / first.memory_gib,
        bandwidth=side.bandwidth_gb_s / first.bandwidth_gb_s,
        tflops_per_usd=_value(side, first),
    )


def _value(side: Side, first: Side) -> Decimal | None:
    """Return the ratio of TFLOPS per dollar in one market: spot, or on-demand where a spot price is not known."""
    price_ratio = _over(side.spot_usd_h, first.spot_usd_h) or _over(side.on_demand_usd_h, first.on_demand_usd_h)
    return None if not price_ratio else side.fp32_tflops / first.fp32_tflops / price_ratio


def _over(value: Decimal | None, first: Decimal | None) -> Decimal | None:
    return None if value is None or not first else value / first


def as_of_2016() -> tuple[Then, ...]:
    """Return the four lines of 2016: lowest spot price, fp32, memory, bandwidth."""
    g2, p2 = CLAIMS["g2.2xlarge"], CLAIMS["p2.xlarge"]
    known_g2, known_p2 = catalog.find("g2.2xlarge"), catalog.find("p2.xlarge")
    region = "us-east-1"
    spot = tuple(Decimal(str(min(known.spot_usd_h_seen[region]))) for known in (known_g2, known_p2))
    return (
        Then(
            "spot $/h",
            (g2.spot_usd_h, p2.spot_usd_h),
            (spot[0], spot[1]),
            f"The prices of 2016 are of two regions ({g2.region}, {p2.region}) and cannot be checked today; "
            f"beside them both prices in {region} in 2022.",
        ),
        Then(
            "fp32 TFLOPS",
            (g2.fp32_tflops, p2.fp32_tflops),
            (Decimal(str(known_g2.fp32_tflops)), Decimal(str(known_p2.fp32_tflops))),
            "The g2's GPU is half a GRID K520, not a K10 (the same GK104 silicon at another clock); 4.365 is the "
            "K80's highest boost clock. Beside them, both at the clocks seen on EC2 (0.797 and 0.8235 GHz).",
        ),
        Then(
            "memory GiB",
            (g2.memory_gb, p2.memory_gb),
            (_visible_gib(known_g2), _visible_gib(known_p2)),
            "Nominal in 2016; beside it the memory that a program can use (error correction takes a part of a K80's).",
        ),
        Then(
            "GB/s",
            (g2.bandwidth_gb_s, p2.bandwidth_gb_s),
            (Decimal(str(known_g2.bandwidth_gb_s)), Decimal(str(known_p2.bandwidth_gb_s))),
            "Right.",
        ),
    )


def _visible_gib(known: InstanceType) -> Decimal:
    return Decimal(known.gpu_memory_visible_mib) / 1024


def comparison_json(compared: Comparison) -> dict[str, Any]:
    """Return the comparison for `-o json`."""
    return {
        "types": [
            {
                "instance_type": s.known.name,
                "gpu": s.known.gpu,
                "gpus": s.known.gpus,
                "fp32_tflops": float(s.fp32_tflops),
                "memory_gib": float(s.memory_gib),
                "bandwidth_gb_s": float(s.bandwidth_gb_s),
                "lowest_spot_usd_h": _float(s.spot_usd_h),
                "lowest_spot_region": s.spot.region if s.spot else None,
                "on_demand_usd_h": _float(s.on_demand_usd_h),
                "on_demand_region": s.on_demand_region or None,
                "tflops_per_usd_h": _float(s.tflops_per_usd),
                "status": s.known.status,
                "retired": s.known.retired,
                "replacement": s.known.replacement,
                "note": s.known.note,
                "network_baseline_gbit_s": s.known.network.gbit_s,
                "network_peak_gbit_s": s.known.network.peak_gbit_s,
                "network_total_gbit_s": s.known.network.total_gbit_s,
                "network_cards": s.known.network.cards,
                "efa_interfaces": s.known.network.efa_interfaces,
                "cluster_placement": s.known.network.cluster_placement,
                "gpu_link": None if s.known.gpu_link is None else s.known.gpu_link.kind,
                "gpu_link_gb_s": None if s.known.gpu_link is None else s.known.gpu_link.gb_s,
            }
            for s in compared.sides
        ],
        "ratios": [
            {
                "instance_type": r.name,
                "over": compared.sides[0].known.name,
                "spot": _float(r.spot),
                "on_demand": _float(r.on_demand),
                "fp32": float(r.fp32),
                "memory": float(r.memory),
                "bandwidth": float(r.bandwidth),
                "tflops_per_usd_h": _float(r.tflops_per_usd),
            }
            for r in compared.ratios
        ],
        "of_2016": [
            {
                "what": line.what,
                "g2.2xlarge": float(line.then[0]),
                "p2.xlarge": float(line.then[1]),
                "ratio": float(line.then_ratio),
                "known_g2.2xlarge": _float(line.known[0] if line.known else None),
                "known_p2.xlarge": _float(line.known[1] if line.known else None),
                "known_ratio": _float(line.known_ratio),
                "why": line.why,
            }
            for line in compared.then
        ],
        "prices": compared.price_note,
    }


def _float(value: Decimal | None) -> float | None:
    return None if value is None else float(value)
