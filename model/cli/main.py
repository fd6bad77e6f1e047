"""The commands of the trainer: train, evaluate, sample, complete, figures, data.

Bad input gives one line on stderr and exit code 2. Only the commands that need torch import it: that takes seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from model.cli.flags import parse_values, parser
from model.config import TrainConfig, check_world, config_from_settings, load_config, parse_assignments
from model.config.presets import preset
from model.errors import (
    RANK_LOST,
    ConfigError,
    RankLostError,
    SetupError,
    TrainingError,
    out_of_memory,
    wanted_memory,
)
from model.training import launcher
from model.training.stop import StopFlag
from model.world import World


def run(words: list[str], stop: StopFlag, *, began_s: float) -> int:
    """Run one command.

    Args:
        words: the command line without the program name.
        stop: the stop request of a training; the caller installs its signal handlers.
        began_s: `time.monotonic()` when this process began.

    Returns:
        The exit code: 0 done, 2 an unusable setting, 1 a failure of the training, 143 or 130 stopped by a signal,
        75 another process of the training was lost.
    """
    args, unknown = parser(_prog()).parse_known_args(words)
    prog = f"{_prog()} {args.command}"
    if unknown:  # argparse would name the program instead of the command
        print(f"{prog}: error: unrecognized: {' '.join(unknown)} (see {prog} --help)", file=sys.stderr)
        return 2
    try:
        if args.command == "figures" and args.out is None:
            _require("numpy", "PIL", extra="data")
        elif args.command not in ("data", "train"):
            _require_torch()
        if args.command == "train":
            return _train(args, words, stop, began_s)
        does: dict[str, Callable[[argparse.Namespace], str]] = {
            "evaluate": _evaluate,
            "sample": _sample,
            "complete": _complete,
            "figures": _figures,
            "data": _data,
        }
        print(does[args.command](args), flush=True)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (SetupError, TrainingError, RankLostError, OSError) as error:
        return _explain(prog, error)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return _explain(prog, TrainingError(_too_little_memory(args.command, error)))
    return 0


def _too_little_memory(command: str, error: Exception) -> str:
    """Return an error line that names the settings that reduce memory."""
    fewer = {
        "train": "a smaller batch_size, hidden or layers",
        "sample": "a smaller --count, --device cpu",
        "complete": "a smaller --count, --device cpu",
        "evaluate": "--device cpu",
        "figures": "--device cpu",
    }
    less = f"{fewer[command]} or " if command in fewer else ""
    return f"out of memory{wanted_memory(error)}; use {less}a machine with more memory"


def _explain(prog: str, error: SetupError | TrainingError | RankLostError | OSError) -> int:
    """Print the error in one line and return its exit code."""
    if isinstance(error, BrokenPipeError):  # the reader of stdout has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter's flush at exit fails
        return 128 + signal.SIGPIPE
    text = str(error)
    if isinstance(error, OSError):  # a full disk, a deleted folder
        place = f" {error.filename}" if error.filename else ""
        text = f"cannot write{place}: {error.strerror or error}; free the disk or give another folder"
    print(f"{launcher.prefix(os.environ)}{prog}: error: {text}", file=sys.stderr)
    if isinstance(error, RankLostError):
        return RANK_LOST
    return 2 if isinstance(error, SetupError) else 1


def _train(args: argparse.Namespace, words: list[str], stop: StopFlag, began_s: float) -> int:
    """Train as one process, as a rank that an outer launcher has started, or as the launcher of several ranks."""
    config = _config(args)
    out = Path(args.out or os.environ.get("PIXEL_ORCH_OUT") or "out")
    if not launcher.is_a_rank(os.environ):
        plan = launcher.plan_of(os.environ, args.processes)
        check_world(config, plan.world_size)
        if plan.world_size > 1:
            return launcher.launch(
                launcher.command_of(words), plan, stop, threads=config.threads, prog=f"{_prog()} train"
            )
    _require_torch()
    from model.training.loop import train

    return train(config, out, stop, began_s=began_s, world=World.from_environment(os.environ))


def _config(args: argparse.Namespace) -> TrainConfig:
    """Read the settings from a file or from flags; without either, from the file that $PIXEL_ORCH_CONFIG names."""
    flags = {name: getattr(args, name) for name in ("model", "dataset", "steps", "multiscale", "condition")}
    by_hand = bool(args.set) or bool(args.preset) or any(value is not None for value in flags.values())
    if args.config and by_hand:
        raise ConfigError("--config and flags both give settings; put all settings into the file, or omit --config")
    path = args.config or (None if by_hand else os.environ.get("PIXEL_ORCH_CONFIG"))
    if path:
        return load_config(Path(path))
    chosen = parse_assignments(args.set)
    named = preset(args.preset).settings if args.preset else {}
    beneath = {key: value for key, value in named.items() if key not in chosen and flags.get(key) is None}
    return config_from_settings({**beneath, **chosen}, **flags)


def _evaluate(args: argparse.Namespace) -> str:
    from model.evaluation.evaluate import report

    return report(Path(args.checkpoint), split=args.split, style=args.output, device=args.device)


def _sample(args: argparse.Namespace) -> str:
    from model.evaluation.samples import draw_samples

    return draw_samples(
        Path(args.checkpoint),
        args.out,
        values=parse_values(args.condition),
        count=args.count,
        seed=args.seed,
        temperature=args.temperature,
        device=args.device,
        engine=args.engine,
        animate=args.animate,
    )


def _complete(args: argparse.Namespace) -> str:
    from model.evaluation.complete import complete

    return complete(
        Path(args.checkpoint),
        args.image,
        args.occlude,
        args.out,
        count=args.count,
        seed=args.seed,
        temperature=args.temperature,
        device=args.device,
        engine=args.engine,
        animate=args.animate,
    )


def _figures(args: argparse.Namespace) -> str:
    if args.out is None and args.animate is None:
        raise SetupError("nothing to write; give --out DIR, --animate FILE, or both")
    lines = []
    if args.animate is not None:
        from model.evaluation.over_training import write

        lines.append(write(Path(args.checkpoint), args.animate))
    if args.out is not None:
        from model.evaluation.figures import write_all

        lines.append(write_all(Path(args.checkpoint), Path(args.out), seed=args.seed, device=args.device))
    return "\n".join(lines)


def _data(args: argparse.Namespace) -> str:
    _require("numpy", "PIL", extra="data")
    from model.cli.data import run

    return run(args)


def _require(*names: str, extra: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(f"{', '.join(missing)} not installed; install the extra: pip install 'pixel-orch[{extra}]'")


def _require_torch() -> None:
    _require("torch", "numpy", "PIL", extra="train")
    try:
        import torch  # noqa: F401 - only checks that the import works
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SetupError(
            f"torch is installed but cannot be imported ({reason}); reinstall it for this machine"
        ) from None


def _prog() -> str:
    return os.environ.get("PIXEL_ORCH_PROG") or "python -m model"
