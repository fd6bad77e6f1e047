"""The settings of a training, the data set registry, cost estimates and checkpoint headers, without torch or numpy.

With `model.errors` this is the only part of the trainer that the orchestrator may import: a laptop that rents
instances need not have torch or numpy installed.
"""

from model.config.checkpoint_header import FORMAT, Peeked, inspect, peek
from model.config.cost import Cost, cost_of
from model.config.data_recipe import checked, words_of
from model.config.datasets import DATASETS, REGISTRY, DatasetFacts
from model.config.groups import FLOAT_BYTES
from model.config.train_config import (
    MODELS,
    TrainConfig,
    check_world,
    config_from_settings,
    load_config,
    network_mismatch,
    parse_assignments,
    resolved,
)

__all__ = [
    "MODELS",
    "TrainConfig",
    "check_world",
    "config_from_settings",
    "load_config",
    "network_mismatch",
    "parse_assignments",
    "resolved",
    "DATASETS",
    "REGISTRY",
    "DatasetFacts",
    "checked",
    "words_of",
    "FLOAT_BYTES",
    "Cost",
    "cost_of",
    "FORMAT",
    "Peeked",
    "inspect",
    "peek",
]
