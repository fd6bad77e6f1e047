"""The trainer's command-line flags. Torch is not imported, so that `--help` and a stop request respond at once."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from model.config import DATASETS, MODELS, TrainConfig
from model.config.data_flags import add_commands
from model.config.presets import PRESETS
from model.errors import SetupError

ENGINES = ("auto", "native", "torch", "graph", "naive")
WIDTH = 80  # columns of the help, at most
CHECKPOINT_HELP = "checkpoint, or a folder: its best checkpoint"


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error in one line and exit with code 2."""
        print(f"{self.prog}: error: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


class Layout(argparse.RawDescriptionHelpFormatter):
    """Help text of at most 80 columns that keeps the line breaks of its examples."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(WIDTH, shutil.get_terminal_size().columns) - 1, max_help_position=26)


def parser(prog: str) -> OneLineParser:
    """Build the parser; `prog` is the program name in usage and error lines."""
    made = OneLineParser(
        prog=prog,
        description="Train, score and sample PixelCNN and PixelRNN.",
        formatter_class=Layout,
        allow_abbrev=False,
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _train(commands, prog)
    _evaluate(commands, prog)
    _sample(commands, prog)
    _complete(commands, prog)
    _figures(commands, prog)
    _data(commands, prog)
    return made


Commands = argparse._SubParsersAction


def _train(commands: Commands[OneLineParser], prog: str) -> None:
    what = "train a network; resumes from the newest checkpoint in the folder"
    train = _command(commands, "train", what, settings_help(prog))
    train.add_argument("--config", metavar="FILE", help="JSON file of settings (default: $PIXEL_ORCH_CONFIG)")
    train.add_argument("--preset", metavar="NAME", help="named settings; other flags override them")
    train.add_argument("--model", choices=MODELS, help="network")
    train.add_argument("--dataset", metavar="NAME|DIR", help="data set: a registered name, or a prepared folder")
    train.add_argument("--steps", metavar="N", help="total optimizer steps")
    train.add_argument(
        "--multiscale",
        metavar="ROWS",
        help="rows of the small image that a multi-scale network draws first",
    )
    train.add_argument("--condition", metavar="NAMES", help="columns that condition the network: steering_angle,speed")
    train.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="one setting; may be repeated")
    train.add_argument(
        "--processes",
        metavar="N",
        type=processes,
        help="processes on this machine, one for each GPU (default: $PIXEL_ORCH_GPUS_PER_NODE, else 1)",
    )
    train.add_argument("--out", metavar="DIR", help="output folder (default: $PIXEL_ORCH_OUT, else ./out)")


def _evaluate(commands: Commands[OneLineParser], prog: str) -> None:
    example = f"example:\n  {prog} evaluate --checkpoint out/checkpoint-2200.pt -o json"
    evaluate = _command(commands, "evaluate", "score a checkpoint in nats and bits/dim", example)
    evaluate.add_argument("--checkpoint", metavar="FILE", required=True, help=CHECKPOINT_HELP)
    evaluate.add_argument("--split", choices=("train", "valid", "test"), default="test", help="default: test")
    evaluate.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")
    _device(evaluate)


def _sample(commands: Commands[OneLineParser], prog: str) -> None:
    example = (
        f"example:\n  {prog} sample --checkpoint out/checkpoint-2200.pt \\\n    --out samples.png --count 64\n"
        f"  {prog} sample --checkpoint out --animate drawn.gif"
    )
    sample = _command(commands, "sample", "draw images from a checkpoint into a PNG, or as an animation", example)
    sample.add_argument("--checkpoint", metavar="FILE", required=True, help=CHECKPOINT_HELP)
    _written(sample, animates="how the images are drawn, pixel by pixel")
    sample.add_argument(
        "--condition", metavar="NAME=VALUE", action="append", default=[],
        help="values of the condition: steering_angle=0.3,speed=10; a missing one is the column's mean",
    )  # fmt: skip
    _drawing(sample, count=16, what="images")


def _complete(commands: Commands[OneLineParser], prog: str) -> None:
    example = (
        f"example:\n  {prog} complete --checkpoint out/checkpoint-2200.pt \\\n"
        "    --image test:3 --occlude bottom --out completed.png --count 8"
    )
    what = "draw several completions of an occluded image into a PNG"
    note = (
        "A pixel is drawn given the pixels above it and to its left, hidden or not. Given\n"
        "pixels below it have no influence: hide the bottom, as the paper does."
    )
    complete = _command(commands, "complete", what, f"{note}\n\n{example}")
    complete.add_argument("--checkpoint", metavar="FILE", required=True, help=CHECKPOINT_HELP)
    complete.add_argument(
        "--image", metavar="F", required=True, help="a PNG of the network's image size, or test:INDEX of its data set"
    )
    complete.add_argument(
        "--occlude", metavar="PART", required=True, help="part to hide: bottom, left, top, right or box:R,C,H,W"
    )
    _written(complete, animates="how the hidden pixels are drawn")
    _drawing(complete, count=6, what="completions")


def _figures(commands: Commands[OneLineParser], prog: str) -> None:
    example = (
        f"example:\n  {prog} figures --checkpoint out/checkpoint-2200.pt --out figures\n"
        f"  {prog} figures --checkpoint out --animate training.gif"
    )
    what = "plot a checkpoint's predictions, samples and training; animate the samples"
    figures = _command(commands, "figures", what, example)
    figures.add_argument("--checkpoint", metavar="FILE", required=True, help=CHECKPOINT_HELP)
    figures.add_argument("--out", metavar="DIR", help="folder of the figures")
    figures.add_argument(
        "--animate", metavar="FILE", type=Path,
        help="an animation (.gif or .png) of the samples-STEP.png beside the checkpoint, or in a run's folder",
    )  # fmt: skip
    figures.add_argument("--seed", metavar="N", type=seed, default=0, help="seed of the samples (default: 0)")
    _device(figures)


def _data(commands: Commands[OneLineParser], prog: str) -> None:
    data = _command(commands, "data", "prepare, verify and inspect data sets", f"example:\n  {prog} data list")
    inner: Commands[OneLineParser] = data.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    add_commands(lambda name, what, words: _command(inner, name, what, f"example:\n  {prog} data {words}"))


def _written(command: argparse.ArgumentParser, *, animates: str) -> None:
    command.add_argument("--out", metavar="PNG", type=Path, help="image file to write")
    command.add_argument(
        "--animate", metavar="FILE", type=Path, help=f"animation to write (.gif or .png): {animates}"
    )  # fmt: skip


def _drawing(command: argparse.ArgumentParser, *, count: int, what: str) -> None:
    command.add_argument(
        "--count", metavar="N", type=number_of, default=count, help=f"number of {what} (default: {count})"
    )
    command.add_argument("--seed", metavar="N", type=seed, default=0, help="random seed (default: 0)")
    command.add_argument(
        "--temperature", metavar="T", type=temperature, default=1.0, help="divides the logits (default: 1)"
    )
    command.add_argument(
        "--engine", choices=ENGINES, default="auto", help="sampler; all draw the same images (default: auto)"
    )
    _device(command)


def _device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")


def _command(commands: Commands[OneLineParser], name: str, what: str, epilog: str) -> OneLineParser:
    return commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=epilog,
        formatter_class=Layout,
        allow_abbrev=False,
    )


def number_of(text: str) -> int:
    """Parse a number of images."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    if not 1 <= number <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1024")
    return number


def processes(text: str) -> int:
    """Parse a number of processes."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    if not 1 <= number <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1024")
    return number


def seed(text: str) -> int:
    """Parse a seed."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return number


def temperature(text: str) -> float:
    """Parse a temperature."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 100:  # also true of nan
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number above 0, at most 100: it divides the logits, so that a small one draws the most "
            "likely levels and 100 draws all levels almost alike"
        )
    return number


def settings_help(prog: str) -> str:
    """Return the help text: the presets, the settings with their defaults, and an example."""
    names = [name for name, some in PRESETS.items() if some.settings["dataset"] in DATASETS]
    presets = textwrap.fill(
        "presets: " + ", ".join(names), WIDTH - 1, subsequent_indent=" " * 9, break_on_hyphens=False
    )
    rows = []
    for name, field in TrainConfig.model_fields.items():
        if name not in ("model", "dataset", "facts", "steps", "multiscale", "condition"):
            text = f"  {name:<20} {field.description} (default: {field.default})"
            rows.append(textwrap.fill(text, WIDTH - 1, subsequent_indent=" " * 23, break_long_words=False))
    example = f"example:\n  {prog} train --steps 300 --set learning_rate=0.001 --out out"
    return "\n".join([presets, "", "settings for --set:", *rows, "", example])


def parse_values(texts: Sequence[str]) -> dict[str, float]:
    """Parse `--condition NAME=VALUE[,NAME=VALUE]` arguments.

    Raises:
        SetupError: an argument is not of this form, a value is not a number, or a name occurs twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        for word in text.split(","):
            name, equals, value = word.partition("=")
            try:
                number = float(value)
            except ValueError:
                number = float("nan")
            if not equals or number != number or abs(number) > 1e30 or name.strip() in found:  # noqa: PLR0124 - nan
                raise SetupError(
                    f"--condition {text!r} is not NAME=NUMBER with each name once; example: steering_angle=0.3"
                )
            found[name.strip()] = number
    return found
