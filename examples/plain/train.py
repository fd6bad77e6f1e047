"""Plain PyTorch on scikit-learn's digits: `model.pt` is written each epoch, and gone on with if it is there."""

import argparse
import os

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=1, help="passes over the images in an epoch")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)

    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32).flatten(1) / 16, torch.tensor(digits.target)
    train = TensorDataset(images[:1500].repeat(args.repeat, 1), labels[:1500].repeat(args.repeat))
    test_images, test_labels = images[1500:].to(device), labels[1500:].to(device)

    model = nn.Sequential(nn.Linear(64, args.width), nn.ReLU(), nn.Linear(args.width, 10)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    first = 0
    if os.path.exists("model.pt"):
        saved = torch.load("model.pt", map_location=device)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["epoch"]
        print(f"resuming after epoch {first}")

    for epoch in range(first, args.epochs):
        order = torch.Generator().manual_seed(epoch)
        for batch, target in DataLoader(train, batch_size=64, shuffle=True, generator=order):
            loss = nn.functional.cross_entropy(model(batch.to(device)), target.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = (model(test_images).argmax(1) == test_labels).float().mean().item()
        print(f"epoch {epoch + 1}/{args.epochs} loss={loss.item():.4f} accuracy={accuracy:.4f}")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}, "model.pt")


if __name__ == "__main__":
    main()
