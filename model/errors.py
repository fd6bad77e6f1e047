"""The errors of the trainer, by what they mean for the caller."""

from __future__ import annotations

import re


class SetupError(ValueError):
    """A setting, a file or a folder is unusable. The message is one line: what, where, what to do. Exit code 2."""


class ConfigError(SetupError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(SetupError):
    """The data set is missing, damaged or unreadable."""


class CheckpointError(SetupError):
    """A checkpoint is missing, damaged, of a newer format, or of another network."""


class NewerCheckpointError(CheckpointError):
    """A checkpoint has a format of a later version. It is whole, and must not be replaced."""


class TrainingError(RuntimeError):
    """The training failed, for example because the loss is not finite. Exit code 1."""


class DivergedError(TrainingError):
    """A loss, a gradient or the state of a training is not finite. The message has no advice yet."""


RANK_LOST = 75
"""Exit code of a process that ends only because another process of its training was lost."""


class RankLostError(RuntimeError):
    """Another process of the training was lost: the cause is told there. Exit code `RANK_LOST`."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether the error is a failed allocation in torch, numpy or Python.

    Torch's errors are recognised by type name and message, because this module does not import torch.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, (TrainingError, RankLostError)):  # already reported, with a message about memory of its own
        return False
    signs = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def wanted_memory(error: BaseException) -> str:
    """Return the size of a failed allocation as ` (allocating 2.00 GiB)`; empty if the error does not give it."""
    found = re.search(r"allocate ([\d.]+ \w+)", str(error))
    return f" (allocating {found[1]})" if found else ""
