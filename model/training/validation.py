"""Validation during a training, shared by its processes."""

from __future__ import annotations

from itertools import zip_longest

import torch
from torch import Tensor

from model.data import Dataset, Prepared
from model.errors import TrainingError, out_of_memory, wanted_memory
from model.networks.build import evaluation_batch
from model.networks.likelihood import Score, nats_of_all, score
from model.training.state import Training
from model.training.stop import StopFlag, Stopped


def validate(run: Training, data: Dataset | Prepared, stop: StopFlag) -> Score:
    """Score the validation images.

    Each rank scores every W-th batch. The batches are those of a process alone and their nats are averaged in the order
    of the images, so that the result does not depend on the number of ranks.

    Raises:
        Stopped: a stop was requested on some rank; it is raised on all of them.
        TrainingError: memory runs out.
    """
    config, group = run.config, run.group
    size = group.from_first(evaluation_batch(config, run.memory_bytes))

    def check() -> None:
        stop.check()
        group.keep_waiting()

    def scored() -> list[Tensor]:
        batches = run.feed.eval_batches(data.eval_split("valid"), size, config.validate_images, check_stop=check)
        return [nats_of_all(run.eval_net, [batch], before_batch=check).sum(dim=1) for batch in batches]

    own: list[Tensor] | None
    try:
        try:
            own = scored()
        except RuntimeError as error:
            if not (run.gradients.recorded and out_of_memory(error)):
                raise
            run.gradients.release()  # the recorded step keeps its buffers
            own = scored()
    except Stopped:
        own = None
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(
            f"out of memory in a validation with {size} images at a time{wanted_memory(error)}; "
            "lower hidden, layers or head, or use a device with more memory"
        ) from None
    by_rank = group.of_all_or_stop(own)
    in_order = [nats for turn in zip_longest(*by_rank) for nats in turn if nats is not None]
    return score(torch.cat(in_order), config.data.dims)
