"""`orchestrator.log(step, loss=...)`: one line of metrics for the run. Outside of a run it does nothing.

Standard library only, Python 3.8 and later: on an instance this file is the package `orchestrator`.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

OUT = "PIXEL_ORCH_OUT"  # the folder of the run's outputs; not set outside of a run
RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")  # of a program of several processes: the first one logs


def log(step: int | None = None, **values: Any) -> None:
    """Write measurements to the run's metrics: `log(step, loss=0.5, accuracy=0.9)`.

    It never ends a training: what is no number is left out, and a full disk is passed over.

    Args:
        step: steps done so far; without one, give `epoch`.
        values: numbers, or what `float()` makes one of: a tensor of one element.
    """
    out = os.environ.get(OUT)
    if not out or any(os.environ.get(name, "0") != "0" for name in RANKS):
        return
    line: dict[str, Any] = {} if step is None else {"step": int(step)}
    line["time"] = time.time()
    for name, value in values.items():
        if isinstance(value, (str, bytes)):
            continue
        try:
            line[name] = value if type(value) in (int, float) else float(value)
        except (TypeError, ValueError, RuntimeError):
            continue
    data = json.dumps(line).encode() + b"\n"
    try:
        file = os.open(os.path.join(out, "metrics.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, data)  # whole: other processes of the program may write between two lines, not into one
        finally:
            os.close(file)
    except OSError:
        pass
