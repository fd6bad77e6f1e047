"""Data sets: reading the prepared images, and the order in which training uses them."""

from model.data.dataset import Dataset, Prepared, load
from model.data.shuffle import batch_indices

__all__ = ["Dataset", "Prepared", "batch_indices", "load"]
