"""How well two processes on two cores train, beside one process on one core and beside DistributedDataParallel.

    python benchmarks/scaling.py > benchmarks/scaling.txt

Two processes, each bound to a core of its own, meet over gloo on 127.0.0.1. In every round the contenders take turns,
some steps each: one process alone (the other waits), the trainer of two processes, DistributedDataParallel with the
same network, slices and optimizer, one process alone with half of the batch, and a plain step written out, without the
trainer's code for groups, alone. A machine that is busy is busy for all of them. All but the half one train the same
global batch on scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model.config import TrainConfig
from model.data import load
from model.device import device_name
from model.networks.likelihood import nats_per_image
from model.training.distributed import join
from model.training.state import Training
from model.training.stop import StopFlag
from model.world import World

CPU = torch.device("cpu")
NETWORKS = {"pixelcnn": (5, 16), "row-lstm": (3, 16), "diagonal-bilstm": (3, 16)}  # layers, h
Step = Callable[[], object]


class Plain(nn.Module):
    """The nats of a batch as a module's result, as DistributedDataParallel wants it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, levels: torch.Tensor) -> torch.Tensor:
        """Return the mean nats: levels (B, C, H, W) -> ()."""
        return nats_per_image(self.net, levels).mean()


def plain_step(run: Training, module: nn.Module) -> Step:
    """Return one step of a training, written out: `module` returns the mean nats of this process's images."""

    def step() -> None:
        levels, _ = run.feed.at(run.position)
        nats = module(levels)
        run.optimizer.zero_grad()
        (nats / run.config.data.dims).backward()
        nn.utils.clip_grad_norm_(run.net.parameters(), run.config.grad_clip or math.inf)
        run.optimizer.step()
        run.step += 1
        if run.ema is not None:
            run._average(run.ema)
        run.position += run.config.batch_size

    return step


def measured(world: World, config: TrainConfig, *, rounds: int, steps: int) -> tuple[dict[str, float], ...]:
    """Return the images/s of each contender, by the fastest turn of rank 0 and by the median CPU time of its turns."""
    group = join(world, StopFlag(), CPU)
    data = load("digits")
    shared = Training(config, data, CPU, group)
    theirs = Training(config, data, CPU, group)
    alone = Training(config, data, CPU)
    written = Training(config, data, CPU)
    half = Training(config.model_copy(update={"batch_size": config.batch_size // 2}), data, CPU)
    one: dict[str, Step] = {
        "one": alone.advance,
        "half": half.advance,
        "plain": plain_step(written, Plain(written.net)),
    }
    both: dict[str, Step] = {
        "two": shared.advance,
        "ddp": plain_step(theirs, DistributedDataParallel(Plain(theirs.net))),
    }
    wall_s: dict[str, list[float]] = {name: [] for name in (*one, *both)}
    cpu_s: dict[str, list[float]] = {name: [] for name in wall_s}
    for at in range(rounds + 1):
        for name, clock_s in wall_s.items():
            dist.barrier()
            began_s = time.perf_counter(), time.process_time()
            if name in both or world.rank == 0:
                for _ in range(steps):
                    {**one, **both}[name]()
            if at:  # the first round warms up
                clock_s.append(time.perf_counter() - began_s[0])
                cpu_s[name].append(time.process_time() - began_s[1])
    dist.barrier()
    group.close()
    images = {name: config.batch_size * steps / (2 if name == "half" else 1) for name in wall_s}
    return (
        {name: images[name] / min(some) for name, some in wall_s.items()},
        {name: images[name] / statistics.median(some) for name, some in cpu_s.items()},
    )


def rank_main(args: argparse.Namespace) -> None:
    """Measure as one of the two processes; rank 0 prints."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    for at, (name, (layers, hidden)) in enumerate(NETWORKS.items()):
        if args.model and name not in args.model:
            continue
        world = World(rank, 2, rank, 2, "127.0.0.1", int(os.environ["PORT"]) + at)
        config = TrainConfig(model=name, layers=layers, hidden=hidden, batch_size=args.batch, device="cpu")
        wall, cpu = measured(world, config, rounds=args.rounds, steps=args.steps)
        if rank == 0:
            speeds = " ".join(f"{wall[some]:>7,.0f}" for some in ("one", "two", "ddp"))
            ratios = " ".join(f"{by[some] / (2 * by['one']):>6.2f}" for by in (wall, cpu) for some in ("two", "ddp"))
            bound, overhead = cpu["half"] / cpu["one"], cpu["plain"] / cpu["one"] - 1
            print(f"{name:<16} {speeds}  {ratios} {bound:>6.2f} {overhead:>+9.1%}", flush=True)


def main() -> None:
    """Start two processes and print the table."""
    parser = argparse.ArgumentParser(description="Two processes on two cores beside one.")
    parser.add_argument("--model", choices=NETWORKS, action="append", help="network (default: all)")
    parser.add_argument("--batch", type=int, default=128, help="images of a step, over both processes (default: 128)")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each contender (default: 30)")
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn (default: 2)")
    args = parser.parse_args()
    if "RANK" in os.environ:
        rank_main(args)
        return
    print(f"$ python {' '.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])}")
    print(f"torch {torch.__version__}, python {platform.python_version()}, {device_name(CPU)}")
    load_1, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    print(f"{cores} cores, load before {load_1:.1f}; each process on a core of its own, 1 thread, gloo on 127.0.0.1")
    print(f"digits 8x8, global batch {args.batch}; {args.rounds} turns of {args.steps} steps")
    print(
        "images/s: by the clock, the fastest turn. efficiency: images/s of two / (2 x images/s of one): by the clock,"
    )
    print("and by CPU time (medians), which leaves out waiting and other programs. half: one process with half of the")
    print("batch beside the whole one, which bounds the efficiency. overhead: of the trainer alone over a plain step\n")
    print(f"{'':<16} {'images/s':>23}  {'by the clock':>13} {'by CPU time':>13}")
    heads = " ".join(f"{head:>6}" for head in ("ours", "DDP", "ours", "DDP", "half"))
    print(f"{'network':<16} {'one':>7} {'two':>7} {'DDP':>7}  {heads} {'overhead':>9}", flush=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [
        subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, "RANK": str(rank), "PORT": str(port)})
        for rank in range(2)
    ]
    codes = [rank.wait() for rank in ranks]
    print(f"\nload after {os.getloadavg()[0]:.1f}")
    sys.exit(max(map(abs, codes)))


if __name__ == "__main__":
    main()
