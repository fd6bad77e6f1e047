"""Feeds images to the network: built-in data sets from device memory, prepared ones batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from model.config import TrainConfig
from model.config.datasets import size_of
from model.data.dataset import Conditioning, Dataset, Prepared, Split, known
from model.data.loader import Loader
from model.data.manifest import Column
from model.data.shards import memory_bytes
from model.data.shuffle import FULL, Order, Strategy, batch_indices, choose, slice_of
from model.data.upload import Upload
from model.errors import ConfigError, DataError
from model.world import ALONE, World


def eval_batches(
    data: Dataset | Prepared,
    split: Split,
    device: torch.device,
    *,
    size: int,
    most: int = 0,
    upload: Upload | None = None,
    conditioning: Conditioning | None = None,
    rank: int = 0,
    ranks: int = 1,
    check_stop: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the images of a split in order and in batches, with the conditioning values.

    Args:
        data: the data set.
        split: the split to read.
        device: device of the returned tensors.
        size: images in a batch.
        most: the largest number of images to yield; 0 means no limit.
        upload: copies the batches to the device; by default one that is made for them.
        conditioning: the columns of a conditioned network.
        rank: index of this process among those that share the batches: each yields every `ranks`-th batch.
        ranks: number of these processes.
        check_stop: called repeatedly during a wait for a shard; an exception from it ends the wait.
    """
    count = min(most or data.count(split), data.count(split))
    upload = upload or Upload(device)
    for first in range(rank * size, count, ranks * size):
        [levels] = data.batches(split, size, min(size, count - first), first=first, check_stop=check_stop)
        values = None
        if conditioning is not None and isinstance(data, Prepared):
            rows = data.rows(split, first, first + len(levels), check_stop)
            values = upload(known(rows, conditioning))
        yield upload(levels), values


def check_columns(config: TrainConfig, data: Dataset | Prepared) -> list[Column]:
    """Find the columns that the network is conditioned on.

    Raises:
        ConfigError: the data set lacks one of them.
    """
    available = {column.name: column for column in (data.columns if isinstance(data, Prepared) else [])}
    for name in config.conditions:
        if name not in available:
            names = ", ".join(available) or "no columns"
            raise ConfigError(f"condition = {config.condition}: {config.dataset} has no column {name}; it has {names}")
    return [available[name] for name in config.conditions]


def check_images(config: TrainConfig, data: Dataset | Prepared) -> None:
    """Check that the images have the size of the checkpoint's network.

    Raises:
        DataError: the sizes differ, because the data set was prepared again with other settings.
    """
    if size_of(data.facts) != size_of(config.data):
        raise DataError(
            f"{config.dataset} holds images of {size_of(data.facts)}, the network expects {size_of(config.data)}; "
            "prepare the data set with the settings of the checkpoint"
        )


class Feed:
    """Provides the batch at a position, which is a pure function of seed, position and strategy.

    Args:
        config: the settings: batch size, seed, memory.
        data: the data set.
        device: device of the batches.
        world: this process among those that share each batch.
    """

    def __init__(
        self, config: TrainConfig, data: Dataset | Prepared, device: torch.device, world: World = ALONE
    ) -> None:
        self._config, self._data, self._device, self._world = config, data, device, world
        self._upload = Upload(device)
        self.conditioning: Conditioning | None = None  # set for a conditioned network
        self.images: Tensor | None = None  # (N, C, H, W) uint8: the whole training set, if the device holds it
        self._strategy: Strategy | None = None
        self._loader: Loader | None = None
        self._order: Order | None = None
        self._next = -1  # position of the next batch from the loader
        self.count = data.facts.train
        if isinstance(data, Dataset):
            self._strategy = FULL
            self.images = torch.from_numpy(data.train).to(device)

    @property
    def strategy(self) -> Strategy:
        """The shuffle strategy: chosen at the first start and stored in the checkpoints."""
        if self._strategy is None:
            files = self._data.files("train") if isinstance(self._data, Prepared) else None
            complete = files is None or files.complete
            self._strategy = choose(self._bytes, self.available_bytes, complete=complete)
        return self._strategy

    @strategy.setter
    def strategy(self, strategy: Strategy) -> None:
        self._strategy = strategy

    def at(self, position: int, check_stop: Callable[[], None] = lambda: None) -> tuple[Tensor, Tensor | None]:
        """Return this process's share of the batch at `position`: levels (B, C, H, W) and the conditioning values.

        On a GPU the copies are queued: nothing here waits for it.

        Args:
            position: number of images before the batch, over all epochs.
            check_stop: called repeatedly during a wait for a shard; an exception from it ends the wait.

        Raises:
            DataError: a shard is damaged or did not arrive in time.
        """
        size = self._config.batch_size
        if self.images is not None:
            picked = batch_indices(self._config.seed, position, size, len(self.images))
            picked = picked[slice_of(size, self._world.rank, self._world.size)]
            return self.images[self._upload(picked)], None
        if self._loader is None or position != self._next:
            self._start(position)
        assert self._loader is not None  # noqa: S101 - _start sets it
        batch = self._loader.next(check_stop)
        self._next = position + size
        levels = self._upload(batch.images).permute(0, 3, 1, 2)
        if batch.rows is None or self.conditioning is None:
            return levels, None
        return levels, self._upload(known(batch.rows, self.conditioning))

    def eval_batches(
        self, split: Split, size: int, most: int = 0, *, check_stop: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield this process's batches of a split, as the function `eval_batches` does."""
        return eval_batches(
            self._data,
            split,
            self._device,
            size=size,
            most=most,
            upload=self._upload,
            conditioning=self.conditioning,
            rank=self._world.rank,
            ranks=self._world.size,
            check_stop=check_stop,
        )

    def close(self) -> None:
        """Stop the loader's thread."""
        if self._loader is not None:
            self._loader.close()
            self._loader = None

    @property
    def _bytes(self) -> int:
        return self._data.facts.dims * self.count

    @property
    def available_bytes(self) -> int:
        """The memory of which the data may take half: from the settings, or this process's share of the machine's."""
        return self._config.data_memory_mb * 2**21 or memory_bytes() // self._world.local_size

    def _start(self, position: int) -> None:
        self.close()
        assert isinstance(self._data, Prepared)  # noqa: S101 - the device holds any other data set
        files, fits = self._data.files("train"), 2 * self._bytes <= self.available_bytes
        if self._order is None:
            self._order = Order(self._config.seed, files.counts, self.strategy)
        if not fits and not self._order.strategy.block:
            files.random = True
        self._loader = Loader(
            files,
            self._order,
            batch=self._config.batch_size,
            position=position,
            memory=files.all() if fits and files.complete else None,
            binarise=self._data.dynamic,
            columns=self.conditioning is not None,
            rank=self._world.rank,
            ranks=self._world.size,
        )
