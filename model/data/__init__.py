"""The data sets: how they are prepared, where they lie, and in which order a training sees them."""

from model.data.batches import batch_indices
from model.data.dataset import Dataset, Prepared, load

__all__ = ["Dataset", "Prepared", "batch_indices", "load"]
