"""`launch` and `attach`: from a spec to a run that is over."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from orchestrator import start_from, sync, world
from orchestrator.asking import resumed, spec_from
from orchestrator.busy import busy
from orchestrator.checking import preflight
from orchestrator.clock import SystemClock
from orchestrator.cloud import Cloud
from orchestrator.engine import Cancelled, Engine, Watcher
from orchestrator.errors import BudgetError, PixelOrchError, SpecError
from orchestrator.events import Attempt, Event, RunCreated, StateChanged
from orchestrator.plan import Plan
from orchestrator.planning import agreed, draft, engine_from, make_plan, tree_json, tree_text, unused_gpus
from orchestrator.records import row_of
from orchestrator.spec import RunSpec
from orchestrator.store import RunBusyError, RunStore, home_from_environment, make_home, wait_until_gone
from orchestrator.summary import newest_checkpoint, summary_json, summary_text
from orchestrator.terminal import RunView, Screen, say_error


def launch(args: argparse.Namespace, command: Sequence[str]) -> int:
    """Do `pixel-orch launch`; return the exit code."""
    if args.dry_run or args.sync_dry_run:
        drafted = dry_run(args, command)
        print(json.dumps(drafted.details) if args.output == "json" else drafted.text)
        return 0
    home = home_from_environment()
    spec, resumed_store, start = _asked(args, command, home)
    tree = world.tree_for(spec)
    if not spec.is_embedded:
        world.check_credentials(spec.profile)
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
            cloud = stack.enter_context(world.cloud_of(spec, home))
            for fault in _faults(args):  # before the first question: prices, quotas and images may be what is at fault
                world.start_embedded(home).add_fault(fault)
            born_at = resumed_store.state().created_at if resumed_store else None
            plan = make_plan(spec, cloud, world.home_id(home), born_at)
            spec = world.settled(plan.spec, home)
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
            embedded = world.start_embedded(home)
            extra = (world.InterruptOnce(embedded, args.interrupt_after, spec.steps, SystemClock().now),)
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
    tree = world.tree_for(spec)
    if args.sync_dry_run:
        return DryRun(spec.run, tree_json(tree), tree_text(tree))
    if not spec.is_embedded:
        world.check_credentials(spec.profile)
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
    world.make_run_key(store, spec.key)
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
    code = "import sys; from orchestrator.launching import lead_detached; sys.exit(lead_detached(*sys.argv[1:]))"
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


def lead_detached(run: str, verb: str) -> int:
    """Lead a run in a process without a terminal; what would be printed goes to `engine.log`."""
    home = home_from_environment()
    store = RunStore.open(home, run)
    spec = store.spec()
    screen = Screen(sys.stdout)
    with world.cloud_of(spec, home) as cloud:
        plan = make_plan(spec, cloud, world.home_id(home), born_at=store.state().created_at)
        return _lead(store, plan, world.tree_for(spec), cloud, screen, output="table", verb=verb)


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
        with world.cloud_of(spec, home) as cloud:
            plan = make_plan(spec, cloud, world.home_id(home), born_at=state.created_at)
            _lead(store, plan, world.tree_for(spec), cloud, screen, output="none", verb="stop")
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
        from orchestrator.supervising import attach_all

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
    with world.cloud_of(spec, home) as cloud:
        plan = make_plan(spec, cloud, world.home_id(home), born_at=state.created_at)
        screen.plain(f"{spec.run} on {_where(cloud, spec)}: nobody looks after it, taking over")
        return _lead(store, plan, world.tree_for(spec), cloud, screen, output=args.output, verb="attach")


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


# -- leading a run


def _lead(
    store: RunStore,
    plan: Plan,
    tree: sync.Tree,
    cloud: Cloud,
    screen: Screen,
    *,
    output: str,
    verb: str,
    extra: tuple[Watcher, ...] = (),
) -> int:
    clock = SystemClock()
    view = RunView(screen, plan.spec.steps, clock, store.events())
    code = 0
    with store.owned():
        engine = engine_from(store, plan, tree, cloud, clock=clock, watchers=(view, *extra))
        store.ask_for(None)
        if verb == "stop":
            engine.watchers = (*engine.watchers, _StopAtOnce(engine))
        with _signals(engine, store, screen):
            try:
                engine.run(verb, os.getpid())
            except Cancelled as error:
                code = error.exit_code
            except BudgetError as error:
                code = error.exit_code
                say_error(_limit_words(store.run, error))
            except PixelOrchError as error:
                code = error.exit_code
                say_error(f"pixel-orch {'launch' if verb == 'resume' else verb}: error: {error}")
    world.forget_ssh_config(store)
    end = 0 if output in ("none", "quiet") else _conclude(store, screen, output)
    return code or end


def _limit_words(run: str, error: BudgetError) -> str:
    """Return what is said of a limit that was asked for: it is no error, and the run can go on."""
    what, _, how = str(error).partition("; go on with: ")
    more = " --budget MORE" if what.startswith("the budget") else ""
    return f"stopped: {what}; go on with: {how or f'pixel-orch launch --resume {run}{more}'}"


class _StopAtOnce:
    """A `Watcher` that asks for a stop as soon as the trainer is heard."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def event(self, event: Event) -> None:
        """Ask for it also where there is no trainer to be heard: before anything new is rented."""
        if isinstance(event, StateChanged) and event.state in ("PROVISIONING", "RECOVERING"):
            self.engine.request_stop("pixel-orch stop", "STOPPED")

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Ask for it."""
        self.engine.request_stop("pixel-orch stop", "STOPPED")


@contextmanager
def _signals(engine: Engine, store: RunStore, screen: Screen) -> Iterator[None]:
    """First signal: checkpoint, pull, terminate. Second: terminate at once. No signal leaves a machine behind."""
    count = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count == 1:
            screen.line("Stopping: checkpoint, pull, terminate. (Again: terminate at once.)")
            state = store.asked_for()
            engine.request_stop("pixel-orch stop" if state == "STOPPED" else signal.Signals(number).name, state)
        else:
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(store: RunStore, screen: Screen) -> None:
    """Show the events of a run that another process leads, until it is over or that process is gone."""
    clock = SystemClock()
    view = RunView(screen, store.spec().steps, clock)
    told = 0
    while True:
        events = store.events()
        for event in events[told:]:
            view.event(event)
        told = len(events)
        view.look()
        if store.state().is_final or store.owner_pid() is None:
            return
        clock.sleep(0.5)


def _conclude(store: RunStore, screen: Screen, output: str) -> int:
    now = SystemClock().now()
    state = store.state()
    if output == "json":
        print(json.dumps(summary_json(store, now)), flush=True)
    else:
        screen.plain(summary_text(store, now))
    return 0 if state.state == "SUCCEEDED" else 130 if state.state == "CANCELLED" else 1


__all__ = ["RunBusyError", "attach", "launch", "newest_checkpoint", "row_of", "summary_json"]
