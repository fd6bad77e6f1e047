"""What a poll brings of a growing log and of growing metrics."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.instance.trainer_files import MOST_BYTES_A_POLL, new_text


def test_a_progress_bar_is_sent_as_it_grows(tmp_path: Path) -> None:
    """tqdm ends a line by CR, and by LF only when the bar is full."""
    log = tmp_path / "trainer.log"
    first, second = "\rtraining:  10%|#   |", "\rtraining:  20%|##  |"
    log.write_text(first)
    text, offset, size = new_text(str(log), 0, whole_lines=False)
    assert (text, offset, size) == (first, len(first), len(first))
    with log.open("a") as file:
        file.write(second)
    both = len(first + second)
    assert new_text(str(log), offset, whole_lines=False) == (second, both, both)


def test_half_a_line_of_metrics_waits_for_the_rest_until_nobody_writes(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(b'{"step": 1}\n{"st')
    assert new_text(str(metrics), 0, whole_lines=True) == ('{"step": 1}\n', 12, 16)
    assert new_text(str(metrics), 12, whole_lines=True) == ("", 12, 16)
    assert new_text(str(metrics), 12, whole_lines=False) == ('{"st', 16, 16)


@pytest.mark.parametrize("whole_lines", [True, False])
def test_a_long_file_comes_in_parts_and_says_how_much_is_left(tmp_path: Path, whole_lines: bool) -> None:
    path = tmp_path / "metrics.jsonl"
    content = b"".join(b'{"step": %d}\n' % step for step in range(40_000))
    path.write_bytes(content)
    offset, polls, got = 0, 0, ""
    while offset < len(content):
        text, offset, size = new_text(str(path), offset, whole_lines)
        assert size == len(content)
        assert len(text) <= MOST_BYTES_A_POLL
        got, polls = got + text, polls + 1
    assert got.encode() == content
    assert polls == 3


def test_bytes_that_are_no_text_arrive_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "trainer.log"
    path.write_bytes(b"caf\xe9 \xf0\x9f\x98")  # the rest of the letter is not written yet
    text, offset, _ = new_text(str(path), 0, whole_lines=False)
    assert text.encode(errors="surrogateescape") == b"caf\xe9 \xf0\x9f\x98"
    assert offset == 8


def test_a_file_that_is_not_there_or_was_cut_gives_nothing(tmp_path: Path) -> None:
    assert new_text(str(tmp_path / "none"), 7, whole_lines=True) == ("", 7, 0)
    (tmp_path / "cut").write_bytes(b"abc")
    assert new_text(str(tmp_path / "cut"), 7, whole_lines=False) == ("", 7, 7)
