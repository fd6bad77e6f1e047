"""`launch`: asks before it rents, then leads the run in this terminal or in the background."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from orchestrator.cli.console import Screen, busy, confirm, require_terminal, say_settings
from orchestrator.cli.lead import exit_code_of, lead_in_terminal
from orchestrator.clock import SystemClock
from orchestrator.cloud.connect import cloud_of
from orchestrator.engine.interrupt_once import interruption
from orchestrator.engine.lead import lead_in_background
from orchestrator.formatting import price
from orchestrator.market import catalog
from orchestrator.plan.deadline import outlook_lines
from orchestrator.plan.launch_preparation import (
    PreparedLaunch,
    PreparedRun,
    changes_since_launch,
    check_account,
    check_home,
    create_run,
    prepare_launch,
    read_request,
)
from orchestrator.plan.preview import (
    dry_run,
    filled,
    machines_line,
    not_sent,
    offer_rows,
    sync_dry_run,
    title_of,
    unused_gpus,
    what_comes_back,
    what_is_sent,
)
from orchestrator.plan.requests import cost_ceiling
from orchestrator.runs.home import home_from_environment


def launch(args: argparse.Namespace, command: Sequence[str]) -> int:
    """Do `pixel-orch launch`."""
    home = home_from_environment()
    request = read_request(vars(args), command, home)
    say_settings(request.sources)
    screen = Screen(sys.stdout if args.output == "table" else sys.stderr, is_plain=args.plain)
    if args.dry_run or args.sync_dry_run:
        if args.sync_dry_run:
            planned = sync_dry_run(request)
        else:
            with busy(request.spec.cloud):
                planned = dry_run(request, home)
        print(json.dumps(planned.details) if args.output == "json" else planned.text)
        return 0
    check_account(request.spec)
    if not args.yes:
        require_terminal()
    check_home(request, home)
    with ExitStack() as stack:
        with busy(request.spec.cloud, screen, if_interrupted="Nothing was created."):
            cloud = stack.enter_context(cloud_of(request.spec, home))
            prepared = prepare_launch(request, cloud, home)
        if not args.yes and not _agreed(prepared, screen):
            screen.plain("Not launched; nothing was created.")
            prepared.discard()
            return 1
        prepared = _choose_code(prepared, screen, asks=not args.yes)
        seen = [*not_sent(request.tree), *(request.look.lines() if request.look else [])]
        seen += outlook_lines(prepared.plan, home)
        for line in seen if args.yes else ():  # a prompt has shown them
            screen.plain(filled(line))
        extra = interruption(prepared, SystemClock().now)  # before the run is created: it may fail
        run = create_run(prepared)
        if args.detach:
            return _detach(run, screen, args.output)
        screen.plain(f"{run.plan.spec.run} on {title_of(cloud, run.plan.spec)}")
        for line in (*machines_line(run.plan), *unused_gpus(run.plan)) if args.yes else ():  # a prompt has shown them
            screen.plain(filled(line))
        return lead_in_terminal(run, screen, output=args.output, extra=extra)


def _choose_code(prepared: PreparedLaunch, screen: Screen, *, asks: bool) -> PreparedLaunch:
    """Say what has changed in the folder of a run that is resumed, and ask which files are sent.

    Without a question the files of now are sent: a resume often follows a mended program.
    """
    changed = changes_since_launch(prepared.request)
    if not changed:
        return prepared
    screen.plain(filled(f"Changed since the launch of {prepared.plan.spec.run}: {changed}."))
    if asks and not confirm("Send the files as they are now (no: those of the launch)?", default=True):
        return replace(prepared, request=replace(prepared.request, is_code_new=False))
    return prepared


def _detach(run: PreparedRun, screen: Screen, output: str) -> int:
    """Start a process that leads the run and outlives this terminal; say what it has done so far.

    Returns 0 if it leads the run, or has led it to its last step.
    """
    pid, store = lead_in_background(run), run.store
    state = store.state()
    if output == "json":
        print(json.dumps({"run": store.run, "state": state.state, "owner_pid": pid, "reason": state.reason}))
    elif pid is None or state.is_final:
        screen.plain(f"{store.run} is over already: {state.state}{f' ({state.reason})' if state.reason else ''}")
        screen.plain(f"  pixel-orch status {store.run}")
    else:
        screen.plain(f"{store.run} continues in the background (process {pid}).")
        for words in ("logs -f", "status", "stop"):
            screen.plain(f"  pixel-orch {words} {store.run}")
    return exit_code_of(state) if state.is_final else 0


def _agreed(prepared: PreparedLaunch, screen: Screen) -> bool:
    """Show what is about to be rented, run and sent, and ask; return the answer."""
    plan = prepared.plan
    low, high = cost_ceiling(plan.offers)
    screen.plain(offer_rows(plan.offers))
    usd_h = f"${price(low)}" if low == high else f"${price(low)} to ${price(high)}"
    by = "by measured dollars per image, " if plan.is_ranked_by_value else ""
    screen.plain(filled(f"{plan.spec.run}: {usd_h} an hour, {by}tried in this order until one has capacity."))
    for line in outlook_lines(plan, prepared.home):
        screen.plain(filled(line))
    request = prepared.request
    for line in machines_line(plan):
        screen.plain(filled(line))
    for line in (*what_is_sent(plan.spec, request.tree, request.sources, request.look), *unused_gpus(plan)):
        screen.plain(filled(line))
    screen.plain(filled(f"{what_comes_back(plan.spec, plan.offers)}."))
    if plan.spec.is_embedded:
        screen.plain("Embedded cloud: prices are recorded ones; nothing is billed.")
        for known in map(catalog.find, plan.spec.instances):
            if known.is_retired:
                screen.plain(
                    filled(f"{known.name} was retired by AWS ({known.retired}); replacement: {known.replacement}.")
                )
    return confirm("Launch?", default=True)
