"""How fast data sets are prepared and loaded: `python benchmarks/data_speed.py [--only bags,tars,loader]`.

Bags of 640x480 frames and telemetry, tars of PNG and shards are written first, from scikit-learn's photographs, to
`--folder` (a temporary one; about 3 GB). Each line is the median of three rounds in which ours and the reference take
turns, as CPU time of this process and its threads (`cpu`: one core), except where a disk is waited for (`wall`). The
reference is the plain way: the rosbags library with Pillow, tarfile with Pillow, a memory-mapped array.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shlex
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image as Pictures

from model.data import manifest as manifests
from model.data.driving.extract import Archive, Selection, extract, extract_archive, stretches
from model.data.driving.frames import Recipe
from model.data.driving.part import FRAMES
from model.data.formats.pictures import PictureFiles
from model.data.loader import Loader
from model.data.manifest import Image, Manifest, Shard
from model.data.prepare.shard_writer import ShardWriter
from model.data.shards import ShardFiles
from model.data.shuffle import BLOCK, POOL, Order, Strategy
from tests.support.data_files import Drive, crops, typestore, write_bag, write_bag_archive, write_png_tar

SIDE, ROUNDS = 64, 3
Timed = Callable[[], float]  # does the work, returns the amount of it


def cpu_s() -> float:
    return time.process_time()


def turns(unit: str, ways: dict[str, Timed], goal: str, clock: Callable[[], float] = cpu_s) -> None:
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = clock()
            amount = way()
            rates[name].append(amount / (clock() - began))
    for name, found in rates.items():
        mine = " " + goal if name == next(iter(ways)) else ""
        print(f"  {name:<44} {statistics.median(found):>10,.0f} {unit}{mine}", flush=True)


def bags(folder: Path, seconds: float) -> None:
    cameras = ("left", "center", "right")
    selection = Selection(Recipe(SIDE), cameras)
    for title, jpeg, compression, goal in (
        ("raw bgr8", False, "none", "(wanted: 400)"),
        ("raw bgr8 in lz4 chunks", False, "lz4", ""),
        ("JPEG", True, "none", ""),
    ):
        drive = Drive(seconds=seconds, fps=20, width=640, height=480, cameras=cameras, jpeg=jpeg)
        bag = write_bag(folder / f"{title}.bag", drive, compression=compression, chunk_bytes=1 << 20)
        size, count = bag.stat().st_size, 3 * round(20 * seconds)
        print(f"{title}: {count} frames, {size / 1e6:,.0f} MB")

        def ours(bag: Path = bag, count: int = count) -> float:
            out = folder / "parts"
            shutil.rmtree(out, ignore_errors=True)
            for stretch in stretches(bag, out, stretch_bytes=4 << 30):
                extract(stretch, selection)
            assert (out / "000" / FRAMES).stat().st_size == count * SIDE * SIDE * 3
            return bag.stat().st_size / 1e6

        turns("MB/s", {"ours, bag to 64 px": ours, "rosbags and Pillow": lambda bag=bag: plain_bag(bag)}, goal)  # type: ignore[misc]
        began = cpu_s()
        ours()
        print(f"  {'ours':<44} {count / (cpu_s() - began):>10,.0f} frames/s{' (wanted: 500)' if jpeg else ''}")
        if not jpeg and compression == "none":
            archive = write_bag_archive(folder / "raw.tar.gz", [bag])
            packed = archive.stat().st_size

            def streamed(archive: Path = archive, size: int = size) -> float:
                out = folder / "parts"
                shutil.rmtree(out, ignore_errors=True)
                extract_archive(Archive(archive, out), selection)
                return size / 1e6

            def gunzip(archive: Path = archive, size: int = size) -> float:
                import gzip

                with gzip.open(archive) as file:
                    while file.read(1 << 20):
                        pass
                return size / 1e6

            print(f"the same in a tar.gz of {packed / 1e6:,.0f} MB, per MB of the bag")
            ways: dict[str, Timed] = {"ours, tar.gz to 64 px": streamed, "Python's gzip alone": gunzip}
            turns("MB/s", ways, "(wanted: 85)")
            archive.unlink()
        bag.unlink()


def plain_bag(bag: Path) -> float:
    """The plain way: rosbags and Pillow, every message made into an object, the images alone."""
    import io

    from rosbags.rosbag1 import Reader

    store, frames = typestore(), []
    with Reader(bag) as reader:
        cameras = [one for one in reader.connections if "Image" in one.msgtype]
        for connection, _, raw in reader.messages(connections=cameras):
            message = store.deserialize_ros1(raw, connection.msgtype)
            if connection.msgtype.endswith("/Image"):
                picture = Pictures.fromarray(message.data.reshape(message.height, message.width, 3)[..., ::-1])
            else:
                picture = Pictures.open(io.BytesIO(message.data))
            frames.append(np.asarray(picture.resize((SIDE, SIDE), Pictures.Resampling.BOX, box=(80, 0, 560, 480))))
    return bag.stat().st_size / 1e6


def tars(folder: Path) -> None:
    tar = write_png_tar(folder / "train_64x64.tar", crops(4000, SIDE), "train_64x64")
    print(f"PNG tar: 4,000 images of 64 px, {tar.stat().st_size / 1e6:,.0f} MB")
    number = 0

    def ours() -> float:
        nonlocal number
        number += 1
        image = Image(SIDE, SIDE, 3, 256)
        writer = ShardWriter(folder / f"tar-{number}", image, plan={})
        for block in PictureFiles([("train", tar)], image, resize=False).blocks({}):
            writer.add(block.split, block.images)
        writer.flush()
        return writer.done["train"]

    def plain() -> float:
        images = []
        with tarfile.open(tar) as file:
            for member in file:
                opened = file.extractfile(member)
                assert opened is not None
                images.append(np.asarray(Pictures.open(opened).convert("RGB")))
        return len(np.stack(images))

    turns("images/s", {"ours, to shards": ours, "tarfile and Pillow, to memory": plain}, "(wanted: 2,300)")


def loader(folder: Path) -> None:
    per, shards = 8192, 12
    image = Image(SIDE, SIDE, 3, 256)
    source = crops(per, 16).repeat(4, axis=1).repeat(4, axis=2)
    writer = ShardWriter(folder / "shards", image, plan={})
    for number in range(shards):
        writer.add("train", np.roll(source, number, axis=0))
    name, recipe = "images", {"asked": {}}

    def manifest(found: list[Shard], columns: list[manifests.Column]) -> Manifest:
        return Manifest(name, 1, image, {"train": per * shards}, recipe, [], found, columns)

    made = writer.finish(manifest)
    paths = [folder / "shards" / shard.file for shard in made.shards]
    print(f"loader: {per * shards:,} images of 64x64x3 in {shards} shards, batches of 64")

    def batches(strategy: Strategy, count: int) -> float:
        files = ShardFiles(folder / "shards", made, "train", random=not strategy.block)
        for number in range(shards):
            files._open(number)  # each is checked once; that is not what is timed
        feed = Loader(files, Order(0, files.counts, strategy), batch=64, position=per * shards)
        for _ in range(count // 64):
            feed.next()
        feed.close()
        files.close()
        return count

    def memmap(count: int) -> float:
        arrays = [np.load(path, mmap_mode="r") for path in paths]
        chance = np.random.default_rng(0)
        for _ in range(count // 64):
            picked = np.sort(chance.integers(0, per * shards, 64))
            np.stack([arrays[at // per][at % per] for at in picked])
        return count

    batches(Strategy(BLOCK, POOL), 6400)
    turns(
        "images/s, warm",
        {
            "ours, blocks shuffled": lambda: batches(Strategy(BLOCK, POOL), 65536),
            "ours, full shuffle from the disk": lambda: batches(Strategy(), 65536),
            "memory map, random": lambda: memmap(65536),
        },
        "(wanted: 200,000)",
    )

    rates: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, way in (
            ("ours, blocks shuffled", lambda: batches(Strategy(BLOCK, POOL), 16384)),
            ("memory map, random", lambda: memmap(2048)),
        ):
            for path in paths:
                drop(path)
            began = time.perf_counter()
            amount = way()
            rates.setdefault(name, []).append(amount / (time.perf_counter() - began))

    def median(name: str) -> float:
        return statistics.median(rates[name])

    for name in rates:
        print(f"  {name:<44} {median(name):>10,.0f} images/s, cold")
    ratio = median("ours, blocks shuffled") / median("memory map, random")
    print(f"  {'ratio, cold':<44} {ratio:>10.1f} (wanted: 10)")


def drop(path: Path) -> None:
    """Let the system forget a file, so that the next reader waits for the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="of driving in a bag")
    parser.add_argument("--folder", type=Path, help="for the files")
    parser.add_argument("--only", default="bags,tars,loader")
    args = parser.parse_args()
    versions = " ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "pillow", "simplejpeg", "rosbags")
    )
    print("$ python", shlex.join(sys.argv))
    print(f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    print(f"CPU time of one process, median of {ROUNDS} rounds in turn\n")
    parts = {"bags": lambda folder: bags(folder, args.seconds), "tars": tars, "loader": loader}
    for name in args.only.split(","):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            parts[name](Path(folder))
        print()


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
