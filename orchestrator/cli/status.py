"""`status` shows runs, `logs` prints the output of their trainers."""

from __future__ import annotations

import argparse
import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

from orchestrator.clock import SystemClock, iso
from orchestrator.formatting import counted, money, span, table
from orchestrator.market.billing import bill, total_usd
from orchestrator.report.summary import steps_done, summary_json, summary_text
from orchestrator.runs.home import home_from_environment
from orchestrator.runs.spec import EMBEDDED_TITLE
from orchestrator.runs.state import RunState
from orchestrator.runs.store import RunStore


def status(args: argparse.Namespace) -> int:
    """Do `pixel-orch status`: all runs, or one in full."""
    home, now = home_from_environment(), SystemClock().now()
    if args.run:
        store = RunStore.open(home, args.run)
        if args.output == "json":
            print(json.dumps({**summary_json(store, now), "owner_pid": store.owner_pid()}))
        else:
            print(summary_text(store, now).lstrip("\n"))
            if store.is_damaged():
                print(f"{store.folder / 'events.jsonl'} is damaged; remove it: pixel-orch runs prune {store.run}")
            elif not store.state().is_final:
                pid = store.owner_pid()
                print(f"led by           {f'process {pid}' if pid else f'no process: pixel-orch attach {store.run}'}")
        return 0
    rows = [(store, store.state()) for store in RunStore.all(home)]
    if args.output == "json":
        print(json.dumps([_status_json(store, state, now) for store, state in rows]))
    elif not rows:
        print("no runs yet; start with: pixel-orch launch --cloud local --instance p2.xlarge --spot")
    else:
        head = ["RUN", "STATE", "CLOUD", "TYPE", "STEP", "$", "AGE", "PROCESS"]
        cells = [_status_row(*r, now) for r in rows]
        if all(row[-1] == "-" for row in cells):  # no run is led
            head, cells = head[:-1], [row[:-1] for row in cells]
        print(table(head, cells, "STEP $ AGE", drop=("CLOUD", "AGE", "TYPE", "PROCESS", "STEP")))
        left = [store.run for (store, _), row in zip(rows, cells, strict=True) if row[-1] == "none"]
        if left:
            print(f"{counted(len(left), 'run')} that no process leads; take over with:")
            print(f"  pixel-orch attach {left[0] if len(left) == 1 else '--all'}")
    return 0


def _status_json(store: RunStore, state: RunState, now: float) -> dict[str, Any]:
    return {
        "run": store.run,
        "state": state.state,
        "reason": state.reason,
        "damaged": store.is_damaged(),
        "cloud": state.cloud,
        "step": steps_done(store, state),
        "attempts": len(state.attempts),
        "interruptions": state.interruptions,
        "cost_usd": float(total_usd(state.attempts, now)),
        "created_at": iso(state.created_at),
        "owner_pid": store.owner_pid(),
    }


def _status_row(store: RunStore, state: RunState, now: float) -> list[str]:
    bills = [bill(attempt, now) for attempt in state.attempts]
    cost = sum((each.usd for each in bills), Decimal(0))
    return [
        store.run,
        "DAMAGED" if store.is_damaged() else state.state,
        "embedded" if state.cloud == EMBEDDED_TITLE else state.cloud,
        state.attempts[-1].instance_type if state.attempts else "-",
        str(steps_done(store, state)),
        ("~" if any(each.is_estimate for each in bills) else "") + money(cost),
        span(now - state.created_at),
        _owner_word(store, state),
    ]


def _owner_word(store: RunStore, state: RunState) -> str:
    return "-" if state.is_final or store.is_damaged() else str(store.owner_pid() or "none")


def logs(args: argparse.Namespace) -> int:
    """Do `pixel-orch logs`: the trainer's output of all attempts; -f follows it."""
    store = RunStore.open(home_from_environment(), args.run)
    clock = SystemClock()
    sent: dict[Path, int] = {}
    try:
        while True:
            is_over = store.state().is_final or store.owner_pid() is None
            for attempt in store.state().attempts:
                path = store.log_path(attempt.number)
                sent[path] = _print_from(path, sent.get(path, 0))
            if not args.follow or is_over:
                return 0
            clock.sleep(0.3)
    except KeyboardInterrupt:
        return 130


def _print_from(path: Path, offset: int) -> int:
    if not path.exists():
        return offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return offset + len(data)
