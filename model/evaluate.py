"""How good a checkpoint is: nats and bits/dim on a split of its data set."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from model.checkpoint import find
from model.checkpoint import load as load_checkpoint
from model.data import load as load_data
from model.data.dataset import Split
from model.device import device_name, pick_device
from model.likelihood import evaluate
from model.paper import TABLES
from model.state import network_of
from model.train import make_repeatable


def report(path: Path, *, split: Split, style: str, device: str) -> str:
    """Score a checkpoint and write the result out.

    Args:
        path: the checkpoint.
        split: which images.
        style: "table" for a person, "json" for a program.
        device: "auto", "cpu" or "cuda".

    Raises:
        SetupError: the checkpoint, the data or the device is not to be had.
    """
    path = find(path)
    saved = load_checkpoint(path)
    config = saved.train_config
    where = pick_device(device)
    make_repeatable(1, where)
    net = network_of(saved, where)
    images = torch.from_numpy(load_data(config.dataset).split(split)).to(where)
    score = evaluate(net, images)
    facts = {
        "checkpoint": str(path),
        "step": saved.step,
        "weights": "running mean" if saved.ema is not None else "last",
        "model": config.model,
        "dataset": config.dataset,
    }
    table = TABLES.get(config.dataset)
    if style == "json":
        paper = {"unit": table.unit, **{row.network: row.value for row in table.results}} if table else None
        return json.dumps({**facts, "split": split, **asdict(score), "device": device_name(where), "paper": paper})
    rows = {
        **facts,
        "split": f"{split}, {score.images:,} images",
        "nats/image": f"{score.nats:.2f} +- {score.nats_se:.2f}",
        "bits/dim": f"{score.bits_per_dim:.4f} +- {score.bits_per_dim_se:.4f}",
    }
    lines = [f"{name:<11} {value}" for name, value in rows.items()]
    lines.append("(+- is one standard error of the mean)")
    return "\n".join([*lines, *(["", str(table)] if table else [])])
