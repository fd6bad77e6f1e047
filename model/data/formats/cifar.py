"""Reads CIFAR-10 (Krizhevsky 2009): the binary version, and the pickles by an unpickler limited to arrays."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.manifest import Image
from model.data.source import Arrays, InMemory, Pixels, check_labels, quantised
from model.errors import DataError

SIDE, CLASSES = 32, 10
VALUES = 3 * SIDE * SIDE
RECORD = 1 + VALUES
BINARY = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
PICKLES = tuple(name.removesuffix(".bin") for name in BINARY)
# All that a pickle of numpy arrays needs, by the module names of old and new numpy versions.
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def read(files: Mapping[str, tuple[str, bytes]], *, holdout: int = 0, levels: int = 256) -> InMemory:
    """Read the six batches of either version.

    Args:
        files: (name for messages, content) of each batch by its published name.
        holdout: number of training images at the end to use for validation.
        levels: K, the number of levels to quantise to.

    Raises:
        DataError: a batch is damaged or has content that is not allowed.
    """
    names = BINARY if set(BINARY) <= files.keys() else PICKLES
    batches = [(_binary_batch if names is BINARY else pickled_batch)(*files[name]) for name in names]
    images = [quantised(part, levels) for part, _ in batches]
    labels = [part for _, part in batches]
    train, train_labels = np.concatenate(images[:-1]), np.concatenate(labels[:-1])
    if not 0 <= holdout < len(train):
        raise DataError(f"--holdout {holdout} is outside 0 to {len(train) - 1:,} (of {len(train):,} training images)")
    cut = len(train) - holdout
    parts = [Arrays("train", train[:cut], train_labels[:cut])]
    if holdout:
        parts.append(Arrays("valid", train[cut:], train_labels[cut:]))
    parts.append(Arrays("test", images[-1], labels[-1]))
    recipe: dict[str, Any] = {"levels": levels, "holdout": holdout}
    return InMemory(Image(SIDE, SIDE, 3, levels), parts, recipe)


def _binary_batch(name: str, content: bytes) -> tuple[Pixels, NDArray[np.uint8]]:
    """Read records of a label byte and 1,024 red, 1,024 green and 1,024 blue bytes."""
    if not content or len(content) % RECORD:
        raise DataError(
            f"{name} is cut off: it ends at byte {len(content)}, which is not a multiple of {RECORD} (one image)"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    labels = records[:, 0].copy()
    check_labels(labels, CLASSES - 1, name, 0, RECORD)
    return _pixels(records[:, 1:]), labels


def pickled_batch(name: str, content: bytes) -> tuple[Pixels, NDArray[np.uint8]]:
    """Read one batch of the Python version.

    Raises:
        DataError: the content is not a batch.
    """
    batch = unpickle(name, content)
    data: Any = batch.get(b"data")
    labels: Any = batch.get(b"labels")
    fits = (
        isinstance(data, np.ndarray)
        and data.dtype == np.uint8
        and data.ndim == 2
        and data.shape[1] == VALUES
        and isinstance(labels, list)
        and len(labels) == len(data)
        and all(type(label) is int for label in labels)
    )
    if not fits:
        raise DataError(f"{name} is not a batch of CIFAR-10: it needs 'data' of N x {VALUES} bytes and N 'labels'")
    wrong = [index for index, label in enumerate(labels) if not 0 <= label < CLASSES]
    if wrong:
        raise DataError(f"{name}: image {wrong[0]}: label {labels[wrong[0]]} is outside 0 to {CLASSES - 1}")
    return _pixels(data), np.array(labels, np.uint8)


def _pixels(planes: NDArray[np.uint8]) -> Pixels:
    return np.ascontiguousarray(planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))


def unpickle(name: str, content: bytes) -> dict[Any, Any]:
    """Read a pickle of plain values and arrays.

    Raises:
        DataError: the pickle refers to anything else, or is damaged.
    """
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except pickle.UnpicklingError as error:
        raise DataError(f"{name}: {error}; not read") from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle can raise any exception
        raise DataError(f"{name} is damaged or is not a pickle ({type(error).__name__}); not read") from None
    if not isinstance(batch, dict):
        raise DataError(f"{name} holds a {type(batch).__name__}, not a batch; not read")
    return batch


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"the pickle refers to {module}.{name}, which a data set does not need")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("the pickle refers to an external object")
