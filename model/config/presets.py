"""The paper's networks by name, and small ones for a CPU: settings only, no torch.

The paper (arXiv 1601.06759, section 5) gives the sizes of its best networks, RMSProp and the batch sizes. Each preset's
`chosen` lists what the paper leaves open and this project chose: the learning rates ("set by hand for each dataset"),
the number of steps, RMSProp's constants, which of the head's layers gives the logits, and for MNIST the sizes of the
Row LSTM and of PixelCNN. Two methods are not in the paper. They are on by default because they make an untuned,
constant learning rate work: gradient clipping by norm (`grad_clip`), and evaluation with a running mean of the weights
(`ema`). `--set ema=0 --set grad_clip=0` switches both off.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from model.errors import ConfigError

OURS = (
    "learning rate and steps; RMSProp's alpha 0.95; gradients clipped to norm 1, in nats/dim; evaluation with a "
    "running mean of the weights (decay 0.998 a step); the second of the head's 2 layers gives the logits"
)


@dataclass(frozen=True)
class Preset:
    """A named set of settings for `TrainConfig`."""

    settings: Mapping[str, Any]
    source: str  # what the paper says
    chosen: str  # what the paper leaves open and this project chose
    nats: float | None = None  # the paper's test result, nats per image
    bits_per_dim: float | None = None  # the paper's test (ImageNet: validation) result


def _paper(source: str, *, chosen: str = OURS, **settings: Any) -> Preset:
    results = {name: settings.pop(name, None) for name in ("nats", "bits_per_dim")}
    training = {"optimizer": "rmsprop", "learning_rate": 0.001, "schedule": "constant", "batch_size": 16}
    training |= {"warmup_steps": 0, "weight_decay": 0.0, "ema": 0.998, "grad_clip": 1.0}
    # A validation is a forward pass over 10,000 or 50,000 images; at this interval it takes 1 to 3 % of the FLOPs.
    training["validate_every"] = 20_000 if "imagenet" in settings["dataset"] else 10_000
    training["checkpoint_every"] = 500  # up to 1.2 GB each, and each may be copied to a remote store
    return Preset(MappingProxyType({**training, **settings}), source, chosen, **results)


def _bundled(**settings: Any) -> Preset:
    """Make a preset for bundled data that trains in a few minutes on one CPU core."""
    training = {"dataset": "digits", "optimizer": "adamw", "learning_rate": 0.01, "batch_size": 32}
    training["weight_decay"] = 0.0
    return Preset(MappingProxyType({**training, **settings}), "not in the paper", "everything: for a CPU core")


_CIFAR10: Mapping[str, Any] = {"dataset": "cifar10", "hidden": 128, "head": 1024, "steps": 500_000}

_DIGITS: Mapping[str, Any] = {"hidden": 24, "head": 48}

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "mnist-diagonal": _paper(
            "7 layers, h = 16, head 32, batch 16; test 79.20 nats",
            model="diagonal-bilstm", dataset="mnist-static", layers=7, hidden=16, head=32, steps=300_000, nats=79.20,
        ),
        "mnist-row": _paper(
            "head 32, batch 16; test 80.54 nats; its sizes are not given",
            chosen=f"{OURS}; layers and h (those of the Diagonal BiLSTM)",
            model="row-lstm", dataset="mnist-static", layers=7, hidden=16, head=32, steps=300_000, nats=80.54,
        ),
        "mnist-pixelcnn": _paper(
            "head 32, batch 16; test 81.30 nats; its sizes are not given",
            chosen=f"{OURS}; layers and h",
            model="pixelcnn", dataset="mnist-static", layers=7, hidden=32, head=32, steps=300_000, nats=81.30,
        ),
        "cifar10-row": _paper(
            "12 layers, h = 128, head 1024, batch 16; test 3.07 bits/dim",
            model="row-lstm", layers=12, bits_per_dim=3.07, **_CIFAR10,
        ),
        "cifar10-diagonal": _paper(
            "12 layers, h = 128, head 1024, batch 16; test 3.00 bits/dim",
            model="diagonal-bilstm", layers=12, bits_per_dim=3.00, **_CIFAR10,
        ),
        "cifar10-pixelcnn": _paper(
            "15 layers, h = 128, head 1024, batch 16; test 3.14 bits/dim",
            model="pixelcnn", layers=15, bits_per_dim=3.14, **_CIFAR10,
        ),
        "imagenet32-row": _paper(
            "12 layers, h = 384, head 1024, batch 64; validation 3.86 bits/dim",
            model="row-lstm", dataset="imagenet-small-32", layers=12, hidden=384, head=1024,
            batch_size=64, steps=500_000, bits_per_dim=3.86,
        ),
        "imagenet64-row": _paper(
            "4 layers, h = 512, head 1024, batch 32, no residual connections; validation 3.63 bits/dim",
            chosen=f"{OURS}; layer-to-output connections",
            model="row-lstm", dataset="imagenet-small-64", layers=4, hidden=512, head=1024,
            batch_size=32, steps=500_000, connections="skip", bits_per_dim=3.63,
        ),
        "imagenet64-multiscale": _paper(
            "a 32x32 image, then a 64x64 one given it; batch 32 and softmax as for the plain network; sizes not given",
            chosen=f"{OURS}; layers, h and head (those of the plain network for 64x64) for both networks, the "
            "upsampling network, and every second pixel as the small image",
            model="row-lstm", dataset="imagenet-small-64", multiscale=32, layers=4, hidden=512, head=1024,
            batch_size=32, steps=500_000, connections="skip",
        ),
        "digits-pixelcnn": _bundled(model="pixelcnn", layers=5, steps=1600, weight_decay=0.3, **_DIGITS),
        "digits-row": _bundled(model="row-lstm", layers=3, steps=1700, weight_decay=0.6, **_DIGITS),
        "digits-diagonal": _bundled(model="diagonal-bilstm", layers=3, steps=1000, weight_decay=0.6, **_DIGITS),
        "digits-multiscale": _bundled(
            model="row-lstm", multiscale=4, layers=3, hidden=16, head=32, steps=2400, weight_decay=0.3,
        ),
        "photos16-multiscale": _bundled(
            model="row-lstm", dataset="photos-16", multiscale=8, layers=3, hidden=24, head=48, steps=2400,
        ),
        "photos64-multiscale": _bundled(
            model="row-lstm", dataset="photos-64", multiscale=32, layers=2, hidden=24, head=48, batch_size=8, steps=150,
            weight_decay=0.3,
        ),
    }
)  # fmt: skip


def preset(name: str) -> Preset:
    """Return the preset of a name.

    Raises:
        ConfigError: the name is unknown; the message gives the closest names, or all.
    """
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(PRESETS)}"
    raise ConfigError(f"no preset {name!r}; {hint}")
