"""Training speed beside public implementations, one step each in turn in the same process.

    git clone https://github.com/EugenHotaj/pytorch-generative && git -C pytorch-generative checkout d1f0a5c
    git clone https://github.com/gitE0Z9/pytorch-implementations && git -C pytorch-implementations checkout 9f5b595
    python benchmarks/peers.py --pytorch-generative pytorch-generative --torchlake pytorch-implementations

None of their code is in this repository, and nothing has to be installed for them: only the files of their networks are
loaded. A step is zero_grad, forward, loss, backward and RMSprop, on random images, with the same sizes, batch and
optimizer for all. Times are CPU times of one thread; a ratio is the median of the ratios of all rounds.

The implementations of one network share a process, and each network has its own. Memory that a process has once used
and kept costs no page faults when it is used again: in one process, the buffers of the LSTMs would speed up the others.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.device import device_name
from model.networks.likelihood import nats_per_image
from model.networks.pixelcnn import PixelCNN
from model.networks.pixelrnn import PixelRNN

NETWORKS = ("PixelCNN", "Row LSTM", "Diagonal BiLSTM")
WARM_UP = 3  # rounds that do not count
SIZES: dict[str, dict[str, int]] = {
    "mnist": {"side": 28, "channels": 1, "levels": 2, "layers": 7, "pixelcnn": 32, "lstm": 16, "head": 32, "batch": 16},
    "rgb": {"side": 32, "channels": 3, "levels": 256, "layers": 7, "pixelcnn": 48, "lstm": 48, "head": 48, "batch": 8},
}
REPOSITORIES = {
    "pytorch_generative": ("pytorch_generative/models/autoregressive/pixel_cnn.py", "EugenHotaj/pytorch-generative"),
    "torchlake": ("torchlake/image_generation/models/pixelrnn/model.py", "gitE0Z9/pytorch-implementations"),
}
DIFFERENCES = """
What differs, beside the number of parameters: the public networks have no layer-to-output (skip) connections. Those of
pytorch-generative add each block's input twice and do not mask the colours. Those of torchlake have one more 1x1
convolution in the head, apply a ReLU after each residual sum, and their initial states are zeros. In colour its LSTMs
do not mask the input-to-state convolutions. Its Diagonal BiLSTM does not mirror the right direction back."""


@dataclass
class Contender:
    """One network and the CPU seconds of its steps."""

    group: str  # ratios are those of contenders of a group
    name: str
    net: nn.Module
    loss: Callable[[nn.Module], Tensor]
    ours: bool = False
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.RMSprop(self.net.parameters(), lr=0.001)

    def run(self) -> None:
        """Do one step and note its CPU time."""
        began = time.process_time()
        self.optimizer.zero_grad()
        self.loss(self.net).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.seconds.append(time.process_time() - began)


def peer_loss(images: Tensor, levels: int) -> Callable[[nn.Module], Tensor]:
    """Build the loss of a public network: nats per image, of maps (B, C*K, H, W) or (B, C, K, H, W)."""
    B, C, H, W = images.shape
    inputs, targets = images.float() / (levels - 1), images.long().flatten(0, 1)

    def loss(net: nn.Module) -> Tensor:
        out: Tensor = net(inputs)
        if levels == 2:
            return F.binary_cross_entropy_with_logits(out.reshape(B, C, H, W), inputs, reduction="sum") / B
        return F.cross_entropy(out.reshape(B * C, levels, H, W), targets, reduction="sum") / B

    return loss


def our_loss(images: Tensor) -> Callable[[nn.Module], Tensor]:
    """Build the loss of this project's networks, nats per image."""
    return lambda net: nats_per_image(net, images).mean()


def our_contenders(images: Tensor, size: dict[str, int]) -> list[Contender]:
    """Build this project's networks."""
    shared: dict[str, Any] = {name: size[name] for name in ("channels", "levels", "layers", "head")}
    loss = our_loss(images)
    nets: list[tuple[str, str, nn.Module]] = [
        ("PixelCNN", "pixel-orch", PixelCNN(hidden=size["pixelcnn"], **shared)),
        ("PixelCNN", "pixel-orch, no skip", PixelCNN(hidden=size["pixelcnn"], skip=False, **shared)),
        ("Row LSTM", "pixel-orch", PixelRNN("row-lstm", hidden=size["lstm"], **shared)),
        ("Diagonal BiLSTM", "pixel-orch", PixelRNN("diagonal-bilstm", hidden=size["lstm"], **shared)),
    ]
    return [Contender(group, name, net, loss, ours=True) for group, name, net in nets]


def peer_contenders(folders: dict[str, Path], images: Tensor, size: dict[str, int]) -> list[Contender]:
    """Build the public networks of the same sizes."""
    C, L, K = size["channels"], size["layers"], size["levels"] if size["levels"] > 2 else 1
    loss = peer_loss(images, size["levels"])
    generative = load(
        folders["pytorch_generative"], "pytorch_generative.models.autoregressive.pixel_cnn",
        ["pytorch_generative", "pytorch_generative.models", "pytorch_generative.models.autoregressive"],
    )  # fmt: skip
    found = [
        Contender(
            "PixelCNN", "pytorch-generative", generative.PixelCNN(C, C * K, L, size["pixelcnn"], size["head"]), loss
        )
    ]
    root = folders["torchlake"]
    packages = ["torchlake", "torchlake.common", "torchlake.common.models", "torchlake.image_generation"]
    packages.append("torchlake.image_generation.models")
    if importlib.util.find_spec("torchvision") is None:  # its residual block imports what it does not use here
        sys.modules["torchvision"], sys.modules["torchvision.ops"] = ModuleType("torchvision"), ModuleType("ops")
        sys.modules["torchvision.ops"].Conv2dNormActivation = None  # type: ignore[attr-defined]
    residual = load(root, "torchlake.common.models.residual", packages)
    sys.modules["torchlake.common.models"].ResBlock = residual.ResBlock  # type: ignore[attr-defined]
    cnn = load(root, "torchlake.image_generation.models.pixelcnn.model", [])
    rnn = load(root, "torchlake.image_generation.models.pixelrnn.model", [])
    h = size["lstm"] // C  # of one colour
    nets = {
        "PixelCNN": cnn.PixelCNN(C, K, size["pixelcnn"] // C, L),
        "Row LSTM": rnn.PixelRNN(C, K, h, L, "row"),
        "Diagonal BiLSTM": rnn.PixelRNN(C, K, h, L, "diag", bidirectional=True),
    }
    return [*found, *(Contender(group, "torchlake", net, loss) for group, net in nets.items())]


def load(root: Path, name: str, packages: list[str]) -> Any:
    """Import one module of a repository without running the `__init__.py` of the named packages."""
    for package in packages:
        module = sys.modules[package] = ModuleType(package)
        module.__path__ = [str(root.joinpath(*package.split(".")))]
    return importlib.import_module(name)


def checked(folders: dict[str, Path | None]) -> dict[str, Path]:
    """Return the folders.

    Raises:
        SystemExit: a folder is missing, or has not what is expected there.
    """
    for name, folder in folders.items():
        inside, repository = REPOSITORIES[name]
        option = f"--{name.replace('_', '-')}"
        if folder is None or not (folder / inside).is_file():
            found = "is missing" if folder is None else f"{folder} has no {inside}"
            print(
                f"error: {option} {found}; clone https://github.com/{repository} and give its folder", file=sys.stderr
            )
            raise SystemExit(2)
    return {name: folder for name, folder in folders.items() if folder is not None}


def commit_of(folder: Path) -> str:
    """Return the commit of a checkout, or that it is none."""
    if not (folder / ".git").exists():
        return "no git checkout"
    asked = ["git", "-C", str(folder), "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or "unknown commit"


def table(contenders: list[Contender], batch: int) -> str:
    """Write the medians out, and each of this project's networks beside each public one of its group."""
    rows = []
    for one in contenders:
        ratios = [
            f"{statistics.median(b / a for a, b in zip(one.seconds, other.seconds, strict=True)):.2f} x {other.name}"
            for other in contenders
            if one.ours and not other.ours and other.group == one.group
        ]
        count = sum(parameter.numel() for parameter in one.net.parameters())
        rows.append(
            f"{one.group:<16} {one.name:<20} {count:>10,} {batch / statistics.median(one.seconds):>9.1f} "
            f"{batch / min(one.seconds):>7.1f}  {', '.join(ratios)}".rstrip()
        )
    return "\n".join(rows)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description="Measure training speed beside public implementations.")
    parser.add_argument("--pytorch-generative", type=Path, metavar="DIR", help="a checkout of the repository")
    parser.add_argument("--torchlake", type=Path, metavar="DIR", help="a checkout of gitE0Z9/pytorch-implementations")
    parser.add_argument("--sizes", choices=tuple(SIZES), default="mnist", help="default: mnist")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="only this one; may be repeated")
    parser.add_argument("--child", choices=NETWORKS, help=argparse.SUPPRESS)  # measure this one in this process
    parser.add_argument("--rounds", type=int, default=11, help="rounds that count (default: 11)")
    args = parser.parse_args()
    folders = checked({"pytorch_generative": args.pytorch_generative, "torchlake": args.torchlake})
    words = [word if word not in map(str, folders.values()) else Path(word).name for word in sys.argv[1:]]
    if args.child is None:
        heading(words, args.sizes, folders, args.rounds)
        for network in args.network or NETWORKS:
            subprocess.run([sys.executable, *sys.argv, "--child", network], check=True)
        print(DIFFERENCES)
        print(f"load after: {os.getloadavg()[0]:.1f}")
        return
    measure(args.sizes, folders, args.child, args.rounds)


def heading(words: list[str], sizes: str, folders: dict[str, Path], rounds: int) -> None:
    """Print what is measured, and on what."""
    size = SIZES[sizes]
    print(f"$ python benchmarks/peers.py {shlex.join(words)}")
    version = f"torch {torch.__version__}, python {platform.python_version()}"
    print(f"{version}, {device_name(torch.device('cpu'))}, 1 thread, ", end="")
    print(f"{os.cpu_count()} cores, load before: {os.getloadavg()[0]:.1f}")
    for name, folder in folders.items():
        print(f"{name.replace('_', '-')}: github.com/{REPOSITORIES[name][1]}, {commit_of(folder)}")
    print(f"{size['side']}x{size['side']}x{size['channels']}, K = {size['levels']}, {size['layers']} layers, ", end="")
    print(f"h = {size['pixelcnn']} (PixelCNN), {size['lstm']} (LSTMs), head {size['head']}, batch {size['batch']}")
    print(f"medians of {rounds} rounds, one step each in turn, CPU time of this process\n")
    print(f"{'network':<16} {'implementation':<20} {'parameters':>10} {'images/s':>9} {'best':>7}  beside", flush=True)


def measure(sizes: str, folders: dict[str, Path], network: str, rounds: int) -> None:
    """Run the rounds of one network and print its rows."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = SIZES[sizes]
    shape = (size["batch"], size["channels"], size["side"], size["side"])
    images = torch.randint(size["levels"], shape, dtype=torch.uint8)
    contenders = [*our_contenders(images, size), *peer_contenders(folders, images, size)]
    contenders = [one for one in contenders if one.group == network]
    for _ in range(rounds + WARM_UP):
        for one in contenders:
            one.run()
    for one in contenders:
        del one.seconds[:WARM_UP]
    print(table(contenders, size["batch"]), flush=True)


if __name__ == "__main__":
    main()
