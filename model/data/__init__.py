"""The data sets, each as three arrays of uint8 levels."""

from model.data.batches import batch_indices
from model.data.dataset import Dataset, load

__all__ = ["Dataset", "batch_indices", "load"]
