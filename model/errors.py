"""What can go wrong in the trainer, by what it means for the caller."""

from __future__ import annotations

import re


class SetupError(ValueError):
    """It cannot work as asked: a setting, a file or a folder. One line: what, where, what to do. Exit code 2."""


class ConfigError(SetupError):
    """A setting that is unknown, of the wrong type or out of range."""


class DataError(SetupError):
    """The data set cannot be had."""


class CheckpointError(SetupError):
    """A checkpoint that is missing, damaged, too new, or of another network."""


class TrainingError(RuntimeError):
    """The training itself failed, such as a loss that is not finite. Exit code 1."""


def out_of_memory(error: BaseException) -> bool:
    """Say whether torch, numpy or Python asked for memory in vain. By its words: torch is not imported here."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    signs = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def wanted_memory(error: BaseException) -> str:
    """Say how much was asked for, as far as the error says it: `, 2.00 GiB were asked for`."""
    found = re.search(r"allocate ([\d.]+ \w+)", str(error))
    return f", {found[1]} were asked for" if found else ""
