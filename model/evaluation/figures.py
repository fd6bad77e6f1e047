"""Figures of a checkpoint's predictions, samples and training: `python -m model figures`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model import image_files
from model.captions import captioned
from model.config import DatasetFacts
from model.data import load as load_data
from model.data.feed import check_images
from model.device import make_repeatable, pick_device
from model.errors import SetupError
from model.evaluation import complete, plots
from model.evaluation.measured import described, home_of, metrics_files, read_metrics
from model.networks.multiscale import MultiScale
from model.sampling import generate
from model.training.checkpoint import find
from model.training.checkpoint import load as load_checkpoint
from model.training.state import network_of

SAMPLES, IMAGES, COMPLETIONS, SCALES = 64, 4, 6, 16
EXAMPLES = 512  # test images from which the shown ones are chosen


def write_all(path: Path, out: Path, *, seed: int, device: str = "auto") -> str:
    """Write predictions.png, samples.png and completions.png, each with a caption.

    Also write training.png if there are measurements beside the checkpoint, and scales.png for a multi-scale network.

    Args:
        path: the checkpoint, the folder of a training, or that of a run.
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
    config, facts = saved.train_config, saved.train_config.data
    where = pick_device(device)
    make_repeatable(1, where)
    net = network_of(saved, where)
    data = load_data(config.dataset)
    check_images(config, data)
    split = data.eval_split("test")
    test = next(data.batches(split, EXAMPLES))
    whose = f"a {described(config)}, step {saved.step:,}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        _predictions(out / "predictions.png", net, test, facts, whose=whose, split=split)
        _samples(out / "samples.png", net, facts, seed=seed, whose=whose)
        if isinstance(net, MultiScale):
            _scales(out / "scales.png", net, facts, seed=seed, whose=whose)
        spread = test[:: max(1, len(test) // IMAGES)][:IMAGES]
        _completions(out / "completions.png", net, spread, facts, seed=seed, whose=whose, split=split)
        written = ["predictions.png", "samples.png", "completions.png"]
        written += ["scales.png"] if isinstance(net, MultiScale) else []
        metrics = [line for file in metrics_files(home_of(path)) for line in read_metrics(file)]
        if metrics:
            caption = f"The training of a {described(config)}. The number is its best validation."
            plots.training(out / "training.png", metrics, dims=facts.dims, caption=caption)
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


def _predictions(
    path: Path, net: nn.Module, test: image_files.Levels, facts: DatasetFacts, *, whose: str, split: str
) -> None:
    """Plot the predictive distributions at six pixels of an image with much contrast: it shows most of them."""
    varied = int(test.reshape(len(test), -1).std(axis=1).argmax())
    places = chosen_pixels(facts)
    known = "the small image and the preceding pixels" if isinstance(net, MultiScale) else "the preceding pixels"
    colours = "" if facts.channels == 1 else " of red, green and blue"
    caption = (
        f"Probability of each of the {facts.levels} levels{colours} at six pixels of {split} image {varied}, given "
        f"{known}, by {whose}. Level 0 is black, {facts.levels - 1} is "
        f"{'white' if facts.channels == 1 else 'full colour'}. All panels have the same axes. Dashed: the level in the "
        "image; above each panel what that level costs, -ln p."
    )
    plots.predictions(path, test[varied], places, predictive(net, test[varied], places), caption=caption)


def _samples(path: Path, net: nn.Module, facts: DatasetFacts, *, seed: int, whose: str) -> None:
    """Write a grid of samples."""
    levels = generate.draw(net, facts, count=SAMPLES, seed=seed)
    canvas = image_files.grid(image_files.bright(levels.numpy(), K=facts.levels))
    image_files.save(path, captioned(canvas, f"{SAMPLES} samples of {whose}, seed {seed}."))


def _scales(path: Path, net: MultiScale, facts: DatasetFacts, *, seed: int, whose: str) -> None:
    """Write pairs of a small image, enlarged to the large image's size, and the large image drawn given it."""
    small, large = generate.draw_scales(net, facts, count=SCALES, seed=seed)
    enlarged = small.repeat_interleave(net.factor, dim=2).repeat_interleave(net.factor, dim=3)
    pairs = torch.stack([enlarged, large], dim=1).flatten(0, 1)
    sizes = [f"{some.shape[2]}x{some.shape[3]}" for some in (small, large)]
    caption = f"{SCALES} pairs: a {sizes[0]} sample, and the {sizes[1]} image drawn given it, by {whose}, seed {seed}."
    canvas = image_files.grid(image_files.bright(pairs.numpy(), K=facts.levels), columns=8)
    image_files.save(path, captioned(canvas, caption))


def _completions(
    path: Path, net: nn.Module, images: image_files.Levels, facts: DatasetFacts, *, seed: int, whose: str, split: str
) -> None:
    """Write a row for each image: original, image without its lower half, completions."""
    hidden = complete.hidden_part("bottom", facts)
    rows = []
    for given in images:
        same = torch.from_numpy(given).expand(COMPLETIONS, -1, -1, -1)
        drawn = generate.complete(net, facts, same, torch.from_numpy(hidden), seed=seed)
        rows.append(complete.tiles(given, hidden, drawn.numpy(), K=facts.levels))
    canvas = image_files.grid(np.concatenate(rows), columns=COMPLETIONS + 2)
    caption = (
        f"From left to right: an image of the {split} split, the same without its lower half, and {COMPLETIONS} "
        f"completions by {whose}, seed {seed}."
    )
    image_files.save(path, captioned(canvas, caption))
