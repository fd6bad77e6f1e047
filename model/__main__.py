"""The command line of the trainer: `python -m model train | evaluate | sample`.

Bad input is one line on stderr and exit code 2. Only light modules are imported up here: a stop must be caught from the
first moment on, and importing torch takes seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from model.config import DATASETS, MODELS, TrainConfig, config_from_settings, load_config, parse_assignments
from model.errors import ConfigError, SetupError, TrainingError
from model.stop import StopFlag

ENGINES = ("auto", "native", "torch", "naive")
BEGAN_S = time.monotonic()


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with exit code 2."""
        print(f"{self.prog}: error: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 2 a setting that cannot work, 1 a failure of the training, 143 or 130 stopped.
    """
    stop = StopFlag()
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["train"]:
        stop.install()
    args, unknown = _parser().parse_known_args(words)
    prog = f"{_prog()} {args.command}"
    if unknown:  # argparse would blame the program, not the command
        print(f"{prog}: error: unrecognized: {' '.join(unknown)} (see {prog} --help)", file=sys.stderr)
        return 2
    try:
        _require_torch()
        if args.command == "train":
            return _train(args, stop)
        print(_evaluate(args) if args.command == "evaluate" else _sample(args), flush=True)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (SetupError, TrainingError, OSError) as error:
        return _explain(prog, error)
    return 0


def _explain(prog: str, error: SetupError | TrainingError | OSError) -> int:
    """Say in one line what went wrong; return the exit code for it."""
    if isinstance(error, BrokenPipeError):  # whoever read our lines has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter would complain when it flushes
        return 128 + signal.SIGPIPE
    text = str(error)
    if isinstance(error, OSError):  # a full disk, a folder that went away
        place = f" {error.filename}" if error.filename else ""
        text = f"cannot write{place}: {error.strerror or error}; free the disk or give another folder"
    print(f"{prog}: error: {text}", file=sys.stderr)
    return 2 if isinstance(error, SetupError) else 1


def _train(args: argparse.Namespace, stop: StopFlag) -> int:
    config = _config(args)
    out = Path(args.out or os.environ.get("PIXEL_ORCH_OUT") or "out")
    from model.train import train

    return train(config, out, stop, began_s=BEGAN_S)


def _config(args: argparse.Namespace) -> TrainConfig:
    """Settle the settings: a file, or flags, not both. The environment's file is taken if there are no flags."""
    flags = {"model": args.model, "dataset": args.dataset, "steps": args.steps}
    by_hand = bool(args.set) or any(value is not None for value in flags.values())
    if args.config and by_hand:
        raise ConfigError("--config and flags both give settings; put them all into the file, or leave it out")
    path = args.config or (None if by_hand else os.environ.get("PIXEL_ORCH_CONFIG"))
    return load_config(Path(path)) if path else config_from_settings(parse_assignments(args.set), **flags)


def _evaluate(args: argparse.Namespace) -> str:
    from model.evaluate import report

    return report(Path(args.checkpoint), split=args.split, style=args.output, device=args.device)


def _sample(args: argparse.Namespace) -> str:
    from model.build import pick_device
    from model.checkpoint import load
    from model.picture import write_grid
    from model.sample import draw
    from model.state import network_of
    from model.train import make_repeatable

    saved = load(Path(args.checkpoint))
    facts = saved.train_config.data
    device = pick_device(args.device)
    make_repeatable(1, device)
    levels = draw(
        network_of(saved, device),
        facts,
        count=args.count,
        seed=args.seed,
        temperature=args.temperature,
        engine=args.engine,
    )
    try:
        write_grid(Path(args.out), levels.numpy(), K=facts.levels)
    except OSError as error:
        raise SetupError(f"cannot write {args.out}: {error.strerror or error}; give another --out") from None
    return f"{len(levels)} images of step {saved.step:,} in {args.out}"


def _require_torch() -> None:
    missing = [name for name in ("torch", "numpy", "PIL") if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(f"{', '.join(missing)} not installed: needs the extra: pip install 'pixel-orch[train]'")
    try:
        import torch  # noqa: F401 - only whether it can be
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SetupError(
            f"torch is installed but cannot be imported ({reason}); reinstall it for this machine"
        ) from None


def _prog() -> str:
    return os.environ.get("PIXEL_ORCH_PROG") or "python -m model"


def _parser() -> OneLineParser:
    prog = _prog()
    parser = OneLineParser(prog=prog, description="Train, evaluate and sample PixelCNN.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{train,evaluate,sample}")

    train = _command(
        commands, "train", "train a network; goes on from the newest checkpoint in the folder", _settings()
    )
    train.add_argument("--config", metavar="FILE", help="JSON file of settings (default: $PIXEL_ORCH_CONFIG)")
    train.add_argument("--model", choices=MODELS, help="network")
    train.add_argument("--dataset", choices=tuple(DATASETS), help="data set")
    train.add_argument("--steps", metavar="N", help="optimizer steps in all")
    train.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a setting; may be repeated")
    train.add_argument("--out", metavar="DIR", help="where to write (default: $PIXEL_ORCH_OUT, else ./out)")

    example = f"example:\n  {prog} evaluate --checkpoint out/checkpoint-2400.pt --split test -o json"
    evaluate = _command(commands, "evaluate", "score a checkpoint: nats and bits/dim", example)
    evaluate.add_argument("--checkpoint", metavar="FILE", required=True, help="checkpoint to score")
    evaluate.add_argument("--split", choices=("train", "valid", "test"), default="test", help="default: test")
    evaluate.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")
    evaluate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")

    example = f"example:\n  {prog} sample --checkpoint out/checkpoint-2400.pt --out samples.png --count 64"
    sample = _command(commands, "sample", "draw images from a checkpoint into a PNG", example)
    sample.add_argument("--checkpoint", metavar="FILE", required=True, help="checkpoint to draw from")
    sample.add_argument("--out", metavar="PNG", required=True, help="picture to write")
    sample.add_argument("--count", metavar="N", type=_count, default=16, help="images (default: 16)")
    sample.add_argument(
        "--seed", metavar="N", type=_seed, default=0, help="the same seed gives the same images (default: 0)"
    )
    sample.add_argument(
        "--temperature", metavar="T", type=_temperature, default=1.0, help="divides the logits (default: 1)"
    )
    sample.add_argument("--engine", choices=ENGINES, default="auto", help="they agree; auto: the fastest")
    sample.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    return parser


def _command(
    commands: argparse._SubParsersAction[OneLineParser], name: str, what: str, epilog: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    if not 1 <= number <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1024")
    return number


def _seed(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return number


def _temperature(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 100:  # nan is not either
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0, at most 100")
    return number


def _settings() -> str:
    """List the settings with their defaults, and an example."""
    rows = [
        f"  {name:<20} {field.description} (default: {field.default})"
        for name, field in TrainConfig.model_fields.items()
        if name not in ("model", "dataset", "steps")
    ]
    example = f"example:\n  {_prog()} train --steps 300 --set learning_rate=0.001 --out out"
    return "\n".join(["settings for --set:", *rows, "", example])


if __name__ == "__main__":
    sys.exit(main())
