"""The telemetry of each frame, aligned by the stamps of frames and samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.manifest import Column
from model.data.source import row_dtype

Rows = NDArray[Any]
GPS_GAP_MS = 1100.0  # the receiver of 2016 says where it is once a second
FAR_NS = 9 * 24 * 3600 * 10**9  # between two frames of different drives: each drive is split for itself
STRAY, FEW = 0.01, 20  # of all frames, and frames: fewer, far from all others, have a wrong stamp and are not a drive


@dataclass(frozen=True)
class Wanted:
    """A column: the signals that can give it, the best first, and how it is taken."""

    name: str
    unit: str
    signals: tuple[str, ...]
    linear: bool = True
    period: float = 0.0  # of an angle: half of it apart, two values are neighbours across its end
    dtype: str = "<f4"


WANTED = (
    Wanted("latitude", "deg", ("gps", "fix"), dtype="<f8"),
    Wanted("longitude", "deg", ("gps", "fix"), period=360.0, dtype="<f8"),
    Wanted("gear", "enum", ("gear",), linear=False),
    Wanted("brake", "", ("brake",)),
    Wanted("throttle", "", ("throttle",)),
    Wanted("steering_angle", "rad", ("steering",)),
    Wanted("speed", "m/s", ("steering", "velocity")),
)
GAPS = ("gps", "gear", "brake", "throttle", "steering")
COLUMNS: tuple[Column, ...] = (
    Column("stamp_ns", "<i8", "ns"),
    Column("camera", "|u1", "enum"),
    *(Column(wanted.name, wanted.dtype, wanted.unit) for wanted in WANTED),
    *(Column(f"{name}_gap_ms", "<f4", "ms") for name in GAPS),
)


def ordered(rows: Rows) -> Rows:
    """Sort samples by their stamps, and keep one of those that have the same."""
    rows = rows[np.argsort(rows["stamp_ns"], kind="stable")]
    first = np.ones(len(rows), bool)
    first[1:] = rows["stamp_ns"][1:] != rows["stamp_ns"][:-1]
    return rows[first]


def align(stamps: NDArray[np.int64], cameras: NDArray[np.uint8], signals: Mapping[str, Rows], limit_ms: float) -> Rows:
    """Give a row for each frame.

    Between two samples a value is linear in time; the gear is that of the nearest. Where a sample is further away than
    the limit the value is NaN, never 0; and there is no value outside of the samples.

    Args:
        stamps: of the frames, ns.
        cameras: of the frames.
        signals: samples by signal, `ordered`.
        limit_ms: how far a sample may be away, in ms; of the position, at least a second and a bit.
    """
    rows = np.zeros(len(stamps), row_dtype(COLUMNS))
    rows["stamp_ns"], rows["camera"] = stamps, cameras
    for gap in GAPS:
        rows[f"{gap}_gap_ms"] = np.nan
    for wanted in WANTED:
        rows[wanted.name] = np.nan
        for name in wanted.signals:
            samples = signals.get(name)
            if samples is None or not len(samples):
                continue
            limit = max(limit_ms, GPS_GAP_MS) if name in ("gps", "fix") else limit_ms
            values, gaps_ms = _at(stamps, samples["stamp_ns"], samples[wanted.name], wanted)
            rows[wanted.name] = np.where(gaps_ms <= limit, values, np.nan)
            if wanted.signals[0] in GAPS:
                rows[f"{wanted.signals[0]}_gap_ms"] = np.where(np.isfinite(gaps_ms), gaps_ms, np.nan)
            break
    return rows


def _at(
    stamps: NDArray[np.int64], times: NDArray[np.int64], values: NDArray[np.float64], wanted: Wanted
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return values at stamps, and the distance of the samples behind them, in ms.

    Linear: the further one of the two samples counts, so a value across a hole is none. Integers as long as can be:
    nanoseconds since 1970 do not fit into a float64.
    """
    right = np.searchsorted(times, stamps, side="left")
    after = np.minimum(right, len(times) - 1)
    before = np.where(times[after] == stamps, after, np.maximum(right - 1, 0))
    to_before = (stamps - times[before]).astype(np.float64)  # ns; below 0 if there is none before
    to_after = (times[after] - stamps).astype(np.float64)
    outside = (to_before < 0) | (to_after < 0)
    if not wanted.linear:
        nearest = np.where(np.abs(to_before) <= np.abs(to_after), before, after)
        distance = np.minimum(np.abs(to_before), np.abs(to_after))
        return values[nearest], distance / 1e6
    span = to_before + to_after
    share = np.divide(to_before, span, out=np.zeros_like(span), where=span > 0)
    first, second = values[before], values[after]
    if wanted.period:
        turns = np.where(np.abs(second - first) > wanted.period / 2, np.round((second - first) / wanted.period), 0.0)
        second = second - turns * wanted.period
    made = first * (1 - share) + second * share
    if wanted.period:
        made = np.where(turns != 0, (made + wanted.period / 2) % wanted.period - wanted.period / 2, made)
    return made, np.where(outside, np.inf, np.maximum(to_before, to_after)) / 1e6


def splits_of(stamps: NDArray[np.int64], minute_s: float = 60.0) -> tuple[NDArray[np.uint8], int]:
    """Split a drive by time: in each 20 minutes the 10th is for validation and the 20th for test.

    Neighbouring frames look alike, so single frames must not be drawn out of it. A short drive has 20 stretches too,
    and they are as much shorter. Drives more than nine days apart are split each for itself. A few frames that are as
    far from all others were stamped by a clock that was not set: they train, and the stretches are those of the rest.

    Returns:
        0 train, 1 valid, 2 test for each stamp, which are sorted; and how many have such a stamp.
    """
    splits = np.zeros(len(stamps), np.uint8)
    drives = np.split(np.arange(len(stamps)), np.flatnonzero(np.diff(stamps) > FAR_NS) + 1)
    least = min(max(STRAY * len(stamps), FEW), max(map(len, drives)))
    strays = 0
    for drive in drives:
        if len(drive) < least:
            strays += len(drive)
        else:
            splits[drive] = _stretches(stamps[drive], minute_s)
    return splits, strays


def _stretches(stamps: NDArray[np.int64], minute_s: float) -> NDArray[np.uint8]:
    length_ns = int(stamps[-1] - stamps[0]) + 1
    groups = max(1, round(length_ns / (20 * minute_s * 1e9)))
    since, parts = stamps - stamps[0], 20 * groups
    fits = length_ns * parts < 1 << 63  # an int64, up to 8.6 days
    number = since * parts // length_ns if fits else since // -(-length_ns // parts)
    place = number % 20
    return np.where(place == 9, 1, np.where(place == 19, 2, 0)).astype(np.uint8)
