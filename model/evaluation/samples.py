"""Images drawn from a checkpoint: `python -m model sample`."""

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
    """Draw images and write them as one picture.

    Args:
        path: the checkpoint, or the folder of a training.
        out: the PNG to write.
        values: what a conditioned network is told, by name; the others are those of the mean image.
        count: images.
        seed: of the noise.
        temperature: divides the logits.
        device: "auto", "cpu" or "cuda".
        engine: which sampler; they agree.

    Returns:
        A line that says what was done.

    Raises:
        SetupError: the checkpoint or the device is not to be had, or the network does not know a value.
    """
    saved = load(find(path))
    facts = saved.train_config.data
    where = pick_device(device)
    make_repeatable(1, where)
    net = network_of(saved, where)
    if values and not isinstance(net, Conditioned):
        raise SetupError("--condition: this network is not told anything; train one with --condition NAMES")
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
    return f"{len(levels)} images of step {saved.step:,} in {out}"
