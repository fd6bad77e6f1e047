"""A new generation of a group on a machine that stays: what ran for the earlier one ends, and its log is moved aside.

The files of the program stay where they are. Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from infra.instance.deadline import steady

GIVE_WAY_S = 20.0  # for the watch process to end itself and the trainer
LOOK_S = 0.05
OF_AN_EARLIER_ONE = (  # below the run's folder
    "out/trainer.log",
    "out/metrics.jsonl",
    "agent/state.json",
    "agent/stop",
    "agent/end",
    "agent/gpu.csv",
    "agent/metrics.json",
    "agent/metrics.jsonl",
    "agent/metrics.begin.json",
    "agent/s3.json",
    "notice.json",
)


def generation_of(root: str) -> int:
    """Return the generation whose trainer was started here last, 0 for none."""
    try:
        with open(os.path.join(root, "agent", "generation")) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def note_generation(root: str, generation: int) -> None:
    """Write down for which generation the trainer is started."""
    with open(os.path.join(root, "agent", "generation"), "w") as file:
        file.write("%d" % generation)


def is_asked(root: str) -> bool:
    """Return whether the watch process is to give way to one of a later generation."""
    return os.path.exists(os.path.join(root, "agent", "renew"))


def renew(root: str, generation: int, is_watched: Callable[[str], bool]) -> dict[str, Any]:
    """End what runs for an earlier generation; return whether there was something to end. A second call ends nothing.

    Args:
        root: the run's folder.
        generation: the new one.
        is_watched: whether a watch process runs; it ends the trainer before it ends.
    """
    earlier = generation_of(root)
    if earlier >= generation or not os.path.isdir(os.path.join(root, "agent")):
        return {"renewed": False}
    asked = os.path.join(root, "agent", "renew")
    with open(asked, "w"):
        pass
    give_up_at = steady() + GIVE_WAY_S
    while is_watched(root):
        if steady() > give_up_at:
            raise SystemExit("renew: the watch process of generation %d does not end" % earlier)
        time.sleep(LOOK_S)
    aside = os.path.join(root, "agent", "generation-%d" % earlier)
    os.makedirs(aside, exist_ok=True)
    for name in OF_AN_EARLIER_ONE:
        path = os.path.join(root, name)
        if os.path.lexists(path):
            os.replace(path, os.path.join(aside, name.replace("/", "-")))
    os.unlink(asked)
    return {"renewed": True}
