"""`python -m orchestrator.engine.background RUN VERB`: leads a run without a terminal; its output is `engine.log`."""

from __future__ import annotations

import sys
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
from orchestrator.runs.store import RunStore


def main(name: str, verb: Verb) -> int:
    """Lead a run that exists; return 0 if all its steps are done."""
    store = RunStore.open(home_from_environment(), name)
    spec, clock = store.spec(), SystemClock()
    with cloud_of(spec, store.home) as cloud:
        run = prepare_existing_run(store, cloud, verb)
        failure = lead(run, watchers=(ProgressLines(_say, spec.steps, clock),), say=_say)
    if failure is not None:
        _say(f"{name}: {failure}")
    _say(summary_text(store, clock.now()))
    return failure.exit_code if failure is not None else 0


def _say(text: str) -> None:
    print(visible(text), flush=True)


if __name__ == "__main__":
    run_name, asked = sys.argv[1:]
    found = next(verb for verb in get_args(Verb) if verb == asked)
    try:
        sys.exit(main(run_name, found))
    except PixelOrchError as error:
        sys.exit(f"{run_name}: {error}")
