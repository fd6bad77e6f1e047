"""Preparing data as a real process, killed at 50 random moments: what it ends with is the same byte for byte.

And a training on shards that exceed its memory, killed in the middle of an epoch.
"""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from model.config import TrainConfig
from model.config.data_recipe import Options
from model.data.prepare.prepare import prepare
from model.data.prepare.verify import verify
from model.training.checkpoint import digest, load, path_of, steps_in
from tests.support.data_files import Drive, write_bag, write_bag_archive

pytestmark = pytest.mark.slow

PATIENCE_S = 120.0
FORK = get_context("fork")  # the imports of a new process take as long as its work


def work(source: Path, out: Path, jobs: int) -> None:
    """Prepare; the body of a process that is killed."""
    options = Options(
        source=str(source), out=out, size=16, cameras="all", jobs=jobs,
        commit_bytes=50_000, stretch_bytes=100_000, shard_bytes=20_000,
    )  # fmt: skip
    prepare("udacity", options, stream=io.StringIO())


def start(source: Path, out: Path, jobs: int = 1) -> ForkProcess:
    process = FORK.Process(target=work, args=(source, out, jobs))
    process.start()
    return process


def ended(process: ForkProcess) -> int:
    process.join(PATIENCE_S)
    assert process.exitcode is not None
    return process.exitcode


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive in six bags, by topics and by time."""
    folder = tmp_path_factory.mktemp("drive")
    for number in range(3):
        for topic in ("camera", "vehicle"):
            some = Drive(seconds=3, fps=20, cameras=("left", "center", "right"), start_s=3.0 * number, topics=(topic,))
            write_bag(folder / "set" / f"{topic}_{number}.bag", some)
    write_bag_archive(folder / "drive.tar.gz", sorted((folder / "set").glob("*.bag")))
    # Without the car's own reports: position and speed come 400 times a second, and frames lie between what is kept.
    often = Drive(seconds=4, start_s=0.0137, cameras=("left", "center", "right"), topics=("camera", "fix", "twist"))
    write_bag(folder / "often.bag", often)
    return folder


@pytest.mark.parametrize(("form", "wanted_kills"), [("set", 7), ("drive.tar.gz", 7), ("often.bag", 4)])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    form: str, wanted_kills: int, drive: Path, tmp_path: Path
) -> None:
    source = drive / form
    began_s = time.monotonic()
    assert ended(start(source, tmp_path / "whole")) == 0
    whole_s = time.monotonic() - began_s
    wanted = contents(tmp_path / "whole")
    assert not [name for name in wanted if name.startswith(".")]
    chance, kills, stories, halves = random.Random(7), 0, 0, 0
    while kills < wanted_kills:
        out = tmp_path / f"story-{stories}"
        stories += 1
        while True:
            process = start(source, out)
            # The last kill spares what is left, so that each story ends.
            if kills < wanted_kills:
                time.sleep(chance.uniform(0, whole_s * 0.7))
                process.kill()
            code = ended(process)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            kills += 1
            halves += (out / ".parts").exists() or (out / ".prepare.jsonl").exists()
            if (out / "manifest.json").exists():
                verify(out)  # killed at its very end: what it says is whole is
        assert contents(out) == wanted
    assert halves >= wanted_kills // 4  # most kills came when something was half done


def test_several_processes_killed_together_end_with_the_same_bytes(drive: Path, tmp_path: Path) -> None:
    options = Options(source=str(drive / "set"), out=tmp_path / "whole", size=16, cameras="all", shard_bytes=20_000)
    prepare("udacity", options)
    chance = random.Random(3)
    for _ in range(3):
        process = start(drive / "set", tmp_path / "out", jobs=2)
        time.sleep(chance.uniform(0.3, 2.0))
        process.kill()
        assert ended(process) in (0, -signal.SIGKILL)
    assert ended(start(drive / "set", tmp_path / "out", jobs=2)) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_memory_does_not_grow_with_the_bag(tmp_path: Path) -> None:
    """150 MB at most, for a bag of 180 MB of raw images and for its tar.gz."""
    bag = write_bag(
        tmp_path / "raw.bag", Drive(seconds=10, fps=20, width=640, height=480, jpeg=False), chunk_bytes=1 << 20
    )
    archive = write_bag_archive(tmp_path / "raw.tar.gz", [bag])
    code = (
        "import sys; from pathlib import Path; from model.data.prepare.prepare import prepare\n"
        "from model.config.data_recipe import Options\n"
        "prepare('udacity', Options(source=sys.argv[1], out=Path(sys.argv[2])))\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    for source in (bag, archive):
        words = [sys.executable, "-c", code, str(source), str(tmp_path / f"out-{source.name}")]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert int(done.stdout) < 150 * 1024, f"{source.name}: {done.stdout} KiB"


TRAIN = """
import sys, time
from pathlib import Path
import model.data.feed, model.data.shuffle
from model.config import TrainConfig
from model.training.stop import StopFlag
from model.training.loop import train
model.data.shuffle.BLOCK, model.data.shuffle.POOL = 8, 3
model.data.feed.Feed.available_bytes = property(lambda self: int(sys.argv[3]))
config = TrainConfig.model_validate_json(Path(sys.argv[1]).read_text())
print("go", flush=True)
sys.exit(train(config, Path(sys.argv[2]), StopFlag(), began_s=time.monotonic()))
"""


def test_a_training_on_more_than_its_memory_killed_in_mid_epoch_is_equal_in_every_bit(
    drive: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    prepare(
        "udacity", Options(source=str(drive / "set"), out=data, size=8, levels=16, cameras="all", shard_bytes=40_000)
    )
    config = TrainConfig(
        dataset=str(data), steps=60, batch_size=17, hidden=4, layers=1, head=4, checkpoint_every=7, validate_every=60,
        validate_images=20, samples=1, device="cpu", condition="steering_angle,speed",
    )  # fmt: skip
    (tmp_path / "config.json").write_text(config.model_dump_json())

    def train(out: Path, memory: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", TRAIN, str(tmp_path / "config.json"), str(out), str(memory)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"  # the imports are over
        return process

    low, high = 100_000, 1 << 30
    process = train(tmp_path / "whole", low)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    chance, out = random.Random(1), tmp_path / "out"
    for number in range(2):  # on machines with other memory each time; the first one decides the order
        process = train(out, low if number % 2 == 0 else high)
        done = max(steps_in(out), default=0) if out.exists() else 0
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and not any(step > done for step in (steps_in(out) if out.exists() else [])):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(chance.random() * 0.05)
        process.kill()
        process.communicate()
    process = train(out, high)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0

    def state(folder: Path) -> str:
        saved = load(path_of(folder, config.steps))
        return digest([saved.step, saved.position, saved.model, saved.ema, saved.optimizer, saved.rng, saved.progress])

    assert load(path_of(out, config.steps)).progress["order"] == "blocks-8x3"
    assert state(out) == state(tmp_path / "whole")
