"""What nvidia-smi says of a GPU, in words: how busy it was, and whether something else is the limit. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.formatting import one_line
from orchestrator.runs.checked import is_figure

LEAST_LOOKS = 24  # of 5 s each: two minutes, which the start of a program does not fill
IDLE_PERCENT = 50.0  # a GPU that is less busy waits, for data or for the processor


def gpu_words(facts: Mapping[str, Any]) -> str:
    """Return the use of a GPU over the time of its trainer: `Tesla T4, 34 % busy, at most 5.1 of 15.0 GiB`."""
    use, most, total = (facts.get(key) for key in ("utilization_percent", "memory_peak_mib", "memory_total_mib"))
    if not is_figure(use):
        return ""
    name = one_line(str(facts.get("name") or "GPU"))[:60]
    memory = f", at most {most / 1024:.1f} of {total / 1024:.1f} GiB" if is_figure(most) and is_figure(total) else ""
    return f"{name}, {use:.0f} % busy{memory}"


def gpu_problem(facts: Mapping[str, Any]) -> str:
    """Return what a GPU that is hardly busy means, "" for one that is busy, or was not looked at for long."""
    use, looks = facts.get("utilization_percent"), facts.get("looks")
    if not is_figure(use) or not is_figure(looks) or looks < LEAST_LOOKS or use >= IDLE_PERCENT:
        return ""
    return f"the GPU was {use:.0f} % busy: the limit is elsewhere, mostly in the loading of data"
