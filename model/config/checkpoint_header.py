"""Step and settings of a checkpoint, read without torch: a laptop that rents instances need not have it.

A checkpoint comes from a rented machine or from a bucket, so that it may be anybody's. `inspect` looks at it before
anything is unpacked: torch stores the parts of its archive as they are, so that what a file declares is never larger
than the file. A part that is compressed, parts that overlap, a tensor larger than its data, and code are refused.

The digest is not verified here: the trainer verifies it when it loads the checkpoint.
"""

from __future__ import annotations

import collections
import io
import math
import os
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from model.errors import CheckpointError, NewerCheckpointError

FORMAT = 2  # of the checkpoints that this version writes; 1 had no `ema`
LARGEST_HEAD_BYTES = 8 << 20  # of the pickled part: everything but the tensors' data; 1 MB for 5,000 tensors
LARGEST_DIRECTORY_BYTES = 16 << 20  # of the archive, which names each tensor's data
FORMAT_WITHIN_BYTES = 4096  # of the pickled part
MOST_VALUES = 200_000  # in the pickled part, each counted as often as it is reached
LONGEST_SETTING = 4096  # characters
ITEM_BYTES = {
    "BFloat16Storage": 2,
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8,
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "IntStorage": 4,
    "LongStorage": 8,
    "ShortStorage": 2,
    "UntypedStorage": 1,
}
"""Bytes of one value by the name of torch's class of storage."""


@dataclass(frozen=True)
class Peeked:
    """Step and settings of a checkpoint."""

    step: int
    config: dict[str, Any]


def peek(path: Path) -> Peeked:
    """Read step and settings of a checkpoint of the bundled trainer.

    Raises:
        NewerCheckpointError: a later version of pixel-orch wrote it.
        CheckpointError: the file is not a checkpoint, is damaged or truncated, or would not be safe to unpack.
    """
    content = inspect(path)
    try:
        payload = content["payload"]
        step, config = payload["step"], dict(payload["config"])
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 1 << 63 or not _is_plain(config):
            raise ValueError("step or settings are of another kind")
    except Exception:  # noqa: BLE001 - a stranger's file can have any content
        raise _not_one(path) from None
    return Peeked(step, config)


def inspect(path: Path) -> Any:
    """Check that a checkpoint can be unpacked, and return its content with a placeholder for each tensor.

    The format is read first, because a later format may hold what this version does not know.

    Raises:
        NewerCheckpointError: a later version of pixel-orch wrote it.
        CheckpointError: the file is not a checkpoint, is damaged or truncated, or declares more than it holds.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(_Bounded(file)) as archive:
            _check_format(path, archive)
            sizes = _stored_sizes(path, archive, os.fstat(file.fileno()).st_size)
            head = next(name for name in sizes if name.endswith("/data.pkl"))
            if sizes[head] > LARGEST_HEAD_BYTES:
                raise CheckpointError(f"{path} is not a checkpoint of pixel-orch; give a file that pixel-orch wrote")
            content = _Reader(archive.read(head), head.removesuffix("data.pkl") + "data/", sizes).load()
        if _count(content) > MOST_VALUES:
            raise CheckpointError(f"{path} declares more values than a checkpoint has; it is not unpacked")
    except CheckpointError:
        raise
    except _BombError as bomb:
        raise CheckpointError(f"{path} {bomb}; it is not unpacked") from None
    except Exception:  # noqa: BLE001 - a damaged pickle can raise anything
        raise _not_one(path) from None
    return content


def _not_one(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is damaged, truncated or not a checkpoint of pixel-orch; give another checkpoint")


def _check_format(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a later format by the number at the begin of the pickled part; nothing is unpickled for it."""
    name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
    if name is None:
        return
    with archive.open(name) as head:
        number = _declared_format(head.read(FORMAT_WITHIN_BYTES))
    if number is not None and number > FORMAT:
        raise NewerCheckpointError(
            f"{path} has format {number}, but this version reads formats up to {FORMAT}; update pixel-orch, "
            "or give another checkpoint"
        )


def _declared_format(head: bytes) -> int | None:
    """Return the number after the first key, if that is `format`; None for anything else."""
    values: list[object] = []
    try:
        for opcode, argument, _ in pickletools.genops(head):
            if opcode.name not in {"PROTO", "FRAME"} and "PUT" not in opcode.name and argument is not None:
                values.append(argument)
            if len(values) == 2:
                break
    except Exception:  # noqa: BLE001 - it may be cut off, or damaged
        return None
    is_it = len(values) == 2 and values[0] == "format" and isinstance(values[1], int)
    return int(str(values[1])) if is_it and not isinstance(values[1], bool) else None


class _BombError(Exception):
    """The file declares more than it holds."""


def _stored_sizes(path: Path, archive: zipfile.ZipFile, size: int) -> dict[str, int]:
    """Return the bytes of each part of an archive, whose parts are stored as they are, side by side, each once."""
    sizes: dict[str, int] = {}
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise _BombError("has a compressed part, which pixel-orch never writes")
        if info.filename in sizes:
            raise _BombError("has a part twice")
        sizes[info.filename] = info.file_size
    if sum(sizes.values()) > size:
        raise _BombError(f"declares {sum(sizes.values()):,} bytes in {size:,}")
    return sizes


def _count(content: Any) -> int:
    """Return how many values are reached, up to a few more than `MOST_VALUES`: a list may hold itself many times."""
    found, left = 0, [content]
    while left and found <= MOST_VALUES:
        value = left.pop()
        found += 1
        if isinstance(value, Mapping):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            left += value
    return found


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Return whether settings are numbers and short texts by names, as they are compared and shown."""
    if isinstance(value, dict):
        return depth < 2 and all(isinstance(key, str) and _is_plain(part, depth + 1) for key, part in value.items())
    if isinstance(value, str):
        return len(value) <= LONGEST_SETTING
    return value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)


class _Bounded(io.RawIOBase):
    """A file of which no more is read at once than an archive's directory or head may have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Read, if it is little; zipfile reads the directory of an archive at once."""
        data = self._file.read(size if 0 <= size <= LARGEST_DIRECTORY_BYTES else LARGEST_DIRECTORY_BYTES + 1)
        if len(data) > LARGEST_DIRECTORY_BYTES:
            raise _BombError("has a larger directory than a checkpoint")
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Say that it can be read at any place."""
        return True


class _Nothing:
    """Placeholder of a tensor."""


@dataclass(frozen=True)
class _Storage:
    """Placeholder of a tensor's data."""

    count: int
    item_bytes: int


class _Reader(pickle.Unpickler):
    """Unpickles plain values only: tensors become placeholders, any other name is an error.

    Args:
        data: the pickled part.
        place: of the tensors' data in the archive.
        sizes: bytes of each part of the archive.
    """

    def __init__(self, data: bytes, place: str, sizes: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(data))
        self._place = place
        self._sizes = sizes
        self._left = 4 * sum(sizes.values())  # bytes of tensors; each has its own data in what pixel-orch writes

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if module in ("torch", "torch.storage") and name in ITEM_BYTES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, _, count = pid
        size = self._sizes[f"{self._place}{key}"]
        if kind != "storage" or not isinstance(count, int) or not 0 <= count * ITEM_BYTES[storage] <= size:
            raise _BombError("has a tensor that is larger than its data")
        return _Storage(count, ITEM_BYTES[storage])

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Nothing:
        """Check that a tensor has no more values than its data: one of stride 0 would be any size."""
        whole = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or not all(isinstance(value, int) and value >= 0 for value in whole):
            raise pickle.UnpicklingError("not a tensor")
        self._left -= math.prod(shape) * storage.item_bytes
        if len(shape) != len(strides) or len(shape) > 64 or offset + math.prod(shape) > storage.count or self._left < 0:
            raise _BombError("has a tensor that is larger than its data")
        return _Nothing()
