"""Score of a checkpoint: nats and bits/dim on a split of its data set."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from model.config import DatasetFacts, TrainConfig
from model.data import load as load_data
from model.data.dataset import Dataset, Prepared, Split
from model.data.feed import check_columns, check_images, eval_batches
from model.device import device_name, make_repeatable, memory_bytes, pick_device
from model.evaluation.paper import TABLES, Table
from model.networks.build import evaluation_batch
from model.networks.conditioned import Conditioned
from model.networks.likelihood import Score, nats_of_all, score
from model.training.checkpoint import Checkpoint, find
from model.training.checkpoint import load as load_checkpoint
from model.training.state import OTHER_DATA, network_of

# What the score of a multi-scale network means.
BOUND = """(<=: -log p(small image) - log p(image | small image) with the image's own small image. The network can
also draw the image given another small image, so this is an upper bound on the image's nats. The paper reports no
likelihoods of its multi-scale networks.)"""


def report(path: Path, *, split: Split, style: str, device: str) -> str:
    """Score a checkpoint and return the report.

    Args:
        path: the checkpoint, or the folder of a training.
        split: the images to score; without a test split the validation split, and vice versa.
        style: "table" for a person, "json" for a program.
        device: "auto", "cpu" or "cuda".

    Raises:
        SetupError: the checkpoint, the data or the device is unusable.
    """
    path = find(path)
    saved = load_checkpoint(path)
    config = saved.train_config
    where = pick_device(device)
    make_repeatable(1, where)
    net = network_of(saved, where)
    data = load_data(config.dataset)
    scored = data.eval_split(split)
    check_images(config, data)
    check_columns(config, data)
    size = evaluation_batch(config, memory_bytes(where))
    conditioning = net.conditioning if isinstance(net, Conditioned) else None
    nats = nats_of_all(net, eval_batches(data, scored, where, size=size, conditioning=conditioning))
    whole = score(nats.sum(dim=1), config.data.dims)
    scales = _scales(nats, config.small, config.data) if config.small is not None else {}
    facts = {
        "checkpoint": str(path),
        "step": saved.step,
        "weights": "running mean" if saved.ema is not None else "last",
        "model": config.model,
        "dataset": config.dataset,
    }
    table, reasons = paper_table(config, data)
    remarks = [*_remarks(saved, data, split, scored), *reasons]
    if style == "json":
        paper = {"unit": table.unit, **{row.network: row.value for row in table.results}} if table else None
        apart = {"upper_bound": bool(scales), **{name: asdict(one) for name, (_, one) in scales.items()}}
        answer = {**facts, "split": scored, **asdict(whole), **apart, "device": device_name(where), "paper": paper}
        answer |= {"data": data.id, "remarks": remarks}
        return json.dumps(answer)
    rows = {**facts, "split": f"{scored}, {whole.images:,} images", **_rows(whole, bound="<= " if scales else "")}
    lines = [f"{name:<11} {value}" for name, value in rows.items()]
    for title, one in scales.values():
        lines += [title, *(f"  {name:<10}  {value}" for name, value in _rows(one).items())]
    lines.append("(+- is one standard error of the mean)")
    lines += [BOUND] if scales else []
    lines += [f"({remark})" for remark in remarks]
    return "\n".join([*lines, *(["", str(table)] if table else [])])


def _remarks(saved: Checkpoint, data: Dataset | Prepared, asked: Split, scored: Split) -> list[str]:
    """Return remarks on the scored images and on the choice of the checkpoint."""
    config, best = saved.train_config, saved.progress["best"]
    remarks: list[str] = []
    if scored != asked:
        remarks.append(f"there are no {asked} images; the {scored} images are scored instead")
    if scored == data.eval_split("valid") and best is not None and best[0] == saved.step:
        own = "" if scored == "valid" else ", because there are no valid images"
        remarks.append(f"this checkpoint was chosen as the best on the same {scored} images{own}")
    if saved.progress.get("data", data.id) != data.id:
        remarks.append(f"{config.dataset} {OTHER_DATA}")
    if config.conditions:
        remarks.append(f"the scores are -log p(image | {config.condition}), not -log p(image)")
    if isinstance(data, Prepared) and data.dynamic:
        remarks.append("the images are binarised once with seed 0; not comparable with the published binarisation")
    return remarks


def paper_table(config: TrainConfig, data: Dataset | Prepared) -> tuple[Table | None, list[str]]:
    """Return the paper's table for a data set if its values are comparable, else None and the reasons."""
    table = TABLES.get(data.manifest.name if isinstance(data, Prepared) else data.name)
    if table is None or not isinstance(data, Prepared):
        return table, []
    asked = data.manifest.recipe["asked"]
    changed = [f"{key} = {value}" for key, value in asked.items() if value not in (None, 0, 256)]
    if config.conditions:
        why = f"the network is conditioned on {config.condition}"
    elif config.small is not None:
        why = "the paper reports none for multi-scale networks"
    elif changed:
        why = f"the data set was prepared with {', '.join(changed)}"
    elif not data.manifest.published:
        why = "the data set's files are not the published ones"
    else:
        return table, []
    return None, [f"not comparable with the paper's results: {why}"]


def _scales(nats: Tensor, small: DatasetFacts, large: DatasetFacts) -> dict[str, tuple[str, Score]]:
    """Score the two parts of a multi-scale network separately, each with a title."""
    sides = f"{small.height}x{small.width}"
    return {
        "small": (f"part: the {sides} image (bits/dim of its own values)", score(nats[:, 0], small.dims)),
        "large": (
            f"part: the {large.height}x{large.width} image given its {sides} image (bits/dim of all its values)",
            score(nats[:, 1], large.dims),
        ),
    }


def _rows(one: Score, bound: str = "") -> dict[str, str]:
    return {
        "nats/image": f"{bound}{one.nats:.2f} +- {one.nats_se:.2f}",
        "bits/dim": f"{bound}{one.bits_per_dim:.4f} +- {one.bits_per_dim_se:.4f}",
    }
