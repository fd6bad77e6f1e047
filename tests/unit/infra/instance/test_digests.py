"""Digests: computed once, by one, in the right order; what waits for one is counted and not listed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from infra.instance import digests
from infra.instance.digests import Hasher, cache_path, outputs
from infra.instance.outputs.complete_files import CompleteFiles

RUNNING: dict[str, Any] = {"trainer": {"state": "running"}, "code_before": {}}
EXITED: dict[str, Any] = {"trainer": {"state": "exited"}, "code_before": {}}


class Now:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("out", "code", "agent"):
        (tmp_path / name).mkdir()
    return tmp_path


def saved(root: Path, step: int, content: bytes) -> Path:
    path = root / "out" / f"checkpoint-{step}.pt"
    path.write_bytes(content)
    return path


def hasher(root: Path, state: dict[str, Any] = EXITED, now: Now | None = None) -> Hasher:
    return Hasher(str(root), lambda: state, CompleteFiles(now or Now(), set))


def listing(root: Path, state: dict[str, Any] = EXITED) -> list[tuple[str, str]]:
    return [(one["name"], one["sha256"]) for one in outputs(str(root), state)[0]]


def test_a_file_without_a_digest_is_counted_and_not_listed(root: Path) -> None:
    saved(root, 5, b"weights")
    assert outputs(str(root), EXITED) == ([], [7])
    assert hasher(root).look()
    assert outputs(str(root), EXITED) == (
        [{"name": "checkpoint-5.pt", "step": 5, "size_bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}], []
    )  # fmt: skip


def test_a_digest_is_computed_once_also_by_the_next_watch_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(root, 5, b"weights")
    first = hasher(root)
    first.look()
    monkeypatch.setattr(Hasher, "digest_of", lambda *_: pytest.fail("it was read again"))
    assert not first.look()
    assert not hasher(root).look()


def test_a_file_that_was_written_again_waits_again(root: Path) -> None:
    path = saved(root, 5, b"weights")
    one = hasher(root)
    one.look()
    path.write_bytes(b"others!")
    os.utime(path, ns=(1, 1))
    assert outputs(str(root), EXITED) == ([], [7])
    one.look()
    assert listing(root) == [("checkpoint-5.pt", hashlib.sha256(b"others!").hexdigest())]
    assert len(json.loads(Path(cache_path(str(root))).read_text())) == 1, "the old digest is forgotten"


def test_the_newest_checkpoint_goes_first_and_samples_last(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (5, 20, 10):
        saved(root, step, b"w")
        (root / "out" / f"samples-{step}.png").write_bytes(b"s")
    read: list[str] = []
    true = Hasher.digest_of

    def noted(self: Hasher, path: str, mark: list[int]) -> str:
        read.append(os.path.basename(path))
        return true(self, path, mark)

    monkeypatch.setattr(Hasher, "digest_of", noted)
    hasher(root).look()
    checkpoints, samples = read[:3], read[3:]
    assert checkpoints == ["checkpoint-20.pt", "checkpoint-10.pt", "checkpoint-5.pt"]
    assert samples == ["samples-20.png", "samples-10.png", "samples-5.png"]


def test_a_file_that_changes_while_it_is_read_gets_no_digest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(root, 5, b"half of it")
    monkeypatch.setattr(digests, "PIECE", 4)

    class Growing:
        """Reads a file that a program appends to."""

        def update(self, piece: bytes) -> None:
            with path.open("ab") as file:
                file.write(b"more")

        def hexdigest(self) -> str:
            return "0" * 64

    monkeypatch.setattr(digests.hashlib, "sha256", Growing)
    assert not hasher(root).look()
    assert listing(root) == []


def test_a_file_that_is_removed_or_replaced_while_it_is_read_gets_no_digest(root: Path) -> None:
    path = saved(root, 5, b"weights")
    one = hasher(root)
    status = path.stat()
    path.unlink()
    assert one.digest_of(str(path), digests.identity(status)) == ""
    saved(root, 5, b"weights")
    os.utime(path, ns=(1, 1))
    assert one.digest_of(str(path), digests.identity(status)) == ""


def test_a_file_that_is_not_complete_waits_while_the_trainer_runs(root: Path) -> None:
    now = Now()
    saved(root, 5, b"half of")
    one = hasher(root, RUNNING, now)
    assert not one.look()
    saved(root, 5, b"half of it, and more")
    now.at += 1.5
    assert not one.look(), "it has changed since the last look"
    now.at += 1.5
    assert one.look()
    assert listing(root) == [("checkpoint-5.pt", hashlib.sha256(b"half of it, and more").hexdigest())]


def test_what_the_trainer_left_needs_no_second_look(root: Path) -> None:
    saved(root, 5, b"weights")
    assert hasher(root, EXITED).look()


def test_on_a_full_disk_the_digests_are_kept_all_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = digests.write_json

    def full(path: str, value: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(digests, "write_json", full)
    saved(root, 5, b"weights")
    one = hasher(root)
    with pytest.raises(OSError, match="No space"):
        one.look()
    assert listing(root) == [("checkpoint-5.pt", hashlib.sha256(b"weights").hexdigest())]
    assert hasher(root).known == one.known, "the next watch process has it too"
    monkeypatch.setattr(digests, "write_json", true)
    one.look()
    assert listing(root) == [("checkpoint-5.pt", hashlib.sha256(b"weights").hexdigest())]
    assert not [path for path in (root / "agent").iterdir() if path.is_symlink()]


def test_many_files_are_written_down_at_once_and_a_newer_one_is_looked_for_in_between(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "LOOK_AGAIN_S", -1.0)
    monkeypatch.setattr(digests, "MOST_SHARE", float("inf"))
    for step in range(5):
        saved(root, step, b"w")
    one = hasher(root)
    assert one.look()
    assert [name for name, _ in listing(root)] == ["checkpoint-4.pt"]
    saved(root, 9, b"newest")
    assert one.look()
    assert [name for name, _ in listing(root)] == ["checkpoint-4.pt", "checkpoint-9.pt"]
    while one.look():
        pass
    assert len(listing(root)) == 6
