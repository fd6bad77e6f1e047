"""How fast the networks train: images/s, effective GFLOP/s, and how much of what this machine's sgemm reaches.

    python benchmarks/model_training.py > benchmarks/model_training.txt

One step is zero_grad, forward, loss, backward and RMSprop. Each network runs beside its plain form, the layers that
read like the paper: a loop over rows or over the skewed map's columns under autograd, convolutions with whole kernels.
All contenders and the sgemm take turns, one step each in every round, so that a machine that is busy is busy for all of
them. FLOPs are those of `model.cost`: masked taps are not counted, whoever computes them.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor

from model.cost import Sizes, cost
from model.layers import MaskedConv2d
from model.likelihood import nats_per_image
from model.network import PixelNetwork
from model.pixelcnn import PixelCNN
from model.pixelrnn import PixelRNN

SGEMM = 1024  # rows and columns
WARM_UP = 3  # rounds that do not count: oneDNN chooses its kernels, the allocators fill


class WholeKernel(MaskedConv2d):
    """The masked convolution in one line, masked rows of the kernel included."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: (B, in_maps, H, W) -> (B, out_maps, H, W)."""
        return F.conv2d(x, self.masked_weight(), self.bias, padding=self.padding)


@dataclass
class Contender:
    """One network in one form, and what its steps took."""

    name: str
    plain: bool
    step: Callable[[], None]
    flops: int  # of a step
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Do one step and note what it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.step()
        self.wall_s.append(time.perf_counter() - wall)
        self.cpu_s.append(time.process_time() - cpu)


def contender(sizes: Sizes, batch: int, *, plain: bool) -> Contender:
    """Build a network and its training step on random images: what a step costs does not depend on the content."""
    torch.manual_seed(0)
    settings = {name: getattr(sizes, name) for name in ("channels", "levels", "hidden", "layers", "head")}
    net: PixelNetwork
    if sizes.model == "pixelcnn":
        net = PixelCNN(**settings)
        for module in net.modules():
            if plain and isinstance(module, MaskedConv2d):
                module.__class__ = WholeKernel
    else:
        net = PixelRNN(sizes.model, implementation="reference" if plain else "fast", **settings)  # type: ignore[arg-type]
    optimizer = torch.optim.RMSprop(net.parameters(), lr=0.001)
    images = torch.randint(sizes.levels, (batch, sizes.channels, sizes.height, sizes.width), dtype=torch.uint8)

    def step() -> None:
        optimizer.zero_grad()
        nats_per_image(net, images).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return Contender(sizes.model, plain, step, batch * cost(sizes).training_flops)


def sgemm() -> Callable[[], None]:
    """Build the product of matrices whose pace the others are compared with."""
    a, b, out = (torch.randn(SGEMM, SGEMM) for _ in range(3))

    def step() -> None:
        torch.mm(a, b, out=out)

    return step


def table(contenders: list[Contender], peak: float, batch: int) -> str:
    """Write the medians out; the ratio is the median of the ratios of each round."""
    rows = [f"{'network':<16} {'form':<6} {'images/s':>9} {'best':>7} {'GFLOP/s':>8} {'% of sgemm':>11} {'x plain':>8}"]
    plain_of = {one.name: one for one in contenders if one.plain}
    for one in contenders:
        form = "plain" if one.plain else "fast"
        seconds = statistics.median(one.wall_s)
        pace = one.flops / seconds / 1e9
        plain = plain_of[one.name]
        ratio = statistics.median(theirs / ours for theirs, ours in zip(plain.wall_s, one.wall_s, strict=True))
        rows.append(
            f"{one.name:<16} {form:<6} {batch / seconds:>9.1f} {batch / min(one.wall_s):>7.1f} "
            f"{pace:>8.1f} {100 * pace / peak:>10.1f}% {'' if one.plain else f'{ratio:.2f}':>8}"
        )
    return "\n".join(rows)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description="Measure how fast the networks train on this machine.")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count (default: 15)")
    parser.add_argument("--batch", type=int, default=16, help="images a step (default: 16)")
    parser.add_argument(
        "--rgb", action="store_true", help="32x32x3, K = 256, h = 48, head 48 instead of 28x28x1, K = 2"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    shape: dict[str, Any] = {"height": 32, "width": 32, "channels": 3, "levels": 256, "layers": 7, "head": 48}
    hidden = {"pixelcnn": 48, "row-lstm": 48, "diagonal-bilstm": 48}
    if not args.rgb:
        shape = {"height": 28, "width": 28, "channels": 1, "levels": 2, "layers": 7, "head": 32}
        hidden = {"pixelcnn": 32, "row-lstm": 16, "diagonal-bilstm": 16}
    contenders = [
        contender(Sizes(model, hidden=hidden[model], **shape), args.batch, plain=plain)
        for model in hidden
        for plain in (False, True)
    ]
    peak = Contender("sgemm", False, sgemm(), 2 * SGEMM**3)
    for _ in range(args.rounds + WARM_UP):
        for one in (peak, *contenders):
            one.run()
    for one in (peak, *contenders):
        del one.wall_s[:WARM_UP], one.cpu_s[:WARM_UP]
    best = peak.flops / min(peak.wall_s) / 1e9

    print(f"$ python {' '.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])}")
    print(f"torch {torch.__version__}, python {platform.python_version()}, {cpu_name()}, 1 thread")
    print(
        f"{shape['height']}x{shape['width']}x{shape['channels']}, K = {shape['levels']}, {shape['layers']} layers, h: ",
        end="",
    )
    print(f"{', '.join(f'{name} {h}' for name, h in hidden.items())}, head {shape['head']}, batch {args.batch}")
    print("a step: zero_grad, forward, backward, RMSprop; all contenders one step a round, in turn")
    share = sum(map(sum, (one.cpu_s for one in contenders))) / sum(map(sum, (one.wall_s for one in contenders)))
    print(f"medians of {args.rounds} rounds; the machine was shared: this process had {100 * share:.0f} % of a core")
    print(f"sgemm {SGEMM}^3, the best of the same rounds: {best:.1f} GFLOP/s\n")
    print(table(contenders, best, args.batch))


def cpu_name() -> str:
    """Name the processor, as far as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
