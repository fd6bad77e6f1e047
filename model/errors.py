"""What can go wrong in the trainer, by what it means for the caller."""

from __future__ import annotations


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
