"""The instance types: GPU, rates, memory, network, recorded prices, and whether AWS still rents them.

The figures are in `catalog.json`, each with its source. Price is not availability: g2, p2 and p3 are still in AWS's
price list and can no longer be rented, so `status` is kept apart from the prices.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from importlib import resources
from typing import Any

from orchestrator.errors import SpecError


@dataclass(frozen=True)
class Network:
    """What connects a machine to others of its kind. None: not known.

    Source: NetworkInfo of DescribeInstanceTypes (`BaselineBandwidthInGbps`, `PeakBandwidthInGbps`, EfaInfo) and
    PlacementGroupInfo. A small machine reaches its peak for minutes only: a training of hours has the baseline.
    """

    gbit_s: float | None  # baseline of the first network card: what one interface may use for hours
    peak_gbit_s: float | None  # of that card, for minutes
    total_gbit_s: float | None  # baseline with an interface on every card
    cards: int
    efa_interfaces: int  # at most; 0: no EFA
    cluster_placement: bool  # whether a cluster placement group may hold it


@dataclass(frozen=True)
class GpuLink:
    """What connects the GPUs of one machine."""

    kind: str
    gb_s: float  # GB/s one way, of one GPU
    source: str  # key of `sources()`


@dataclass(frozen=True)
class InstanceType:
    """One EC2 instance type. Rates and memory are per GPU."""

    name: str
    gpu: str
    gpus: int
    gpu_memory_gib: float  # nominal
    gpu_memory_visible_mib: int  # what a program can use (ECC and the driver take the rest)
    compute_capability: str  # as CUDA writes it: "3.7"
    fp32_tflops: float
    fp16_tensor_tflops: float | None  # dense; None where the GPU has no tensor cores
    bandwidth_gb_s: float
    vcpus: int
    memory_gib: float
    status: str  # "current" or "retired"
    retired: str | None  # when it left EC2, as far as known
    replacement: str | None  # the current type to take instead
    quota_family: str  # which vCPU quota counts it: "G" (G and VT), "P", "P5", "P6"
    on_demand_usd_h: Mapping[str, float]  # by region, recorded
    spot_usd_h_seen: Mapping[str, Sequence[float]]  # by region: lowest and highest over its zones, recorded
    sources: Mapping[str, str]  # field -> key of `SOURCES`
    note: str
    network: Network
    gpu_link: GpuLink | None  # None: it has one GPU
    like: str = ""  # the type that it shares its GPU and other facts with; "" for a type with its own

    @property
    def is_retired(self) -> bool:
        """Whether EC2 no longer rents it, whatever the price list says."""
        return self.status == "retired"


@dataclass(frozen=True)
class Charges:
    """Recorded charges beside the instance in one region; the data file has the source of each."""

    gp3_usd_gb_month: Decimal
    data_out_usd_gb: Decimal  # to the internet, the first 10 TB of a month
    public_ipv4_usd_h: Decimal


@lru_cache(maxsize=1)
def _raw() -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(resources.files("orchestrator.market").joinpath("catalog.json").read_text())
    return raw


@lru_cache(maxsize=1)
def _data() -> tuple[dict[str, InstanceType], tuple[str, ...], dict[str, str], str]:
    raw = _raw()
    networks = {entry.pop("name"): Network(**entry) for entry in map(dict, raw["network"]["types"])}
    links = {entry.pop("name"): GpuLink(**entry) for entry in map(dict, raw["gpu_links"]["types"])}
    types = {}
    for entry in _entries(raw):
        name = entry["name"]
        sources = {**entry["sources"], "network": raw["network"]["source"]}
        types[name] = InstanceType(**{**entry, "sources": sources}, network=networks[name], gpu_link=links.get(name))
    return types, tuple(raw["regions"]), raw["sources"], raw["recorded"]


def _entries(raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the types, each followed by the further sizes of its family.

    A size has its own counts and price; everything else, including its status, comes from the type in `like`.
    """
    for entry in raw["types"]:
        yield entry
        shared = {key: value for key, value in entry["sources"].items() if key != "spot_usd_h_seen"}
        for size in raw["sizes"]["types"]:
            if size["like"] == entry["name"]:
                sources = {**shared, **raw["sizes"]["sources"], **size.get("sources", {})}
                yield {**entry, "spot_usd_h_seen": {}, **size, "sources": sources}


@lru_cache(maxsize=64)
def charges(region: str) -> Charges | None:
    """Return the charges beside the instance, or None for a region that the data file lacks."""
    raw = _raw()["charges"]
    found = raw["regions"].get(region)
    if found is None:
        return None
    return Charges(
        Decimal(found["gp3_usd_gb_month"]), Decimal(found["data_out_usd_gb"]), Decimal(raw["public_ipv4_usd_h"])
    )


def all_types() -> list[InstanceType]:
    """Return every known type, oldest generation first, the sizes of a family together."""
    return list(_data()[0].values())


def one_of_each_gpu() -> list[InstanceType]:
    """Return the types that AWS still rents, one for each family: a short list to choose from."""
    return [known for known in all_types() if not known.is_retired and not known.like]


def regions() -> tuple[str, ...]:
    """Return the AWS regions that `--region` may name."""
    return _data()[1]


def sources() -> dict[str, str]:
    """Return the source behind each key of `InstanceType.sources`."""
    return _data()[2]


def recorded_on() -> str:
    """Return the date on which the catalog's prices were written down."""
    return _data()[3]


def find(name: str, *, flag: str = "--instance") -> InstanceType:
    """Return the type called `name`.

    Args:
        name: as EC2 writes it.
        flag: the flag that the message names.

    Raises:
        SpecError: there is no such type; the message names the nearest ones.
    """
    types = _data()[0]
    if name in types:
        return types[name]
    near = difflib.get_close_matches(name, types, n=3, cutoff=0.5)
    families = ", ".join(dict.fromkeys(each.partition(".")[0] for each in types))
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are sizes of {families}, e.g. g4dn.xlarge"
    raise SpecError(f"{flag}: unknown instance type {name!r}; {hint}")


def check_region(name: str) -> str:
    """Return `name` if it is a region.

    Raises:
        SpecError: it is not; the message names the nearest ones.
    """
    known = regions()
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    raise SpecError(f"--region: unknown region {name!r}; {hint}")
