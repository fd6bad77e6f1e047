"""Samples from a checkpoint: `python -m model sample`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from model import image_files
from model.device import make_repeatable, pick_device
from model.errors import SetupError
from model.evaluation import drawing
from model.evaluation.measured import described
from model.networks.conditioned import Conditioned
from model.sampling import Engine
from model.sampling.generate import draw_scales
from model.training.checkpoint import find, load
from model.training.state import network_of


def draw_samples(
    path: Path,
    out: Path | None,
    *,
    values: Mapping[str, float],
    count: int,
    seed: int,
    temperature: float,
    device: str = "auto",
    engine: Engine = "auto",
    animate: Path | None = None,
) -> str:
    """Draw samples; write them as a grid to one PNG, and how they are drawn as an animation.

    Args:
        path: the checkpoint, or the folder of a training.
        out: the PNG to write, if any.
        values: values of the condition by column name; a missing one is the column's mean.
        count: number of images.
        seed: of the noise.
        temperature: divides the logits.
        device: "auto", "cpu" or "cuda".
        engine: the sampler; all give the same images.
        animate: the animation to write, if any: a GIF or an APNG (.png).

    Returns:
        A line that describes the result.

    Raises:
        SetupError: the checkpoint, an output file or the device is unusable, or a value is not of the condition.
    """
    drawing.check_files(out, animate)
    saved = load(find(path))
    facts = saved.train_config.data
    where = pick_device(device)
    make_repeatable(1, where)
    net = network_of(saved, where)
    if values and not isinstance(net, Conditioned):
        raise SetupError("--condition: this network is unconditional; train one with --condition NAMES")
    scales = draw_scales(
        net,
        facts,
        values=net.values(values, count) if isinstance(net, Conditioned) else None,
        count=count,
        seed=seed,
        temperature=temperature,
        engine=engine,
    )
    places = []
    if out is not None:
        drawing.save_grid(out, image_files.grid(image_files.bright(scales[-1].numpy(), K=facts.levels)))
        places.append(str(out))
    if animate is not None:
        everything = np.ones((facts.height, facts.width), dtype=np.bool_)
        stages = drawing.stages_of([levels.numpy() for levels in scales], everything, K=facts.levels)
        noise = drawing.noise_words(seed, temperature)
        samples = "A sample" if count == 1 else f"{count} samples"
        caption = f"{samples} of a {described(saved.train_config)}, step {saved.step:,}, {noise}."
        places.append(drawing.write(animate, stages, caption=caption, arrange=drawing.grid_of))
    return f"{count} image{'s' * (count > 1)} drawn by the checkpoint of step {saved.step:,} in {' and '.join(places)}"
