"""DistributedDataParallel: a network learns what another one answers; only rank 0 reads and writes `model.pt`."""

import argparse
import os
import signal
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

BATCH = 60  # of all processes together, so that the training is the same on any number of them
STOPPED = 143  # exit code: 0 would say that the training is complete


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--save-every", type=int, default=50)
    args = parser.parse_args()
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))

    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if has_gpu else torch.device("cpu")
    # gloo, also beside NCCL, carries what is on the CPU. A process whose peer is silent gives up after the timeout.
    dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo", timeout=timedelta(minutes=5))
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # the same data and the same first weights on every rank
    images = torch.randn(6000, 64)
    labels = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))(images).argmax(1)

    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    # Only rank 0 reads the checkpoint, and tells the others: a new machine has none, another may have an older one.
    saved = [torch.load("model.pt", map_location="cpu") if rank == 0 and os.path.exists("model.pt") else None]
    dist.broadcast_object_list(saved)
    first = 0
    if saved[0]:
        net.load_state_dict(saved[0]["model"])
        optimizer.load_state_dict(saved[0]["optimizer"])
        first = saved[0]["step"]
    model = DistributedDataParallel(net)

    def save(step: int) -> None:
        if rank == 0:
            torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, "model.tmp")
            os.replace("model.tmp", "model.pt")

    if rank == 0:
        print(f"{world} processes begin after step {first}")
    in_epoch = len(images) // BATCH
    for step in range(first, args.steps):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(step // in_epoch))
        batch = order[step % in_epoch * BATCH :][:BATCH][rank::world]
        loss = nn.functional.cross_entropy(model(images[batch].to(device)), labels[batch].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0:
            print(f"step {step + 1}/{args.steps} loss={loss.item():.4f}")
        # SIGTERM may reach one process only, and none may wait for another that has left: all ask, all get one answer.
        stop = torch.tensor(len(signals))
        dist.all_reduce(stop, op=dist.ReduceOp.MAX)
        if stop or (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            save(step + 1)
        if stop and step + 1 < args.steps:
            sys.exit(STOPPED)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
