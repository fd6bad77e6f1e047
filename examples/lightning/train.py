"""Lightning on scikit-learn's digits: `ModelCheckpoint(save_last=True)`, and `ckpt_path="last"` to go on."""

import argparse

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Digits(lightning.LightningModule):
    """Two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def training_step(self, batch, number):
        """Return the loss of a batch."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, number) -> None:
        """Log the accuracy."""
        images, labels = batch
        self.log("accuracy", (self.net(images).argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=256)
    args = parser.parse_args()
    lightning.seed_everything(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32).flatten(1) / 16, torch.tensor(digits.target)
    trainer = lightning.Trainer(
        max_epochs=args.epochs,
        logger=CSVLogger(".", name="logs"),
        log_every_n_steps=10,
        callbacks=[ModelCheckpoint(dirpath="checkpoints", filename="{epoch}", save_last=True)],
        enable_model_summary=False,
    )
    train, test = TensorDataset(images[:1500], labels[:1500]), TensorDataset(images[1500:], labels[1500:])
    trainer.fit(
        Digits(args.width),
        DataLoader(train, batch_size=64, shuffle=True),
        DataLoader(test, batch_size=64),
        ckpt_path="last",
    )


if __name__ == "__main__":
    main()
