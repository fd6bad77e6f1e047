"""`cleanup` ends orphaned instances; `runs prune` removes runs that are over from this machine."""

from __future__ import annotations

import argparse
import fnmatch
import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.cli.console import busy
from orchestrator.cli.down import DOWN_TIMEOUT_S, _confirmed, _embedded_runs, _end_unowned
from orchestrator.clock import SystemClock, iso
from orchestrator.cloud.base import OWNER_TAG, RUN_TAG, Cloud, Instance
from orchestrator.cloud.connect import open_cloud, regions_for
from orchestrator.errors import PixelOrchError, SpecError
from orchestrator.formatting import counted, span, table
from orchestrator.plan.settings import duration_s
from orchestrator.runs.home import home_from_environment, home_id, make_home
from orchestrator.runs.store import RunStore


def sweep(args: argparse.Namespace) -> int:
    """Do `pixel-orch sweep`: find by tag what is still billed and belongs to no run that is being led; end it.

    With `--dry-run`, and without `-y` where there is nobody to ask, it only says what there is: 1 if something.
    """
    home = home_from_environment()
    cloud_name = args.cloud or "aws"
    if cloud_name not in ("aws", "local"):
        raise SpecError(f"--cloud: unknown cloud {cloud_name!r}; use aws, or local for the embedded cloud")
    regions = regions_for(cloud_name, tuple(args.region or ()), args.profile)
    orphans = _orphans(home, cloud_name)
    if cloud_name == "local" and not _embedded_runs(home):
        code = _may_not_end(args, [], orphans, [])
        if code is not None:
            return code
        for store in orphans:
            with store.owned():
                _end_unowned(store, home)
        return _say_swept(args, [], [store.run for store in orphans], [])
    make_home(home)
    regions = tuple(dict.fromkeys([*regions, *(r for store in orphans for r in store.spec().regions)]))
    with open_cloud(cloud_name, regions, home, args.profile) as cloud:
        with busy(cloud_name):
            ours, foreign = _found(cloud, home)
        code = _may_not_end(args, ours, orphans, foreign)
        if code is not None:
            return code
        problems = []
        for store in orphans:
            try:
                with store.owned():
                    _end_unowned(store, home)
            except PixelOrchError as error:
                problems.append(f"{store.run}: {error}")
        left = [i for i in ours if i.tags.get(RUN_TAG, "") not in {store.run for store in orphans}]
        _terminate_and_wait(cloud, left)
    for problem in problems:
        print(f"pixel-orch sweep: error: {problem}", file=sys.stderr)
    _say_swept(args, [i.instance_id for i in ours], [store.run for store in orphans], foreign)
    return 1 if problems else 0


def _may_not_end(
    args: argparse.Namespace, ours: Sequence[Instance], orphans: Sequence[RunStore], foreign: Sequence[Instance]
) -> int | None:
    """Return the exit code if nothing is to be ended, since we are only to look or got a no; else None."""
    only_looks = args.dry_run or (not args.yes and (args.output == "json" or not sys.stdin.isatty()))
    if only_looks:
        return _say_found(args, ours, orphans, foreign)
    if args.yes or not (ours or orphans):
        return None
    _say_found(args, ours, orphans, foreign)
    if _confirmed(_sweep_question(ours, orphans)):
        return None
    print("nothing was ended")
    return 1


def _say_found(
    args: argparse.Namespace, ours: Sequence[Instance], orphans: Sequence[RunStore], foreign: Sequence[Instance]
) -> int:
    """Print what there is; return 1 if there is something that nobody leads."""
    now = SystemClock().now()
    if args.output == "json":
        answer = {
            "billed": [_found_json(instance) for instance in ours],
            "unled_runs": [store.run for store in orphans],
            "ended": [],
            "runs": [],
            "of_other_homes": [instance.instance_id for instance in foreign],
        }
        print(json.dumps(answer))
        return 1 if ours or orphans else 0
    if not ours and not orphans:
        return _say_swept(args, [], [], foreign)
    if ours:
        rows = [
            [i.tags.get(RUN_TAG, "-"), i.instance_id, i.instance_type, i.zone, i.market, span(now - i.launched_at)]
            for i in ours
        ]
        print(table(["RUN", "BILLED", "TYPE", "ZONE", "MARKET", "FOR"], rows, "FOR"))
    if orphans:
        print(f"runs that nobody leads: {', '.join(store.run for store in orphans)}")
    _say_foreign(foreign)
    if args.dry_run or not sys.stdin.isatty():
        print("nothing was ended; pixel-orch sweep -y ends it")
    return 1


def _found_json(instance: Instance) -> dict[str, object]:
    return {
        "run": instance.tags.get(RUN_TAG),
        "instance_id": instance.instance_id,
        "instance_type": instance.instance_type,
        "zone": instance.zone,
        "region": instance.region,
        "market": instance.market,
        "launched_at": iso(instance.launched_at),
    }


def _orphans(home: Path, cloud_name: str) -> list[RunStore]:
    found = []
    for store in RunStore.all(home):
        with suppress(SpecError):  # a damaged spec.json: what it rented is found by its tag all the same
            if not store.state().is_final and store.owner_pid() is None and store.spec().cloud == cloud_name:
                found.append(store)
    return found


def _found(cloud: Cloud, home: Path) -> tuple[list[Instance], list[Instance]]:
    """Return (ours that nobody leads, those that were launched from another home)."""
    mine = home_id(home, write=False)
    alive = [i for i in cloud.instances() if not i.is_gone and i.state != "shutting-down"]
    led = {store.run for store in RunStore.all(home) if store.owner_pid() is not None}
    ours = [i for i in alive if i.tags.get(OWNER_TAG) == mine and i.tags.get(RUN_TAG, "") not in led]
    return ours, [i for i in alive if i.tags.get(OWNER_TAG) != mine]


def _sweep_question(ours: Sequence[Instance], orphans: Sequence[RunStore]) -> str:
    what = [i.instance_id for i in ours] + [f"run {store.run}" for store in orphans]
    return f"End {', '.join(what)}?"


def _terminate_and_wait(cloud: Cloud, instances: list[Instance]) -> None:
    clock = SystemClock()
    for instance in instances:
        cloud.terminate(instance.region, [instance.instance_id])
    ids = {i.instance_id for i in instances}
    give_up_at = clock.now() + DOWN_TIMEOUT_S
    while ids and any(i.instance_id in ids and not i.is_gone for i in cloud.instances()) and clock.now() < give_up_at:
        clock.sleep(0.5)
    for region, run in {(i.region, i.tags.get(RUN_TAG, "")) for i in instances}:
        if run:
            cloud.close_door(region, run)


def _say_swept(args: argparse.Namespace, ended: list[str], runs: list[str], foreign: Sequence[Instance]) -> int:
    if args.output == "json":
        print(json.dumps({"ended": ended, "runs": runs, "of_other_homes": [i.instance_id for i in foreign]}))
        return 0
    if not ended and not runs:
        print("nothing to do: no instance of ours is left" + (" without somebody who leads it" if foreign else ""))
    else:
        print(f"ended {', '.join(ended) or 'no instance'}; closed {', '.join(runs) or 'no run'}")
    _say_foreign(foreign)
    return 0


def _say_foreign(foreign: Sequence[Instance]) -> None:
    for instance in foreign:
        print(f"left alone: {instance.instance_id} of {instance.tags.get(RUN_TAG)}, of another PIXEL_ORCH_HOME")


def prune(args: argparse.Namespace) -> int:
    """Do `pixel-orch runs prune`: remove the folders of runs that are over, their checkpoints too."""
    home, now = home_from_environment(), SystemClock().now()
    chosen = _chosen(home, args, now)
    sizes = {store.run: _size_bytes(store.folder) for store in chosen}
    total = sum(sizes.values())
    rows = [[s.run, _state(s), span(now - s.state().created_at), f"{sizes[s.run] / 1e6:.1f}"] for s in chosen]
    is_quiet = args.output == "json"
    if rows and not is_quiet:
        print(table(["RUN", "STATE", "AGE", "MB"], rows, right="AGE MB"))
    if chosen and not args.dry_run and not args.yes and not _agreed(len(chosen), total):
        return 1
    removed = []
    for store in [] if args.dry_run else chosen:
        with store.owned():  # nobody is about to resume it
            shutil.rmtree(store.folder)
        removed.append(store.run)
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
        raise SpecError("runs prune: say which: names or globs, --older-than 30d, or --keep-last 20")
    if args.keep_last is not None and args.keep_last < 0:
        raise SpecError(f"--keep-last: {args.keep_last} is below 0; give how many of the newest to keep")
    least_s = duration_s(args.older_than, flag="--older-than", example="30d") if args.older_than else 0.0
    every = RunStore.all(home)
    patterns = args.runs or ["*"]
    for pattern in args.runs:
        if not any(fnmatch.fnmatchcase(store.run, pattern) for store in every):
            raise SpecError(f"RUN: no run matches {pattern!r}; pixel-orch status lists them")
    over = [store for store in every if store.state().is_final or store.is_damaged()]
    stores = [store for store in over if store.owner_pid() is None]
    if args.keep_last:
        stores = stores[: -args.keep_last]
    matching = [s for s in stores if any(fnmatch.fnmatchcase(s.run, pattern) for pattern in patterns)]
    return [store for store in matching if now - store.state().created_at >= least_s]


def _state(store: RunStore) -> str:
    return "DAMAGED" if store.is_damaged() else store.state().state


def _size_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _agreed(count: int, total_bytes: int) -> bool:
    if not sys.stdin.isatty():
        raise SpecError("here is no terminal to ask on; add -y to go on without being asked")
    try:
        answer = input(f"Remove {counted(count, 'run')} with all checkpoints ({total_bytes / 1e6:.1f} MB)? [y/N] ")
    except (EOFError, KeyboardInterrupt):
        return False
    return answer.strip().lower() in ("y", "yes")
