"""`cleanup`: finds by tag the instances that are billed although no process leads their run, and terminates them.

It also removes what runs have left besides instances, see `leftovers.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cli.console import busy, confirm, say_broken
from orchestrator.cli.leftovers import Removable, find_removable, led_runs
from orchestrator.clock import SystemClock, iso
from orchestrator.cloud.base import OWNER_TAG, RUN_TAG, Cloud, Instance
from orchestrator.cloud.connect import open_cloud, regions_for
from orchestrator.engine.end_run import END_TIMEOUT_S, embedded_cloud_runs, end_unowned
from orchestrator.errors import PixelOrchError
from orchestrator.formatting import span, table
from orchestrator.plan.validators import check_cloud
from orchestrator.runs.home import home_from_environment, home_id, make_home
from orchestrator.runs.listing import read_all
from orchestrator.runs.store import RunStore


@dataclass(frozen=True)
class Orphans:
    """What no process leads."""

    instances: Sequence[Instance] = ()
    runs: Sequence[RunStore] = ()
    foreign: Sequence[Instance] = ()  # of another home, which may lead them: never touched
    removable: Sequence[Removable] = ()

    def __bool__(self) -> bool:
        return bool(self.instances or self.runs or self.removable)


def cleanup(args: argparse.Namespace) -> int:
    """Do `pixel-orch cleanup`: find orphaned instances and runs by tag and what runs have left, and end it all.

    With `--dry-run`, and without `-y` where stdin is not a terminal, it only lists them: 1 if there are any.
    """
    home = home_from_environment()
    cloud_name = check_cloud(args.cloud)
    regions = regions_for(cloud_name, tuple(args.region or ()), args.profile)
    runs = _unled_runs(home, cloud_name)
    if cloud_name == "local" and not embedded_cloud_runs(home):
        orphans = Orphans(runs=runs)
        code = _code_if_kept(args, orphans)
        return _end(args, orphans, home, None) if code is None else code
    make_home(home)
    regions = tuple(dict.fromkeys([*regions, *(r for store in runs for r in store.spec().regions)]))
    with open_cloud(cloud_name, regions, home, args.profile) as cloud:
        with busy(cloud_name):
            ours, foreign = _found(cloud, home)
            not_over = {store.run for store in runs} | {i.tags.get(RUN_TAG, "") for i in ours}
            removable, problems = find_removable(cloud, cloud_name, home, not_over)
        for problem in problems:
            print(f"pixel-orch cleanup: {problem}", file=sys.stderr)
        orphans = Orphans(ours, runs, foreign, removable)
        code = _code_if_kept(args, orphans)
        return _end(args, orphans, home, cloud) if code is None else code


def _end(args: argparse.Namespace, orphans: Orphans, home: Path, cloud: Cloud | None) -> int:
    problems = []
    failed = set()
    for store in orphans.runs:
        try:
            with store.owned():
                end_unowned(store, home)
        except (PixelOrchError, OSError) as error:
            problems.append(f"{store.run}: {error}")
            failed.add(store.run)
    ended = {store.run for store in orphans.runs}
    if cloud is not None:
        _terminate_and_wait(cloud, [i for i in orphans.instances if i.tags.get(RUN_TAG, "") not in ended])
    removed = []
    if cloud is not None and orphans:  # looked for again: what was of the runs that have ended now
        removed = _remove(find_removable(cloud, args.cloud, home, failed)[0], problems)
    for problem in problems:
        print(f"pixel-orch cleanup: error: {problem}", file=sys.stderr)
    ids, names = [i.instance_id for i in orphans.instances], [store.run for store in orphans.runs]
    _print_ended(args, ids, names, removed, orphans)
    return 1 if problems else 0


def _remove(removable: Sequence[Removable], problems: list[str]) -> list[Removable]:
    """Remove what runs have left; return what is gone, and add to the problems what is not."""
    removed = []
    for one in removable:
        try:
            if one.remove():
                removed.append(one)
            else:
                problems.append(f"{one} still has an instance; repeat the command when that is terminated")
        except (PixelOrchError, OSError) as error:
            problems.append(f"{one}: {error}")
    return removed


def _code_if_kept(args: argparse.Namespace, orphans: Orphans) -> int | None:
    """Return the exit code if nothing is to be ended, since we only list or the answer is no; else None."""
    only_lists = args.dry_run or (not args.yes and (args.output == "json" or not sys.stdin.isatty()))
    if only_lists:
        return _print_found(args, orphans)
    if args.yes or not orphans:
        return None
    _print_found(args, orphans)
    what = [i.instance_id for i in orphans.instances] + [f"run {store.run}" for store in orphans.runs]
    what += [f"{one.kind} {one.name}" for one in orphans.removable]
    if confirm(f"End {', '.join(what)}?", default=True):
        return None
    print("nothing was ended")
    return 1


def _print_found(args: argparse.Namespace, orphans: Orphans) -> int:
    """Print the orphans; return 1 if there are some."""
    now = SystemClock().now()
    if args.output == "json":
        answer = {
            "billed": [_instance_json(instance) for instance in orphans.instances],
            "unled_runs": [store.run for store in orphans.runs],
            "left": [one.as_json() for one in orphans.removable],
            "ended": [],
            "runs": [],
            "removed": [],
            "of_other_homes": [instance.instance_id for instance in orphans.foreign],
        }
        print(json.dumps(answer))
        return 1 if orphans else 0
    if not orphans:
        return _print_ended(args, [], [], [], orphans)
    if orphans.instances:
        rows = [
            [i.tags.get(RUN_TAG, "-"), i.instance_id, i.instance_type, i.zone, i.market, span(now - i.launched_at)]
            for i in orphans.instances
        ]
        print(table(["RUN", "BILLED", "TYPE", "ZONE", "MARKET", "FOR"], rows, "FOR"))
    if orphans.runs:
        print(f"runs that no process leads: {', '.join(store.run for store in orphans.runs)}")
    for one in orphans.removable:
        print(f"left: {one}")
    _print_foreign(orphans.foreign)
    if args.dry_run or not sys.stdin.isatty():
        print("nothing was ended; pixel-orch cleanup -y ends it")
    return 1


def _instance_json(instance: Instance) -> dict[str, object]:
    return {
        "run": instance.tags.get(RUN_TAG),
        "instance_id": instance.instance_id,
        "instance_type": instance.instance_type,
        "zone": instance.zone,
        "region": instance.region,
        "market": instance.market,
        "launched_at": iso(instance.launched_at),
    }


def _unled_runs(home: Path, cloud_name: str) -> list[RunStore]:
    def unled(store: RunStore) -> RunStore | None:
        is_ours = not store.state().is_final and store.owner_pid() is None and store.spec().cloud == cloud_name
        return store if is_ours else None

    found, broken = read_all(home, unled)
    say_broken(broken)  # their instances are found by their tags all the same
    return [store for store in found if store is not None]


def _found(cloud: Cloud, home: Path) -> tuple[list[Instance], list[Instance]]:
    """Return (ours that no process leads, those that were launched from another home)."""
    mine = home_id(home, write=False)
    alive = [i for i in cloud.instances() if not i.is_gone and i.state != "shutting-down"]
    led = led_runs(home)
    ours = [i for i in alive if i.tags.get(OWNER_TAG) == mine and i.tags.get(RUN_TAG, "") not in led]
    return ours, [i for i in alive if i.tags.get(OWNER_TAG) != mine]


def _terminate_and_wait(cloud: Cloud, instances: list[Instance]) -> None:
    clock = SystemClock()
    for instance in instances:
        cloud.terminate(instance.region, [instance.instance_id])
    ids = {i.instance_id for i in instances}
    give_up_at = clock.now() + END_TIMEOUT_S
    while ids and any(i.instance_id in ids and not i.is_gone for i in cloud.instances()) and clock.now() < give_up_at:
        clock.sleep(0.5)
    for region, run, home in {(i.region, i.tags.get(RUN_TAG, ""), i.tags.get(OWNER_TAG, "")) for i in instances}:
        if run:
            cloud.close_security_group(region, run, home)


def _print_ended(
    args: argparse.Namespace, ended: list[str], runs: list[str], removed: Sequence[Removable], orphans: Orphans
) -> int:
    if args.output == "json":
        answer = {
            "ended": ended,
            "runs": runs,
            "removed": [one.as_json() for one in removed],
            "of_other_homes": [i.instance_id for i in orphans.foreign],
        }
        print(json.dumps(answer))
        return 0
    if not orphans:
        print("nothing to do: no orphaned instances found")
    if ended or runs:
        print(f"terminated {', '.join(ended) or 'no instance'}; closed {', '.join(runs) or 'no run'}")
    for one in removed:
        print(f"removed {one}")
    _print_foreign(orphans.foreign)
    return 0


def _print_foreign(foreign: Sequence[Instance]) -> None:
    for instance in foreign:
        print(f"left alone: {instance.instance_id} of {instance.tags.get(RUN_TAG)}, of another PIXEL_ORCH_HOME")
