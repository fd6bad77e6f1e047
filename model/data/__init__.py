"""Data sets on their way to a step: where they lie, and in which order a training sees them."""

from model.data.dataset import Dataset, Prepared, load
from model.data.shuffle import batch_indices

__all__ = ["Dataset", "Prepared", "batch_indices", "load"]
