"""`status` shows runs: all of them, or one in full."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from orchestrator.cli.colour import say
from orchestrator.cli.console import Screen
from orchestrator.clock import SystemClock, iso
from orchestrator.errors import SpecError
from orchestrator.formatting import counted, money, prose_width, span, table, wrapped
from orchestrator.market.billing import bill, total_usd
from orchestrator.report.as_of import seen_at
from orchestrator.report.summary import steps_done, summary_json, summary_text
from orchestrator.runs.generations import generations_of
from orchestrator.runs.home import home_from_environment
from orchestrator.runs.listing import UNREADABLE, BrokenRun, read_all
from orchestrator.runs.spec import EMBEDDED_TITLE
from orchestrator.runs.state import RunState
from orchestrator.runs.store import RunStore

WATCH_S = 1.0


@dataclass(frozen=True)
class StatusRow:
    """What the list shows of one run."""

    store: RunStore
    state: RunState
    step: int
    cost_usd: Decimal
    is_estimate: bool
    is_damaged: bool
    owner_pid: int | None
    defects: tuple[str, ...]

    @classmethod
    def of(cls, store: RunStore, now: float) -> StatusRow:
        """Read one run."""
        seen = seen_at(store.state(), now)
        bills = [bill(attempt, now) for attempt in seen.state.attempts]
        return cls(
            store=store,
            state=seen.state,
            step=steps_done(store, seen.state),
            cost_usd=total_usd(seen.state.attempts, now),
            is_estimate=seen.is_estimate or any(each.is_estimate for each in bills),
            is_damaged=store.is_damaged(seen.state),
            owner_pid=store.owner_pid(),
            defects=(*store.defects(seen.state), *seen.remarks),
        )


def status(args: argparse.Namespace) -> int:
    """Do `pixel-orch status`: all runs, or one in full."""
    home, now = home_from_environment(), SystemClock().now()
    if args.watch:
        return _watch(home, args)
    if args.run:
        _one(RunStore.open(home, args.run), now, args.output)
    else:
        _all(home, now, args.output, is_plain=args.plain)
    return 0


def _watch(home: Path, args: argparse.Namespace) -> int:
    """Show all runs live, or one: in a terminal, until Ctrl-C or the end of the run."""
    from orchestrator.cli.lead import watch  # the engine, which the list alone does not need
    from orchestrator.cli.live_screen import live_text

    screen, clock = Screen(), SystemClock()
    if args.output == "json" or not screen.is_terminal:
        raise SpecError("--watch draws in a terminal; elsewhere give `pixel-orch status` without it, or logs -f RUN")
    with suppress(KeyboardInterrupt):
        if args.run:
            store = RunStore.open(home, args.run)
            watch(store, screen)
            screen.plain(summary_text(store, clock.now()).lstrip("\n"))
            return 0
        with live_text(screen, lambda width: _table_of_all(home, clock.now(), width)):
            while True:
                clock.sleep(WATCH_S)
    return 0


def _one(store: RunStore, now: float, output: str) -> None:
    row = StatusRow.of(store, now)
    if output == "json":
        print(json.dumps({**summary_json(store, now), "owner_pid": row.owner_pid, **_error_of(row)}))
        return
    print(summary_text(store, now).lstrip("\n"))
    if row.is_damaged:
        print(f"{store.folder / 'events.jsonl'} is damaged; remove it: pixel-orch runs prune {store.run}")
    elif not row.state.is_final:
        pid = row.owner_pid
        print(f"led by           {f'process {pid}' if pid else f'no process: pixel-orch attach {store.run}'}")


def _all(home: Path, now: float, output: str, *, is_plain: bool) -> None:
    rows, broken = read_all(home, lambda store: StatusRow.of(store, now))
    if output == "json":
        print(json.dumps([*(_json(row) for row in rows), *(one.as_json() for one in broken)]))
    elif not rows and not broken:
        print("no runs yet; start with: pixel-orch launch --cloud local --instance p2.xlarge --spot")
    else:
        _print_table(rows, broken, now, is_plain=is_plain)


def _table_of_all(home: Path, now: float, width: int) -> str:
    """Return the table of all runs for a terminal of so many columns, the open ones first."""
    rows, broken = read_all(home, lambda store: StatusRow.of(store, now))
    if not rows and not broken:
        return "no runs yet"
    rows.sort(key=lambda row: row.state.is_final)
    head, cells, _ = _cells_of_all(rows, broken, now)
    return table(head, cells, "STEP $ AGE", width=width - 1, drop=("CLOUD", "AGE", "TYPE", "PROCESS", "STEP"))


def _print_table(rows: list[StatusRow], broken: list[BrokenRun], now: float, *, is_plain: bool) -> None:
    head, cells, left = _cells_of_all(rows, broken, now)
    say(table(head, cells, "STEP $ AGE", drop=("CLOUD", "AGE", "TYPE", "PROCESS", "STEP")), is_plain=is_plain)
    remarks = [f"{row.store.run}: {defect}" for row in rows for defect in row.defects]
    for text in (*remarks, *(one.text for one in broken)):
        print(wrapped(text, prose_width(), indent="  "))
    if left:
        print(f"{counted(len(left), 'run')} that no process leads; take over with:")
        print(f"  pixel-orch attach {left[0] if len(left) == 1 else '--all'}")


def _cells_of_all(
    rows: list[StatusRow], broken: list[BrokenRun], now: float
) -> tuple[list[str], list[list[str]], list[str]]:
    """Return the head of the table, its cells, and the runs that no process leads."""
    head = ["RUN", "STATE", "CLOUD", "TYPE", "STEP", "$", "AGE", "PROCESS"]
    cells = [_cells(row, now) for row in rows]
    cells += [[one.run, UNREADABLE, *["-"] * (len(head) - 2)] for one in broken]
    left = [row.store.run for row, shown in zip(rows, cells, strict=False) if shown[-1] == "none"]
    if all(row[-1] == "-" for row in cells):  # no run is led
        head, cells = head[:-1], [row[:-1] for row in cells]
    return head, cells, left


def _error_of(row: StatusRow) -> dict[str, str]:
    return {"error": "; ".join(row.defects)} if row.defects else {}


def _json(row: StatusRow) -> dict[str, Any]:
    return {
        "run": row.store.run,
        "state": row.state.state,
        "reason": row.state.reason,
        "damaged": row.is_damaged,
        "cloud": row.state.cloud,
        "step": row.step,
        "attempts": len(generations_of(row.state)),
        "nodes": _nodes(row.state),
        "interruptions": row.state.interruptions,
        "cost_usd": float(row.cost_usd),
        "created_at": iso(row.state.created_at),
        "owner_pid": row.owner_pid,
        **_error_of(row),
    }


def _nodes(state: RunState) -> int:
    """Return how many machines train together in the newest attempt, 0 before there is one."""
    return next((one.nodes for one in generations_of(state)[-1:]), 0)


def _type_words(state: RunState) -> str:
    """Return the type of the newest machine, and of a group how many there are: `3 x g5.xlarge`."""
    nodes = _nodes(state)
    if not nodes or state.lead is None:
        return "-"
    return f"{nodes} x {state.lead.instance_type}" if nodes > 1 else state.lead.instance_type


def _cells(row: StatusRow, now: float) -> list[str]:
    state = row.state
    return [
        row.store.run,
        "DAMAGED" if row.is_damaged else state.state,
        "embedded" if state.cloud == EMBEDDED_TITLE else state.cloud,
        _type_words(state),
        str(row.step or "-"),
        ("~" if row.is_estimate else "") + money(row.cost_usd),
        span(now - state.created_at),
        "-" if state.is_final or row.is_damaged else str(row.owner_pid or "none"),
    ]
