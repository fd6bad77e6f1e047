"""`attach` takes over a run, or follows it; `stop` ends one so that it can be resumed."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from orchestrator.cli.console import Screen, say_broken
from orchestrator.cli.lead import conclude, follow, lead_in_terminal
from orchestrator.clock import SystemClock
from orchestrator.cloud.connect import cloud_of
from orchestrator.engine.supervisor import Supervisor
from orchestrator.errors import SpecError
from orchestrator.formatting import counted
from orchestrator.plan.launch_preparation import prepare_existing_run
from orchestrator.plan.preview import title_of
from orchestrator.runs.files import wait_until_gone
from orchestrator.runs.home import home_from_environment
from orchestrator.runs.listing import read_all
from orchestrator.runs.store import RunStore


def stop(args: argparse.Namespace) -> int:
    """Do `pixel-orch stop`: save a checkpoint, download it, terminate the instance; the run can be resumed."""
    store = RunStore.open(home_from_environment(), args.run)
    screen = _screen(args)
    state = store.state()
    if state.is_final:
        raise SpecError(f"RUN: {store.run} is {state.state} already; there is nothing to stop")
    pid = store.owner_pid()
    if pid is not None:
        is_shared = store.has_shared_owner()
        store.request_stop("STOPPED")
        if not is_shared:
            os.kill(pid, signal.SIGTERM)
        follow(store, screen)
        if not is_shared:
            wait_until_gone(pid)  # it still ends the embedded cloud
    else:
        with cloud_of(store.spec(), store.home) as cloud:
            run = prepare_existing_run(store, cloud, "stop")
            lead_in_terminal(run, screen, output=args.output, has_summary=False)
    screen.plain("A one-time spot instance cannot be stopped, only terminated. Resume the run with:")
    screen.plain(f"  pixel-orch launch --resume {store.run}")
    end = conclude(store, screen, args.output)
    return 0 if store.state().state == "STOPPED" else end


def attach(args: argparse.Namespace) -> int:
    """Do `pixel-orch attach`: take over a run that no process leads, or follow one that a process leads."""
    home = home_from_environment()
    if args.all == bool(args.run):
        raise SpecError("attach: name one run, or give --all for every run that no process leads")
    if args.all:
        return _attach_all(home, args)
    store = RunStore.open(home, args.run)
    screen = _screen(args)
    state = store.state()
    if store.owner_pid() is not None and not state.is_final:
        screen.plain(f"{store.run} is led by process {store.owner_pid()}; following it")
        screen.plain("(Ctrl-C only stops following)")
        follow(store, screen)
        state = store.state()
    if state.is_final:
        return conclude(store, screen, args.output)
    spec = store.spec()
    with cloud_of(spec, home) as cloud:
        run = prepare_existing_run(store, cloud, "attach")
        screen.plain(f"{spec.run} on {title_of(cloud, spec)}: no process leads it; taking over")
        return lead_in_terminal(run, screen, output=args.output)


def _attach_all(home: Path, args: argparse.Namespace) -> int:
    screen = _screen(args)
    found, broken = read_all(home, _to_lead)
    say_broken(broken)
    stores = [store for store in found if store is not None]
    if stores:
        screen.plain(f"taking over {counted(len(stores), 'run')} that no process leads")
    outcomes = Supervisor(home, screen.line, SystemClock()).lead(stores) if stores else {}
    if args.output == "json":
        print(json.dumps({"runs": outcomes}))
    elif not stores:
        print("nothing to take over: a process leads every run that is not over")
    return 0 if all(state == "SUCCEEDED" for state in outcomes.values()) else 1


def _to_lead(store: RunStore) -> RunStore | None:
    """Return a run that is to be led and can be: its spec is read here, so that a damaged one is named."""
    if store.state().is_final or store.owner_pid() is not None:
        return None
    store.spec()
    return store


def _screen(args: argparse.Namespace) -> Screen:
    return Screen(sys.stderr if args.output == "json" else sys.stdout, is_plain=args.plain)
