"""Ending what runs, and what is left: down, sweep, and forgetting runs that are over."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator import world
from orchestrator.busy import busy
from orchestrator.clock import SystemClock, iso
from orchestrator.cloud import OWNER_TAG, RUN_TAG, Cloud, Instance
from orchestrator.errors import CloudError, HostError, PixelOrchError, SpecError
from orchestrator.events import InstanceEnded, StateChanged
from orchestrator.reaper import Reaper
from orchestrator.spec import check_name
from orchestrator.store import RunBusyError, RunStore, home_from_environment, make_home, wait_until_gone
from orchestrator.terminal import span, table

DOWN_TIMEOUT_S = 300.0


def down(args: argparse.Namespace) -> int:
    """Do `pixel-orch down`: end runs by name or glob, and wait until EC2 says that their machines are gone."""
    home = home_from_environment()
    stores = _chosen(home, args)
    running = [store for store in stores if not store.state().is_final]
    if not running:
        named = (
            "no run is running"
            if args.all or len(stores) != 1
            else f"{stores[0].run} is {stores[0].state().state} already"
        )
        return _say_down(args, [], f"nothing to end: {named}")
    if not args.yes and not _confirmed(f"End {', '.join(store.run for store in running)}?"):
        return _say_down(args, [], "nothing was ended") or 1
    problems, ended = [], []
    for store in running:
        try:
            _end_run(store, home)
            ended.append(store.run)
        except PixelOrchError as error:
            problems.append(f"{store.run}: {error}")
    for problem in problems:
        print(f"pixel-orch down: error: {problem}", file=sys.stderr)
    _say_down(args, ended, "ended: " + (", ".join(ended) or "none"))
    return 1 if problems else 0


def _say_down(args: argparse.Namespace, ended: list[str], words: str) -> int:
    print(json.dumps({"ended": ended}) if args.output == "json" else words)
    return 0


def _chosen(home: Path, args: argparse.Namespace) -> list[RunStore]:
    stores = RunStore.all(home)
    if args.all:
        return stores
    if not args.runs:
        raise SpecError("down: name a run, a glob such as 'mnist-*', or -a for all of them")
    chosen: dict[str, RunStore] = {}
    for pattern in args.runs:
        if any(mark in pattern for mark in "*?["):
            found = [store for store in stores if fnmatch.fnmatchcase(store.run, pattern)]
            if not found:
                raise SpecError(f"RUN: no run matches {pattern!r}; pixel-orch status lists them")
        else:
            check_name(pattern, flag="RUN")
            found = [RunStore.open(home, pattern)]
        chosen.update({store.run: store for store in found})
    return list(chosen.values())


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise SpecError("here is no terminal to ask on; add -y to go on without being asked")
    try:
        return input(f"{question} [Y/n] ").strip().lower() in ("", "y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False


def _end_run(store: RunStore, home: Path) -> None:
    """Let the owner end it, if there is one; else take it over and end it."""
    clock = SystemClock()
    give_up_at = clock.now() + DOWN_TIMEOUT_S
    pid = store.owner_pid()
    is_shared = store.has_shared_owner()
    if is_shared:
        store.ask_for("CANCELLED")
    elif pid is not None:
        _signal(pid)
    while clock.now() < give_up_at:
        if store.state().is_final:
            if pid is not None and not is_shared:
                wait_until_gone(pid)  # it still ends the embedded cloud
            return
        try:
            with store.owned():
                _end_unowned(store, home)
            return
        except RunBusyError:
            clock.sleep(0.2)
    raise HostError(
        f"process {pid} did not end the run within {DOWN_TIMEOUT_S:.0f} s; end that process, then say down again"
    )


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise HostError(f"process {pid} looks after the run and belongs to another user") from None


def _end_unowned(store: RunStore, home: Path) -> None:
    world.forget_ssh_config(store)
    if store.state().is_final:
        return
    spec, clock = store.spec(), SystemClock()
    if spec.is_embedded and not _embedded_runs(home):
        _write_off(store, clock.now(), "the embedded cloud is gone, and its instances with it")
        return
    with world.cloud_of(spec, home) as cloud:
        reaper = Reaper(
            run=store.run,
            cloud=cloud,
            clock=clock,
            state=store.state,
            emit=store.append,
            outlives_notice_s=spec.recovery.outlives_notice_s,
            look_every_s=spec.recovery.poll_s,
            spec=spec,
            home_id=world.home_id(home, write=False),
        )
        left = reaper.end_all("pixel-orch down")
        if left:
            raise CloudError(f"EC2 has not yet ended {', '.join(left)}; say down again in a minute")
        reaper.close_doors(set(spec.regions))
        store.append(StateChanged(at=clock.now(), state="CANCELLED", reason="ended by down or sweep"))


def _embedded_runs(home: Path) -> bool:
    from infra.local import EmbeddedCloud

    return EmbeddedCloud.find(home) is not None


def _write_off(store: RunStore, now: float, reason: str) -> None:
    """Note the end of instances that went with the embedded cloud's process."""
    for attempt in store.state().open_attempts():
        store.append(
            InstanceEnded(
                at=now,
                attempt=attempt.number,
                instance_id=attempt.instance_id,
                ended_at=now,
                ended_by="other",
                reason=reason,
            )
        )
    store.append(StateChanged(at=now, state="CANCELLED", reason=reason))


def sweep(args: argparse.Namespace) -> int:
    """Do `pixel-orch sweep`: find by tag what is still billed and belongs to no run that is being led; end it.

    With `--dry-run`, and without `-y` where there is nobody to ask, it only says what there is: 1 if something.
    """
    home = home_from_environment()
    cloud_name = args.cloud or "aws"
    if cloud_name not in ("aws", "local"):
        raise SpecError(f"--cloud: unknown cloud {cloud_name!r}; use aws, or local for the embedded cloud")
    regions = world.regions_for(cloud_name, tuple(args.region or ()), args.profile)
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
    with world.open_cloud(cloud_name, regions, home, args.profile) as cloud:
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
    mine = world.home_id(home, write=False)
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
