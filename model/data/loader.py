"""Training batches: a thread reads them ahead of the step that needs them, into reused buffers."""

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

AHEAD = 4  # batches
CACHED_BYTES_S = 10**9  # faster reads come from the system's page cache
LOOK_S = 0.1  # between two checks for a requested stop


@dataclass
class Batch:
    """Images that a step trains on. The buffer is free again when the next batch is asked for."""

    position: int  # images seen before it, over all epochs
    images: NDArray[np.uint8]  # (B, H, W, C)
    rows: NDArray[Any] | None


class Loader:
    """Gives the batches from a position on.

    Args:
        files: the images.
        order: which image comes when.
        batch: images of a step, over all ranks.
        position: images seen before, over all epochs.
        memory: all images (N, H, W, C), if they are held in memory.
        binarise: whether the images are gray and a binary one is drawn each time.
        columns: whether what is known of the images is wanted too.
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
        self._expected = -1  # position up to which the system reads ahead
        self._waited_s, self._waited_for = 0.0, 0  # for the images of this pool: seconds, bytes
        self._thread = threading.Thread(target=self._work, args=(position,), daemon=True, name="loader")
        self._thread.start()

    def next(self, check_stop: Callable[[], None] = lambda: None) -> Batch:
        """Give the next batch; the one before is overwritten from now on.

        Args:
            check_stop: called while it waits; an exception from it ends the wait.

        Raises:
            DataError: a shard is damaged, or did not come.
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
        """End the thread."""
        self._over.set()
        self._thread.join(timeout=10)

    def _work(self, position: int) -> None:
        try:
            while not self._over.is_set():
                self._give(self._make(position))
                position += self._batch
        except Exception as error:  # noqa: BLE001 - it is raised where the batch is wanted
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
            self._waited_s += time.monotonic() - began_s
            self._waited_for += images.nbytes
        if self._binarise:
            for at in range(len(images)):
                images[at] = drawn(images[at], self._order.seed, int(epochs[at]), int(indices[at]))
        rows = self._files.rows(indices) if self._columns else None
        return Batch(position, images, rows)

    def _expect(self, position: int) -> None:
        """Tell the system which blocks come next: this pool at the beginning, and always the one behind it."""
        if not self._order.strategy.block or position < self._expected:
            return
        if self._expected < 0:
            for first, last in self._order.ahead(position):
                self._files.expect(first, last)
        end = self._order.pool_end(position)
        self._expected = end
        quick = self._waited_for > CACHED_BYTES_S * self._waited_s  # from memory: telling the system would only cost
        self._waited_s, self._waited_for = 0.0, 0
        if quick:
            return
        if end % self._order.images:  # behind the epoch's last pool the next epoch is shuffled when it begins
            for first, last in self._order.ahead(end):
                self._files.expect(first, last)
            self._order.ahead(position)

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
    """Draw a binary image from a gray one: P(1) = gray / 255, by a generator of this showing's own."""
    chances = np.random.default_rng([seed, epoch, index]).integers(0, 255, gray.shape, dtype=np.uint8)
    return (chances < gray).astype(np.uint8)
