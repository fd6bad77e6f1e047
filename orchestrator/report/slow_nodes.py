"""Which machine of a group is slower than the others: the group goes at the pace of its slowest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator.runs import bounded_json
from orchestrator.runs.checked import is_figure
from orchestrator.runs.files import open_regular

SLOWER = 1.2  # times the median of the machines
MOST_LINES = 50  # the newest measurements
TAIL_BYTES = 1 << 17


@dataclass(frozen=True)
class SlowNode:
    """A machine of a group that takes longer for its part of a step than the others do."""

    rank: int
    step_s: float  # the time that its slowest GPU computes in a step
    median_s: float  # of the machines

    @property
    def words(self) -> str:
        """What a person reads: `node 2 is slow: 0.61 s of a step, the median is 0.4 s (+52 %)`."""
        more = 100 * (self.step_s / self.median_s - 1)
        took = f"{self.step_s:.3g} s of a step, the median is {self.median_s:.3g} s"
        return f"node {self.rank} is slow: {took} (+{more:.0f} %)"


def slow_nodes(metrics_path: Path, nodes: int) -> tuple[SlowNode, ...]:
    """Return the slow machines of a group, by rank; none where its metrics do not tell each GPU's seconds.

    Args:
        metrics_path: the metrics of its first machine. Only their end is read.
        nodes: how many machines trained together.
    """
    if nodes < 2:
        return ()
    try:
        with open_regular(metrics_path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return ()
    told = [seconds for line in bounded_json.objects(lines) if (seconds := _by_node(line.get("rank_s"), nodes))]
    return slow_of(told[-MOST_LINES:])


def slow_of(told: Sequence[Sequence[float]]) -> tuple[SlowNode, ...]:
    """Return the slow machines of a group from the seconds of some measurements, each by machine. Pure."""
    if not told:
        return ()
    usual = [median(one) for one in zip(*told, strict=True)]
    middle = median(usual)
    return tuple(
        SlowNode(rank, seconds, middle)
        for rank, seconds in enumerate(usual)
        if middle > 0 and seconds >= SLOWER * middle
    )


def _by_node(rank_s: Any, nodes: int) -> list[float]:
    """Return the seconds of each machine's slowest process; [] where the line does not tell them."""
    if not isinstance(rank_s, list) or not rank_s or len(rank_s) % nodes:
        return []
    if not all(is_figure(value) for value in rank_s):
        return []
    slots = len(rank_s) // nodes
    return [max(rank_s[node * slots : (node + 1) * slots]) for node in range(nodes)]
