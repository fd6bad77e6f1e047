"""`launch` and `attach`: from a spec to a run that is over."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from orchestrator import catalog, offers, sync, world
from orchestrator.asking import resumed, spec_from
from orchestrator.checking import preflight
from orchestrator.clock import SystemClock, iso
from orchestrator.cloud import Call, Cloud, Network, Offer, Pool
from orchestrator.engine import Cancelled, Engine, Watcher
from orchestrator.errors import PixelOrchError, SpecError
from orchestrator.events import Attempt, Event, RunCreated, RunState, StateChanged
from orchestrator.plan import Plan, cost_ceiling
from orchestrator.report import RunRow, build, run_row
from orchestrator.spec import RunSpec
from orchestrator.store import RunBusyError, RunStore, home_from_environment, make_home, read_jsonl, wait_until_gone
from orchestrator.terminal import RunView, Screen, money, number, price, span, table

MOST_OFFERS_SHOWN = 12


def launch(args: argparse.Namespace, command: Sequence[str]) -> int:
    """Do `pixel-orch launch`; return the exit code."""
    home = home_from_environment()
    resumed_store = _resumable(home, args.resume) if args.resume else None
    spec = resumed(args, command, resumed_store.spec()) if resumed_store else spec_from(args, command)
    _check_embedded_options(args, spec)
    tree = world.tree_for(spec)
    if args.sync_dry_run:
        return _print_tree(tree, args.output)
    is_dry = args.dry_run
    if not spec.is_embedded:
        world.check_credentials(spec.profile)
    if not is_dry and not args.yes and not sys.stdin.isatty():
        raise SpecError(
            "launch asks before it spends money, and here is no terminal to ask on; add -y to go on without"
        )
    if is_dry:
        with tempfile.TemporaryDirectory(prefix="pixel-orch-dry-") as nowhere:
            return _print_plan(spec, home, Path(nowhere) if spec.is_embedded else home, tree, args.output)
    make_home(home)
    if resumed_store is None and (home / "runs" / spec.run / "spec.json").exists():
        raise SpecError(f"--name: there is a run called {spec.run} already; choose another name")
    screen = Screen(sys.stderr if args.output == "json" else sys.stdout)
    with world.cloud_of(spec, home) as cloud:
        for fault in _faults(args):  # before the first question: prices, quotas and images may be what is at fault
            world.start_embedded(home).add_fault(fault)
        born_at = resumed_store.state().created_at if resumed_store else None
        plan = preflight(make_plan(spec, cloud, world.home_id(home), born_at), cloud)
        if not args.yes and not _agreed(plan, screen):
            screen.plain("Not launched; nothing was created.")
            return 1
        store = _ready_store(home, spec, cloud, resumed_store)
        if args.detach:
            return _detach(store, screen, args.output, "resume" if resumed_store else "launch")
        extra: tuple[Watcher, ...] = ()
        if args.interrupt_after is not None:
            embedded = world.start_embedded(home)
            extra = (world.InterruptOnce(embedded, args.interrupt_after, spec.steps, SystemClock().now),)
        screen.plain(f"{spec.run} on {_where(cloud, spec)}")
        verb = "resume" if resumed_store else "launch"
        return _lead(store, plan, tree, cloud, screen, output=args.output, verb=verb, extra=extra)


def _ready_store(home: Path, spec: RunSpec, cloud: Cloud, old: RunStore | None) -> RunStore:
    """Make the store of a new run, or write the changed spec of one that is resumed."""
    if old is not None:
        old.write_spec(spec)
        return old
    store = RunStore.create(home, spec)
    world.make_run_key(store, spec.key)
    store.append(RunCreated(at=SystemClock().now(), run=spec.run, cloud=cloud.title))
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
    else:
        screen.plain(f"{store.run} goes on in the background (process {child.pid}).")
        screen.plain(f"pixel-orch logs -f {store.run}    pixel-orch status {store.run}    pixel-orch stop {store.run}")
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
        store.ask_for("STOPPED")
        os.kill(pid, signal.SIGTERM)
        _follow(store, screen)
        wait_until_gone(pid)  # it still ends the embedded cloud
    else:
        spec = store.spec()
        with world.cloud_of(spec, home) as cloud:
            plan = make_plan(spec, cloud, world.home_id(home), born_at=state.created_at)
            _lead(store, plan, world.tree_for(spec), cloud, screen, output="none", verb="stop")
    screen.plain(f"A one-time spot instance cannot be kept; go on with: pixel-orch launch --resume {store.run}")
    end = _conclude(store, screen, args.output)
    return 0 if store.state().state == "STOPPED" else end


def attach(args: argparse.Namespace) -> int:
    """Do `pixel-orch attach`: take over a run that nobody looks after, or follow one that somebody does."""
    home = home_from_environment()
    store = RunStore.open(home, args.run)
    screen = Screen(sys.stderr if args.output == "json" else sys.stdout)
    state = store.state()
    if store.owner_pid() is not None and not state.is_final:
        screen.plain(
            f"{store.run} is looked after by process {store.owner_pid()}; following it (Ctrl-C only stops following)"
        )
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


# -- the plan


def make_plan(spec: RunSpec, cloud: Cloud, home_id: str, born_at: float | None = None) -> Plan:
    """Ask for offerings and prices, and return the plan.

    Raises:
        SpecError: there is nothing to offer; the message says why.
    """
    if not spec.is_embedded:
        _refuse_retired(spec)
        _refuse_without_kernels(spec)
    pools = cloud.offerings(spec.instances)
    if spec.market == "spot":
        prices = cloud.spot_prices(pools)
        ranked = offers.spot_offers(pools, prices, spec.max_price_usd_h)
    else:
        prices = {}
        ranked = offers.on_demand_offers(pools)
    if not ranked:
        raise offers.explain_none(
            instance_types=spec.instances,
            market=spec.market,
            max_price_usd_h=spec.max_price_usd_h,
            regions=spec.regions,
            pools=pools,
            prices=prices,
        )
    regions = {offer.pool.region for offer in ranked}
    networks = {region: cloud.network(region, spec.subnets) for region in regions}
    ranked = [offer for offer in ranked if _is_reachable(offer, networks[offer.pool.region])]
    if not ranked:
        zones = ", ".join(zone for network in networks.values() for zone in network.subnets)
        raise SpecError(f"--subnet: {', '.join(spec.instances)} is not offered in the subnets' zones ({zones})")
    images = {region: cloud.image(region, spec.ami) for region in regions}
    born_at = SystemClock().now() if born_at is None else born_at
    return Plan(spec, tuple(ranked), images, born_at, home_id, networks)


def _is_reachable(offer: Offer, network: Network) -> bool:
    return not network.subnets or offer.pool.zone in network.subnets


def _refuse_retired(spec: RunSpec) -> None:
    for name in spec.instances:
        known = catalog.find(name)
        if known.is_retired:
            raise SpecError(
                f"--instance: {name} ({known.gpu}) was retired by AWS ({known.retired}); it is still in the "
                f"price list and cannot be rented. Take {known.replacement}, or see it work on --cloud local"
            )


def _refuse_without_kernels(spec: RunSpec) -> None:
    if spec.trainer is None or spec.allow_cpu:
        return
    for name in spec.instances:
        known = catalog.find(name)
        if not world.torch_has_kernels(known.compute_capability):
            raise SpecError(
                f"--instance: no torch build has kernels for {name}'s {known.gpu} (compute capability "
                f"{known.compute_capability}); choose another type, or insist on its CPU with --allow-cpu"
            )


def _offer_rows(ranked: Sequence[Offer]) -> str:
    rows = []
    for place, offer in enumerate(ranked[:MOST_OFFERS_SHOWN], 1):
        known = catalog.find(offer.pool.instance_type)
        gpu = f"{known.gpus}x {known.gpu}" if known.gpus > 1 else known.gpu
        rows.append(
            [str(place), known.name, gpu, offer.pool.zone, offer.market, price(offer.price_usd_h), offer.source]
        )
    return table(["#", "TYPE", "GPU", "ZONE", "MARKET", "$/H", "PRICE FROM"], rows, right="# $/H")


def _agreed(plan: Plan, screen: Screen) -> bool:
    low, high = cost_ceiling(plan.offers)
    screen.plain(_offer_rows(plan.offers))
    usd_h = f"${price(low)}" if low == high else f"${price(low)} to ${price(high)}"
    screen.plain(f"{plan.spec.run}: {usd_h} an hour, tried in this order until one has capacity.")
    if plan.spec.is_embedded:
        screen.plain("Embedded cloud: the prices are recorded ones; nothing is billed.")
        for known in map(catalog.find, plan.spec.instances):
            if known.is_retired:
                screen.plain(
                    f"{known.name} is history on AWS: retired {known.retired}, {known.replacement} takes its place."
                )
    try:
        answer = input("Launch? [Y/n] ").strip().lower()
    except (EOFError, KeyboardInterrupt):
        return False
    return answer in ("", "y", "yes")


def _print_tree(tree: sync.Tree, output: str) -> int:
    if output == "json":
        print(json.dumps({"folder": str(tree.folder), "files": list(tree.files), "bytes": tree.size_bytes()}))
        return 0
    for name in tree.files:
        print(name)
    print(f"{len(tree.files)} files, {tree.size_bytes() / 1e6:.2f} MB from {tree.folder}; nothing was sent")
    return 0


def _print_plan(spec: RunSpec, home: Path, cloud_home: Path, tree: sync.Tree, output: str) -> int:
    """Print what would be sent.

    The embedded cloud that answers for the prices lives in a folder of its own, and goes with it.
    """
    with world.cloud_of(spec, cloud_home) as cloud:
        plan = make_plan(spec, cloud, world.home_id(home, write=False))
        title = cloud.title
    low, high = cost_ceiling(plan.offers)
    calls = [_call_json(call) for call in plan.calls()]
    if output == "json":
        raw = {
            "run": spec.run,
            "cloud": title,
            "dry_run": True,
            "requests": calls,
            "offers": [_offer_json(offer) for offer in plan.offers],
            "sync": {"files": len(tree.files), "bytes": tree.size_bytes()},
            "estimated_usd_h": [low, high],
        }
        print(json.dumps(raw))
        return 0
    print(f"Plan for {spec.run} on {title}; nothing is created.\n")
    print(_offer_rows(plan.offers))
    print("\nRequests, in this order; a RunInstances only if the one before it found no capacity:")
    for index, call in enumerate(calls, 1):
        print(f"{index}. {call['operation']} ({call['region']})")
        for line in json.dumps(call["parameters"], indent=2).splitlines()[1:-1]:
            print(f" {line}")
    print(
        f"\nThen: sync {len(tree.files)} files ({tree.size_bytes() / 1e6:.2f} MB), train, pull checkpoints, terminate."
    )
    print(f"Estimate: ${price(low)} to ${price(high)} an hour; the time it takes is known after a first run (report).")
    return 0


def _call_json(call: Call) -> dict[str, Any]:
    return {"operation": call.operation, "region": call.region, "parameters": dict(call.parameters)}


def _offer_json(offer: Offer) -> dict[str, Any]:
    pool: Pool = offer.pool
    return {
        "instance_type": pool.instance_type,
        "zone": pool.zone,
        "region": pool.region,
        "market": offer.market,
        "price_usd_h": offer.price_usd_h,
        "price_from": offer.source,
    }


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
    view = RunView(screen, plan.spec.steps, clock)
    code = 0
    with store.owned():
        engine = Engine(
            store=store,
            plan=plan,
            job=world.job_for(plan.spec, tree),
            cloud=cloud,
            connect=world.connector(store, plan.spec),
            make_keys=_make_keys,
            clock=clock,
            watchers=(view, *extra),
            refresh=lambda: make_plan(plan.spec, cloud, plan.home_id, plan.born_at).offers,
        )
        store.ask_for(None)
        if verb == "stop":
            engine.watchers = (*engine.watchers, _StopAtOnce(engine))
        with _signals(engine, store, screen):
            try:
                engine.run(verb, os.getpid())
            except Cancelled as error:
                code = error.exit_code
            except PixelOrchError as error:
                code = error.exit_code
                print(f"pixel-orch {verb}: error: {error}", file=sys.stderr)
    world.forget_ssh_config(store)
    end = 0 if output == "none" else _conclude(store, screen, output)
    return code or end


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


def _make_keys(comment: str) -> tuple[str, str]:
    from orchestrator.ssh import make_key_pair

    return make_key_pair(comment)


@contextmanager
def _signals(engine: Engine, store: RunStore, screen: Screen) -> Iterator[None]:
    """First signal: checkpoint, pull, terminate. Second: terminate at once. No signal leaves a machine behind."""
    count = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count == 1:
            screen.line("Stopping: checkpoint, pull, terminate. (Ctrl-C again: terminate at once.)")
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
        if store.state().is_final or store.owner_pid() is None:
            return
        clock.sleep(0.5)


# -- the end of a run


def row_of(store: RunStore, now: float) -> RunRow:
    """Return the report's row of a run, from its folder alone."""
    state: RunState = store.state()
    lines: list[dict[str, Any]] = []
    for attempt in state.attempts:
        own = read_jsonl(store.folder / "attempts" / str(attempt.number) / "metrics.jsonl")
        lines.extend({**line, "attempt": attempt.number} for line in own)
    return run_row(state, lines, now)


def newest_checkpoint(store: RunStore) -> Path | None:
    """Return the newest checkpoint at home that is whole."""
    for _, pulled in sorted(store.state().checkpoints.items(), reverse=True):
        if store.is_whole(pulled):
            return store.checkpoint_path(pulled)
    return None


def summary_json(store: RunStore, now: float) -> dict[str, Any]:
    """Return the one object that `launch -o json` prints last. Its fields are stable; more may come."""
    row = row_of(store, now)
    checkpoint = newest_checkpoint(store)
    samples = newest_samples(store)
    return {
        "run": row.run,
        "state": row.state,
        "reason": row.reason,
        "cloud": row.cloud,
        "attempts": [
            {
                "instance_id": a.instance_id,
                "instance_type": a.instance_type,
                "zone": a.zone,
                "region": a.region,
                "market": a.market,
                "price_usd_h": a.price_usd_h,
                "started_at": iso(a.started_at),
                "ended_at": iso(a.ended_at) if a.ended_at is not None else None,
                "ended_by": a.ended_by,
                "first_step": a.first_step,
                "last_step": a.last_step,
                "images_per_s": a.images_per_s,
                "billed_usd": a.billed_usd,
            }
            for a in row.attempts
        ],
        "checkpoint": str(checkpoint) if checkpoint else None,
        "samples": str(samples) if samples else None,
        "steps": row.steps,
        "images_per_s": row.images_per_s or 0.0,
        "cost_usd": row.cost_usd,
        "cost_is_estimate": row.is_estimate,
        "device": row.device,
        "interruptions": row.interruptions,
        "folder": str(store.folder),
    }


def newest_samples(store: RunStore) -> Path | None:
    """Return the last sample grid that came home."""
    found = sorted(store.folder.glob("samples-*.png"), key=lambda p: int(p.stem.split("-")[1]))
    return found[-1] if found else None


def _conclude(store: RunStore, screen: Screen, output: str) -> int:
    now = SystemClock().now()
    state = store.state()
    if output == "json":
        print(json.dumps(summary_json(store, now)), flush=True)
    else:
        screen.plain(summary_text(store, now))
    return 0 if state.state == "SUCCEEDED" else 130 if state.state == "CANCELLED" else 1


def summary_text(store: RunStore, now: float) -> str:
    """Return what stands at the end of a run, for a terminal of 80 columns."""
    row = row_of(store, now)
    head = ["ATT", "TYPE", "ZONE", "$/H", "STEPS", "IMAGES/S", "ENDED BY", "BILLED $"]
    rows = [
        [
            str(a.number),
            a.instance_type,
            a.zone,
            price(a.price_usd_h),
            f"{a.first_step}-{a.last_step}" if a.last_step >= a.first_step else "-",
            number(a.images_per_s),
            a.ended_by or "-",
            ("~" if a.is_estimate else "") + ("free" if a.is_free else money(a.billed_usd)),
        ]
        for a in row.attempts
    ]
    lines = ["", f"{row.run}: {row.state}" + (f" ({row.reason.splitlines()[0]})" if row.reason else ""), ""]
    if rows:
        lines += [table(head, rows, right="ATT $/H STEPS IMAGES/S BILLED $"), ""]
    quality = (
        f", {row.nats:.2f} nats, {row.bits_per_dim:.3f} bits/dim (validation)" if row.nats and row.bits_per_dim else ""
    )
    lines.append(f"steps       {row.steps}{quality}")
    lines.append(f"speed       {number(row.images_per_s)} images/s on {row.device or 'an unnamed device'}")
    lines.append(f"cost        {'~' if row.is_estimate else ''}${money(row.cost_usd)} in {span(row.duration_s)}")
    checkpoint, samples = newest_checkpoint(store), newest_samples(store)
    lines.append(f"checkpoint  {checkpoint or 'none'}")
    if samples:
        lines.append(f"samples     {samples}")
    lines.append(f"report      pixel-orch report {row.run}")
    lines += ["", *(textwrap.fill(note, 80) for note in build([row], now).notes)]
    return "\n".join(lines)


__all__ = ["RunBusyError", "attach", "launch", "newest_checkpoint", "row_of", "summary_json"]
