"""`python -m orchestrator.engine.background RUN VERB FD`: leads a run without a terminal; it writes `engine.log`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import get_args

from orchestrator.clock import SystemClock
from orchestrator.cloud.connect import cloud_of
from orchestrator.engine.lead import lead
from orchestrator.engine.progress_lines import ProgressLines
from orchestrator.errors import PixelOrchError
from orchestrator.formatting import visible
from orchestrator.plan.launch_preparation import Verb, prepare_existing_run
from orchestrator.report.summary import summary_text
from orchestrator.runs.home import home_from_environment
from orchestrator.runs.lock import RunLock
from orchestrator.runs.store import RunStore


def main(name: str, verb: Verb, lock: RunLock) -> int:
    """Lead a run that exists; return 0 if all its steps are done.

    Args:
        name: of the run.
        verb: what is done with it.
        lock: of the run, inherited from the process that started this one.
    """
    os.set_inheritable(lock.descriptor, False)  # a helper that outlives this process must not hold it
    lock.sign(starting=True)
    store = RunStore.open(home_from_environment(), name)
    spec, clock = store.spec(), SystemClock()
    with cloud_of(spec, store.home) as cloud:
        run = replace(prepare_existing_run(store, cloud, verb), lock=lock)
        failure = lead(run, watchers=(ProgressLines(_say, spec.steps, clock, store.events()),), say=_say)
    if failure is not None:
        _say(f"{name}: {failure}")
    _say(summary_text(store, clock.now()))
    return failure.exit_code if failure is not None else 0


def _say(text: str) -> None:
    print(visible(text), flush=True)


if __name__ == "__main__":
    run_name, asked, descriptor = sys.argv[1:]
    found = next(verb for verb in get_args(Verb) if verb == asked)
    try:
        sys.exit(main(run_name, found, RunLock(int(descriptor))))
    except PixelOrchError as error:
        sys.exit(f"{run_name}: {error}")
