"""`launch` and `attach`: from a spec to a run that is over."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.cli.console import Screen, busy
from orchestrator.cli.lead import InterruptOnce, _lead
from orchestrator.clock import SystemClock
from orchestrator.cloud.base import Cloud
from orchestrator.cloud.connect import check_credentials, cloud_of, start_embedded
from orchestrator.engine.journal import Watcher
from orchestrator.errors import PixelOrchError, SpecError
from orchestrator.formatting import price
from orchestrator.host.connect import make_run_key
from orchestrator.market import catalog
from orchestrator.plan import initial_checkpoint as start_from
from orchestrator.plan.job import tree_for
from orchestrator.plan.planner import make_plan
from orchestrator.plan.preflight import preflight
from orchestrator.plan.preview import draft, filled, offer_rows, tree_json, tree_text, unused_gpus
from orchestrator.plan.requests import Plan, cost_ceiling
from orchestrator.plan.settings import resumed, spec_from
from orchestrator.plan.storage import settled
from orchestrator.runs.events import RunCreated
from orchestrator.runs.home import home_from_environment, home_id, make_home
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore


def launch(args: argparse.Namespace, command: Sequence[str]) -> int:
    """Do `pixel-orch launch`; return the exit code."""
    if args.dry_run or args.sync_dry_run:
        drafted = dry_run(args, command)
        print(json.dumps(drafted.details) if args.output == "json" else drafted.text)
        return 0
    home = home_from_environment()
    spec, resumed_store, start = _asked(args, command, home)
    tree = tree_for(spec)
    if not spec.is_embedded:
        check_credentials(spec.profile)
    if not args.yes and not sys.stdin.isatty():
        raise SpecError(
            "launch asks before it spends money, and here is no terminal to ask on; add -y to go on without"
        )
    make_home(home)
    if resumed_store is None and (home / "runs" / spec.run / "spec.json").exists():
        raise SpecError(f"--name: there is a run called {spec.run} already; choose another name")
    screen = _screen(args.output)
    with ExitStack() as stack:
        with busy(spec.cloud, screen, if_broken_off="Nothing was created."):
            cloud = stack.enter_context(cloud_of(spec, home))
            for fault in _faults(args):  # before the first question: prices, quotas and images may be what is at fault
                start_embedded(home).add_fault(fault)
            born_at = resumed_store.state().created_at if resumed_store else None
            plan = make_plan(spec, cloud, home_id(home), born_at)
            spec = settled(plan.spec, home)
            plan = preflight(replace(plan, spec=spec), cloud)
            if args.start_from and start is None:
                start = start_from.fetched(args.start_from, spec, home)
        if not args.yes and not agreed(plan, screen):
            screen.plain("Not launched; nothing was created.")
            start_from.discard(start)
            return 1
        store = _ready_store(home, spec, cloud, resumed_store, start)
        if args.detach:
            return _detach(store, screen, args.output, "resume" if resumed_store else "launch")
        extra: tuple[Watcher, ...] = ()
        if args.interrupt_after is not None:
            embedded = start_embedded(home)
            extra = (InterruptOnce(embedded, args.interrupt_after, spec.steps, SystemClock().now),)
        screen.plain(f"{spec.run} on {_where(cloud, spec)}")
        for line in unused_gpus(plan) if args.yes else ():  # who was asked has read it
            screen.plain(line)
        verb = "resume" if resumed_store else "launch"
        return _lead(store, plan, tree, cloud, screen, output=args.output, verb=verb, extra=extra)


@dataclass(frozen=True)
class DryRun:
    """What a launch would do, or (`--sync-dry-run`) would send: for programs and for people."""

    run: str
    details: dict[str, Any]
    text: str


def dry_run(args: argparse.Namespace, command: Sequence[str]) -> DryRun:
    """Return what `launch` would do. Nothing is created, and nothing printed.

    Raises:
        SpecError: it cannot work as asked.
        CloudError: EC2 does not answer.
    """
    home = home_from_environment()
    spec, _, _ = _asked(args, command, home)
    tree = tree_for(spec)
    if args.sync_dry_run:
        return DryRun(spec.run, tree_json(tree), tree_text(tree))
    if not spec.is_embedded:
        check_credentials(spec.profile)
    screen = Screen(sys.stderr) if args.output in ("table", "json") else _screen(args.output)
    with tempfile.TemporaryDirectory(prefix="pixel-orch-dry-") as nowhere, busy(spec.cloud, screen):
        drafted = draft(spec, home, Path(nowhere) if spec.is_embedded else home, tree)
    return DryRun(spec.run, drafted.as_json(), drafted.as_text())


def _asked(
    args: argparse.Namespace, command: Sequence[str], home: Path
) -> tuple[RunSpec, RunStore | None, start_from.Start | None]:
    """Return the run that is asked for, the store of the one that goes on, and what a new one begins with."""
    if args.resume and args.start_from:
        raise SpecError("--from begins a new run, --resume goes on with an old one; give one of the two")
    store = _resumable(home, args.resume) if args.resume else None
    spec = resumed(args, command, store.spec()) if store else spec_from(args, command)
    _check_embedded_options(args, spec)
    return spec, store, start_from.local(args.start_from, spec) if args.start_from else None


def _screen(output: str) -> Screen:
    """Return where progress goes: beside a JSON answer, or with a program that calls us, to standard error."""
    if output == "quiet":
        return Screen(open(os.devnull, "w"))
    return Screen(sys.stdout if output == "table" else sys.stderr)


def _ready_store(
    home: Path, spec: RunSpec, cloud: Cloud, old: RunStore | None, start: start_from.Start | None
) -> RunStore:
    """Make the store of a new run, or write the changed spec of one that is resumed."""
    if old is not None:
        old.write_spec(spec)
        return old
    store = RunStore.create(home, spec)
    make_run_key(store, spec.key)
    store.append(RunCreated(at=SystemClock().now(), run=spec.run, cloud=cloud.title))
    if start is not None:
        try:
            start_from.adopt(store, start)
        except SpecError:
            store.delete_unborn()
            raise
    return store


def _resumable(home: Path, run: str) -> RunStore:
    store = RunStore.open(home, run)
    state = store.state()
    if state.state == "SUCCEEDED":
        raise SpecError(f"--resume: {run} has succeeded; there is nothing left to do")
    if not state.is_final:
        raise SpecError(f"--resume: {run} is {state.state}; pixel-orch attach {run} takes it over")
    return store


def _detach(store: RunStore, screen: Screen, output: str, verb: str) -> int:
    """Start a process that leads the run and survives this terminal; return once it holds the run's lock."""
    code = "import sys; from orchestrator.cli.lead import lead_detached; sys.exit(lead_detached(*sys.argv[1:]))"
    with (store.folder / "engine.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", code, store.run, verb],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PIXEL_ORCH_HOME": str(store.home), "PYTHONPATH": str(Path(__file__).parents[1])},
            cwd="/",
        )
    while store.owner_pid() != child.pid:
        if child.poll() is not None and not store.state().is_final:
            raise PixelOrchError(f"{store.run}: the process in the background ended; see {store.folder / 'engine.log'}")
        if child.poll() is not None:
            break
        time.sleep(0.05)
    if output == "json":
        print(json.dumps({"run": store.run, "state": store.state().state, "owner_pid": child.pid}))
    elif output == "table":
        screen.plain(f"{store.run} goes on in the background (process {child.pid}).")
        for words in ("logs -f", "status", "stop"):
            screen.plain(f"  pixel-orch {words} {store.run}")
    return 0


def _where(cloud: Cloud, spec: RunSpec) -> str:
    if spec.is_embedded:
        return "the embedded cloud (on this machine; nothing is billed)"
    return f"{cloud.title} {', '.join(spec.regions)}"


def _faults(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the faults of the file; it has been read once before anything was created."""
    if not args.faults:
        return []
    from infra.local import load_faults

    try:
        return load_faults(Path(args.faults))
    except ValueError as error:
        raise SpecError(f"--faults: {error}") from None


def _check_embedded_options(args: argparse.Namespace, spec: RunSpec) -> None:
    if args.faults and not spec.is_embedded:
        raise SpecError("--faults is an option of the embedded cloud; add --cloud local")
    _faults(args)
    if args.detach and args.interrupt_after is not None:
        raise SpecError("--interrupt-after needs a launch in the foreground; leave out --detach")
    if args.interrupt_after is None:
        return
    if not spec.is_embedded:
        raise SpecError(
            "--interrupt-after is an option of the embedded cloud: AWS interrupts when it likes; add --cloud local"
        )
    if spec.market != "spot":
        raise SpecError("--interrupt-after needs --spot: an on-demand instance is not interrupted")
    if not args.interrupt_after >= 0 or args.interrupt_after == float("inf"):
        raise SpecError(f"--interrupt-after: {args.interrupt_after} is no length of time; give seconds, for example 20")


def agreed(plan: Plan, screen: Screen) -> bool:
    """Show what is about to be rented and ask; return the answer."""
    low, high = cost_ceiling(plan.offers)
    screen.plain(offer_rows(plan.offers))
    usd_h = f"${price(low)}" if low == high else f"${price(low)} to ${price(high)}"
    by = "by measured dollars per image, " if plan.images_per_s else ""
    screen.plain(filled(f"{plan.spec.run}: {usd_h} an hour, {by}tried in this order until one has capacity."))
    for line in unused_gpus(plan):
        screen.plain(line)
    if plan.spec.is_embedded:
        screen.plain("Embedded cloud: the prices are recorded ones; nothing is billed.")
        for known in map(catalog.find, plan.spec.instances):
            if known.is_retired:
                gone = f"{known.name} is history on AWS: retired {known.retired}, {known.replacement} takes its place."
                screen.plain(filled(gone))
    try:
        answer = input("Launch? [Y/n] ").strip().lower()
    except (EOFError, KeyboardInterrupt):
        return False
    return answer in ("", "y", "yes")
