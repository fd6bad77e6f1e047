"""The order is a pure function; the loader gives it from memory, from a disk and from a folder that is filled."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from model.data import manifest as manifests
from model.data.loader import Loader, drawn
from model.data.manifest import Column, Image, Manifest, Shard
from model.data.prepare.shard_writer import ShardWriter
from model.data.shards import CHECKED, Patience, ShardFiles, memory_bytes
from model.data.shuffle import FULL, Order, Strategy, batch_indices, choose, parse, slice_of
from model.errors import DataError

IMAGE = Image(2, 2, 3, 256)
COUNT = 100
SHARDS = [32, 32, 32, 4]
SMALL = Strategy(5, 3)


def numbered(count: int) -> np.ndarray:
    """Images that say their number."""
    return np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(12, axis=1).reshape(-1, 2, 2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("loader") / "data"
    columns = (Column("number", "<f4"),)
    writer = ShardWriter(place, IMAGE, columns, plan={}, shard_bytes=32 * 12)
    rows = np.zeros(COUNT, [("number", "<f4")])
    rows["number"] = np.arange(COUNT)
    writer.add("train", numbered(COUNT), rows)

    def manifest(shards: list[Shard], made: list[Column]) -> Manifest:
        return Manifest("images", 1, IMAGE, {"train": COUNT}, {"asked": {}}, [], shards, made)

    writer.finish(manifest)
    return place


def files(folder: Path, **options: object) -> ShardFiles:
    return ShardFiles(folder, manifests.read(folder), "train", **options)  # type: ignore[arg-type]


def stream(order: Order, batch: int, until: int) -> np.ndarray:
    return np.concatenate([order.at(position, batch)[0] for position in range(0, until, batch)])


@pytest.mark.parametrize("strategy", [FULL, SMALL, Strategy(512, 16), Strategy(1, 1)])
@pytest.mark.parametrize("batch", [1, 7, 33, 250])
def test_each_epoch_has_each_image_once_in_an_order_of_its_own(strategy: Strategy, batch: int) -> None:
    seen = stream(Order(3, SHARDS, strategy), batch, 5 * COUNT)[: 4 * COUNT].reshape(4, COUNT)
    for epoch in seen:
        assert sorted(epoch) == list(range(COUNT))
    if strategy != Strategy(1, 1):
        assert len({tuple(epoch) for epoch in seen}) == 4


@pytest.mark.parametrize("strategy", [FULL, SMALL])
def test_the_order_depends_on_seed_epoch_and_strategy_alone(strategy: Strategy) -> None:
    order = Order(3, SHARDS, strategy)
    whole = stream(order, 10, 400)
    for position in (0, 1, 14, 99, 100, 101, 250, 333):
        for fresh in (order, Order(3, SHARDS, strategy)):
            picked, epochs = fresh.at(position, 60)
            assert np.array_equal(picked, whole[position : position + 60])
            assert np.array_equal(epochs, np.arange(position, position + 60) // COUNT)
    assert not np.array_equal(Order(4, SHARDS, strategy).at(0, 50)[0], whole[:50])


def test_the_full_order_is_the_one_that_checkpoints_of_old_were_made_with() -> None:
    order = Order(5, SHARDS)
    for position in (0, 37, 95, 230):
        assert np.array_equal(order.at(position, 40)[0], batch_indices(5, position, 40, COUNT))


def test_shuffled_by_blocks_a_disk_reads_blocks_and_every_image_can_be_anywhere() -> None:
    order = Order(0, [512] * 4, Strategy(16, 4))
    epoch = stream(order, 64, 4096)[2048:]
    for start in range(0, 2048, 64):
        assert len({int(index) // 16 for index in epoch[start : start + 64]}) == 4  # a pool is four blocks
    firsts = [stream(Order(seed, [512] * 4, Strategy(16, 4)), 64, 4096)[2048] for seed in range(200)]
    assert len(set(firsts)) > 150
    assert {int(first) // 512 for first in firsts} == {0, 1, 2, 3}


def test_the_first_epoch_takes_the_shards_in_their_order() -> None:
    seen = stream(Order(0, [64] * 4, Strategy(8, 2)), 16, 512)
    assert [int(index) // 64 for index in seen[:256]] == [0] * 64 + [1] * 64 + [2] * 64 + [3] * 64
    assert [int(index) // 64 for index in seen[256:]] != sorted(int(index) // 64 for index in seen[256:])


def test_which_strategy_is_chosen() -> None:
    assert choose(50, 100, complete=True) == FULL
    assert choose(51, 100, complete=True) == Strategy(512, 16)
    assert choose(1, 100, complete=False) == Strategy(512, 16)
    for strategy in (FULL, SMALL):
        assert parse(str(strategy)) == strategy
    with pytest.raises(DataError, match="the checkpoint has the shuffle strategy 'sorted'"):
        parse("sorted")
    assert memory_bytes() > 1 << 28


def test_ranks_share_a_batch_whose_order_does_not_depend_on_them(folder: Path) -> None:
    wanted, _ = Order(1, SHARDS, SMALL).at(60, 24)
    for ranks in (1, 2, 3, 4):
        got = []
        for rank in range(ranks):
            order = Order(1, SHARDS, SMALL)
            loader = Loader(files(folder), order, batch=24, position=60, rank=rank, ranks=ranks)
            got.append(loader.next().images[:, 0, 0, 0].copy())
            loader.close()
        assert np.array_equal(np.concatenate(got), wanted)
    with pytest.raises(DataError, match="a batch of 24 is not divisible by 5 ranks"):
        slice_of(24, 0, 5)


@pytest.mark.parametrize("strategy", [FULL, SMALL])
@pytest.mark.parametrize("in_memory", [True, False])
def test_the_loader_gives_the_order_from_any_position(strategy: Strategy, in_memory: bool, folder: Path) -> None:
    memory = files(folder).all() if in_memory else None
    for start in (0, 35, 96):
        loader = Loader(
            files(folder), Order(2, SHARDS, strategy), batch=13, position=start, memory=memory, columns=True
        )
        order = Order(2, SHARDS, strategy)
        for number in range(20):
            batch = loader.next()
            wanted, _ = order.at(start + 13 * number, 13)
            assert batch.position == start + 13 * number
            assert np.array_equal(batch.images, numbered(COUNT)[wanted])
            assert batch.rows is not None
            assert np.array_equal(batch.rows["number"], wanted)
        loader.close()


def test_buffers_are_used_again(folder: Path) -> None:
    loader = Loader(files(folder), Order(0, SHARDS, SMALL), batch=10, position=0)
    addresses = {loader.next().images.ctypes.data for _ in range(50)}
    loader.close()
    assert len(addresses) <= 6


def test_dynamic_data_are_drawn_anew_in_each_epoch_and_alike_for_each_batch_size(folder: Path) -> None:
    def showing(batch: int) -> np.ndarray:
        loader = Loader(files(folder), Order(0, SHARDS), batch=batch, position=0, binarise=True)
        found = np.concatenate([loader.next().images.copy() for _ in range(200 // batch)])
        loader.close()
        return found

    once = showing(10)
    assert set(np.unique(once)) == {0, 1}
    assert np.array_equal(once, showing(25))
    order = np.argsort(Order(0, SHARDS).at(0, 100)[0]), np.argsort(Order(0, SHARDS).at(100, 100)[0])
    first, second = once[:100][order[0]], once[100:][order[1]]
    assert not np.array_equal(first, second)
    gray = np.full((100, 100, 1), 64, np.uint8)
    assert 0.24 < drawn(gray, 0, 0, 0).mean() < 0.262
    assert drawn(gray * 0, 0, 0, 0).max() == 0
    assert drawn(gray * 0 + 255, 0, 0, 0).min() == 1


def test_a_folder_that_is_still_being_filled_is_trained_on_from_its_first_shard(folder: Path, tmp_path: Path) -> None:
    growing = tmp_path / "growing"
    growing.mkdir()
    shutil.copy(folder / "manifest.json", growing)
    patience = Patience(timeout_s=20, poll_s=0.001)
    some = files(growing, patience=patience)
    assert not some.complete
    loader = Loader(some, Order(0, SHARDS, SMALL), batch=4, position=0)
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        if len(looks) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        loader.next(look)  # nothing there yet: a stop is heard
    order, seen = Order(0, SHARDS, SMALL), 0
    for shard in sorted(path.name for path in folder.glob("shard-?????.npy")):
        shutil.copy(folder / shard, growing / f".{shard}.tmp")
        (growing / f".{shard}.tmp").replace(growing / shard)
        there = sum(SHARDS[: int(shard[6:11]) + 1])
        while seen + 4 <= (there - 15 if there < COUNT else COUNT):  # a pool of 15 may reach into the next shard
            assert np.array_equal(loader.next().images[:, 0, 0, 0], order.at(seen, 4)[0])
            seen += 4
    assert seen == COUNT
    loader.close()


def test_a_shard_that_never_comes_is_one_line(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "manifest.json", tmp_path)
    now = [0.0]
    patience = Patience(timeout_s=60, sleep=lambda s: now.__setitem__(0, now[0] + s), clock=lambda: now[0])
    loader = Loader(files(tmp_path, patience=patience), Order(0, SHARDS), batch=4, position=0)
    with pytest.raises(DataError, match=r"shard-0000\d.npy has not arrived for 60 s"):
        loader.next()
    loader.close()


def test_each_shard_is_checked_once_and_a_damaged_one_stops_the_training(folder: Path, tmp_path: Path) -> None:
    place = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns(CHECKED))
    files(place).all()
    assert len((place / CHECKED).read_text().splitlines()) == 4
    before = (place / CHECKED).read_bytes()
    files(place).all()
    assert (place / CHECKED).read_bytes() == before
    time.sleep(0.01)
    content = bytearray((place / "shard-00002.npy").read_bytes())
    content[-1] ^= 1
    (place / "shard-00002.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"shard-00002.npy is damaged: its SHA-256 differs from the manifest"):
        files(place).all()
    for wrong, says in ((content[:-1], "is damaged|instead of"), (b"\x93NUMPY", "is damaged|not a shard")):
        (place / "shard-00002.npy").write_bytes(wrong)
        with pytest.raises(DataError, match=says):
            files(place).all()


def test_a_loader_that_is_closed_leaves_no_thread(folder: Path) -> None:
    before = threading.active_count()
    for _ in range(5):
        loader = Loader(files(folder), Order(0, SHARDS), batch=4, position=0)
        loader.next()
        loader.close()
    assert threading.active_count() == before
