"""The settings of a training, and what is known of data sets, costs and checkpoints without torch or numpy.

This is all that the orchestrator may import of the trainer: a laptop that rents machines has neither.
"""

from model.config.checkpoint_header import Peeked, peek
from model.config.cost import FLOAT_BYTES, Cost, cost_of
from model.config.data_recipe import checked, words_of
from model.config.datasets import DATASETS, REGISTRY, DatasetFacts
from model.config.train_config import (
    MODELS,
    TrainConfig,
    config_from_settings,
    load_config,
    network_mismatch,
    parse_assignments,
    settled,
)

__all__ = [
    "MODELS",
    "TrainConfig",
    "config_from_settings",
    "load_config",
    "network_mismatch",
    "parse_assignments",
    "settled",
    "DATASETS",
    "REGISTRY",
    "DatasetFacts",
    "checked",
    "words_of",
    "FLOAT_BYTES",
    "Cost",
    "cost_of",
    "Peeked",
    "peek",
]
