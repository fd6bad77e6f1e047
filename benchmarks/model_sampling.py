"""Milliseconds per sampled image: `python benchmarks/model_sampling.py`.

Three samplers draw the same images from the same noise: the plain one (the whole network for each value), the cached
one in torch, and the native one (numba). They take turns in rounds; what is printed is the median over the rounds of
the CPU time of this process, one thread, divided by the number of images. Of the plain sampler a few forward passes are
timed and multiplied by the number of values, marked with ~: all of it would take minutes to hours.

The networks are the paper's MNIST ones (28x28x1, 7 layers, PixelCNN h = 32, LSTMs h = 16, head 32, two levels), and a
PixelCNN for 32x32x3 of 256 levels (7 layers, h = 48, head 48).
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
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from model.device import cpu_name
from model.network import PixelNetwork
from model.pixelcnn import PixelCNN
from model.pixelrnn import PixelRNN
from model.sampling import fill

GRAY = {"channels": 1, "levels": 2, "layers": 7, "head": 32}
COLOUR = {"channels": 3, "levels": 256, "layers": 7, "hidden": 48, "head": 48}


@dataclass(frozen=True)
class Case:
    """A network and the images that it draws; what is to be reached, in ms per image at B = 1 and 16."""

    name: str
    make: Callable[[], PixelNetwork]
    shape: tuple[int, int, int]  # C, H, W
    must: dict[int, float]
    aim: dict[int, float]


CASES = [
    Case("PixelCNN", lambda: PixelCNN(hidden=32, **GRAY), (1, 28, 28), {1: 350, 16: 26}, {1: 10, 16: 9}),
    Case("Row LSTM", lambda: PixelRNN("row-lstm", hidden=16, **GRAY), (1, 28, 28), {1: 450, 16: 35}, {1: 6, 16: 5}),
    Case(
        "Diagonal BiLSTM",
        lambda: PixelRNN("diagonal-bilstm", hidden=16, **GRAY),
        (1, 28, 28),
        {1: 650, 16: 48},
        {1: 8, 16: 6},
    ),
    Case("PixelCNN RGB", lambda: PixelCNN(**COLOUR), (3, 32, 32), {16: 220}, {16: 40}),
]


def timed(what: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Return the CPU time in ms, and the result."""
    began = time.process_time()
    made = what()
    return (time.process_time() - began) * 1e3, made


def measure(case: Case, batch: int, *, rounds: int, engines: list[str]) -> dict[str, float]:
    """Return ms per image of each engine: the median over the rounds."""
    torch.manual_seed(0)
    net = case.make().eval()
    C, H, W = case.shape
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(batch, C, H, W, dtype=torch.float64, generator=generator)
    empty, everything = torch.zeros(batch, C, H, W, dtype=torch.uint8), torch.ones(H, W, dtype=torch.bool)
    times: dict[str, list[float]] = {engine: [] for engine in engines}
    drawn: dict[str, Tensor] = {}
    for turn in range(rounds + 1):  # the first one warms up: it loads or compiles
        for engine in engines:
            if engine == "naive":
                with torch.no_grad():
                    spent, _ = timed(lambda: net(empty))
                spent *= C * H * W
            else:
                spent, drawn[engine] = timed(lambda engine=engine: fill(net, empty, everything, noise, engine=engine))
            if turn:
                times[engine].append(spent / batch)
    if len(drawn) == 2:
        same = (drawn["torch"] == drawn["native"]).flatten(1).all(dim=1).sum().item()
        # float32 rounds differently in sums of another order: a draw on a border may fall to the other side.
        print(f"    ({same} of {batch} images are identical between torch and native)" if same < batch else "", end="")
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
    args = parser.parse_args()
    torch.set_num_threads(1)
    compiled = importlib.util.find_spec("numba") is not None
    engines = ["naive", "torch", *(["native"] if compiled else [])]
    print(f"$ python {shlex.join(sys.argv)}")
    numba = f", numba {__import__('numba').__version__}" if compiled else ""
    print(f"{cpu_name()}, 1 thread, torch {torch.__version__}{numba}, Python {platform.python_version()}")
    print(f"ms of CPU time per image, median of {args.rounds} rounds, samplers in turn\n")
    print(f"{'network':<16} {'B':>3} {'naive':>11} {'torch':>9} {'x':>6} {'native':>9} {'x':>7}")
    for case in CASES:
        if args.case and not any(case.name.startswith(name) for name in args.case):
            continue
        for batch in args.batch or [1, 16, 64]:
            ms = measure(case, batch, rounds=args.rounds, engines=engines)
            naive, torch_ms, native = ms["naive"], ms["torch"], ms.get("native")
            second = f"{native:9.2f} {naive / native:6,.0f}x" if native else f"{'-':>9} {'':>7}"
            best = min(torch_ms, native or torch_ms)
            print(
                f"{case.name:<16} {batch:>3} ~{naive:10,.0f} {torch_ms:9.2f} {naive / torch_ms:5,.0f}x {second}  "
                f"{verdict(case, batch, best)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
