"""`attach` takes over or follows a run; `stop` ends one so that it can be resumed."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from orchestrator.cli.console import Screen
from orchestrator.cli.launch import _where
from orchestrator.cli.lead import _conclude, _follow, _lead
from orchestrator.clock import SystemClock
from orchestrator.cloud.connect import cloud_of
from orchestrator.engine.supervisor import Supervisor
from orchestrator.errors import SpecError
from orchestrator.formatting import counted
from orchestrator.plan.job import tree_for
from orchestrator.plan.planner import make_plan
from orchestrator.runs.files import wait_until_gone
from orchestrator.runs.home import home_from_environment, home_id
from orchestrator.runs.store import RunStore


def stop(args: argparse.Namespace) -> int:
    """Do `pixel-orch stop`: save, bring home, end the machine; the run can be resumed."""
    home = home_from_environment()
    store = RunStore.open(home, args.run)
    screen = Screen(sys.stderr if args.output == "json" else sys.stdout)
    state = store.state()
    if state.is_final:
        raise SpecError(f"RUN: {store.run} is {state.state} already; there is nothing to stop")
    pid = store.owner_pid()
    if pid is not None:
        is_shared = store.has_shared_owner()
        store.ask_for("STOPPED")
        if not is_shared:
            os.kill(pid, signal.SIGTERM)
        _follow(store, screen)
        if not is_shared:
            wait_until_gone(pid)  # it still ends the embedded cloud
    else:
        spec = store.spec()
        with cloud_of(spec, home) as cloud:
            plan = make_plan(spec, cloud, home_id(home), born_at=state.created_at)
            _lead(store, plan, tree_for(spec), cloud, screen, output="none", verb="stop")
    screen.plain("A one-time spot instance cannot be kept. Go on with:")
    screen.plain(f"  pixel-orch launch --resume {store.run}")
    end = _conclude(store, screen, args.output)
    return 0 if store.state().state == "STOPPED" else end


def attach(args: argparse.Namespace) -> int:
    """Do `pixel-orch attach`: take over a run that nobody looks after, or follow one that somebody does."""
    home = home_from_environment()
    if args.all or not args.run:
        if args.run or not args.all:
            raise SpecError("attach: name one run, or give --all for every run that nobody looks after")

        return attach_all(home, args)
    store = RunStore.open(home, args.run)
    screen = Screen(sys.stderr if args.output == "json" else sys.stdout)
    state = store.state()
    if store.owner_pid() is not None and not state.is_final:
        screen.plain(f"{store.run} is looked after by process {store.owner_pid()}; following it")
        screen.plain("(Ctrl-C only stops following)")
        _follow(store, screen)
        state = store.state()
    if state.is_final:
        return _conclude(store, screen, args.output)
    spec = store.spec()
    with cloud_of(spec, home) as cloud:
        plan = make_plan(spec, cloud, home_id(home), born_at=state.created_at)
        screen.plain(f"{spec.run} on {_where(cloud, spec)}: nobody looks after it, taking over")
        return _lead(store, plan, tree_for(spec), cloud, screen, output=args.output, verb="attach")


def attach_all(home: Path, args: argparse.Namespace) -> int:
    """Do `pixel-orch attach --all`."""
    screen = Screen(sys.stderr if args.output == "json" else sys.stdout)
    stores = [s for s in RunStore.all(home) if not s.state().is_final and s.owner_pid() is None]
    if stores:
        screen.plain(f"taking over {counted(len(stores), 'run')} that nobody looks after")
    outcomes = Supervisor(home, screen.line, SystemClock()).lead(stores) if stores else {}
    if args.output == "json":
        print(json.dumps({"runs": outcomes}))
    elif not stores:
        print("nothing to take over: every run that goes on is looked after")
    return 0 if all(state == "SUCCEEDED" for state in outcomes.values()) else 1
