"""What a GPU does with the networks, in ten minutes: training, sampling, bf16, CUDA graphs, and how far from the roof.

    python benchmarks/gpu.py > benchmarks/gpu.txt

It takes whatever card it finds, and measures the paper's sizes for CIFAR-10. A measurement that fails, or that the time
does not allow, has its reason in its row, and the others go on. FLOPs are those of `model.config.cost`: masked taps are
never counted. `--device cpu --sizes small --seconds 60` runs the same code without a GPU, to see that it works.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn

from model.config import MODELS, DatasetFacts, TrainConfig
from model.config.cost import cost_of
from model.device import check_precision, device_name, make_repeatable, memory_bytes, pick_device
from model.errors import SetupError, TrainingError
from model.networks import buffers
from model.networks.build import build
from model.sampling import Engine
from model.sampling.generate import draw
from model.sampling.graphed import record_on_gpu
from model.training.compiled_step import compiled_nats, mean_nats
from model.training.graphed import WARM_UP, Gradients
from model.training.state import build_optimizer

SIZES = {
    "cifar10": (DatasetFacts(32, 32, 3, 256, train=1, valid=1, test=1), 128, 1024, {"pixelcnn": 15}, 12),
    "small": (DatasetFacts(6, 6, 3, 4, train=1, valid=1, test=1), 6, 6, {"pixelcnn": 2}, 2),
}
ROUNDS = 10


@dataclass(frozen=True)
class Way:
    """One way to train."""

    name: str
    precision: str = "float32"
    tf32: bool = False
    graph: bool = False
    compiled: bool = False  # by torch; only PixelCNN on a GPU


WAYS = (
    Way("float32"), Way("float32, graph", graph=True), Way("tf32, graph", tf32=True, graph=True),
    Way("bf16", "bf16"), Way("bf16, graph", "bf16", graph=True),
    Way("float32, compiled", compiled=True), Way("bf16, compiled, graph", "bf16", graph=True, compiled=True),
)  # fmt: skip


class Clock:
    """The time of this benchmark, and of one measurement on the device.

    Args:
        device: that is measured.
        seconds: that all measurements may take.
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.ends = device, time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.ends - time.monotonic()

    def median(self, work: Callable[[], object], *, rounds: int = ROUNDS, most_s: float = 20.0) -> float:
        """Return the median seconds of a call, of some rounds or of what fits into `most_s`; the first is not timed."""
        work()
        seconds: list[float] = []
        ends = time.monotonic() + min(most_s, max(0.0, self.left()))
        while len(seconds) < rounds and (not seconds or time.monotonic() < ends):
            self._wait()
            began = time.perf_counter()
            work()
            self._wait()
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def config_of(model: str, sizes: str, batch: int) -> TrainConfig:
    """Return the settings of a network."""
    facts, hidden, head, layers, others = SIZES[sizes]
    return TrainConfig(
        model=model, dataset="./images", facts=facts, hidden=hidden, head=head, batch_size=batch,  # type: ignore[arg-type]
        layers=layers.get(model, others), optimizer="rmsprop",
    )  # fmt: skip


def tried(clock: Clock, name: str, work: Callable[[], str], *, needs_s: float = 2.0) -> str:
    """Return a row: its name, and what was measured or why it was not."""
    if clock.left() < needs_s:
        return f"{name:<34} not measured: the time is over"
    try:
        text = work()
    except (RuntimeError, TrainingError, SetupError, MemoryError) as error:
        text = f"failed: {(str(error).splitlines() or [type(error).__name__])[0][:120]}"
    finally:
        buffers.free_buffers.clear()
        if clock.device.type == "cuda":
            torch.cuda.empty_cache()
    return f"{name:<34} {text}"


def roofs(clock: Clock, side: int) -> tuple[dict[str, float], list[str]]:
    """Measure the products and the copies that all else is compared with: GFLOP/s by precision, and the rows."""
    found: dict[str, float] = {}
    rows = []

    def product(name: str, dtype: torch.dtype, tf32: bool) -> str:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(side, side, device=clock.device, dtype=dtype) for _ in range(2))
        found[name] = 2 * side**3 / clock.median(lambda: torch.mm(a, b)) / 1e9
        torch.backends.cuda.matmul.allow_tf32 = False
        return f"{found[name]:>12,.0f} GFLOP/s"

    def copy() -> str:
        a = torch.empty(side * side, device=clock.device)
        b = torch.empty_like(a)
        return f"{2 * a.numel() * 4 / clock.median(lambda: b.copy_(a)) / 1e9:>12,.0f} GB/s"

    for name, dtype, tf32 in (("float32", torch.float32, False), ("tf32", torch.float32, True),
                              ("bf16", torch.bfloat16, False)):  # fmt: skip
        rows.append(tried(clock, f"product {side}^3, {name}", lambda n=name, d=dtype, t=tf32: product(n, d, t)))  # type: ignore[misc]
    return found, [*rows, tried(clock, "copy in memory", copy)]


def training_step(config: TrainConfig, way: Way, device: torch.device) -> tuple[Callable[[], None], Gradients]:
    """Build a network and its step, of forward, backward, clipping and RMSProp, as the trainer does it."""
    make_repeatable(torch.get_num_threads(), device, tf32=way.tf32)
    check_precision(way.precision, device)
    torch.manual_seed(0)
    net = build(config).to(device)
    mean = compiled_nats(net, config, "fast", device) if way.compiled else mean_nats(net)
    optimizer = build_optimizer(config, net)
    data = config.data
    shape = (config.batch_size, data.channels, data.height, data.width)
    images = torch.randint(data.levels, shape, dtype=torch.uint8, device=device)

    def compute(levels: Tensor, values: Tensor | None) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=way.precision == "bf16", cache_enabled=False):
            nats = mean(levels, values)
        (nats / data.dims).backward()  # type: ignore[no-untyped-call]
        return nats.detach()

    record = record_on_gpu if device.type == "cuda" else None
    gradients = Gradients(compute, list(net.parameters()), mode="on" if way.graph else "off", record=record)

    def step() -> None:
        gradients(images, None)
        torch.nn.utils.clip_grad_norm_(net.parameters(), config.grad_clip)
        optimizer.step()

    return step, gradients


def training(clock: Clock, sizes: str, roof: dict[str, float], batches: tuple[int, ...]) -> Iterator[str]:
    """Measure each network in each way."""
    yield f"{'training':<34} {'images/s':>10} {'ms a step':>10} {'GFLOP/s':>10} {'% of roof':>10}  memory"
    for model in MODELS:
        for batch in batches:
            config = config_of(model, sizes, batch)
            flops = batch * cost_of(config).training_flops
            for way in WAYS:
                if way.compiled and (model != "pixelcnn" or clock.device.type == "cpu"):
                    continue

                def measured(config: TrainConfig = config, way: Way = way, flops: int = flops) -> str:
                    if clock.device.type == "cuda":
                        torch.cuda.reset_peak_memory_stats()
                    step, gradients = training_step(config, way, clock.device)
                    for _ in range(WARM_UP + 1 if way.graph else 1):
                        step()
                    seconds = clock.median(step, most_s=8.0)
                    pace = flops / seconds / 1e9
                    top = roof.get("tf32" if way.tf32 else way.precision, float("nan"))
                    on_gpu = clock.device.type == "cuda"
                    used = f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if on_gpu else "-"
                    note = "" if gradients.recorded == way.graph else "  (no graph here)"
                    return (
                        f"{config.batch_size / seconds:>10.1f} {seconds * 1e3:>10.2f} {pace:>10,.1f} "
                        f"{100 * pace / top:>9.1f}%  {used}{note}"
                    )

                yield tried(clock, f"{model}, B = {batch}, {way.name}", measured)


def sampling(clock: Clock, sizes: str, batches: tuple[int, ...]) -> Iterator[str]:
    """Measure the samplers, and check that they draw the same images."""
    yield f"{'sampling':<34} {'ms an image':>12} {'s in all':>10}  the images"
    engines: tuple[Engine, ...] = ("torch", "graph") if clock.device.type == "cuda" else ("torch",)
    make_repeatable(torch.get_num_threads(), clock.device)
    for model in MODELS:
        torch.manual_seed(0)
        config = config_of(model, sizes, 16)
        net = build(config).to(clock.device).eval()
        for batch in batches:
            first: list[Tensor] = []
            for engine in engines:

                def measured(
                    batch: int = batch, engine: Engine = engine, first: list[Tensor] = first,
                    net: nn.Module = net, facts: DatasetFacts = config.data,
                ) -> str:  # fmt: skip
                    began = time.perf_counter()
                    images = draw(net, facts, count=batch, seed=0, engine=engine)
                    seconds = time.perf_counter() - began
                    first.append(images)
                    same = "are the same" if torch.equal(images, first[0]) else "DIFFER from those of the first engine"
                    return f"{seconds / batch * 1e3:>12.2f} {seconds:>10.2f}  {same}"

                yield tried(clock, f"{model}, B = {batch}, {engine}", measured, needs_s=15.0 if sizes != "small" else 2)


def head(device: torch.device) -> Iterator[str]:
    """Name the machine and the command."""
    yield f"$ python {' '.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])}"
    yield f"torch {torch.__version__}, python {platform.python_version()}, {device_name(device)}"
    if device.type == "cuda":
        some = torch.cuda.get_device_properties(device)
        yield (
            f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, compute capability "
            f"{some.major}.{some.minor}, {some.multi_processor_count} multiprocessors, "
            f"{memory_bytes(device) / 1e9:.1f} GB"
        )


def main(words: list[str] | None = None) -> int:
    """Measure, and print each row when it is there."""
    parser = argparse.ArgumentParser(description="Measure training and sampling on a GPU.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("--sizes", choices=tuple(SIZES), default="cifar10", help="default: cifar10, the paper's")
    parser.add_argument("--seconds", type=float, default=600, help="that all may take (default: 600)")
    args = parser.parse_args(words)
    try:
        device = pick_device(args.device)
    except SetupError as error:
        print(f"benchmarks/gpu.py: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    make_repeatable(1, device)
    clock = Clock(device, args.seconds)
    for line in head(device):
        print(line, flush=True)
    roof, rows = roofs(clock, 8192 if device.type == "cuda" else 256)
    print("\n" + "\n".join(rows) + "\n", flush=True)
    whole = clock.ends
    clock.ends -= args.seconds * 0.4  # for the samplers
    for row in training(clock, args.sizes, roof, (16, 64) if args.sizes == "cifar10" else (4,)):
        print(row, flush=True)
    clock.ends = whole
    print(flush=True)
    for row in sampling(clock, args.sizes, (1, 16, 256) if args.sizes == "cifar10" else (2,)):
        print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
