"""The names of the policies. Imports nothing: flags and files are checked where numpy may be missing."""

from __future__ import annotations

from typing import Literal, get_args

Name = Literal[
    "planned", "uniform-progress", "uniform-progress-lowered", "time-sliced", "greedy", "on-demand", "spot"
]  # fmt: skip
NAMES: tuple[str, ...] = get_args(Name)
