"""Lightning on several machines: a network learns what another one answers; rank 0 writes `checkpoints/last.ckpt`."""

import argparse
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

LAST = "checkpoints/last.ckpt"
STOPPED = 143  # exit code: 0 would say that the training is complete


class Network(lightning.LightningModule):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

    def training_step(self, batch, number):
        """Return the loss of a batch."""
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class StopTogether(Callback):
    """Saves and ends on all ranks after the same step, wherever SIGTERM came."""

    is_asked = False
    has_stopped = False

    def on_train_start(self, trainer, module) -> None:
        """Take the signal. Lightning's own handler would begin to talk to the other ranks in the midst of a step."""
        signal.signal(signal.SIGTERM, lambda number, frame: setattr(self, "is_asked", True))

    def on_train_batch_end(self, trainer, module, outputs, batch, number) -> None:
        """Ask all ranks, and tell of the step."""
        if trainer.is_global_zero:
            print(f"step {trainer.global_step}/{trainer.max_steps} loss={outputs['loss'].item():.4f}")
        if trainer.strategy.reduce_boolean_decision(self.is_asked, all=False):
            trainer.save_checkpoint(LAST)  # called on all ranks, written by rank 0
            trainer.should_stop = True
            self.has_stopped = trainer.global_step < trainer.max_steps


def shared_checkpoint() -> str | None:
    """Return the path of rank 0's checkpoint on every machine: each rank reads it, and a new machine has none."""
    content = [Path(LAST).read_bytes() if dist.get_rank() == 0 and os.path.exists(LAST) else None]
    dist.broadcast_object_list(content)
    if content[0] and dist.get_rank() and os.environ["LOCAL_RANK"] == "0":
        Path(LAST).parent.mkdir(exist_ok=True)
        Path(LAST).write_bytes(content[0])
    dist.barrier()
    return LAST if content[0] else None


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--save-every", type=int, default=50)
    args = parser.parse_args()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=5))  # Lightning takes it, and makes none of its own
    lightning.seed_everything(0)
    images = torch.randn(6000, 64)
    labels = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))(images).argmax(1)
    stop = StopTogether()
    trainer = lightning.Trainer(
        strategy="ddp",
        num_nodes=int(os.environ["PIXEL_ORCH_NODES"]),
        devices=int(os.environ["LOCAL_WORLD_SIZE"]),
        max_steps=args.steps,
        max_epochs=-1,
        logger=False,
        callbacks=[ModelCheckpoint("checkpoints", save_last=True, every_n_train_steps=args.save_every), stop],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batch = 60 // dist.get_world_size()  # of each process; Lightning gives each its share of the images
    loader = DataLoader(TensorDataset(images, labels), batch_size=batch, shuffle=True)
    trainer.fit(Network(), loader, ckpt_path=shared_checkpoint())
    if stop.has_stopped:
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
