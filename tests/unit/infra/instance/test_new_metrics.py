"""The metrics of a program that writes its file in ways of its own: replaced, removed first, begun anew, rewritten."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from infra.instance.trainer_files import link_outputs, listed, metrics_path, new_metrics


class Owner:
    """Appends what each poll brings, as the owner does.

    Args:
        root: the run's folder on the machine.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state: dict[str, Any] = {"code_before": {}}
        self.got = ""

    def poll(self, *, is_over: bool = False) -> list[int]:
        """Return the steps that are known after a poll."""
        text, offset, size = new_metrics(str(self.root), self.state, len(self.got), not is_over)
        self.got += text
        assert len(self.got) == offset <= size
        return [json.loads(line)["step"] for line in self.got.splitlines()]


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    """Give the owner of a run that has just begun: the working folder has our link."""
    for name in ("agent", "out", "code"):
        (tmp_path / name).mkdir()
    link_outputs(str(tmp_path), has_metrics=False, say=print)
    return Owner(tmp_path)


def lines(*steps: int) -> str:
    return "".join(json.dumps({"step": step}) + "\n" for step in steps)


def replace(path: Path, text: str) -> None:
    path.with_name("new").write_text(text)
    os.replace(path.with_name("new"), path)


def test_a_program_that_replaces_its_file_replaces_our_link(owner: Owner) -> None:
    own = owner.root / "code" / "metrics.jsonl"
    own.write_text(lines(1))  # through the link
    assert owner.poll() == [1]
    replace(own, lines(1, 2))
    assert owner.poll() == [1, 2]
    replace(own, lines(1, 2, 3) + '{"step": 4}')
    assert owner.poll() == [1, 2, 3]
    assert owner.poll(is_over=True) == [1, 2, 3, 4]
    assert metrics_path(str(owner.root), owner.state) == str(own)


def test_a_program_that_removes_what_is_there_first(owner: Owner) -> None:
    own = owner.root / "code" / "metrics.jsonl"
    own.unlink()
    own.write_text(lines(1, 2))
    assert owner.poll() == [1, 2]


@pytest.mark.parametrize("folder", ["out", "code"])
def test_a_file_that_is_begun_anew_follows_the_one_before(owner: Owner, folder: str) -> None:
    own = owner.root / folder / "metrics.jsonl"
    for first in (1, 11, 21):
        for step in range(first, first + 3):
            own.write_text(lines(*range(first, step + 1)))
            owner.poll()
    assert owner.poll(is_over=True) == [1, 2, 3, 11, 12, 13, 21, 22, 23]


def test_a_history_that_is_written_again_comes_once(owner: Owner) -> None:
    own = owner.root / "out" / "metrics.jsonl"
    own.write_text(lines(1, 2, 3))
    assert owner.poll() == [1, 2, 3]
    for text in ("", lines(1), lines(1, 2), lines(1, 2, 3), lines(1, 2, 3, 4)):
        own.write_text(text)
        known = owner.poll()
    assert known == [1, 2, 3, 4]


def test_an_owner_that_has_lost_its_copy_gets_the_file_of_now(owner: Owner) -> None:
    own = owner.root / "out" / "metrics.jsonl"
    own.write_text(lines(1, 2))
    owner.poll()
    own.write_text(lines(11, 12))
    assert owner.poll() == [1, 2, 11, 12]
    owner.got = ""
    assert owner.poll() == [11, 12]
    own.write_text(lines(11, 12, 13))
    assert owner.poll() == [11, 12, 13]


def test_without_room_for_the_mark_nothing_is_sent_twice(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, value: object) -> None:
        raise OSError(28, "No space left on device")

    own = owner.root / "out" / "metrics.jsonl"
    own.write_text(lines(1))
    owner.poll()
    own.write_text(lines(11))
    with monkeypatch.context() as patched:
        patched.setattr("infra.instance.trainer_files.write_json", full)
        assert [owner.poll(), owner.poll()] == [[1], [1]]
    assert owner.poll() == [1, 11]


def test_a_checkpoint_of_one_name_that_is_replaced_in_the_working_folder_is_the_new_one(owner: Owner) -> None:
    out, own = owner.root / "out" / "checkpoint-1.pt", owner.root / "code" / "checkpoint-1.pt"
    out.write_text("restored")
    os.utime(out, (1, 1))
    own.symlink_to(out)
    assert [path for _, path, _ in listed(str(owner.root), owner.state)] == [str(out)]
    replace(own, "new")
    assert [path for _, path, _ in listed(str(owner.root), owner.state)] == [str(own)]


def test_a_pipe_or_folder_with_the_name_of_a_checkpoint_is_none(owner: Owner) -> None:
    os.mkfifo(owner.root / "out" / "checkpoint-1.pt")
    (owner.root / "out" / "checkpoint-2.pt").mkdir()
    (owner.root / "out" / "checkpoint-3.pt").symlink_to("nowhere")
    (owner.root / "out" / "checkpoint-4.pt").write_text("w")
    assert [name for name, _, _ in listed(str(owner.root), owner.state)] == ["checkpoint-4.pt"]
