"""Loads training batches: a thread reads them ahead of the training step into reused buffers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.shards import ShardFiles
from model.data.shuffle import Order, slice_of

AHEAD = 4  # batches read ahead
CACHED_BYTES_S = 10**9  # bytes per second; a faster read comes from the page cache
LOOK_S = 0.1  # seconds between two checks for a requested stop


@dataclass
class Batch:
    """The images of one training step. The next call of `Loader.next` releases the buffer."""

    position: int  # number of images before the batch, over all epochs
    images: NDArray[np.uint8]  # (B, H, W, C)
    rows: NDArray[Any] | None


class Loader:
    """Provides the batches from a position on.

    Args:
        files: the shards that hold the images.
        order: the order of the images.
        batch: images of a step, over all ranks.
        position: number of images before the first batch, over all epochs.
        memory: all images (N, H, W, C), if memory holds them.
        binarise: whether to draw a new binary image from the gray one at each use.
        columns: whether to load the column values of the images.
        rank: index of this process among the ranks.
        ranks: number of ranks; each loads its share of the batch.
    """

    def __init__(
        self,
        files: ShardFiles,
        order: Order,
        *,
        batch: int,
        position: int,
        memory: NDArray[np.uint8] | None = None,
        binarise: bool = False,
        columns: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._files, self._order, self._memory = files, order, memory
        self._batch, self._binarise, self._columns = batch, binarise, columns
        self._share = slice_of(batch, rank, ranks)
        shape = (self._share.stop - self._share.start, files.image.height, files.image.width, files.image.channels)
        self._made: Queue[Batch | Exception] = Queue(maxsize=AHEAD)
        self._free: Queue[NDArray[np.uint8]] = Queue()
        for _ in range(AHEAD + 2):
            self._free.put(np.empty(shape, np.uint8))
        self._given: NDArray[np.uint8] | None = None
        self._over = threading.Event()
        files.given_up = self._over.is_set
        self._expected = -1  # position up to which read-ahead was requested
        self._read_s, self._read_bytes = 0.0, 0  # time and size of the reads of this pool
        self._thread = threading.Thread(target=self._work, args=(position,), daemon=True, name="loader")
        self._thread.start()

    def next(self, check_stop: Callable[[], None] = lambda: None) -> Batch:
        """Return the next batch. The buffer of the previous batch is reused from now on.

        Args:
            check_stop: called repeatedly during the wait; an exception from it ends the wait.

        Raises:
            DataError: a shard is damaged or did not arrive in time.
        """
        if self._given is not None:
            self._free.put(self._given)
            self._given = None
        while True:
            try:
                made = self._made.get(timeout=LOOK_S)
                break
            except Empty:
                check_stop()
        if isinstance(made, Exception):
            raise made
        self._given = made.images
        return made

    def close(self) -> None:
        """Stop the thread."""
        self._over.set()
        self._thread.join(timeout=10)

    def _work(self, position: int) -> None:
        try:
            while not self._over.is_set():
                self._give(self._make(position))
                position += self._batch
        except Exception as error:  # noqa: BLE001 - `next` raises it
            self._give(error)

    def _make(self, position: int) -> Batch:
        indices, epochs = (part[self._share] for part in self._order.at(position, self._batch))
        images = self._buffer()
        if self._memory is not None:
            np.take(self._memory, indices, axis=0, out=images, mode="clip")
        else:
            self._expect(position)
            began_s = time.monotonic()
            self._files.read(indices, images)
            self._read_s += time.monotonic() - began_s
            self._read_bytes += images.nbytes
        if self._binarise:
            for at in range(len(images)):
                images[at] = drawn(images[at], self._order.seed, int(epochs[at]), int(indices[at]))
        rows = self._files.rows(indices) if self._columns else None
        return Batch(position, images, rows)

    def _expect(self, position: int) -> None:
        """Request read-ahead of the pool that follows, and at the first call also of the current one."""
        if not self._order.strategy.block or position < self._expected:
            return
        if self._expected < 0:
            for first, last in self._order.ahead(position):
                self._files.expect(first, last)
        end = self._order.pool_end(position)
        self._expected = end
        cached = self._read_bytes > CACHED_BYTES_S * self._read_s  # a read-ahead request would only cost time
        self._read_s, self._read_bytes = 0.0, 0
        if cached:
            return
        if end % self._order.images:  # the next epoch is shuffled only when it begins
            for first, last in self._order.ahead(end):
                self._files.expect(first, last)
            self._order.ahead(position)  # the order caches one pool: make the current one the cached one again

    def _buffer(self) -> NDArray[np.uint8]:
        while not self._over.is_set():
            try:
                return self._free.get(timeout=LOOK_S)
            except Empty:
                continue
        raise RuntimeError("closed")

    def _give(self, made: Batch | Exception) -> None:
        while not self._over.is_set():
            try:
                self._made.put(made, timeout=LOOK_S)
            except Full:
                continue
            return


def drawn(gray: NDArray[np.uint8], seed: int, epoch: int, index: int) -> NDArray[np.uint8]:
    """Draw a binary image from a gray one, P(1) = gray / 255, with a generator for this epoch and image."""
    chances = np.random.default_rng([seed, epoch, index]).integers(0, 255, gray.shape, dtype=np.uint8)
    return (chances < gray).astype(np.uint8)
