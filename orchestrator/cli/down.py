"""Ending what runs, and what is left: down, sweep, and forgetting runs that are over."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import signal
import sys
from pathlib import Path

from orchestrator.clock import SystemClock
from orchestrator.cloud.base import Cloud, Image
from orchestrator.cloud.connect import cloud_of
from orchestrator.engine.reaper import Reaper
from orchestrator.errors import CloudError, HostError, PixelOrchError, SpecError
from orchestrator.host.connect import forget_ssh_config
from orchestrator.runs.events import InstanceEnded, StateChanged
from orchestrator.runs.files import wait_until_gone
from orchestrator.runs.home import home_from_environment, home_id
from orchestrator.runs.spec import check_name
from orchestrator.runs.store import RunBusyError, RunStore

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
    forget_ssh_config(store)
    if store.state().is_final:
        return
    spec, clock = store.spec(), SystemClock()
    if spec.is_embedded and not _embedded_runs(home):
        _write_off(store, clock.now(), "the embedded cloud is gone, and its instances with it")
        return
    with cloud_of(spec, home) as cloud:
        reaper = Reaper(
            spec=spec,
            cloud=cloud,
            clock=clock,
            state=store.state,
            emit=store.append,
            image_of=lambda region: _image(cloud, region, spec.ami),
            home_id=home_id(home, write=False),
        )
        left = reaper.end_all("pixel-orch down")
        if left:
            raise CloudError(f"EC2 has not yet ended {', '.join(left)}; say down again in a minute")
        reaper.close_doors(set(spec.regions))
        store.append(StateChanged(at=clock.now(), state="CANCELLED", reason="ended by down or sweep"))


def _image(cloud: Cloud, region: str, ami: str | None) -> Image:
    """Return what the run's instances start from; one that nothing is known of if EC2 does not say."""
    try:
        return cloud.image(region, ami)
    except PixelOrchError:
        return Image("")


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
