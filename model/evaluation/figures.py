"""Figures of a checkpoint's predictions, samples and training: `python -m model figures`.

Only this module imports matplotlib.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model import image_files
from model.config import DatasetFacts
from model.data import load as load_data
from model.data.feed import check_images
from model.device import make_repeatable, pick_device
from model.errors import SetupError
from model.evaluation import complete
from model.networks.multiscale import MultiScale
from model.sampling import generate
from model.training.checkpoint import find
from model.training.checkpoint import load as load_checkpoint
from model.training.state import network_of

SAMPLES, IMAGES, COMPLETIONS, SCALES = 64, 4, 6, 16
EXAMPLES = 512  # test images from which the shown ones are chosen
INK, SECOND, QUIET = "#1f4e79", "#c0504d", "#8c8c8c"


def write_all(path: Path, out: Path, *, seed: int, device: str = "auto") -> str:
    """Write predictions.png, samples.png and completions.png.

    Also write training.png if there is a metrics.jsonl beside the checkpoint, and scales.png for a multi-scale network.

    Args:
        path: the checkpoint, or the folder of a training.
        out: output folder; created if it does not exist.
        seed: of the samples.
        device: "auto", "cpu" or "cuda".

    Returns:
        A line that names the written files.

    Raises:
        SetupError: matplotlib is not installed, or the checkpoint, the data, the folder or the device is unusable.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise SetupError("figures needs an extra: pip install 'pixel-orch[figures]'")
    path = find(path)
    saved = load_checkpoint(path)
    facts = saved.train_config.data
    where = pick_device(device)
    make_repeatable(1, where)
    net = network_of(saved, where)
    data = load_data(saved.train_config.dataset)
    check_images(saved.train_config, data)
    test = next(data.batches(data.eval_split("test"), EXAMPLES))
    try:
        out.mkdir(parents=True, exist_ok=True)
        varied = int(
            test.reshape(len(test), -1).std(axis=1).argmax()
        )  # an image with little contrast shows little of the predictions
        title = f"step {saved.step:,}, test image {varied}"
        _predictions(out / "predictions.png", net, test[varied], facts, title=title)
        levels = generate.draw(net, facts, count=SAMPLES, seed=seed)
        image_files.write_grid(out / "samples.png", levels.numpy(), K=facts.levels)
        if isinstance(net, MultiScale):
            _scales(out / "scales.png", net, facts, seed=seed)
        spread = test[:: max(1, len(test) // IMAGES)][:IMAGES]
        _completions(out / "completions.png", net, spread, facts, seed=seed)
        written = ["predictions.png", "samples.png", "completions.png"]
        written += ["scales.png"] if isinstance(net, MultiScale) else []
        metrics = read_metrics(path.parent / "metrics.jsonl")
        if metrics:
            _training(out / "training.png", metrics)
            written.append("training.png")
    except OSError as error:
        raise SetupError(f"cannot write to {out}: {error.strerror or error}; give another --out") from None
    return f"{', '.join(written)} of the checkpoint of step {saved.step:,} in {out}"


def chosen_pixels(facts: DatasetFacts) -> list[tuple[int, int]]:
    """Return six pixels to show as (row, column), spread over the image, beginning with the first pixel."""
    rows = (0, facts.height // 4, facts.height // 2 - 1, facts.height // 2, 3 * facts.height // 4, facts.height - 1)
    columns = (0, facts.width // 2, facts.width // 3, 2 * facts.width // 3, facts.width // 2, facts.width // 2)
    return list(zip(rows, columns, strict=True))


def predictive(net: nn.Module, image: image_files.Levels, places: list[tuple[int, int]]) -> NDArray[np.float64]:
    """Return the predictive distribution over the levels at some pixels, given all pixels before each.

    Args:
        net: the network.
        image: levels, (C, H, W).
        places: (row, column) of each pixel.

    Returns:
        Probabilities, (pixels, C, K).
    """
    device = next(net.parameters()).device
    with torch.no_grad():
        logits = net(torch.from_numpy(image)[None].to(device))[0]  # (K, C, H, W)
    chances = torch.softmax(logits.double().cpu(), dim=0)
    found: NDArray[np.float64] = torch.stack([chances[:, :, row, column].t() for row, column in places]).numpy()
    return found


def _predictions(path: Path, net: nn.Module, image: image_files.Levels, facts: DatasetFacts, *, title: str) -> None:
    """Plot the predictive distributions beside their image and mark the image's levels."""
    figure, axes = _figure(2, 4, size=(11, 5))
    places, K = chosen_pixels(facts), facts.levels
    chances = predictive(net, image, places)  # (pixels, C, K)
    shown = axes[0, 0]
    pixels = image_files.bright(image[None], K=K)[0]  # (H, W, C)
    shown.imshow(pixels if facts.channels == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=255)
    shown.set_title(title)
    shown.axis("off")
    axes[1, 0].axis("off")
    known = "the small image and\nthe preceding pixels" if isinstance(net, MultiScale) else "the preceding pixels"
    what = f"each of the {K} levels" if facts.channels == 1 else f"each of the {K} levels of red,\ngreen and blue"
    axes[1, 0].text(0, 0.5, f"probability of {what},\ngiven {known};\nmarked: the level in the image")
    colours = [INK] if facts.channels == 1 else ["#b03030", "#308030", "#3050b0"]
    for i, (row, column) in enumerate(places):
        axis = axes[i // 3, 1 + i % 3]
        for colour, ink in enumerate(colours):
            axis.bar(np.arange(K), chances[i, colour], width=1.0, color=ink, alpha=1.0 if len(colours) == 1 else 0.5)
            axis.axvline(image[colour, row, column], color=SECOND if len(colours) == 1 else ink, lw=1.5, ls="--")
        axis.set_title(f"({i + 1})  row {row}, column {column}")
        axis.set_xlim(-1, K)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_ylim(0, None)
        shown.text(column, row, str(i + 1), color="white", ha="center", va="center", fontsize=9,
                   bbox={"boxstyle": "circle,pad=0.15", "facecolor": SECOND, "edgecolor": "none"})  # fmt: skip
    _save(figure, path)


def _scales(path: Path, net: MultiScale, facts: DatasetFacts, *, seed: int) -> None:
    """Write pairs of a small image, enlarged to the large image's size, and the large image drawn given it."""
    empty = torch.zeros(SCALES, facts.channels, facts.height, facts.width, dtype=torch.uint8)
    everything = torch.ones(facts.height, facts.width, dtype=torch.bool)
    small, large = generate.complete_scales(net, facts, empty, everything, seed=seed)
    enlarged = small.repeat_interleave(net.factor, dim=2).repeat_interleave(net.factor, dim=3)
    pairs = torch.stack([enlarged, large], dim=1).flatten(0, 1)
    image_files.write_grid(path, pairs.numpy(), K=facts.levels, columns=8)


def _completions(path: Path, net: nn.Module, images: image_files.Levels, facts: DatasetFacts, *, seed: int) -> None:
    """Write a row for each image: original, image without its lower half, completions."""
    hidden = complete.hidden_part("bottom", facts)
    rows = []
    for given in images:
        same = torch.from_numpy(given).expand(COMPLETIONS, -1, -1, -1)
        drawn = generate.complete(net, facts, same, torch.from_numpy(hidden), seed=seed)
        rows.append(complete.tiles(given, hidden, drawn.numpy(), K=facts.levels))
    image_files.save(path, image_files.grid(np.concatenate(rows), columns=COMPLETIONS + 2))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the measurements of a metrics.jsonl; other lines and incomplete lines are skipped."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and {"step", "nats"} <= line.keys():
            lines.append(line)
    return lines


def _training(path: Path, metrics: list[dict[str, Any]]) -> None:
    """Plot nats per image over steps for training and validation images."""
    figure, axes = _figure(1, 1, size=(8, 4.5))
    axis = axes[0, 0]
    for split, ink, width, label in ((None, QUIET, 1.0, "training"), ("valid", INK, 2.0, "validation")):
        newest = {
            line["step"]: line["nats"] for line in metrics if line.get("split") == split
        }  # a resumed run repeats steps
        steps = sorted(newest)
        marker = "o" if split else None
        axis.plot(steps, [newest[step] for step in steps], color=ink, lw=width, label=label, marker=marker, ms=4)
        if split and steps:
            best = min(steps, key=lambda step: newest[step])
            axis.annotate(
                f"{newest[best]:.2f}", (best, newest[best]), textcoords="offset points", xytext=(0, 8), ha="center"
            )
    late = sorted(line["nats"] for line in metrics if line["step"] > 1)
    if late:  # leave out the first steps, whose far higher nats would flatten the curve
        low, high = late[0], late[int(0.98 * (len(late) - 1))]
        axis.set_ylim(low - 0.08 * (high - low) - 0.1, high + 0.05 * (high - low) + 0.1)
    axis.set_xlabel("step")
    axis.set_ylabel("nats per image")
    axis.legend(frameon=False)
    _save(figure, path)


def _figure(rows: int, columns: int, *, size: tuple[float, float]) -> tuple[Any, Any]:
    """Create a figure without matplotlib's global state, which may need a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.title.set_fontsize(9)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        figure.savefig(temporary, format="png")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
