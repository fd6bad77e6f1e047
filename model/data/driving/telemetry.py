"""Aligns telemetry samples with frames by their stamps, and splits a drive by time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.manifest import Column
from model.data.source import row_dtype

Rows = NDArray[Any]
GPS_GAP_MS = 1100.0  # the receiver of 2016 gives one position per second
FAR_NS = 9 * 24 * 3600 * 10**9  # least gap between two drives; each drive is split separately
STRAY, FEW = 0.01, 20  # share of all frames, and number: a smaller isolated group has wrong stamps and is no drive


@dataclass(frozen=True)
class Wanted:
    """A column: the signals that can provide it, preferred first, and its interpolation."""

    name: str
    unit: str
    signals: tuple[str, ...]
    linear: bool = True
    period: float = 0.0  # of an angle; 0: not periodic
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
    """Sort samples by stamp and keep one sample of each stamp."""
    rows = rows[np.argsort(rows["stamp_ns"], kind="stable")]
    first = np.ones(len(rows), bool)
    first[1:] = rows["stamp_ns"][1:] != rows["stamp_ns"][:-1]
    return rows[first]


def align(stamps: NDArray[np.int64], cameras: NDArray[np.uint8], signals: Mapping[str, Rows], limit_ms: float) -> Rows:
    """Return a row of telemetry for each frame.

    A value is interpolated linearly between two samples; the gear is that of the nearest sample. A value is NaN if a
    sample is further away than the limit, or if the frame is before the first or after the last sample.

    Args:
        stamps: the stamps of the frames, ns.
        cameras: the cameras of the frames.
        signals: the samples by signal, `ordered`.
        limit_ms: the largest distance of a sample, in ms; at least 1,100 ms for the position.
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
    """Return the values at the stamps, and the distances of the samples that they come from, in ms.

    For linear interpolation the distance is that of the further sample, so no value spans a gap in the signal.
    Differences are computed in int64, since a float64 cannot represent nanoseconds since 1970 exactly.
    """
    right = np.searchsorted(times, stamps, side="left")
    after = np.minimum(right, len(times) - 1)
    before = np.where(times[after] == stamps, after, np.maximum(right - 1, 0))
    to_before = (stamps - times[before]).astype(np.float64)  # ns; negative if no sample is before
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
    interpolated = first * (1 - share) + second * share
    if wanted.period:
        wrapped = (interpolated + wanted.period / 2) % wanted.period - wanted.period / 2
        interpolated = np.where(turns != 0, wrapped, interpolated)
    return interpolated, np.where(outside, np.inf, np.maximum(to_before, to_after)) / 1e6


def splits_of(stamps: NDArray[np.int64], minute_s: float = 60.0) -> tuple[NDArray[np.uint8], int]:
    """Split drives by time: of each 20 minutes the 10th is for validation and the 20th for test.

    Neighbouring frames look alike, so a random split of single frames would leak. A short drive is split into 20
    shorter stretches. Drives more than nine days apart are split separately. A smaller group of frames that far from
    all others has stamps of a clock that was not set; it is for training and does not affect the stretches.

    Args:
        stamps: the stamps of the frames, ns, sorted.
        minute_s: length of a stretch in seconds.

    Returns:
        For each stamp 0 (train), 1 (valid) or 2 (test); and the number of frames in such groups.
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
    fits = length_ns * parts < 1 << 63  # in an int64: up to 8.6 days
    number = since * parts // length_ns if fits else since // -(-length_ns // parts)
    place = number % 20
    return np.where(place == 9, 1, np.where(place == 19, 2, 0)).astype(np.uint8)
