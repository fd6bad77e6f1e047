"""`down`: ends runs by name or glob, and their instances."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from pathlib import Path

from orchestrator.cli.console import confirm, say_broken, say_error
from orchestrator.engine.end_run import end_run
from orchestrator.errors import PixelOrchError, SpecError
from orchestrator.runs.home import home_from_environment
from orchestrator.runs.listing import readable_states
from orchestrator.runs.spec import check_name
from orchestrator.runs.store import RunStore, no_such_run


def down(args: argparse.Namespace) -> int:
    """Do `pixel-orch down`: end runs, and wait until EC2 says that their instances are terminated."""
    home = home_from_environment()
    found, broken = readable_states(_chosen(home, args))
    say_broken(broken)
    if broken:
        say_error("pixel-orch cleanup ends the instances of runs that cannot be read: it finds them by their tags")
    code = 1 if broken else 0  # something of them may be billed
    running = [store for store, state in found if not state.is_final]
    if not running:
        is_one = not args.all and len(found) == 1
        named = f"{found[0][0].run} is {found[0][1].state} already" if is_one else "no run is running"
        return _print(args, [], f"nothing to end: {named}") or code
    if not args.yes and not confirm(f"End {', '.join(store.run for store in running)}?", default=True):
        return _print(args, [], "nothing was ended") or 1
    problems, ended = [], []
    for store in running:
        try:
            end_run(store, home)
            ended.append(store.run)
        except (PixelOrchError, OSError) as error:  # a file of one run must not keep the others running
            problems.append(f"{store.run}: {error}")
    for problem in problems:
        print(f"pixel-orch down: error: {problem}", file=sys.stderr)
    _print(args, ended, "ended: " + (", ".join(ended) or "none"))
    return 1 if problems else code


def _print(args: argparse.Namespace, ended: list[str], text: str) -> int:
    print(json.dumps({"ended": ended}) if args.output == "json" else text)
    return 0


def _chosen(home: Path, args: argparse.Namespace) -> list[RunStore]:
    stores = RunStore.folders(home)
    if args.all:
        return stores
    if not args.runs:
        raise SpecError("down: name a run, a glob such as 'mnist-*', or -a for all of them")
    chosen: dict[str, RunStore] = {}
    for pattern in args.runs:
        if any(mark in pattern for mark in "*?["):
            found = [store for store in stores if fnmatch.fnmatchcase(store.run, pattern)]
            if not found:
                raise no_such_run(home, pattern, f"matches {pattern!r}")
        else:
            check_name(pattern, flag="RUN")
            found = [RunStore.open(home, pattern)]
        chosen.update({store.run: store for store in found})
    return list(chosen.values())
