"""The command line: parse, call, print.

Heavy libraries are imported by the command that needs them, so `--help` stays quick.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.cli.flags import OF_THE_MODEL, parser
from orchestrator.errors import PixelOrchError, SpecError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 asked for what cannot be, 130 broken off."""
    _let_streams_write_anything()
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in OF_THE_MODEL:
        return _hand_over(words)
    own, after = _split(words)
    every = parser()
    if "_ARGCOMPLETE" in os.environ:
        _complete(every)
    args = every.parse_args(own)
    if after is not None and args.command not in ("launch", "ssh", "bench"):
        parser().error(f"{args.command} takes nothing after --")
    try:
        return _command(args, after or [])
    except PixelOrchError as error:
        from orchestrator.cli.console import say_error

        say_error(f"pixel-orch {args.command}: error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` has what it wants
        return 0
    except OSError as error:  # a full disk, a folder without rights: by then the machine has been ended
        where = f" ({error.filename})" if error.filename else ""
        hint = "; free some space, then pixel-orch launch --resume" if error.errno == errno.ENOSPC else ""
        print(f"pixel-orch {args.command}: error: {error.strerror or error}{where}{hint}", file=sys.stderr)
        return 1


def _let_streams_write_anything() -> None:
    """Keep a terminal or a pipe of a narrow encoding from ending a command over one letter."""
    narrow = [
        stream
        for stream in (sys.stdout, sys.stderr)
        if "utf" not in (getattr(stream, "encoding", None) or "utf-8").lower()
    ]
    if narrow:
        from orchestrator.cli.console import make_safe

        for stream in narrow:
            make_safe(stream)


def _complete(every: argparse.ArgumentParser) -> None:
    """Answer a shell that asks what may follow, and end."""
    import argcomplete

    from orchestrator.market import catalog
    from orchestrator.runs.home import home_from_environment
    from orchestrator.runs.store import RunStore

    def runs(**_: object) -> list[str]:
        try:
            return [store.run for store in RunStore.all(home_from_environment())]
        except SpecError:  # a home of a newer program: the command says so, a completion has nothing to offer
            return []

    def types(**_: object) -> list[str]:
        return [known.name for known in catalog.all_types()]

    for action in _actions(every):
        if action.dest in ("run", "runs", "resume"):
            action.completer = runs  # type: ignore[attr-defined]  # argcomplete looks for this attribute
        elif action.dest == "instance":
            action.completer = types  # type: ignore[attr-defined]
        elif action.dest == "region":
            action.completer = lambda **_: list(catalog.regions())  # type: ignore[attr-defined]
    argcomplete.autocomplete(every, always_complete_options=False)


def _actions(every: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in every._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _actions(sub)


def completion(args: argparse.Namespace) -> int:
    """Do `pixel-orch completion`: print the shell's part of it."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["pixel-orch"], shell=args.shell))
    return 0


def _split(words: list[str]) -> tuple[list[str], list[str] | None]:
    """Part our own words from those behind `--`, which are the user's."""
    if "--" not in words:
        return words, None
    cut = words.index("--")
    return words[:cut], words[cut + 1 :]


def _command(args: argparse.Namespace, after: list[str]) -> int:
    if args.command == "prices":
        from orchestrator.cli import prices as quoting

        return quoting.prices(args)
    if args.command == "compare":
        from orchestrator.cli import compare as comparing

        return comparing.do_compare(args)
    if args.command == "dashboard":
        from orchestrator.cli.dashboard import dashboard

        return dashboard(args)
    if args.command == "bench":
        from orchestrator.cli import bench as benching

        return benching.bench(args, after)
    if args.command == "report":
        from orchestrator.cli import report as reporting

        return reporting.report(args)
    from orchestrator.cli import check as checking
    from orchestrator.cli import down as ending
    from orchestrator.cli import launch as launching
    from orchestrator.cli import pull as reaching
    from orchestrator.cli import setup as standing
    from orchestrator.cli import status as running
    from orchestrator.cli.attach import attach, stop
    from orchestrator.cli.cleanup import prune, sweep
    from orchestrator.cli.ssh import ssh

    commands: dict[str, Callable[..., int]] = {
        "launch": launching.launch,
        "attach": attach,
        "status": running.status,
        "logs": running.logs,
        "stop": stop,
        "pull": reaching.pull,
        "ssh": ssh,
        "down": ending.down,
        "sweep": sweep,
        "check": checking.check,
        "runs": prune,
        "setup": standing.setup,
        "teardown": standing.teardown,
        "completion": completion,
    }
    call: Any = commands[args.command]
    return int(call(args, after) if args.command in ("launch", "ssh") else call(args))


def _hand_over(words: list[str]) -> int:
    """Run `python -m model ...` as a process of its own: the orchestrator never imports torch."""
    from importlib.util import find_spec

    if words[0] != "data" and find_spec("torch") is None and not {"-h", "--help"} & set(words):
        error = SpecError(f"{words[0]} needs the extra train: pip install 'pixel-orch[train]'")
        print(f"pixel-orch {words[0]}: error: {error}", file=sys.stderr)
        return error.exit_code
    os.environ["PIXEL_ORCH_PROG"] = "pixel-orch"
    sys.stdout.flush()
    root = str(Path(__file__).parents[1])  # where `model` is installed beside us: a `model.py` of the user's is not it
    code = f"import runpy, sys; sys.path[0] = {root!r}; runpy.run_module('model', run_name='__main__', alter_sys=True)"
    return os.execv(sys.executable, [sys.executable, "-c", code, *words])  # noqa: S606  (our own module, by list)
