"""Hugging Face accelerate on several machines: a network learns what another one answers; rank 0 has `model.pt`."""

import argparse
import os
import signal
import sys
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, InitProcessGroupKwargs, broadcast_object_list, set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

STOPPED = 143  # exit code: 0 would say that the training is complete


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--save-every", type=int, default=50)
    args = parser.parse_args()
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))

    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        # A batch is that of all processes together, so that the training is the same on any number of machines.
        dataloader_config=DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(minutes=5))],
    )
    set_seed(0)  # the same data and the same first weights on every rank
    images = torch.randn(6000, 64)
    labels = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))(images).argmax(1)
    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    # Only rank 0 reads the checkpoint, and tells the others: a new machine has none, another may have an older one.
    is_there = accelerator.is_main_process and os.path.exists("model.pt")
    saved = broadcast_object_list([torch.load("model.pt", map_location="cpu") if is_there else None])[0]
    first = 0
    if saved:
        net.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    loader = DataLoader(TensorDataset(images, labels), batch_size=60, shuffle=True)
    model, optimizer, loader = accelerator.prepare(net, optimizer, loader)

    def save(step: int) -> None:
        if accelerator.is_main_process:
            net = accelerator.unwrap_model(model)
            torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, "model.tmp")
            os.replace("model.tmp", "model.pt")

    if accelerator.is_main_process:
        print(f"{accelerator.num_processes} processes begin after step {first}")
    step = first
    while step < args.steps:
        batches = accelerator.skip_first_batches(loader, step % len(loader))
        batches.set_epoch(step // len(loader))  # its order depends on the epoch, and on nothing before
        for batch, target in batches:
            loss = nn.functional.cross_entropy(model(batch), target)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            step += 1
            if accelerator.is_main_process:
                print(f"step {step}/{args.steps} loss={loss.item():.4f}")
            # SIGTERM may reach one process only, and none may wait for another that has left: all get one answer.
            if signals:
                accelerator.set_trigger()
            stop = accelerator.check_trigger()
            if stop or step % args.save_every == 0 or step == args.steps:
                save(step)
            if step == args.steps:
                break
            if stop:
                sys.exit(STOPPED)
    accelerator.end_training()


if __name__ == "__main__":
    main()
