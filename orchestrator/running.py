"""Looking at runs: status, logs, report."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from orchestrator import world
from orchestrator.clock import SystemClock, iso
from orchestrator.events import RunState
from orchestrator.records import row_of
from orchestrator.store import RunStore, home_from_environment
from orchestrator.summary import summary_json, summary_text
from orchestrator.terminal import money, span, table

# -- looking


def status(args: argparse.Namespace) -> int:
    """Do `pixel-orch status`: all runs, or one in full."""
    home, now = home_from_environment(), SystemClock().now()
    if args.run:
        store = RunStore.open(home, args.run)
        if args.output == "json":
            print(json.dumps({**summary_json(store, now), "owner_pid": store.owner_pid()}))
        else:
            print(summary_text(store, now).lstrip("\n"))
            print(f"looked after by  {_owner_words(store, store.state())}")
        return 0
    rows = [(store, store.state()) for store in RunStore.all(home)]
    if args.output == "json":
        print(json.dumps([_status_json(store, state, now) for store, state in rows]))
    elif not rows:
        print("no runs yet; begin with: pixel-orch launch --cloud local --instance p2.xlarge --spot")
    else:
        head = ["RUN", "STATE", "CLOUD", "TYPE", "STEP", "$", "AGE", "OWNER"]
        cells = [_status_row(*r, now) for r in rows]
        if all(row[-1] == "-" for row in cells):  # nothing runs: nobody owns anything
            head, cells = head[:-1], [row[:-1] for row in cells]
        print(table(head, cells, "STEP $ AGE"))
    return 0


def _status_json(store: RunStore, state: RunState, now: float) -> dict[str, Any]:
    row = row_of(store, now)
    return {
        "run": store.run,
        "state": state.state,
        "reason": state.reason,
        "cloud": state.cloud,
        "step": row.steps,
        "attempts": len(row.attempts),
        "interruptions": row.interruptions,
        "cost_usd": float(row.cost_usd),
        "created_at": iso(state.created_at),
        "owner_pid": store.owner_pid(),
    }


def _status_row(store: RunStore, state: RunState, now: float) -> list[str]:
    row = row_of(store, now)
    kind = row.attempts[-1].instance_type if row.attempts else "-"
    cloud = "embedded" if state.cloud == world.EMBEDDED_TITLE else state.cloud
    cost = ("~" if row.is_estimate else "") + money(row.cost_usd)
    return [
        store.run,
        state.state,
        cloud,
        kind,
        str(row.steps),
        cost,
        span(now - state.created_at),
        _owner_words(store, state),
    ]


def _owner_words(store: RunStore, state: RunState) -> str:
    if state.is_final:
        return "-"
    pid = store.owner_pid()
    return f"process {pid}" if pid else "nobody: pixel-orch attach"


def logs(args: argparse.Namespace) -> int:
    """Do `pixel-orch logs`: the trainer's output of all attempts; with -f also what is still to come."""
    store = RunStore.open(home_from_environment(), args.run)
    clock = SystemClock()
    sent: dict[Path, int] = {}
    try:
        while True:
            is_over = store.state().is_final or store.owner_pid() is None
            for attempt in store.state().attempts:
                path = store.attempt_folder(attempt.number) / "trainer.log"
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
