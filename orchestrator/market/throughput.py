"""Predicts the speed of types without a run, from counted work and from the runs that exist; pure.

The bound is a roofline (Williams, Waterman, Patterson 2009) with a third roof for kernel launches:

    seconds per image >= max(FLOPs / peak fp32, bytes / bandwidth, kernels started x 6 us)

FLOPs are `model.config`'s. Bytes are counted here from the network's sizes, to within a factor of two, and kernels to
within a tenth of what PyTorch is asked to do.
The slowdown of a real run is its time over the bound. The mean slowdown of the types with runs (of the logarithms) is
used for the other types. Its scatter gives the interval, and leaving each type out in turn gives the error of such a
prediction. A program of the user has no counted work: between two types its
speed changes by no less than the smaller and no more than the larger of the ratios of fp32 and of bandwidth.

Every figure from here is a prediction, and is shown as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from model.config import FLOAT_BYTES, Cost, TrainConfig, cost_of
from orchestrator.market.catalog import InstanceType

KERNEL_S = 6e-6  # the launch of one kernel by PyTorch in eager mode on the CPUs of these machines: 5 to 10 us
UNCALIBRATED_SLOWDOWN = 5.0  # without any run on a GPU: a fifth of the bound, and within a factor of 3 of it
UNCALIBRATED_FACTOR = 3.0
ONE_TYPE_FACTOR = 2.0  # the interval with one measured type: there is no scatter yet
# Two-sided 90 % quantiles of Student's t by degrees of freedom.
T90 = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 8: 1.860, 9: 1.833, 10: 1.812}
T90_BEYOND = 1.7


@dataclass(frozen=True)
class Work:
    """The work of training one image."""

    flops: float
    bytes: float  # read and written in the GPU's memory
    kernels: float  # launched; a batch shares them


@dataclass(frozen=True)
class Observation:
    """A measured speed of one GPU of a type; `work` is None for a program of the user."""

    known: InstanceType
    images_per_s: float
    work: Work | None = None


@dataclass(frozen=True)
class Prediction:
    """The predicted speed of one GPU of a type. `low` and `high` are a 90 % interval where there is a scatter.

    What a machine does with a process on each of its GPUs, `scaling` estimates from it.
    """

    instance_type: str
    images_per_s: float
    low: float
    high: float
    basis: str
    is_bound_by_kernels: bool = False


@dataclass(frozen=True)
class LeftOut:
    """The prediction for a measured type from the other types alone."""

    instance_type: str
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Predicted over measured, minus one: 0.1 is 10 % too fast."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Predictions:
    """All predictions for one workload."""

    of_types: tuple[Prediction, ...]
    left_out: tuple[LeftOut, ...] = field(default=())

    @property
    def typical_error(self) -> float | None:
        """The median size of the leave-one-out errors; None with fewer than two types."""
        sizes = sorted(abs(check.error) for check in self.left_out)
        if not sizes:
            return None
        middle = len(sizes) // 2
        return sizes[middle] if len(sizes) % 2 else (sizes[middle - 1] + sizes[middle]) / 2


@lru_cache(maxsize=256)
def work_of(config: TrainConfig) -> Work:
    """Count the work of training one image of this config."""
    cost = cost_of(config)
    return Work(
        flops=float(cost.training_flops), bytes=_bytes(config, cost), kernels=_kernels(config) / config.batch_size
    )


def _bytes(config: TrainConfig, cost: Cost) -> float:
    """Feature maps written and read (three times over: forward, and two gradients), and each step's weights.

    Of a layer: what goes into and comes out of each convolution and each gate, in maps of h.
    """
    maps = {"pixelcnn": 14, "row-lstm": 24, "diagonal-bilstm": 44}[config.model] * config.hidden
    data = config.data
    per_position = config.layers * (maps + 2 * config.head) + 3 * data.channels * data.levels
    feature_maps = 3 * FLOAT_BYTES * data.height * data.width * per_position
    weights = 7 * FLOAT_BYTES * cost.parameters / config.batch_size  # read twice, gradient, the optimizer's four
    return float(feature_maps + weights)


def _kernels(config: TrainConfig) -> float:
    """Return the kernels that the two passes of one step launch, with the fast implementations.

    A layer launches some at once. Beside them the Row LSTM launches those of a row for all layers together, one row
    later in each layer, and the Diagonal BiLSTM those of a diagonal for both directions of a layer. The numbers are
    what PyTorch is asked to do, to within a tenth.
    """
    L, H, W = config.layers, config.data.height, config.data.width
    of_layers = {
        "pixelcnn": 35 * L,
        "row-lstm": 80 + 6 * L + 56 * (H + L - 1),
        "diagonal-bilstm": 60 + 50 * L + 21 * L * (H + W - 1),
    }[config.model]
    return 35.0 + of_layers  # the first layer, the head and the likelihood


def bound_s(work: Work, known: InstanceType) -> float:
    """Return the least seconds that an image can take on one GPU of the type."""
    return max(
        work.flops / (known.fp32_tflops * 1e12), work.bytes / (known.bandwidth_gb_s * 1e9), work.kernels * KERNEL_S
    )


def predict(
    observations: Sequence[Observation], targets: Iterable[InstanceType], work: Work | None = None
) -> Predictions:
    """Return predictions for the targets, and how well such predictions fit the measured types.

    Args:
        observations: measured on GPUs, one for each type; other workloads count if their work is known.
        targets: types to predict.
        work: of the workload; None for a program of the user, and then all observations are of that program.
    """
    if work is None:
        return _by_ratio(observations, targets)
    slowdowns = {
        o.known.name: 1 / (o.images_per_s * bound_s(o.work, o.known)) for o in observations if o.work is not None
    }
    made = tuple(_by_roofline(slowdowns, known, work) for known in targets)
    checks = []
    for o in observations:
        others = {name: value for name, value in slowdowns.items() if name != o.known.name}
        if o.work is not None and others:
            without = _by_roofline(others, o.known, o.work)
            checks.append(LeftOut(o.known.name, o.images_per_s, without.images_per_s))
    return Predictions(made, tuple(checks))


def _by_roofline(slowdowns: Mapping[str, float], known: InstanceType, work: Work) -> Prediction:
    least_s = bound_s(work, known)
    if not slowdowns:
        centre, factor = math.log(UNCALIBRATED_SLOWDOWN), UNCALIBRATED_FACTOR
        basis = "counted work; no run on a GPU to calibrate with"
    else:
        logs = [math.log(value) for value in slowdowns.values()]
        centre = sum(logs) / len(logs)
        factor = _factor(logs, centre)
        basis = f"counted work, calibrated on {', '.join(slowdowns)}"
    speed = 1 / (least_s * math.exp(centre))
    by_kernels = least_s == work.kernels * KERNEL_S
    return Prediction(known.name, speed, speed / factor, speed * factor, basis, by_kernels)


def _factor(logs: Sequence[float], centre: float) -> float:
    """Return the factor by which a new type may differ: the 90 % prediction interval of the logarithms, as normal."""
    count = len(logs)
    if count == 1:
        return ONE_TYPE_FACTOR
    deviation = math.sqrt(sum((value - centre) ** 2 for value in logs) / (count - 1))
    return math.exp(T90.get(count - 1, T90_BEYOND) * deviation * math.sqrt(1 + 1 / count))


def _by_ratio(observations: Sequence[Observation], targets: Iterable[InstanceType]) -> Predictions:
    if not observations:
        return Predictions(())
    made = tuple(_scaled(observations, known) for known in targets)
    checks = []
    for o in observations:
        others = [other for other in observations if other.known.name != o.known.name]
        if others:
            checks.append(LeftOut(o.known.name, o.images_per_s, _scaled(others, o.known).images_per_s))
    return Predictions(made, tuple(checks))


def _scaled(observations: Sequence[Observation], known: InstanceType) -> Prediction:
    """Scale the measured speeds by the rates of the types: between the ratio of fp32 and that of bandwidth."""
    centres, lows, highs = [], [], []
    for o in observations:
        ratios = sorted((known.fp32_tflops / o.known.fp32_tflops, known.bandwidth_gb_s / o.known.bandwidth_gb_s))
        centres.append(math.log(o.images_per_s) + (math.log(ratios[0]) + math.log(ratios[1])) / 2)
        lows.append(o.images_per_s * ratios[0])
        highs.append(o.images_per_s * ratios[1])
    speed = math.exp(sum(centres) / len(centres))
    names = ", ".join(o.known.name for o in observations)
    return Prediction(
        known.name, speed, min(*lows, speed), max(*highs, speed), f"ratios of peak rates to {names}, no counted work"
    )
