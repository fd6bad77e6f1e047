"""`export`: writes runs into MLflow, Weights & Biases or TensorBoard."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from orchestrator.cli.console import say_error
from orchestrator.clock import SystemClock
from orchestrator.errors import SpecError
from orchestrator.export.trackers import TRACKERS, ExportError, check_trackers, export, folder_note
from orchestrator.runs.home import home_from_environment
from orchestrator.runs.store import RunStore


def do_export(args: argparse.Namespace) -> int:
    """Do `pixel-orch export`: write runs into trackers; return 1 if one does not take a run."""
    home, now = home_from_environment(), SystemClock().now()
    stores = [RunStore.open(home, run) for run in dict.fromkeys(args.runs)]
    wanted = {store.run: check_trackers(args.to or store.spec().program.export, flag="--to") for store in stores}
    for run, trackers in wanted.items():
        if not trackers:
            raise SpecError(f"--to is missing; {run} was launched without --export: give --to {' or '.join(TRACKERS)}")
    told = []
    for store in stores:
        for tracker in wanted[store.run]:
            place = problem = ""
            try:
                with _unheard():
                    place = export(store, tracker, now)
            except ExportError as error:
                problem = str(error)
                say_error(f"pixel-orch export: error: {store.run}: {tracker}: {problem}")
            told.append({"run": store.run, "tracker": tracker, "place": place or None, "problem": problem or None})
            if place and args.output == "table":
                print(f"{store.run}: {tracker}: {place}")
    if args.output == "json":
        print(json.dumps({"exports": told}))
    elif any(one["tracker"] == "tensorboard" and one["place"] for one in told):
        print(folder_note("tensorboard", home))
    return 1 if any(one["problem"] for one in told) else 0


@contextmanager
def _unheard() -> Iterator[None]:
    """Let what a tracker's library prints go to standard error: standard output is for programs."""
    with redirect_stdout(sys.stderr):
        yield
