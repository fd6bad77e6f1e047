"""Samples from a checkpoint: `python -m model sample`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from model.device import make_repeatable, pick_device
from model.errors import SetupError
from model.image_files import write_grid
from model.networks.conditioned import Conditioned
from model.sampling import Engine
from model.sampling.generate import draw
from model.training.checkpoint import find, load
from model.training.state import network_of


def draw_samples(
    path: Path,
    out: Path,
    *,
    values: Mapping[str, float],
    count: int,
    seed: int,
    temperature: float,
    device: str = "auto",
    engine: Engine = "auto",
) -> str:
    """Draw samples and write them as a grid to one PNG.

    Args:
        path: the checkpoint, or the folder of a training.
        out: the PNG to write.
        values: values of the condition by column name; a missing one is the column's mean.
        count: number of images.
        seed: of the noise.
        temperature: divides the logits.
        device: "auto", "cpu" or "cuda".
        engine: the sampler; all give the same images.

    Returns:
        A line that describes the result.

    Raises:
        SetupError: the checkpoint, the output file or the device is unusable, or a value is not of the condition.
    """
    saved = load(find(path))
    facts = saved.train_config.data
    where = pick_device(device)
    make_repeatable(1, where)
    net = network_of(saved, where)
    if values and not isinstance(net, Conditioned):
        raise SetupError("--condition: this network is unconditional; train one with --condition NAMES")
    levels = draw(
        net,
        facts,
        values=net.values(values, count) if isinstance(net, Conditioned) else None,
        count=count,
        seed=seed,
        temperature=temperature,
        engine=engine,
    )
    try:
        write_grid(out, levels.numpy(), K=facts.levels)
    except OSError as error:
        raise SetupError(f"cannot write {out}: {error.strerror or error}; give another --out") from None
    return f"{len(levels)} images drawn by the checkpoint of step {saved.step:,} in {out}"
