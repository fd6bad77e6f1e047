"""Where the images of a split lie: shards in a folder, all of them there or still arriving; read by their places."""

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
    """How long to wait for a shard that is still on its way."""

    timeout_s: float = 1800.0
    poll_s: float = 0.2
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


class ShardFiles:
    """The images of one split, read from its shards.

    A shard that is not there is waited for; each is checked once, when it is first opened, and what was checked is
    written down beside it for the next process.

    Args:
        folder: of the data set.
        manifest: of it.
        split: which images.
        patience: for shards that are on their way.
        random: whether images are read one by one, all over the shards: then nothing is read ahead.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, split: str, *, patience: Patience | None = None, random: bool = False
    ) -> None:
        self.folder, self.split, self.columns = folder, split, manifest.columns
        self.shards = manifest.of_split(split)
        self.image = manifest.image
        self.counts = [shard.images for shard in self.shards]
        self._starts = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)
        self._files: list[tuple[int, int] | None] = [None] * len(self.shards)  # descriptor, bytes before the images
        self._rows: list[NDArray[Any] | None] = [None] * len(self.shards)
        self._patience, self.random = patience or Patience(), random
        self._shape = (self.image.height, self.image.width, self.image.channels)
        self.given_up: Callable[[], bool] = lambda: False  # asked while a shard is waited for

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def complete(self) -> bool:
        """Whether all shards are there."""
        return all((self.folder / shard.file).exists() for shard in self.shards)

    def close(self) -> None:
        """Close the files."""
        for opened in self._files:
            if opened is not None:
                os.close(opened[0])
        self._files = [None] * len(self.shards)

    def read(self, indices: NDArray[np.int64], into: Pixels) -> None:
        """Read images by their places in the split, one after the other, into a buffer (N, H, W, C).

        Raises:
            DataError: a shard is damaged, or did not come.
        """
        size = self.image.bytes
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        offsets = (indices - self._starts[numbers]) * size
        flat = into.reshape(-1).data
        for at, (number, offset) in enumerate(zip(numbers.tolist(), offsets.tolist(), strict=True)):
            opened = self._files[number] or self._open(number)
            got = os.preadv(opened[0], [flat[at * size : (at + 1) * size]], opened[1] + offset)
            if got != size:
                raise DataError(f"{self.folder / self.shards[number].file} became shorter while it was read")

    def read_range(self, first: int, last: int, into: Pixels, check_stop: Callable[[], None] = lambda: None) -> None:
        """Read images that follow one another.

        Args:
            first: place of the first one.
            last: place behind the last one.
            into: buffer (N, H, W, C).
            check_stop: called while a shard is waited for; what it raises ends the wait.
        """
        size, at = self.image.bytes, 0
        flat = into.reshape(-1).data
        while first + at < last:
            number = int(np.searchsorted(self._starts, first + at, side="right")) - 1
            opened = self._files[number] or self._open(number, check_stop)
            behind = min(last, int(self._starts[number + 1]))
            offset = opened[1] + (first + at - int(self._starts[number])) * size
            wanted = (behind - first - at) * size
            got = os.preadv(opened[0], [flat[at * size : at * size + wanted]], offset)
            if got <= 0 or got % size:
                raise DataError(f"{self.folder / self.shards[number].file} became shorter while it was read")
            at += got // size

    def all(self) -> Pixels:
        """Read all images, (N, H, W, C)."""
        images = np.empty((len(self), *self._shape), np.uint8)
        self.read_range(0, len(self), images)
        return images

    def expect(self, first: int, last: int) -> None:
        """Let the system read images ahead: it goes on while they are not waited for."""
        number = int(np.searchsorted(self._starts, first, side="right")) - 1
        if not (self.folder / self.shards[number].file).exists():
            return  # the shard has not arrived; reading ahead does not wait
        descriptor, head = self._files[number] or self._open(number)
        size = self.image.bytes
        offset = head + (first - int(self._starts[number])) * size
        os.posix_fadvise(descriptor, offset, (last - first) * size, os.POSIX_FADV_WILLNEED)

    def rows(self, indices: NDArray[np.int64], check_stop: Callable[[], None] = lambda: None) -> NDArray[Any]:
        """Give what is known of images by their places: (N,), a field for each column. `read_range` says the rest."""
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
                raise DataError(f"{self.folder} has no columns: nothing is known of its images")
            path = self.folder / shard.columns_file
            self._wait(path, check_stop)
            if sha256_of(path) != shard.columns_sha256:
                raise DataError(f"{path} is damaged: its SHA-256 is not the manifest's; prepare or fetch it again")
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
                raise DataError(f"{path} has not arrived, and the loader was closed")
            if patience.clock() - began_s > patience.timeout_s:
                raise DataError(
                    f"{path} has not arrived for {patience.timeout_s:.0f} s; check the download, or prepare it here"
                )
            patience.sleep(patience.poll_s)


def header(path: Path, file: Any, images: int, shape: tuple[int, ...]) -> int:
    """Read the header of a shard; return how many bytes it has.

    Raises:
        DataError: it is not what the manifest says, or the file is cut off.
    """
    try:
        file.seek(0)
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError("another version")
        got, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        raise DataError(f"{path} is not a shard: byte 0: no .npy header; prepare the data set again") from None
    if (got, fortran, dtype) != ((images, *shape), False, np.dtype(np.uint8)):
        raise DataError(f"{path} holds {dtype} of {got}, its manifest says uint8 of {(images, *shape)}")
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
    """Compare a shard with its manifest, unless this file has been compared before.

    Raises:
        DataError: it is damaged.
    """
    path = folder / shard.file
    status = path.stat()
    mark = {"file": shard.file, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": shard.sha256}
    line = json.dumps(mark, sort_keys=True)
    checked = folder / CHECKED
    try:
        if line in checked.read_text(encoding="utf-8").splitlines():
            return
    except (OSError, ValueError):
        pass
    if sha256_of(path) != shard.sha256:
        raise DataError(f"{path} is damaged: its SHA-256 is not the manifest's; prepare or fetch it again")
    try:
        with checked.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError:
        pass  # a folder that cannot be written to is checked each time


def memory_bytes() -> int:
    """Say how much memory this process may use: the machine's, or less in a container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total
