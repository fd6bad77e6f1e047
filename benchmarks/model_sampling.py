"""Milliseconds per sampled image: `python benchmarks/model_sampling.py`.

Samplers draw the same images from the same noise: the cached one in torch, and the native one (numba), or on a GPU the
one that replays recorded rows (`--device cuda --sizes cifar10 --batch 1 --batch 16 --batch 256`). Beside them is the
plain way, which public implementations go: the layers that read like the paper, and the whole network for each value.
They take turns in rounds; what is printed is the median over the rounds of the CPU time of this process, one thread (on
a GPU: of the time that passed), divided by the number of images. Of the plain way one forward pass a round is timed and
multiplied by the number of values, marked with ~: all of it would take minutes to hours.

The networks are the paper's MNIST ones (28x28x1, 7 layers, PixelCNN h = 32, LSTMs h = 16, head 32, two levels), and a
PixelCNN for 32x32x3 of 256 levels (7 layers, h = 48, head 48); or with `--sizes cifar10` the paper's for CIFAR-10.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from model_training import SETTINGS, network
from torch import Tensor

from model.config.cost import Sizes
from model.device import device_name, pick_device
from model.errors import SetupError
from model.sampling import fill

NAMES = {"pixelcnn": "PixelCNN", "row-lstm": "Row LSTM", "diagonal-bilstm": "Diagonal BiLSTM"}


@dataclass(frozen=True)
class Case:
    """A network and the images that it draws; what is to be reached, in ms per image at B = 1 and 16."""

    name: str
    sizes: Sizes
    must: dict[int, float] = field(default_factory=dict)
    aim: dict[int, float] = field(default_factory=dict)


def case(setting: str, model: str, must: dict[int, float] | None = None, aim: dict[int, float] | None = None) -> Case:
    """Take a network of the training benchmark."""
    some = SETTINGS[setting]
    layers, hidden = some.networks[model]
    name = NAMES[model] + (" RGB" if setting == "rgb" else "")
    return Case(name, Sizes(model, hidden=hidden, layers=layers, head=some.head, **some.shape), must or {}, aim or {})


CASES = {
    "mnist": [
        case("mnist", "pixelcnn", {1: 350, 16: 26}, {1: 10, 16: 9}),
        case("mnist", "row-lstm", {1: 450, 16: 35}, {1: 6, 16: 5}),
        case("mnist", "diagonal-bilstm", {1: 650, 16: 48}, {1: 8, 16: 6}),
        case("rgb", "pixelcnn", {16: 220}, {16: 40}),
    ],
    "cifar10": [case("cifar10", model) for model in NAMES],
}


def timed(what: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Return the time in ms, and the result: CPU time, or on a GPU what passed until it was done."""
    if device.type == "cpu":
        began = time.process_time()
        made = what()
        return (time.process_time() - began) * 1e3, made
    torch.cuda.synchronize()
    began = time.perf_counter()
    made = what()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1e3, made


def measure(case: Case, batch: int, *, rounds: int, engines: list[str], device: torch.device) -> dict[str, float]:
    """Return ms per image of each engine: the median over the rounds."""
    nets = {plain: network(case.sizes, plain=plain).eval().to(device) for plain in (False, True)}
    C, H, W = case.sizes.channels, case.sizes.height, case.sizes.width
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(batch, C, H, W, dtype=torch.float64, generator=generator)
    empty, everything = torch.zeros(batch, C, H, W, dtype=torch.uint8), torch.ones(H, W, dtype=torch.bool)
    some = empty.to(device)
    times: dict[str, list[float]] = {engine: [] for engine in engines}
    drawn: dict[str, Tensor] = {}

    def draw(engine: str) -> Tensor:
        if engine != "plain":
            return fill(nets[False], empty, everything, noise, engine=engine)  # type: ignore[arg-type]
        with torch.no_grad():
            return nets[True](some)

    for turn in range(rounds + 1):  # the first one warms up: it loads or compiles
        for engine in engines:
            spent, made = timed(partial(draw, engine), device)
            if engine == "plain":
                spent *= C * H * W
            else:
                drawn[engine] = made
            if turn:
                times[engine].append(spent / batch)
    if len(drawn) == 2:
        one, other = drawn.values()
        same = (one == other).flatten(1).all(dim=1).sum().item()
        # float32 rounds differently in sums of another order: a draw on a border may fall to the other side.
        print(f"    ({same} of {batch} images are identical between both)" if same < batch else "", end="")
    return {engine: statistics.median(values) for engine, values in times.items()}


def verdict(case: Case, batch: int, best: float) -> str:
    """Say whether what is to be reached was."""
    if batch not in case.must:
        return ""
    must, aim = case.must[batch], case.aim[batch]
    reached = "aim met" if best <= aim else "must met" if best <= must else "MISSED"
    return f"must {must:g}, aim {aim:g}: {reached}"


def main() -> None:
    """Measure all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--batch", type=int, action="append", help="images at a time (default: 1, 16 and 64)")
    parser.add_argument("--case", action="append", help="only cases whose name begins so; may be repeated")
    parser.add_argument("--sizes", choices=tuple(CASES), default="mnist", help="default: mnist, and one for RGB")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu, one thread")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # as in training, evaluating and drawing
    try:
        device = pick_device(args.device)
    except SetupError as error:
        raise SystemExit(str(error)) from None
    compiled = device.type == "cpu" and importlib.util.find_spec("numba") is not None
    fastest = "native" if compiled else "graph" if device.type == "cuda" else ""
    engines = ["plain", "torch", *([fastest] if fastest else [])]
    numba = f", numba {__import__('numba').__version__}" if compiled else ""
    threads, unit = (", 1 thread", "CPU time") if device.type == "cpu" else (f", CUDA {torch.version.cuda}", "time")
    print(f"$ python {shlex.join(sys.argv)}")
    print(f"{device_name(device)}{threads}, torch {torch.__version__}{numba}, Python {platform.python_version()}")
    print(f"ms of {unit} per image, median of {args.rounds} rounds, samplers in turn\n")
    print(f"{'network':<16} {'B':>3} {'plain':>12} {'torch':>9} {'x':>7} {fastest:>9} {'x':>8}")
    for one in CASES[args.sizes]:
        if args.case and not any(one.name.startswith(name) for name in args.case):
            continue
        for batch in args.batch or [1, 16, 64]:
            ms = measure(one, batch, rounds=args.rounds, engines=engines, device=device)
            plain, torch_ms, second_ms = ms["plain"], ms["torch"], ms.get(fastest)
            second = f"{second_ms:9.2f} {plain / second_ms:7,.0f}x" if second_ms else f"{'-':>9} {'':>8}"
            best = min(torch_ms, second_ms or torch_ms)
            print(
                f"{one.name:<16} {batch:>3} ~{plain:11,.0f} {torch_ms:9.2f} {plain / torch_ms:6,.0f}x {second}  "
                f"{verdict(one, batch, best)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
