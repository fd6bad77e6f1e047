"""How fast the networks train: images/s, effective GFLOP/s, and how much of what this machine's sgemm reaches.

    python benchmarks/model_training.py > benchmarks/model_training.txt
    python benchmarks/model_training.py --device cuda --sizes cifar10

One step is zero_grad, forward, loss, backward and RMSprop. Each network runs beside its plain form, the layers that
read like the paper: a loop over rows or over the skewed map's columns under autograd, convolutions with whole kernels.
All contenders and the sgemm take turns, one step each in every round, so that a machine that is busy is busy for all of
them. FLOPs are those of `model.config.cost`: masked taps are never counted. The sgemm is the roof.
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

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config.cost import Sizes, cost
from model.device import device_name, pick_device
from model.errors import SetupError
from model.networks.base import PixelNetwork
from model.networks.likelihood import nats_per_image
from model.networks.masked_conv import MaskedConv2d
from model.networks.pixelcnn import PixelCNN
from model.networks.pixelrnn import PixelRNN

SGEMM = {"cpu": 1024, "cuda": 8192}  # rows and columns
WARM_UP = 3  # rounds that do not count: oneDNN chooses its kernels, the allocators fill


class WholeKernel(MaskedConv2d):
    """The masked convolution in one line, masked rows of the kernel included."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: (B, in_maps, H, W) -> (B, out_maps, H, W)."""
        return F.conv2d(x, self.masked_weight(), self.bias, padding=self.padding)


@dataclass(frozen=True)
class Setting:
    """Images, and networks for them."""

    shape: dict[str, int]  # height, width, channels, levels
    head: int
    networks: dict[str, tuple[int, int]]  # name: layers, h


SETTINGS = {
    "mnist": Setting(
        {"height": 28, "width": 28, "channels": 1, "levels": 2}, 32,
        {"pixelcnn": (7, 32), "row-lstm": (7, 16), "diagonal-bilstm": (7, 16)},
    ),
    "rgb": Setting(
        {"height": 32, "width": 32, "channels": 3, "levels": 256}, 48,
        {"pixelcnn": (7, 48), "row-lstm": (7, 48), "diagonal-bilstm": (7, 48)},
    ),
    "cifar10": Setting(  # the paper's
        {"height": 32, "width": 32, "channels": 3, "levels": 256}, 1024,
        {"pixelcnn": (15, 128), "row-lstm": (12, 128), "diagonal-bilstm": (12, 128)},
    ),
}  # fmt: skip


@dataclass
class Contender:
    """One network in one form, and what its steps took."""

    name: str
    plain: bool
    step: Callable[[], None]
    flops: int  # of a step
    seconds: list[float] = field(default_factory=list)

    def run(self, device: torch.device) -> None:
        """Do one step and note what it took: this process's CPU time, or on a GPU what passed until it was done."""
        if device.type == "cpu":
            began = time.process_time()
            self.step()
            self.seconds.append(time.process_time() - began)
            return
        torch.cuda.synchronize()
        began = time.perf_counter()
        self.step()
        torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - began)


def network(sizes: Sizes, *, plain: bool) -> PixelNetwork:
    """Build a network, in its plain form if asked."""
    torch.manual_seed(0)
    settings = {name: getattr(sizes, name) for name in ("channels", "levels", "hidden", "layers", "head")}
    if sizes.model != "pixelcnn":
        return PixelRNN(sizes.model, implementation="reference" if plain else "fast", **settings)  # type: ignore[arg-type]
    net = PixelCNN(implementation="reference" if plain else "fast", **settings)
    for module in net.modules():
        if plain and isinstance(module, MaskedConv2d):
            module.__class__ = WholeKernel
    return net


def contender(sizes: Sizes, batch: int, device: torch.device, *, plain: bool) -> Contender:
    """Build a network and its training step on random images: what a step costs does not depend on the content."""
    net = network(sizes, plain=plain).to(device)
    optimizer = torch.optim.RMSprop(net.parameters(), lr=0.001)
    shape = (batch, sizes.channels, sizes.height, sizes.width)
    images = torch.randint(sizes.levels, shape, dtype=torch.uint8, device=device)

    def step() -> None:
        optimizer.zero_grad()
        nats_per_image(net, images).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return Contender(sizes.model, plain, step, batch * cost(sizes).training_flops)


def sgemm(device: torch.device) -> Contender:
    """Build the product of matrices whose pace the others are compared with."""
    side = SGEMM[device.type]
    a, b, out = (torch.randn(side, side, device=device) for _ in range(3))

    def step() -> None:
        torch.mm(a, b, out=out)

    return Contender("sgemm", False, step, 2 * side**3)


def table(contenders: list[Contender], peak: float, batch: int) -> str:
    """Write the medians out; the ratio is the median of the ratios of each round."""
    rows = [f"{'network':<16} {'form':<6} {'images/s':>9} {'best':>7} {'GFLOP/s':>8} {'% of sgemm':>11} {'x plain':>8}"]
    plain_of = {one.name: one for one in contenders if one.plain}
    for one in contenders:
        form = "plain" if one.plain else "fast"
        seconds = statistics.median(one.seconds)
        pace = one.flops / seconds / 1e9
        plain = plain_of.get(one.name, one)
        ratio = statistics.median(theirs / ours for theirs, ours in zip(plain.seconds, one.seconds, strict=True))
        rows.append(
            f"{one.name:<16} {form:<6} {batch / seconds:>9.1f} {batch / min(one.seconds):>7.1f} "
            f"{pace:>8.1f} {100 * pace / peak:>10.1f}% {'' if plain is one else f'{ratio:.2f}':>8}"
        )
    return "\n".join(rows)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description="Measure how fast the networks train on this machine.")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count (default: 15)")
    parser.add_argument("--batch", type=int, default=16, help="images a step (default: 16)")
    parser.add_argument(
        "--sizes", choices=tuple(SETTINGS), default="mnist", help="default: mnist; cifar10: the paper's"
    )
    parser.add_argument("--model", action="append", help="only this network; may be repeated")
    parser.add_argument("--fast-only", action="store_true", help="without the plain forms")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu, one thread")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # as in training, evaluating and drawing
    try:
        device = pick_device(args.device)
    except SetupError as error:
        raise SystemExit(str(error)) from None
    setting = SETTINGS[args.sizes]
    chosen = {name: some for name, some in setting.networks.items() if not args.model or name in args.model}
    contenders = [
        contender(Sizes(name, hidden=h, layers=L, head=setting.head, **setting.shape), args.batch, device, plain=plain)
        for name, (L, h) in chosen.items()
        for plain in ((False,) if args.fast_only else (False, True))
    ]
    peak = sgemm(device)
    for _ in range(args.rounds + WARM_UP):
        for one in (peak, *contenders):
            one.run(device)
    for one in (peak, *contenders):
        del one.seconds[:WARM_UP]
    best = peak.flops / min(peak.seconds) / 1e9

    shape = setting.shape
    place = f"{device_name(device)}{', 1 thread' if device.type == 'cpu' else f', CUDA {torch.version.cuda}, float32'}"
    print(f"$ python {' '.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])}")
    print(f"torch {torch.__version__}, python {platform.python_version()}, {place}")
    print(
        f"{shape['height']}x{shape['width']}x{shape['channels']}, K = {shape['levels']}, head {setting.head}, ", end=""
    )
    print(f"batch {args.batch}; {', '.join(f'{name}: {L} layers, h = {h}' for name, (L, h) in chosen.items())}")
    print("a step: zero_grad, forward, backward, RMSprop; all contenders one step a round, in turn")
    print(f"medians of {args.rounds} rounds, {'CPU time of this process' if device.type == 'cpu' else 'time'}")
    print(f"sgemm {SGEMM[device.type]}^3, the best of the same rounds: {best:,.1f} GFLOP/s\n")
    print(table(contenders, best, args.batch))


if __name__ == "__main__":
    main()
