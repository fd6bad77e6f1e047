"""Digests one attempt's `metrics.jsonl`: the steady-state speed, the curves, and the problems of the file.

The last line may be incomplete, a value may be NaN, the clock may go back: such lines are counted and left out of every
figure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_loads: Callable[[bytes], Any]
try:
    from orjson import loads as _loads  # it rejects NaN; a file with NaN is read by the slow path
except ImportError:
    _loads = json.loads
CURVE_POINTS = 150  # a chart is a few hundred pixels wide
Lines = Sequence[Mapping[str, Any]]
Point = tuple[int, float]  # step, value


@dataclass(frozen=True)
class Digest:
    """The figures of one attempt's metrics. None or empty: the metrics do not hold the value."""

    lines: int = 0
    torn: int = 0  # lines that are not a JSON object
    not_finite: int = 0  # measurements whose loss is NaN or infinite
    clock_back: int = 0  # how often `wall_s` went back
    images_per_s: float | None = None  # steady state: without the first line, which includes the warm-up
    steps_per_s: float | None = None  # images_per_s / batch size; without a batch size from the clock
    slow_images_per_s: float | None = None  # the 10 % quantile of the lines
    fast_images_per_s: float | None = None  # the 90 % quantile
    measured: int = 0  # lines that the speed is computed from
    batch_size: int | None = None
    images_per_epoch: float | None = None
    device: str = ""
    valid_nats: float | None = None  # the last validation
    valid_bits: float | None = None
    train_curve: tuple[Point, ...] = ()  # bits/dim
    valid_curve: tuple[Point, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems of the metrics, as text for the report."""
        found = []
        if not self.lines:
            found.append("no metrics")
        elif self.images_per_s is None:
            found.append("no speed in the metrics")
        if self.torn:
            found.append(f"{self.torn} line{'s' * (self.torn > 1)} of the metrics unreadable and left out")
        if self.not_finite:
            found.append(f"{self.not_finite} loss{'es' * (self.not_finite > 1)} not finite and left out")
        if self.clock_back:
            found.append("the clock went back; these spans are left out")
        return tuple(found)


def read(path: Path, *, skip_until_step: int = 0) -> Digest:
    """Digest a file; a missing file counts as empty.

    Args:
        path: the path of `metrics.jsonl`.
        skip_until_step: the end of the warm-up; measurements up to this step do not count for the speed.
    """
    try:
        raw = path.read_bytes()
    except OSError:
        return Digest()
    lines, torn = parse(raw)
    return digest(lines, torn=torn, skip_until_step=skip_until_step)


def parse(raw: bytes) -> tuple[list[dict[str, Any]], int]:
    """Return (objects, number of unreadable lines).

    All lines are parsed at once as one JSON array: half the time of line by line, a sixth with orjson (extra `report`).
    A file with a bad line is read line by line.
    """
    pieces = [line for line in raw.split(b"\n") if line.strip()]
    try:
        found = _loads(b"[" + b",".join(pieces) + b"]")
        if len(found) == len(pieces) and all(type(one) is dict for one in found):
            return found, 0
    except ValueError:
        pass
    lines = []
    for piece in pieces:
        try:
            one = json.loads(piece)
        except ValueError:
            continue
        if isinstance(one, dict):
            lines.append(one)
    return lines, len(pieces) - len(lines)


def digest(lines: Lines, *, torn: int = 0, skip_until_step: int = 0) -> Digest:
    """Return the digest of the lines."""
    start: Mapping[str, Any] = {}
    speeds: list[tuple[int, float, float | None]] = []  # step, images/s, wall_s
    train: list[Point] = []
    valid: list[Point] = []
    valid_nats, not_finite = None, 0
    low, high, numbers = (
        -math.inf,
        math.inf,
        (float, int),
    )  # a call for each value doubles the time of a report
    for line in lines:
        get: Callable[[str], Any] = line.get
        step = get("step")
        if type(step) is not int or "event" in line:
            start = line if get("event") == "start" and not start else start
            continue
        bits, nats, speed = get("bits_per_dim"), get("nats"), get("images_per_s")
        if not (type(bits) in numbers and low < bits < high):  # NaN compares as false with everything
            bits = None
        if not (type(nats) in numbers and low < nats < high):
            not_finite += type(nats) in numbers
            nats = None
        if get("split") == "valid":
            valid_nats = nats if nats is not None else valid_nats
            if bits is not None:
                valid.append((step, bits))
            continue
        if bits is not None:
            train.append((step, bits))
        if type(speed) in numbers and 0 < speed < high:
            wall_s = get("wall_s")
            speeds.append((step, speed, wall_s if type(wall_s) in numbers and low < wall_s < high else None))
    batch, epoch = start.get("batch_size"), start.get("images_per_epoch")
    batch_size = batch if type(batch) is int and batch > 0 else None
    return Digest(
        lines=len(lines),
        torn=torn,
        not_finite=not_finite,
        batch_size=batch_size,
        images_per_epoch=float(epoch) if isinstance(epoch, (int, float)) and epoch > 0 else None,
        device=str(start.get("device_name") or start.get("device") or ""),
        valid_nats=valid_nats,
        valid_bits=valid[-1][1] if valid else None,
        train_curve=thinned(train),
        valid_curve=thinned(valid),
        **_steady(speeds, batch_size, skip_until_step),
    )


def _steady(
    speeds: Sequence[tuple[int, float, float | None]], batch_size: int | None, skip_until_step: int
) -> dict[str, Any]:
    """Return the speed without the warm-up; each line is weighted by its duration."""
    after = [one for one in speeds if one[0] > skip_until_step] or list(speeds)
    measured = after[1:] or after  # the first line includes the start; it counts only if it is the only one
    if not measured:
        return {}
    total_s = images = steps = 0.0
    back = 0
    before = after[0] if len(after) > 1 else None
    for one in measured:
        if before is not None and before[2] is not None and one[2] is not None:
            seconds = one[2] - before[2]
            if seconds > 0:
                total_s += seconds
                images += one[1] * seconds
                steps += one[0] - before[0]
            elif seconds < 0:
                back += 1
        before = one
    if total_s > 0:
        mean, rate = images / total_s, max(steps / total_s, 0.0)
    else:
        mean, rate = sum(one[1] for one in measured) / len(measured), 0.0
    ordered = sorted(one[1] for one in measured)
    return {
        "images_per_s": mean,
        "steps_per_s": mean / batch_size if batch_size else rate or None,
        "slow_images_per_s": _quantile(ordered, 0.1),
        "fast_images_per_s": _quantile(ordered, 0.9),
        "measured": len(measured),
        "clock_back": back,
    }


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def thinned(points: Sequence[Point], most: int = CURVE_POINTS) -> tuple[Point, ...]:
    """Return at most `most` points: each is the last step and the mean value of as many neighbours."""
    if len(points) <= most:
        return tuple(points)
    size = math.ceil(len(points) / most)
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return tuple((group[-1][0], sum(value for _, value in group) / len(group)) for group in groups)


def joined(digests: Sequence[tuple[int, Digest]]) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """Return (training curve, validation curve) of a run from its attempts, in their order.

    Steps that a later attempt trained again replace those of the lost attempt.
    """
    train: list[Point] = []
    valid: list[Point] = []
    for resumed_from, one in digests:
        train = [point for point in train if point[0] <= resumed_from] + list(one.train_curve)
        valid = [point for point in valid if point[0] <= resumed_from] + list(one.valid_curve)
    return tuple(train), tuple(valid)


def to_json(one: Digest) -> dict[str, Any]:
    """Return the JSON form in which a digest is kept, so that a file is digested once."""
    return dict(vars(one))


def from_json(raw: Mapping[str, Any]) -> Digest:
    """Return the digest that `to_json` wrote.

    Raises:
        TypeError: another version wrote it.
    """
    curves = {name: tuple((int(s), float(v)) for s, v in raw[name]) for name in ("train_curve", "valid_curve")}
    return Digest(**{**raw, **curves})
