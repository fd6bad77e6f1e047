"""A disk that is full is one line: which file, how much it needs, what to do. Also where torch tells another error."""

from __future__ import annotations

import errno
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from model.__main__ import main
from model.atomic_files import naming, write_file
from model.config import TrainConfig
from model.data import load as load_data
from model.image_files import write_grid
from model.training import checkpoint as checkpoints
from model.training.checkpoint import save
from model.training.loop import train
from model.training.metrics import Metrics
from model.training.state import Training
from model.training.stop import StopFlag

torch.set_num_threads(1)

SMALL = TrainConfig(
    steps=2, batch_size=20, hidden=4, layers=1, head=6, checkpoint_every=1, validate_every=2, validate_images=20,
    samples=0, device="cpu", log_every=1,
)  # fmt: skip
WORDS = ["train", "--steps", "2", "--set", "batch_size=20", "--set", "hidden=4", "--set", "layers=1", "--set",
         "validate_every=2", "--set", "checkpoint_every=1", "--set", "device=cpu"]  # fmt: skip


@contextmanager
def room_for(most: int) -> Iterator[None]:
    """No file can become longer than this; the kernel says EFBIG then, as it says ENOSPC on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 kB; mounting it needs the rights of root."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    words = [mount or "", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)]
    if mount is None or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here: that needs the rights of root")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_wherever_a_checkpoint_is_cut_off_the_error_is_the_disks(tmp_path: Path) -> None:
    saved = Training(SMALL, load_data("digits"), torch.device("cpu")).checkpoint()
    size = save(tmp_path, saved).stat().st_size
    before = (tmp_path / "checkpoint-0.pt").read_bytes()
    for most in [*range(0, size, size // 12), size - 1]:
        with room_for(most), pytest.raises(OSError, match=r"kB needed, .*[MG]B free|kB needed, .* free") as caught:
            save(tmp_path, saved)
        assert caught.value.errno == errno.EFBIG
        assert caught.value.filename == str(tmp_path / "checkpoint-0.pt")
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-0.pt"]
    assert (tmp_path / "checkpoint-0.pt").read_bytes() == before


def test_on_a_full_file_system_a_training_ends_with_one_line(
    small_disk: Path, capsys: pytest.CaptureFixture[str], trainers_signals: None
) -> None:
    assert main([*WORDS, "--set", "samples=0", "--out", str(small_disk)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"error: cannot write {small_disk}/" in err
    assert "No space left on device (" in err
    assert "needed, " in err
    assert "free the disk or give another folder" in err
    assert not list(small_disk.glob(".*"))
    assert checkpoints.steps_in(small_disk) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_measurements_that_cannot_be_written_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trainers_signals: None
) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    assert main([*WORDS, "--set", "samples=0", "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"cannot write {tmp_path}/metrics.jsonl: No space left on device (" in err


def test_samples_that_cannot_be_written_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trainers_signals: None
) -> None:
    assert train(SMALL, tmp_path, StopFlag(), began_s=time.monotonic()) == 0
    (tmp_path / "samples-2.png").unlink(missing_ok=True)
    with room_for(2000):  # of 5 kB; the metrics are shorter
        assert main([*WORDS, "--set", "head=6", "--set", "samples=64", "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 2
    assert err.startswith("checkpoint-2.pt has other settings: ")
    assert f"\npython -m model train: error: cannot write {tmp_path}/samples-2.png: File too large (" in err
    assert not list(tmp_path.glob(".samples*"))


def test_small_files_and_pictures_name_themselves(tmp_path: Path) -> None:
    levels = np.zeros((4, 1, 8, 8), np.uint8)
    grid, best = tmp_path / "grid.png", tmp_path / "best.json"
    with room_for(10):
        with pytest.raises(OSError, match=r"needed, .*grid\.png") as of_grid:
            write_grid(grid, levels, K=2)
        with pytest.raises(OSError, match=r"needed, .*best\.json") as of_best:
            write_file(best, b"x" * 1000)
    assert (of_grid.value.filename, of_best.value.filename) == (str(grid), str(best))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_events_of_tensorboard_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    code = (
        "import resource, sys\n"
        "from model.__main__ import main\n"
        "from model.training.tensorboard import Board\n"
        "from pathlib import Path\n"
        "made = Board.__init__\n"
        "def init(self, folder, *, step):\n"
        "    made(self, folder, step=step)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))\n"
        "Board.__init__ = init\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = ["train", "--steps", "40", *WORDS[3:9], "--set", "samples=0", "--set", "tensorboard=on"]
    words += ["--set", "log_every=1", "--set", "device=cpu"]
    (tmp_path / "metrics.jsonl").symlink_to("/dev/null")  # only the events grow
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--out", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"cannot write {tmp_path}/tensorboard: File too large" in done.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES])
def test_an_error_without_a_file_gets_it_and_room_is_counted_where_it_lacks(number: int, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"x\.bin") as caught, naming(tmp_path / "x.bin", needed=12_000_000):
        raise OSError(number, "words")
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "x.bin"))
    assert ("(12.0 MB needed, " in caught.value.strerror) == (number in (errno.ENOSPC, errno.EDQUOT))
    with pytest.raises(OSError, match=r"x\.bin") as again, naming(tmp_path / "x.bin"):
        raise caught.value
    assert str(again.value) == str(caught.value)


def test_the_first_error_of_a_training_is_told_not_the_one_of_its_end(tmp_path: Path) -> None:
    def fail() -> None:
        with room_for(3), Metrics(tmp_path, began_s=0.0) as metrics:
            with suppress(OSError):
                metrics.event("start")  # it stays in the buffer, and the end tries again
            raise KeyError("first")

    with pytest.raises(KeyError, match="first"):
        fail()
