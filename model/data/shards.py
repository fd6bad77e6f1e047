"""Reads the images of a split by index from the shards of a folder, some of which may not have arrived yet."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.digest import sha256_of
from model.data.manifest import Manifest, Shard
from model.errors import DataError

CHECKED = ".checked.jsonl"
Pixels = NDArray[np.uint8]  # (N, H, W, C)


@dataclass(frozen=True)
class Patience:
    """How long to wait for a shard that has not arrived yet."""

    timeout_s: float = 1800.0
    poll_s: float = 0.2
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


class ShardFiles:
    """The images of one split, read from its shards.

    A read waits for a shard that has not arrived. Each shard is checked once, when it is first opened. A file in the
    folder lists the checked shards, so the next process does not check them again.

    Args:
        folder: the folder of the data set.
        manifest: the manifest of the data set.
        split: the split to read.
        patience: how long to wait for shards that have not arrived.
        random: whether images are read one by one in random order, which turns the system's read-ahead off.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, split: str, *, patience: Patience | None = None, random: bool = False
    ) -> None:
        self.folder, self.split, self.columns = folder, split, manifest.columns
        self.shards = manifest.of_split(split)
        self.image = manifest.image
        self.counts = [shard.images for shard in self.shards]
        self._starts = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)
        self._files: list[tuple[int, int] | None] = [None] * len(self.shards)  # descriptor, bytes of the header
        self._rows: list[NDArray[Any] | None] = [None] * len(self.shards)
        self._patience, self.random = patience or Patience(), random
        self._shape = (self.image.height, self.image.width, self.image.channels)
        self.given_up: Callable[[], bool] = lambda: False  # called during a wait; True ends it with an error

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def complete(self) -> bool:
        """Whether all shards have arrived."""
        return all((self.folder / shard.file).exists() for shard in self.shards)

    def close(self) -> None:
        """Close the files."""
        for opened in self._files:
            if opened is not None:
                os.close(opened[0])
        self._files = [None] * len(self.shards)

    def read(self, indices: NDArray[np.int64], into: Pixels) -> None:
        """Read the images of the given indices into a buffer (N, H, W, C).

        Raises:
            DataError: a shard is damaged or did not arrive in time.
        """
        size = self.image.bytes
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        offsets = (indices - self._starts[numbers]) * size
        flat = into.reshape(-1).data
        for at, (number, offset) in enumerate(zip(numbers.tolist(), offsets.tolist(), strict=True)):
            opened = self._files[number] or self._open(number)
            got = os.preadv(opened[0], [flat[at * size : (at + 1) * size]], opened[1] + offset)
            if got != size:
                raise _too_short(self.folder / self.shards[number].file)

    def read_range(self, first: int, last: int, into: Pixels, check_stop: Callable[[], None] = lambda: None) -> None:
        """Read consecutive images.

        Args:
            first: index of the first image.
            last: index after the last image.
            into: buffer (N, H, W, C).
            check_stop: called repeatedly during a wait for a shard; an exception from it ends the wait.
        """
        size, at = self.image.bytes, 0
        flat = into.reshape(-1).data
        while first + at < last:
            number = int(np.searchsorted(self._starts, first + at, side="right")) - 1
            opened = self._files[number] or self._open(number, check_stop)
            end = min(last, int(self._starts[number + 1]))
            offset = opened[1] + (first + at - int(self._starts[number])) * size
            wanted = (end - first - at) * size
            got = os.preadv(opened[0], [flat[at * size : at * size + wanted]], offset)
            if got <= 0 or got % size:
                raise _too_short(self.folder / self.shards[number].file)
            at += got // size

    def all(self) -> Pixels:
        """Read all images, (N, H, W, C)."""
        images = np.empty((len(self), *self._shape), np.uint8)
        self.read_range(0, len(self), images)
        return images

    def expect(self, first: int, last: int) -> None:
        """Ask the system to read images ahead, without waiting for them."""
        number = int(np.searchsorted(self._starts, first, side="right")) - 1
        if not (self.folder / self.shards[number].file).exists():
            return  # the shard has not arrived; reading ahead does not wait
        descriptor, head = self._files[number] or self._open(number)
        size = self.image.bytes
        offset = head + (first - int(self._starts[number])) * size
        os.posix_fadvise(descriptor, offset, (last - first) * size, os.POSIX_FADV_WILLNEED)

    def rows(self, indices: NDArray[np.int64], check_stop: Callable[[], None] = lambda: None) -> NDArray[Any]:
        """Return the column values of the images of the given indices: (N,), one field for each column."""
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        found = [
            self._rows_of(number, check_stop)[index - int(self._starts[number])]
            for number, index in zip(numbers.tolist(), indices.tolist(), strict=True)
        ]
        return np.array(found, dtype=self._rows_of(0, check_stop).dtype)

    def _rows_of(self, number: int, check_stop: Callable[[], None]) -> NDArray[Any]:
        rows = self._rows[number]
        if rows is None:
            shard = self.shards[number]
            if shard.columns_sha256 is None:
                raise DataError(f"{self.folder}: the data set has no columns; choose one that has")
            path = self.folder / shard.columns_file
            self._wait(path, check_stop)
            if sha256_of(path) != shard.columns_sha256:
                raise DataError(f"{path} is damaged: its SHA-256 differs from the manifest; prepare or fetch it again")
            rows = self._rows[number] = read_columns(path)
        return rows

    def _open(self, number: int, check_stop: Callable[[], None] = lambda: None) -> tuple[int, int]:
        shard = self.shards[number]
        path = self.folder / shard.file
        self._wait(path, check_stop)
        check_once(self.folder, shard)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            with os.fdopen(os.dup(descriptor), "rb") as file:
                head = header(path, file, shard.images, self._shape)
            if self.random:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        except BaseException:
            os.close(descriptor)
            raise
        opened = self._files[number] = (descriptor, head)
        return opened

    def _wait(self, path: Path, check_stop: Callable[[], None]) -> None:
        patience = self._patience
        began_s = patience.clock()
        while not path.exists():
            check_stop()
            if self.given_up():
                raise DataError(f"{path} has not arrived and the loader is closed")
            if patience.clock() - began_s > patience.timeout_s:
                raise DataError(
                    f"{path} has not arrived for {patience.timeout_s:.0f} s; check the download, or prepare it here"
                )
            patience.sleep(patience.poll_s)


def _too_short(path: Path) -> DataError:
    return DataError(f"{path} became shorter while it was read; prepare the data set again")


def header(path: Path, file: Any, images: int, shape: tuple[int, ...]) -> int:
    """Read the header of a shard; return its length in bytes.

    Raises:
        DataError: the header differs from the manifest, or the file is cut off.
    """
    try:
        file.seek(0)
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError("another version")
        got, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        raise DataError(f"{path} is not a shard: no .npy header at byte 0; prepare the data set again") from None
    if (got, fortran, dtype) != ((images, *shape), False, np.dtype(np.uint8)):
        expected = f"the manifest records uint8 of shape {(images, *shape)}"
        raise DataError(f"{path} holds {dtype} of shape {got}, {expected}; prepare the data set again")
    head = int(file.tell())
    size, wanted = os.fstat(file.fileno()).st_size, head + images * int(np.prod(shape))
    if size != wanted:
        raise DataError(f"{path} has {size:,} bytes instead of {wanted:,}; prepare the data set again")
    return head


def read_columns(path: Path) -> NDArray[Any]:
    """Read the columns of a shard. A header that declares more than the file holds is refused, not made room for.

    Raises:
        DataError: it is no .npy file of plain rows.
    """
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(rows, np.ndarray):
            raise ValueError("an archive")
        return np.array(rows)
    except (ValueError, OverflowError, MemoryError, EOFError, SyntaxError) as error:
        raise DataError(
            f"{path} is not a file of columns ({(str(error) or 'damaged').splitlines()[0]}); prepare it again"
        ) from None


def check_once(folder: Path, shard: Shard) -> None:
    """Compare a shard with its manifest, unless the same file was compared before.

    Raises:
        DataError: the shard is damaged.
    """
    path = folder / shard.file
    status = path.stat()
    record = {"file": shard.file, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": shard.sha256}
    line = json.dumps(record, sort_keys=True)
    checked = folder / CHECKED
    try:
        if line in checked.read_text(encoding="utf-8").splitlines():
            return
    except (OSError, ValueError):
        pass
    if sha256_of(path) != shard.sha256:
        raise DataError(f"{path} is damaged: its SHA-256 differs from the manifest; prepare or fetch it again")
    try:
        with checked.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError:
        pass  # a shard in a read-only folder is checked in each process


def memory_bytes() -> int:
    """Return the bytes of memory that this process may use: those of the machine, or less in a container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total
