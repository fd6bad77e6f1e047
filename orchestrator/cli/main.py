"""The entry point of `pixel-orch`: parse, call the command, turn errors into one line and an exit code.

Each command is imported when it is called, so that `--help` stays quick.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from orchestrator.cli.console import make_safe, say_error, visible_output
from orchestrator.cli.flags import OF_THE_MODEL, OLD_CLEANUP, parser
from orchestrator.errors import PixelOrchError, SpecError
from orchestrator.formatting import one_line, unwritable

COMMANDS = {  # command -> (module, function)
    "launch": ("launch", "launch"),
    "attach": ("attach", "attach"),
    "status": ("status", "status"),
    "logs": ("logs", "logs"),
    "stop": ("attach", "stop"),
    "pull": ("pull", "pull"),
    "ssh": ("ssh", "ssh"),
    "down": ("down", "down"),
    "cleanup": ("cleanup", "cleanup"),
    "report": ("report", "report"),
    "export": ("export", "do_export"),
    "bench": ("bench", "bench"),
    "dashboard": ("dashboard", "dashboard"),
    "prices": ("prices", "prices"),
    "compare": ("compare", "do_compare"),
    "simulate": ("simulate", "simulate"),
    "plan": ("plan", "plan"),
    "check": ("check", "check"),
    "runs": ("prune", "prune"),
    "setup": ("setup", "setup"),
    "teardown": ("setup", "teardown"),
    "completion": ("completion", "completion"),
}
TRACEBACK = "PIXEL_ORCH_TRACEBACK"  # a variable of the environment: where an error of our own came from is shown
MOST_WORDS = 300  # characters of such an error
TAKES_WORDS = ("launch", "ssh", "bench")  # those that a command of the user's own may follow, after --


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 invalid input, 130 interrupted."""
    _open_closed_streams()
    _let_streams_write_anything()
    with visible_output():
        return _main(argv)


def _open_closed_streams() -> None:
    """Let a stream that the caller closed (`>&-`) lead nowhere.

    The first file that is opened would get its number, and what a child process prints would go into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _main(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    _refuse_unwritable(words)
    if words and words[0] in OF_THE_MODEL:
        return _hand_over(words)
    if words and words[0] == OLD_CLEANUP:
        print(f"pixel-orch: {OLD_CLEANUP} is now called cleanup; the old name will be removed", file=sys.stderr)
    own, after = split_words(words)
    every = parser()
    if "_ARGCOMPLETE" in os.environ:
        from orchestrator.cli.completion import complete

        complete(every)
    args = every.parse_args(own)
    if after is not None and args.command not in TAKES_WORDS:
        parser().error(f"{args.command} takes nothing after --")
    return _guarded(args, after or [])


def _guarded(args: argparse.Namespace, after: list[str]) -> int:
    """Call the command; whatever it raises becomes one line and an exit code."""
    try:
        return _command(args, after)
    except PixelOrchError as error:
        say_error(f"pixel-orch {args.command}: error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # as with `| head`
        return 0
    except OSError as error:  # a full disk, a folder without write access; the instance is terminated by then
        where = f" ({error.filename})" if error.filename else ""
        then = ", then pixel-orch launch --resume" if args.command in ("launch", "attach") else ""
        hint = f"; free some space{then}" if error.errno == errno.ENOSPC else ""
        say_error(f"pixel-orch {args.command}: error: {error.strerror or error}{where}{hint}")
        return SpecError.exit_code if error.errno in (errno.ENAMETOOLONG, errno.ELOOP) else 1
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        what = f"{type(error).__name__}: {one_line(error)[:MOST_WORDS]}"
        say_error(f"pixel-orch {args.command}: internal error: {what}; please report it with what {TRACEBACK}=1 prints")
        return 1


def _let_streams_write_anything() -> None:
    """Keep a character that the output's encoding lacks from ending a command."""
    narrow = [
        stream
        for stream in (sys.stdout, sys.stderr)
        if "utf" not in (getattr(stream, "encoding", None) or "utf-8").lower()
    ]
    if narrow:
        for stream in narrow:
            make_safe(stream)


def _refuse_unwritable(words: Sequence[str]) -> None:
    """End with an error line where a word is not UTF-8 (Python reads each such byte as a lone surrogate)."""
    for word in words:
        problem = unwritable(word.replace("\0", ""))
        if problem:
            print(f"pixel-orch: error: {one_line(word)[:80]} {problem}; write it anew", file=sys.stderr)
            raise SystemExit(SpecError.exit_code)


def split_words(words: list[str]) -> tuple[list[str], list[str] | None]:
    """Split our own arguments from those after `--`, which are the user's."""
    if "--" not in words:
        return words, None
    cut = words.index("--")
    return words[:cut], words[cut + 1 :]


def _command(args: argparse.Namespace, after: list[str]) -> int:
    """Call the command: each is a function of one module, imported when it is asked for."""
    module, function = COMMANDS[args.command]
    call: Any = getattr(import_module(f"orchestrator.cli.{module}"), function)
    return int(call(args, after) if args.command in TAKES_WORDS else call(args))


def _hand_over(words: list[str]) -> int:
    """Run `python -m model ...` as a process of its own: the orchestrator never imports torch."""
    from importlib.util import find_spec

    if words[0] != "data" and find_spec("torch") is None and not {"-h", "--help"} & set(words):
        error = SpecError(f"{words[0]} needs the extra train: pip install 'pixel-orch[train]'")
        print(f"pixel-orch {words[0]}: error: {error}", file=sys.stderr)
        return error.exit_code
    os.environ["PIXEL_ORCH_PROG"] = "pixel-orch"
    sys.stdout.flush()
    root = str(Path(__file__).parents[2])  # our own `model`, not a `model.py` in the user's folder
    code = f"import runpy, sys; sys.path[0] = {root!r}; runpy.run_module('model', run_name='__main__', alter_sys=True)"
    return os.execv(sys.executable, [sys.executable, "-c", code, *words])  # noqa: S606  (our own module, by list)
