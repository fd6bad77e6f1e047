"""Digests one attempt's `metrics.jsonl`: the steady-state speed, the curves, and the problems of the file.

The last line may be incomplete, a value may be NaN, the clock may go back: such lines are counted and left out of every
figure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.formatting import counted, one_line
from orchestrator.report.series import MOST_KEYS, Series, main_keys
from orchestrator.runs import bounded_json, checked
from orchestrator.runs.bounded_json import MOST_DIGITS, MOST_LINE_BYTES
from orchestrator.runs.checked import MOST_STEP, is_figure, is_step
from orchestrator.runs.files import open_regular

_loads: Callable[[bytes], Any]
try:
    from orjson import loads as _loads  # it rejects NaN; a file with NaN is read by the slow path
except ImportError:

    def _loads(text: bytes) -> Any:
        return json.loads(text.decode())


CURVE_POINTS = 150  # a chart is a few hundred pixels wide
CURVES = ("train_curve", "valid_curve", "values", "curves")  # what a digest has beside its plain figures
UNMEASURED = ("no metrics", "no speed in the metrics")  # of the bundled trainer a problem, of another program none
MOST_CURVES = 24  # of a program of the user's own
PIECE_BYTES = 1 << 22  # of the file that are parsed together
MOST_BYTES = 1 << 29  # of a file that are read
FEW_LINES = 64
MOST_FIGURE = 1e12  # of a loss, a speed, a time
LEAST_SPEED = 1e-9  # images/s
LEAST_SPAN_S = 1e-6
MOST_BATCH = 10**9
MOST_WORLD = 10**5
LONGEST_NAME = 200  # of a device
MANY_DIGITS = b"0" * MOST_DIGITS
AS_DIGITS = bytes(48 if 48 <= code <= 57 else 32 for code in range(256))
Point = tuple[int, float]  # step, value


@dataclass(frozen=True)
class _Figures:
    """The fields of a digest without its curves."""

    lines: int = 0
    torn: int = 0  # lines that are not a JSON object within the bounds
    not_finite: int = 0  # measurements whose loss is NaN or infinite
    wrong: int = 0  # values of a wrong type, or out of their range
    is_cut: bool = False  # the file is longer than what is read of one
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
    unit: str = "step"  # what the steps are: "epoch" for a program that tells its epochs only
    steps_per_epoch: float | None = None  # of a program of the user's own
    world: int = 1  # processes that share each batch, one for each GPU


@dataclass(frozen=True)
class Digest(_Figures):
    """The figures of one attempt's metrics. None or empty: the metrics do not hold the value."""

    train_curve: tuple[Point, ...] = ()  # bits/dim
    valid_curve: tuple[Point, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)  # the last one of each number, of a user's own program
    curves: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)  # the same over the steps

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems of the metrics, as text for the report."""
        found = []
        if not self.lines:
            found.append(UNMEASURED[0])
        elif self.images_per_s is None and self.steps_per_s is None:
            found.append(UNMEASURED[1])
        if self.torn:
            found.append(f"{self.torn} line{'s' * (self.torn > 1)} of the metrics unreadable and left out")
        if self.wrong:
            found.append(f"{counted(self.wrong, 'value')} of the metrics out of range and left out")
        if self.is_cut:
            found.append(f"the metrics are longer than {MOST_BYTES >> 20} MiB; the rest is not read")
        if self.not_finite:
            found.append(f"{self.not_finite} loss{'es' * (self.not_finite > 1)} not finite and left out")
        if self.clock_back:
            found.append("the clock went back; these spans are left out")
        return tuple(found)


def read(path: Path, *, skip_until_step: int = 0, is_own: bool = False) -> Digest:
    """Digest a file; one that is missing or is no file counts as empty. An endless line fills no memory.

    Args:
        path: the path of `metrics.jsonl`.
        skip_until_step: the end of the warm-up; measurements up to this step do not count for the speed.
        is_own: whether a program of the user's own wrote it: then every number has its curve.
    """
    try:
        file = open_regular(path)
    except OSError:
        return Digest()
    torn = 0

    def objects() -> Iterator[dict[str, Any]]:
        nonlocal torn
        for piece in _pieces(file):
            found, unreadable = parse(piece)
            torn += unreadable
            yield from found

    with file:
        series = Series(skip_until_step) if is_own else None
        lines = series.tap(objects()) if series is not None else objects()
        found = digest(lines, skip_until_step=skip_until_step)
        is_cut = file.read(1) != b""
    found = replace(found, torn=torn, is_cut=is_cut)
    return found if series is None else _with_series(found, series)


def objects_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a metrics file, within the bounds of `read`; a file that is missing, or is none, has none.

    Args:
        path: the path of `metrics.jsonl`.
    """
    try:
        file = open_regular(path)
    except OSError:
        return
    with file:
        for piece in _pieces(file):
            yield from parse(piece)[0]


def _with_series(found: Digest, series: Series) -> Digest:
    """Return the digest with all numbers of a user's own program, and the speed in steps that few tell."""
    return replace(
        found,
        steps_per_s=found.steps_per_s or series.steps_per_s,
        unit=series.unit,
        steps_per_epoch=series.steps_per_epoch,
        values=series.values,
        curves={key: thinned(series.curves[key].points) for key in main_keys(series.curves)[:MOST_CURVES]},
    )


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """Yield the file in pieces of whole lines, up to `MOST_BYTES`. A line that is too long is one byte: unreadable."""
    rest, is_long, left = b"", False, MOST_BYTES
    while left > 0 and (data := file.read(min(PIECE_BYTES, left))):
        left -= len(data)
        head, found, tail = data.rpartition(b"\n")
        if not found:
            rest, is_long = (b"", True) if is_long or len(rest) > MOST_LINE_BYTES else (rest + tail, False)
            continue
        if is_long:
            head = b"?\n" + head.partition(b"\n")[2]
        yield rest + head
        rest, is_long = tail, False
    yield b"?" if is_long else rest


def parse(raw: bytes) -> tuple[list[dict[str, Any]], int]:
    """Return (objects, number of unreadable lines).

    Lines are parsed together as one JSON array: half the time of line by line, a sixth with orjson (extra `report`).
    Where that fails, the half with the bad line is read line by line, by the same bounds.
    """
    lines = [line for line in raw.split(b"\n") if line and not line.isspace()]
    found: list[dict[str, Any]] = []
    _parse(lines, found)
    return found, len(lines) - len(found)


def _parse(lines: Sequence[bytes], found: list[dict[str, Any]]) -> None:
    if _together(lines, found):
        return
    if len(lines) > FEW_LINES:
        middle = len(lines) // 2
        _parse(lines[:middle], found)
        _parse(lines[middle:], found)
        return
    for line in lines:
        _one(line, found)


def _one(line: bytes, found: list[dict[str, Any]]) -> None:
    with suppress(bounded_json.BadJsonError):
        one = bounded_json.loads(line, keeps_infinite=True)
        if isinstance(one, dict):
            found.append(one)


def _together(lines: Sequence[bytes], found: list[dict[str, Any]]) -> bool:
    """Parse lines as one array; False if one of them might be read in another way alone.

    Each line begins with its only brace and holds no bracket, so that no object ends in another line; there is no
    escape of a surrogate, and no integer of more digits than are read.
    """
    text = b",\n".join(lines)
    is_flat = text.startswith(b"{") and text.count(b",\n{") == len(lines) - 1 and text.count(b"{") == len(lines)
    if not is_flat or b"[" in text or b"\\u" in text or len(max(lines, key=len)) > MOST_LINE_BYTES:
        return False
    if _has_long_integer(text):
        return False
    try:
        values = _loads(b"[" + text + b"]")
    except (ValueError, RecursionError):
        return False
    if len(values) != len(lines) or not all(type(one) is dict for one in values):
        return False
    found += values
    return True


def _has_long_integer(text: bytes) -> bool:
    """Return whether a number has many digits before its point. Twenty times as fast as a regular expression."""
    digits = text.translate(AS_DIGITS)
    place = digits.find(MANY_DIGITS)
    while place >= 0:
        if text[place - 1 : place] != b".":
            return True
        place = digits.find(MANY_DIGITS, digits.find(b" ", place))
    return False


def digest(lines: Iterable[Mapping[str, Any]], *, torn: int = 0, skip_until_step: int = 0) -> Digest:
    """Return the digest of the lines. A value of a wrong type or out of its range is left out and counted."""
    start: Mapping[str, Any] = {}
    speeds: list[tuple[int, float, float | None]] = []  # step, images/s, wall_s
    train: list[Point] = []
    valid: list[Point] = []
    valid_nats, not_finite, count, wrong = None, 0, 0, 0
    low, high, numbers = -MOST_FIGURE, MOST_FIGURE, (float, int)  # a call for each value doubles the time of a report
    for line in lines:
        count += 1
        get: Callable[[str], Any] = line.get
        step = get("step")
        if type(step) is not int or not 0 <= step <= MOST_STEP or "event" in line:
            start = line if get("event") == "start" and not start else start
            wrong += step is not None and not is_step(step)
            continue
        bits, nats, speed = get("bits_per_dim"), get("nats"), get("images_per_s")
        if not (type(bits) in numbers and low <= bits <= high):  # NaN compares as false with everything
            wrong += _is_wrong(bits)
            bits = None
        if not (type(nats) in numbers and low <= nats <= high):
            not_finite += type(nats) is float and not math.isfinite(nats)
            wrong += _is_wrong(nats)
            nats = None
        if get("split") == "valid":
            valid_nats = nats if nats is not None else valid_nats
            if bits is not None:
                valid.append((step, bits))
            continue
        if bits is not None:
            train.append((step, bits))
        if type(speed) in numbers and LEAST_SPEED <= speed <= high:
            wall_s = get("wall_s")
            if not (type(wall_s) in numbers and low <= wall_s <= high):
                wrong += _is_wrong(wall_s)
                wall_s = None
            speeds.append((step, speed, wall_s))
        elif speed != 0:
            wrong += _is_wrong(speed) or (type(speed) in numbers and speed < high)
    batch, epoch = start.get("batch_size"), start.get("images_per_epoch")
    batch_size = batch if type(batch) is int and 0 < batch <= MOST_BATCH else None
    return Digest(
        lines=count,
        torn=torn,
        not_finite=not_finite,
        wrong=wrong,
        batch_size=batch_size,
        images_per_epoch=float(epoch) if is_figure(epoch, LEAST_SPEED) else None,
        device=_device(start),
        world=_world(start),
        valid_nats=valid_nats,
        valid_bits=valid[-1][1] if valid else None,
        train_curve=thinned(train),
        valid_curve=thinned(valid),
        **_steady(speeds, batch_size, skip_until_step),
    )


def _is_wrong(value: object) -> bool:
    """Return whether a value out of range is worth counting: missing is not, and NaN is counted as not finite."""
    return value is not None and not (type(value) is float and not math.isfinite(value))


def _world(start: Mapping[str, Any]) -> int:
    """Return how many processes share each batch, as the `start` line says; it says nothing of one."""
    world = start.get("world")
    return world if type(world) is int and 1 <= world <= MOST_WORLD else 1


def _device(start: Mapping[str, Any]) -> str:
    names = (start.get("device_name"), start.get("device"))
    return next((one_line(name[:LONGEST_NAME]) for name in names if isinstance(name, str) and name), "")


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
            if seconds > LEAST_SPAN_S:
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
        if not (one.lines or one.train_curve or one.valid_curve):
            continue  # it was lost before it trained, and took no step back
        train = [point for point in train if point[0] <= resumed_from] + list(one.train_curve)
        valid = [point for point in valid if point[0] <= resumed_from] + list(one.valid_curve)
    return tuple(train), tuple(valid)


def joined_curves(digests: Sequence[tuple[int, Digest]]) -> dict[str, tuple[Point, ...]]:
    """Return each number's curve over the attempts of a run, as `joined` does."""
    found: dict[str, list[Point]] = {}
    for resumed_from, one in digests:
        for key, points in one.curves.items():
            kept = [point for point in found.get(key, []) if point[0] <= resumed_from]
            found[key] = kept + list(points)
    return {key: tuple(points) for key, points in found.items()}


def to_json(one: Digest) -> dict[str, Any]:
    """Return the JSON form in which a digest is kept, so that a file is digested once."""
    return dict(vars(one))


def from_json(raw: object) -> Digest:
    """Return the digest that `to_json` wrote.

    Raises:
        ValueError: it is damaged, or another version wrote it.
    """
    if not isinstance(raw, dict) or set(raw) != {one.name for one in fields(Digest)}:
        raise ValueError("it is no digest of this version")
    plain = {name: value for name, value in raw.items() if name not in CURVES}
    kept = checked.read(_Figures, plain, {"batch_size": (1, MOST_BATCH), "lines": (0, MOST_STEP)})
    values, curves = raw["values"], raw["curves"]
    if not isinstance(values, dict) or not isinstance(curves, dict) or len(values) + len(curves) > 2 * MOST_KEYS:
        raise ValueError("its values are no objects")
    if not all(is_figure(value, -MOST_FIGURE, MOST_FIGURE) for value in values.values()):
        raise ValueError("a value is no figure")
    return Digest(
        **vars(kept),
        train_curve=_curve(raw["train_curve"]),
        valid_curve=_curve(raw["valid_curve"]),
        values={key: float(value) for key, value in values.items()},
        curves={key: _curve(points) for key, points in curves.items()},
    )


def _curve(raw: object) -> tuple[Point, ...]:
    if not isinstance(raw, list) or len(raw) > CURVE_POINTS:
        raise ValueError("it is no curve")
    for point in raw:
        if not (isinstance(point, list) and len(point) == 2 and is_step(point[0])):
            raise ValueError("it is no point of a curve")
        if not is_figure(point[1], -MOST_FIGURE, MOST_FIGURE):
            raise ValueError("a point of a curve is no figure")
    return tuple((step, float(value)) for step, value in raw)
