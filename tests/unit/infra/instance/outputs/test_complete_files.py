"""A file is complete once it stands still and nobody has it open to write: told by the kernel's own lists."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.instance.outputs.complete_files import STILL_S, STILL_UNSEEN_S, CompleteFiles, open_to_write

pytestmark = pytest.mark.skipif(not Path("/proc/self/fdinfo").is_dir(), reason="needs Linux's /proc")


class Now:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def stats(*paths: Path) -> dict[str, os.stat_result]:
    return {str(path): path.stat() for path in paths}


def is_busy(path: Path) -> bool:
    status = path.stat()
    return (status.st_dev, status.st_ino) in open_to_write()


@pytest.mark.parametrize("mode", ["wb", "ab", "r+b", "w+b", "xb"])
def test_a_file_that_is_open_to_write_is_seen(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "last.ckpt"
    if mode == "r+b":
        path.write_bytes(b"x")
    with path.open(mode):
        assert is_busy(path)
    assert not is_busy(path)


def test_a_reader_disturbs_nobody(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"x")
    with path.open("rb"):
        assert not is_busy(path)


def test_a_mapping_outlives_its_file_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "cache.npy"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 4096)
    assert is_busy(path)
    shared.close()
    assert not is_busy(path)


@contextmanager
def writer(path: Path) -> Iterator[None]:
    """Another process that has the file open."""
    code = "import sys; file = open(sys.argv[1], 'ab'); print('open', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(path)], **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline() == b"open\n"
        yield
        child.stdin.close()


def test_another_process_has_it_open(tmp_path: Path) -> None:
    path, now = tmp_path / "checkpoint-10.pt", Now()
    path.write_bytes(b"half")
    files = CompleteFiles(now)
    files.of(stats(path))
    now.s += 60
    with writer(path):
        assert files.of(stats(path)) == set()
        assert files.of(stats(path), is_over=True) == set()  # a child of a program that has ended
    assert files.of(stats(path)) == {str(path)}


def test_it_has_to_stand_still(tmp_path: Path) -> None:
    path, now = tmp_path / "checkpoint-10.pt", Now()
    path.write_bytes(b"a")
    files = CompleteFiles(now)
    assert files.of(stats(path)) == set()
    now.s += STILL_S / 2
    path.write_bytes(b"ab")
    assert files.of(stats(path)) == set()
    now.s += STILL_S * 0.9
    assert files.of(stats(path)) == set()
    now.s += STILL_S * 0.2
    assert files.of(stats(path)) == {str(path)}


def test_the_same_size_and_time_with_other_content_is_a_change(tmp_path: Path) -> None:
    """A program may set the time of what it copies; the kernel's change time cannot be set."""
    path, now = tmp_path / "checkpoint-10.pt", Now()
    path.write_bytes(b"aa")
    before = path.stat()
    files = CompleteFiles(now)
    files.of(stats(path))
    now.s += STILL_S
    path.write_bytes(b"bb")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert files.of(stats(path)) == set()


def test_after_the_end_of_the_program_one_look_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-10.pt"
    path.write_bytes(b"a")
    assert CompleteFiles(Now()).of(stats(path), is_over=True) == {str(path)}


def test_a_file_of_another_user_stands_still_for_longer(tmp_path: Path) -> None:
    path, now = tmp_path / "checkpoint-10.pt", Now()
    path.write_bytes(b"a")
    files = CompleteFiles(now, set, user=path.stat().st_uid + 1)
    files.of(stats(path))
    now.s += STILL_S
    assert files.of(stats(path)) == set()
    now.s += STILL_UNSEEN_S
    assert files.of(stats(path)) == {str(path)}


def test_a_folder_is_complete_with_its_last_file(tmp_path: Path) -> None:
    now, (whole, half) = Now(), (tmp_path / "checkpoint-500", tmp_path / "checkpoint-1000")
    for folder in (whole, half):
        (folder / "deep").mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"a")
        (folder / "deep" / "optimizer.pt").write_bytes(b"b")
    files = CompleteFiles(now)
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = [str(whole), str(half)]
    assert files.folders(stats(*found), names) == set()
    now.s += STILL_S
    with (half / "deep" / "optimizer.pt").open("ab"):
        assert files.folders(stats(*found), names) == {str(whole)}
    assert files.folders(stats(*found), names) == set(names)
