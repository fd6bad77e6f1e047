"""The lines in which the set-up says what it does, among all that its programs print."""

from __future__ import annotations

from orchestrator.host.setup_lines import SetupLines


def test_the_newest_line_of_ours_is_given_once() -> None:
    lines = SetupLines()
    hear, hear_data = lines.listener(), lines.listener()
    assert lines.newest() == ""
    hear(b"E: Unable to locate package\nbootstrap: pip inst")
    assert lines.newest() == ""
    hear_data(b"data: preparing mnist\n")
    assert lines.newest() == "preparing mnist"
    hear(b"all torch: 20 s so far; its last output: \xff 5 %\nCollecting torch\n")
    assert lines.newest() == "pip install torch: 20 s so far; its last output: \ufffd 5 %"
    assert lines.newest() == ""


def test_an_endless_line_is_not_kept() -> None:
    lines = SetupLines()
    hear = lines.listener()
    for _ in range(1_000):
        hear(b"x" * 65_536)
    hear(b"\nbootstrap: " + b"y" * 10_000 + b"\n")
    assert len(lines.newest()) <= 400
