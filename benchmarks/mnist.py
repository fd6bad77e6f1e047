"""What a small PixelCNN learns of binarised MNIST in minutes of one CPU core: `python benchmarks/mnist.py FOLDER`.

FOLDER has the published files, which this script does not download: `binarized_mnist_train.amat`, `_valid`, `_test`
(the draw of the paper), or the four IDX files of MNIST. With the latter the images are binarised once with seed 0, as
the data set `mnist-static-own` is; its nats are near those of the published draw, but not comparable digit by digit.

The CPU time of training counts; validation, start-up and the test do not. The learning rate falls over half a cosine.
The first 1,000 validation images choose the weights. All test images score them once.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.digits_quality import Outcome, train
from model.config import REGISTRY, TrainConfig, resolved
from model.config.data_recipe import Options
from model.data import Prepared, load
from model.data.prepare.prepare import prepare
from model.device import cpu_name
from model.errors import DataError
from model.evaluation.paper import TABLES

SETS = ("mnist-static", "mnist-static-own")  # the first whose files are there is taken
VALIDATE = 1_000  # validation images
NETWORK = {"model": "pixelcnn", "layers": 7, "hidden": 16, "head": 32}
TRAINING = {"batch_size": 32, "learning_rate": 0.003, "weight_decay": 0.0, "ema": 0.998}  # not tuned on MNIST


def published(name: str) -> list[str]:
    """Return the names of the published files of a data set."""
    return [file.name for file in REGISTRY[name].files]


def where_to_get() -> str:
    """Return where the files are and what they are to be named, in one line."""
    places = {name: REGISTRY[name].files[0].urls[0].rpartition("/")[0] for name in SETS}
    ways = [f"{', '.join(published(name))} from {places[name]}" for name in SETS]
    return f"get {' or '.join(ways)} and keep these names"


def opened(folder: Path, out: Path, *, unverified: bool) -> Prepared:
    """Prepare the data set whose files are in a folder.

    Args:
        folder: the files.
        out: the folder of the prepared data set; it does not exist yet.
        unverified: whether files without the published checksums are taken by their names.

    Raises:
        DataError: the files are not there, are damaged or are not the published ones.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; {where_to_get()}")
    refusals = {}
    for name in SETS:
        try:
            prepare(name, Options(source=str(folder), out=out / name, unverified=unverified))
        except DataError as error:
            refusals[name] = error
            continue
        data = load(str(out / name))
        assert isinstance(data, Prepared)
        return data
    for name, error in refusals.items():
        if any((folder / file).exists() or (folder / file.removesuffix(".gz")).exists() for file in published(name)):
            raise error
    raise DataError(f"{folder} has no MNIST; {where_to_get()}")


def kind_of(data: Prepared) -> str:
    """Return which images these are."""
    images = " / ".join(f"{data.count(split):,}" for split in ("train", "valid", "test"))
    files = "published files" if data.manifest.published else "NOT the published files: this is not MNIST's score"
    return f"{REGISTRY[data.manifest.name].title} ({data.manifest.name}, {files}), {images} images"


def result(config: TrainConfig, made: Outcome, data: Prepared) -> str:
    """Return the score, and the paper's table with what sets it apart."""
    test, epochs = made.test, made.steps * config.batch_size / data.count("train")
    lines = [
        f"test nats/image  {test.nats:.2f} +- {test.nats_se:.2f}  (one standard error of the mean)",
        f"test bits/dim    {test.bits_per_dim:.4f}",
        f"valid nats       {made.valid.nats:.2f}  ({min(VALIDATE, data.count('valid')):,} images)",
        f"best/steps       {made.best_step:,}/{made.steps:,} ({epochs:.2f} epochs)",
        f"images/CPU-s     {made.steps * config.batch_size / made.cpu_s:,.0f}",
        "",
        str(TABLES["mnist-static"]),
        f"This is a small PixelCNN ({config.layers} layers, h = {config.hidden}) after {made.cpu_s:,.0f} s of a core.",
    ]
    if data.manifest.name != "mnist-static":
        lines.append("Its draw is this project's, with seed 0; the paper's table is for the published draw.")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Train, score, and print both; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the published files")
    parser.add_argument("--seconds", type=float, default=600.0, help="CPU time for the training (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data order (default: 0)")
    parser.add_argument("--unverified", action="store_true", help="take other files by their names, as in a test")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as out:
        try:
            data = opened(args.folder, Path(out), unverified=args.unverified)
        except DataError as error:
            print(f"mnist.py: error: {error}", file=sys.stderr)
            return 2
        settings = {"dataset": str(data.folder), "seed": args.seed, "device": "cpu", **NETWORK, **TRAINING}
        config = resolved(TrainConfig.model_validate(settings), data.facts)
        print(f"$ python {shlex.join(sys.argv)}")
        print(f"{cpu_name()}, 1 thread, torch {torch.__version__}, Python {platform.python_version()}")
        print(kind_of(data))
        sizes = f"{config.layers} layers, h = {config.hidden}, head {config.head}, batch {config.batch_size}"
        print(f"pixelcnn, {sizes}, learning rate {config.learning_rate:g}; {args.seconds:g} s of CPU time\n")
        sys.stdout.flush()
        print(result(config, train(config, data, args.seconds, validate=VALIDATE), data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
