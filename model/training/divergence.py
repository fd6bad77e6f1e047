"""What is left when a training has diverged: which checkpoint the next start resumes from, and the advice.

A state is saved only if it is finite. A finite state can be lost as well: its weights grow, its nats leave every bound,
and the loss becomes nan some steps later, also with a lower learning rate. A checkpoint whose last nats are worse than
`WORSE_THAN_GUESSING` times those of a uniform guess is worth less than new weights. It is set aside, not deleted.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from pathlib import Path

from model.config import TrainConfig
from model.errors import CheckpointError, TrainingError
from model.training import checkpoint as checkpoints
from model.training.checkpoint import Checkpoint

WORSE_THAN_GUESSING = 2.0
SET_ASIDE = "diverged"


def explained(error: Exception, config: TrainConfig, out: Path, refused: Collection[str]) -> TrainingError:
    """Set diverged checkpoints aside, and return the error with the checkpoint that a next start resumes from.

    Args:
        error: what is not finite, and at which step.
        config: the settings.
        out: folder of the checkpoints.
        refused: names of the checkpoints that are not read.
    """
    good, moved = fall_back(out, config, refused)
    lost = "".join(f"; {name} had diverged already and is now {name}.{SET_ASIDE}" for name in moved)
    rate = f"lower learning_rate (now {config.learning_rate:g}) and run again"
    if good is None:
        return TrainingError(f"{error}{lost}; there is no good checkpoint: {rate}, to start at step 0")
    return TrainingError(f"{error}{lost}; the last good checkpoint is {good}: {rate}, to resume from it")


def fall_back(out: Path, config: TrainConfig, refused: Collection[str] = ()) -> tuple[str | None, list[str]]:
    """Set the newest checkpoints aside until one has not diverged; return its name, and the names of the others."""
    moved: list[str] = []
    for step in reversed(checkpoints.steps_in(out)):
        path = checkpoints.path_of(out, step)
        if path.name in refused:
            continue
        try:
            saved = checkpoints.load(path)
        except CheckpointError as error:
            print(f"refused: {error}", file=sys.stderr)
            continue
        if not has_diverged(saved, config):
            return path.name, moved
        checkpoints.set_aside(path, SET_ASIDE)
        moved.append(path.name)
    return None, moved


def has_diverged(saved: Checkpoint, config: TrainConfig) -> bool:
    """Return whether a state is not finite, or its last known nats are far worse than those of a uniform guess."""
    if checkpoints.part_not_finite(saved) is not None:
        return True
    progress, valid = saved.progress, saved.progress["valid"]
    known = [progress.get("nats")]
    if progress["window_steps"]:
        known.append(progress["window_sum"] / progress["window_steps"])
    if valid is not None and valid[0] == saved.step:
        known.append(valid[1])
    worst = WORSE_THAN_GUESSING * config.data.dims * math.log(config.data.levels)
    return any(nats is not None and not nats <= worst for nats in known)
