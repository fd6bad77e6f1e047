"""The curves of a run: every number, over all attempts, whatever the files hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.dashboard import curves as curves_of
from orchestrator.dashboard.appended import Appended
from orchestrator.dashboard.state import Board
from orchestrator.runs.events import Progress
from tests.support.report_runs import BORN, Had, write_run

NOW = BORN + 3000.0


def lines(first: int, last: int, **more: Any) -> list[str]:
    return [json.dumps({"step": step, "loss": float(step), **more}) for step in range(first, last + 1)]


def test_every_number_has_its_curve_and_a_validation_its_own(home: Path) -> None:
    made = [*lines(1, 4, **{"my metric/ä": 0.5, "note": "text", "flag": True}), '{"step":4,"split":"valid","loss":9}']
    write_run(home, "one", [Had(lines=made)])
    found = Board(home).curves("one")
    assert found["curves"]["loss"] == [[1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0]]
    assert found["curves"]["valid/loss"] == [[4], [9.0]]
    assert found["curves"]["my metric/ä"][1] == [0.5] * 4
    assert set(found["curves"]) == {"loss", "valid/loss", "my metric/ä"}


def test_steps_that_are_trained_again_replace_those_that_were_lost(home: Path) -> None:
    first = Had(last_step=6, ended_by="aws", lines=lines(1, 6))
    second = Had(first_step=4, last_step=8, lines=[line.replace(".0", ".5") for line in lines(4, 8)])
    write_run(home, "one", [first, second])
    assert Board(home).curves("one")["curves"]["loss"] == [
        [1, 2, 3, 4, 5, 6, 7, 8],
        [1.0, 2.0, 3.0, 4.5, 5.5, 6.5, 7.5, 8.5],
    ]


def test_events_tell_the_curves_of_a_run_without_metrics(home: Path) -> None:
    told = [Progress(at=BORN + 90 + n, attempt=1, step=n, values={"loss": 1.0 / n, "x": "no"}) for n in (1, 2)]
    write_run(home, "one", [Had(lines=[], extra=list(told))])
    assert Board(home).curves("one")["curves"] == {"loss": [[1, 2], [1.0, 0.5]]}


def test_a_page_gets_what_was_appended(home: Path) -> None:
    store = write_run(home, "one", [Had(ended_by=None, lines=lines(1, 3))])
    board = Board(home)
    version = board.run("one", NOW)["version"]
    assert board.run("one", NOW + 1)["version"] == version, "nothing has changed"
    with store.metrics_path(1).open("a") as file:
        file.write("\n".join(lines(4, 5)) + '\n{"step": 6, "lo')
    assert board.run("one", NOW + 2)["version"] > version
    assert board.curves("one")["curves"]["loss"][0] == [1, 2, 3, 4, 5]
    with store.metrics_path(1).open("a") as file:
        file.write('ss": 6.0}\n')
    board.run("one", NOW + 3)
    assert board.curves("one")["curves"]["loss"][0] == [1, 2, 3, 4, 5, 6]
    store.metrics_path(1).write_text("\n".join(lines(1, 2)) + "\n")
    board.run("one", NOW + 4)
    assert board.curves("one")["curves"]["loss"][0] == [1, 2], "the file was written anew"


def test_a_long_file_is_read_in_parts_and_sent_in_few_points(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves_of, "PIECE_BYTES", 4 << 10)
    write_run(home, "one", [Had(lines=lines(1, 2000))])
    board = Board(home)
    looks = [board.run("one", NOW)]
    while looks[-1]["is_reading"]:
        looks.append(board.run("one", NOW))
    shares = [look["share_read"] for look in looks]
    assert shares == sorted(shares)
    assert (shares[0] < 0.2, shares[-1], len(looks) > 5) == (True, 1.0, True)
    steps, values = board.curves("one")["curves"]["loss"]
    assert (len(steps) <= curves_of.MOST_POINTS, steps[-1]) == (True, 2000)
    assert values == pytest.approx([step - 2 for step in steps], rel=0.5, abs=10)


@pytest.mark.parametrize(
    "evil",
    [
        "[" * 5000,
        '{"step": 9, "loss": ' + "9" * 400 + "}",
        "\x00\x01",
        '{"step": -1}',
        '{"step":7,"loss":NaN}',
        "A" * 99,
    ],
)
def test_a_line_that_makes_no_sense_is_left_out(home: Path, evil: str) -> None:
    write_run(home, "one", [Had(lines=[*lines(1, 2), evil, *lines(3, 4)])])
    found = Board(home).curves("one")
    assert found["curves"]["loss"] == [[1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0]]
    json.dumps(found, allow_nan=False)


def test_thousands_of_names_are_bounded(home: Path) -> None:
    write_run(home, "one", [Had(lines=[json.dumps({"step": 1, **{f"key{n}": 1.0 for n in range(5000)}})])])
    found = Board(home).curves("one")
    assert len(found["curves"]) == curves_of.MOST_CURVES


@pytest.mark.parametrize("how", ["fifo", "folder", "missing", "dangling"])
def test_metrics_that_are_no_file_are_no_curves(home: Path, how: str) -> None:
    import os

    store = write_run(home, "one", [Had(lines=lines(1, 3))])
    path = store.metrics_path(1)
    path.unlink()
    if how == "fifo":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "dangling":
        path.symlink_to("/nowhere")
    board = Board(home)
    assert board.curves("one")["curves"] == {}
    assert board.run("one", NOW)["is_reading"] is False


def test_an_endless_line_is_passed_over_and_what_follows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one\n" + b"x" * 10_000 + b"\ntwo\nthr")
    file, got = Appended(path), b""
    while True:
        piece = file.look(1000)
        got += piece.lines
        if file.is_read:
            break
    assert got == b"one\n?\ntwo\n"
    assert piece.rest == b"thr"
    with path.open("ab") as more:
        more.write(b"ee\n")
    assert file.look(1000).lines == b"three\n"
