"""Exports a run in a process of its own.

A tracker's library imports much, starts threads and processes, and may hang: none of it comes into the process that
leads a machine, or into a notebook.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from orchestrator.export.names import without_login
from orchestrator.export.trackers import Exported
from orchestrator.runs.store import RunStore

TIMEOUT_S = 120.0  # the process that leads the run waits for it, and holds the run's lock meanwhile


def export_elsewhere(store: RunStore, tracker: str, timeout_s: float = TIMEOUT_S) -> Exported:
    """Run `pixel-orch export` and return what came of it. Raises nothing that a tracker can cause.

    Args:
        store: of the run.
        tracker: its name.
        timeout_s: then the process is killed.
    """
    root = str(Path(__file__).parents[2])
    own = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PIXEL_ORCH_HOME": str(store.home),
        "PYTHONPATH": f"{root}{os.pathsep}{own}" if own else root,
    }
    words = [sys.executable, "-m", "orchestrator.cli", "export", store.run, "--to", tracker, "-o", "json"]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            cwd="/",  # in the folder of a program a file of it could be taken for a package
            start_new_session=True,  # Ctrl-C is for the run
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Exported(tracker, problem=f"no answer within {timeout_s:.0f} s")
    except OSError as error:
        return Exported(tracker, problem=error.strerror or str(error))
    return _answer(tracker, done)


def _answer(tracker: str, done: subprocess.CompletedProcess[bytes]) -> Exported:
    last = done.stdout.decode(errors="replace").strip().rpartition("\n")[2]
    with suppress(ValueError, KeyError, IndexError, TypeError):
        found = json.loads(last)["exports"][0]
        return Exported(tracker, place=str(found.get("place") or ""), problem=str(found.get("problem") or ""))
    said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    said = said.removeprefix("pixel-orch export: error: ")
    return Exported(tracker, problem=without_login(said)[:300] or f"the process ended with {done.returncode}")
