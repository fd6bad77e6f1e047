"""Completions of occluded images (the paper's figure 1): `python -m model complete`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model import image_files
from model.config import DatasetFacts, TrainConfig
from model.data import load as load_data
from model.data.feed import check_images
from model.device import make_repeatable, pick_device
from model.errors import SetupError
from model.evaluation import drawing
from model.evaluation.measured import described
from model.sampling import Engine, generate
from model.training.checkpoint import find
from model.training.checkpoint import load as load_checkpoint
from model.training.state import network_of

OF_DATA = re.compile(r"(train|valid|test):(\d{1,9})")
BOX = re.compile(r"box:(\d{1,6}),(\d{1,6}),(\d{1,6}),(\d{1,6})")
COLUMNS = 10  # largest number of images in a row


def complete(
    path: Path,
    image: str,
    occlude: str,
    out: Path | None,
    *,
    count: int,
    seed: int,
    temperature: float,
    device: str = "auto",
    engine: Engine = "auto",
    animate: Path | None = None,
) -> str:
    """Draw several completions of an image; write original, occluded image and completions to one PNG.

    The given pixels do not change. The network conditions a pixel on the pixels before it in raster order, so a draw is
    exact given the pixels above it and to its left; given pixels below it have no influence. Hiding the bottom gives
    the paper's figure.

    Args:
        path: the checkpoint, or the folder of a training.
        image: a PNG of the network's size, or `test:INDEX` (or train, valid) for an image of its data set.
        occlude: `bottom`, `left`, `top`, `right` (that half is hidden) or `box:R,C,H,W`.
        out: the PNG to write, if any.
        count: number of completions.
        seed: of the noise; the same seed gives the same completions.
        temperature: divides the logits.
        device: "auto", "cpu" or "cuda".
        engine: the sampler; all give the same images.
        animate: the animation to write, if any: a GIF or an APNG (.png).

    Returns:
        A line that describes the result.

    Raises:
        SetupError: the checkpoint, the image, the occlusion, an output file or the device is unusable.
    """
    drawing.check_files(out, animate)
    saved = load_checkpoint(find(path))
    config = saved.train_config
    facts = config.data
    hidden = hidden_part(occlude, facts)
    given = image_levels(image, config)  # (C, H, W)
    same, covered = torch.from_numpy(given).expand(count, -1, -1, -1), torch.from_numpy(hidden)
    where = pick_device(device)
    make_repeatable(1, where)
    net = network_of(saved, where)
    scales = generate.complete_scales(net, facts, same, covered, seed=seed, temperature=temperature, engine=engine)
    drawn = [levels.numpy() for levels in scales]
    columns, places = min(COLUMNS, count + 2), []
    if out is not None:
        drawing.save_grid(out, image_files.grid(tiles(given, hidden, drawn[-1], K=facts.levels), columns=columns))
        places.append(str(out))
    if animate is not None:
        whose = f"a {described(config)}, step {saved.step:,}, {drawing.noise_words(seed, temperature)}"
        places.append(_animate(animate, given, hidden, drawn, K=facts.levels, columns=columns, image=image, by=whose))
    what = f"{count} completion{'' if count == 1 else 's'} of {image} ({int(hidden.sum())} pixels hidden)"
    return f"{what} by the checkpoint of step {saved.step:,} in {' and '.join(places)}"


def _animate(
    path: Path,
    given: image_files.Levels,
    hidden: NDArray[np.bool_],
    drawn: list[image_files.Levels],
    *,
    K: int,
    columns: int,
    image: str,
    by: str,
) -> str:
    """Write the animation of the completions beside original and occluded image, which do not change."""
    fixed = tiles(given, hidden, drawn[-1][:0], K=K)
    caption = (
        f"From left to right: {image}, the same with {int(hidden.sum())} pixels hidden, and {len(drawn[-1])} "
        f"completions by {by}."
    )
    return drawing.write(
        path,
        drawing.stages_of(drawn, hidden, K=K),
        caption=caption,
        arrange=lambda images: image_files.grid(np.concatenate([fixed, images]), columns=columns),
    )


def tiles(
    given: image_files.Levels, hidden: NDArray[np.bool_], drawn: image_files.Levels, *, K: int
) -> image_files.Pixels:
    """Convert original, occluded image and completions to the images of a grid.

    Args:
        given: levels of the original, (C, H, W).
        hidden: mask of the hidden pixels, (H, W).
        drawn: levels of the completions, (N, C, H, W).
        K: number of levels.

    Returns:
        Pixels, (2 + N, H, W, 3).
    """
    original, shown = image_files.bright(given[None], K=K), image_files.bright(drawn, K=K)
    nothing = np.zeros_like(hidden)
    return np.concatenate(
        [
            image_files.covered(some, cover)
            for some, cover in ((original, nothing), (original, hidden), (shown, nothing))
        ]
    )


def image_levels(text: str, config: TrainConfig) -> image_files.Levels:
    """Load the image of an `--image` argument as levels (C, H, W).

    Raises:
        SetupError: the image does not exist, or does not fit the network.
    """
    facts, dataset = config.data, config.dataset
    match = OF_DATA.fullmatch(text)
    if match is None:
        return image_files.read(Path(text), (facts.channels, facts.height, facts.width), K=facts.levels)
    split, index = match[1], int(match[2])
    count = {"train": facts.train, "valid": facts.valid, "test": facts.test}[split]
    if index >= count:
        has = f"has images 0 to {count - 1}" if count else "has no images"
        raise SetupError(f"--image {text}: the {split} split of {dataset} {has}")
    data = load_data(dataset)
    check_images(config, data)
    batches = data.batches(split, 1, most=1, first=index)  # type: ignore[arg-type]  # the pattern limits the names
    levels: image_files.Levels = next(batches)[0]
    return levels


def hidden_part(text: str, facts: DatasetFacts) -> NDArray[np.bool_]:
    """Return the mask (H, W) of the pixels that an `--occlude` argument hides.

    Raises:
        SetupError: the argument is invalid, or the box is not inside the image.
    """
    H, W = facts.height, facts.width
    halves = {
        "bottom": (H // 2, 0, H, W),
        "top": (0, 0, H // 2, W),
        "left": (0, 0, H, W // 2),
        "right": (0, W // 2, H, W),
    }
    match = BOX.fullmatch(text)
    if text in halves:
        top, left, bottom, right = halves[text]
    elif match:
        top, left, height, width = (int(part) for part in match.groups())
        bottom, right = top + height, left + width
    else:
        raise SetupError(
            f"--occlude {text!r} is not bottom, left, top, right or box:R,C,H,W (row, column, height, width)"
        )
    if not (top < bottom <= H and left < right <= W):
        raise SetupError(f"--occlude {text} is not inside {H} rows and {W} columns; rows and columns count from 0")
    hidden = np.zeros((H, W), dtype=np.bool_)
    hidden[top:bottom, left:right] = True
    return hidden
