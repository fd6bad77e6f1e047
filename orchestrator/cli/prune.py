"""`runs prune`: removes the folders of runs that are over from this machine."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from orchestrator.cli.console import confirm, say_error
from orchestrator.clock import SystemClock
from orchestrator.errors import SpecError
from orchestrator.formatting import counted, span, table
from orchestrator.host import snapshot
from orchestrator.plan.validators import duration_s
from orchestrator.runs.home import home_from_environment
from orchestrator.runs.listing import readable_states
from orchestrator.runs.lock import RunBusyError
from orchestrator.runs.store import RunStore, no_such_run


def prune(args: argparse.Namespace) -> int:
    """Do `pixel-orch runs prune`: remove the folders of runs that are over, with their checkpoints."""
    home, now = home_from_environment(), SystemClock().now()
    chosen = _chosen(home, args, now)
    sizes = {store.run: _size_bytes(store.folder) for store in chosen}
    total = sum(sizes.values())
    rows = [[s.run, _state(s), span(now - s.state().created_at), f"{sizes[s.run] / 1e6:.1f}"] for s in chosen]
    is_quiet = args.output == "json"
    if rows and not is_quiet:
        print(table(["RUN", "STATE", "AGE", "MB"], rows, right="AGE MB"))
    if chosen and not args.dry_run and not args.yes and not confirm(_question(len(chosen), total), default=False):
        return 1
    removed = []
    for store in [] if args.dry_run else chosen:
        try:
            with store.owned():  # no other process resumes it meanwhile
                shutil.rmtree(store.folder)
            removed.append(store.run)
        except (RunBusyError, OSError) as error:
            say_error(f"{store.run}: not removed: {error}")
    if removed:
        snapshot.clear_objects(home)
    if is_quiet:
        print(json.dumps({"removed": removed, "bytes": total, "would_remove": [s.run for s in chosen]}))
    elif not chosen:
        print("nothing to remove: no run that is over matches")
    elif args.dry_run:
        print(f"{counted(len(chosen), 'run')}, {total / 1e6:.1f} MB; nothing was removed")
    else:
        print(f"removed {counted(len(removed), 'run')}, {total / 1e6:.1f} MB")
    return 0


def _chosen(home: Path, args: argparse.Namespace, now: float) -> list[RunStore]:
    """Return the runs to remove, the oldest first: over, matching, old enough, and not among the last to keep."""
    if not (args.runs or args.older_than or args.keep_last is not None):
        raise SpecError("runs prune: name runs or globs, or give --older-than 30d or --keep-last 20")
    if args.keep_last is not None and args.keep_last < 0:
        raise SpecError(f"--keep-last: {args.keep_last} is below 0; give the number of runs to keep")
    least_s = duration_s(args.older_than, flag="--older-than", example="30d") if args.older_than else 0.0
    folders = RunStore.folders(home)
    found, broken = readable_states(folders)
    patterns = args.runs or ["*"]
    for pattern in args.runs:
        if not any(fnmatch.fnmatchcase(store.run, pattern) for store in folders):
            raise no_such_run(home, pattern, f"matches {pattern!r}")
    for one in broken:  # whether something of it is billed is not known
        folder = home / "runs" / one.run
        say_error(f"{one.text}; not removed: when pixel-orch cleanup finds nothing of it, remove {folder}")
    over = [(store, state) for store, state in found if state.is_final or store.is_damaged(state)]
    stores = [(store, state) for store, state in over if store.owner_pid() is None]
    if args.keep_last:
        stores = stores[: -args.keep_last]
    matching = [one for one in stores if any(fnmatch.fnmatchcase(one[0].run, pattern) for pattern in patterns)]
    return [store for store, state in matching if now - state.created_at >= least_s]


def _state(store: RunStore) -> str:
    return "DAMAGED" if store.is_damaged() else store.state().state


def _size_bytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _question(count: int, total_bytes: int) -> str:
    return f"Remove {counted(count, 'run')} with all checkpoints ({total_bytes / 1e6:.1f} MB)?"
