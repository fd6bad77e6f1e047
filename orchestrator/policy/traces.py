"""Reads traces: whether a spot instance could be had in a zone, point by point, and at which price.

A file of a folder is one pool, named `ZONE_TYPE.json` (`us-west-2a_v100_1.json`):

    {"metadata": {"gap_seconds": 600}, "data": [1, 1, 0, ...]}

1 means that an instance could be had. Another collection of traces has it the other way round; no file says which, so
that is asked for (`--inverted`). `prices` beside `data` are US dollars an hour, with `metadata.on_demand_usd_h`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orchestrator.errors import SpecError
from orchestrator.formatting import counted, one_line
from orchestrator.policy.base import Flags, Floats
from orchestrator.policy.market import Market
from orchestrator.runs.bounded_json import BadJsonError, loads
from orchestrator.runs.files import read_bounded

MOST_FILES = 1000
MOST_BYTES = 64 << 20
MOST_POINTS = 5_000_000
NAME = re.compile(r"([a-z]{2}(?:-[a-z]+)+-\d+)([a-z])_(.+)")  # region, letter of the zone, type
Pools = Literal["each", "region", "all"]


@dataclass(frozen=True)
class Trace:
    """One pool over time.

    Args:
        name: of its file, without the ending.
        gap_s: between two points.
        available: (T,) whether an instance could be had.
        price: (T,) of a spot instance, as a share of on-demand; None: the file has none.
    """

    name: str
    gap_s: float
    available: Flags
    price: Floats | None

    @property
    def region(self) -> str:
        """The region in its name, "" where the name has none."""
        found = NAME.fullmatch(self.name)
        return found[1] if found else ""

    @property
    def instance_type(self) -> str:
        """The type in its name, "" where the name has none."""
        found = NAME.fullmatch(self.name)
        return found[3] if found else ""


def read_folder(folder: Path, *, flag: str, is_inverted: bool = False) -> list[Trace]:
    """Return all traces of a folder, by their names.

    Raises:
        SpecError: there is none, or one makes no sense.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except OSError as error:
        raise SpecError(f"{flag}: cannot read the folder {folder} ({error.strerror})") from None
    if not paths:
        raise SpecError(f"{flag}: {folder} has no trace; a trace is a file ZONE_TYPE.json with metadata and data")
    if len(paths) > MOST_FILES:
        raise SpecError(f"{flag}: {folder} has {len(paths)} files; {MOST_FILES} are taken at most")
    return [_read(path, flag, is_inverted=is_inverted) for path in paths]


def _read(path: Path, flag: str, *, is_inverted: bool) -> Trace:
    try:
        return trace_from(
            path.stem, loads(read_bounded(path, MOST_BYTES), most_bytes=MOST_BYTES), is_inverted=is_inverted
        )
    except (BadJsonError, ValueError) as error:
        raise SpecError(f"{flag}: {one_line(path.name)}: {one_line(str(error))[:200]}") from None
    except OSError as error:
        raise SpecError(f"{flag}: cannot read {path} ({error.strerror or error})") from None


def trace_from(name: str, told: Any, *, is_inverted: bool = False) -> Trace:
    """Return the trace that a JSON value is.

    Raises:
        ValueError: it is none; the message says what is missing.
    """
    if not isinstance(told, Mapping) or not isinstance(told.get("metadata"), Mapping):
        raise ValueError('no trace: it must be {"metadata": {"gap_seconds": 600}, "data": [1, 0, ...]}')
    gap_s = told["metadata"].get("gap_seconds")
    if not _is_number(gap_s) or not 1 <= gap_s <= 86400:
        raise ValueError(f"metadata.gap_seconds must be seconds from 1 to 86400, and is {gap_s!r}")
    data = told.get("data")
    if not isinstance(data, list) or not 2 <= len(data) <= MOST_POINTS:
        raise ValueError(f"data must be a list of 2 to {MOST_POINTS} points")
    for point, value in enumerate(data):
        if value is None:
            raise ValueError(f"data has a gap at point {point}; fill it, or cut the trace there: a gap says nothing")
        if isinstance(value, float) or value not in (0, 1):
            raise ValueError(f"data has {value!r} at point {point}; only 1 (available) and 0 are known")
    available = np.array(data, bool)
    return Trace(name, float(gap_s), ~available if is_inverted else available, _prices(told, len(data)))


def _prices(told: Mapping[str, Any], points: int) -> Floats | None:
    prices = told.get("prices")
    if prices is None:
        return None
    if not isinstance(prices, list) or len(prices) != points:
        raise ValueError(f"prices must be a list of {points} prices, one for each point of data")
    on_demand = told["metadata"].get("on_demand_usd_h")
    if not _is_number(on_demand) or on_demand <= 0:
        raise ValueError("prices need metadata.on_demand_usd_h, the price of on-demand in US dollars an hour")
    for point, price in enumerate(prices):
        if not _is_number(price) or not 1e-6 <= price / on_demand <= 1e6:
            raise ValueError(f"prices has {price!r} at point {point}; a price is US dollars an hour, and above zero")
    shares: Floats = np.array(prices, float) / on_demand
    return shares


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def markets_of(traces: Sequence[Trace], pools: Pools, *, spot_price: float, flag: str) -> list[Market]:
    """Return the markets that traces make: each by itself, or those of one type in a region, or everywhere.

    Args:
        traces: by their names.
        pools: which of them are one market.
        spot_price: of a trace without prices, as a share of on-demand.
        flag: for the message of an error.

    Raises:
        SpecError: a name has no zone and type, or traces of one market have different gaps.
    """
    groups: dict[str, list[Trace]] = {}
    for trace in traces:
        if pools != "each" and not trace.region:
            raise SpecError(
                f"{flag}: {one_line(trace.name)}.json has no zone and type in its name (us-west-2a_p3.2xlarge.json); "
                f"rename it, or give --pools each"
            )
        where = {"each": trace.name, "region": f"{trace.instance_type}/{trace.region}",
                 "all": f"{trace.instance_type}/all"}[pools]  # fmt: skip
        groups.setdefault(where, []).append(trace)
    return [_market(name, group, spot_price, flag) for name, group in groups.items()]


def _market(name: str, traces: Sequence[Trace], spot_price: float, flag: str) -> Market:
    gaps = {trace.gap_s for trace in traces}
    if len(gaps) > 1:
        raise SpecError(
            f"{flag}: the traces of {name} have different gaps ({', '.join(f'{g:g} s' for g in sorted(gaps))})"
        )
    points = min(len(trace.available) for trace in traces)
    return Market(
        name=name,
        pools=tuple(trace.name for trace in traces),
        gap_s=traces[0].gap_s,
        available=np.stack([trace.available[:points] for trace in traces], axis=1),
        price=np.stack([_price_of(trace, spot_price)[:points] for trace in traces], axis=1),
    )


def _price_of(trace: Trace, spot_price: float) -> Floats:
    return np.full(len(trace.available), spot_price) if trace.price is None else trace.price


def share_words(traces: Iterable[Trace]) -> str:
    """Return how much of the time instances could be had, in words, and a hint where that looks inverted."""
    shares = [float(trace.available.mean()) for trace in traces]
    words = (
        f"{counted(len(shares), 'trace')}, available {100 * min(shares):.0f} to {100 * max(shares):.0f} % of the time"
    )
    is_scarce = sum(shares) < len(shares) / 2
    return words + ("; if 1 means interrupted in these files, give --inverted" if is_scarce else "")
