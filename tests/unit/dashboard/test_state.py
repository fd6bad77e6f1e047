"""What the dashboard shows is what the store holds."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.dashboard import snapshot
from orchestrator.dashboard.state import MOST_OPEN, Board
from orchestrator.market.billing import total_usd
from orchestrator.runs import files
from orchestrator.runs.events import PriceChanged, Progress, StateChanged
from orchestrator.runs.spec import Limits
from orchestrator.runs.store import RunStore
from tests.support.home_0_1_0 import copied, expected
from tests.support.report_runs import BORN, PNG, Had, write_run

NOW = BORN + 3000.0


def page_of(home: Path, run: str = "going") -> dict[str, Any]:
    return Board(home).run(run, NOW)


def test_it_shows_state_steps_speed_cost_and_samples(home: Path) -> None:
    seen = [Progress(at=BORN + 90, attempt=1, step=40, images_per_s=900.0)]
    had = Had(ended_by=None, extra=list(seen))
    store = write_run(home, "going", [had], limits=Limits(budget_usd=Decimal(2)))
    for step in (9, 100, 20):
        (store.folder / f"samples-{step}.png").write_bytes(PNG)
    (run,) = snapshot(home, NOW)["runs"]
    assert (run["step"], run["steps"], run["images_per_s"]) == (100, 1000, 900.0), "checkpoint-100.pt is downloaded"
    assert (run["budget_usd"], run["usd_is_estimate"]) == (2.0, True)
    assert run["usd"] == pytest.approx(float(total_usd(store.state().attempts, NOW)))
    assert run["where"] == "g4dn.xlarge spot in us-east-1a"
    assert not run["is_led"], "nobody holds its lock"
    page = page_of(home)
    assert page["run"] == run
    assert page["samples"] == [9, 20, 100]
    assert any("checkpoint-100.pt downloaded" in event["words"] for event in page["events"])


def test_its_step_is_the_newest_known_step_as_in_status(home: Path) -> None:
    late = [Progress(at=BORN + 90, attempt=1, step=40)]
    store = write_run(home, "going", [Had(ended_by=None, extra=list(late))])
    board = Board(home)
    assert board.snapshot(NOW)["runs"][0]["step"] == 100
    with store.metrics_path(1).open("a") as file:
        file.write('{"step": 180, "split": "valid"}\n{"step": 18')
    assert board.snapshot(NOW + 1)["runs"][0]["step"] == 180


def test_all_runs_are_shown_the_newest_first(home: Path) -> None:
    write_run(home, "going", [Had(ended_by=None)])
    for number in range(15):
        write_run(home, f"over-{number:02}", [Had(last_step=3)])
    seen = snapshot(home, NOW)
    assert len(seen["runs"]) == 16
    assert (seen["going"], seen["is_reading"]) == (1, False)
    assert seen["usd"] == pytest.approx(sum(row["usd"] for row in seen["runs"]))


def test_a_large_home_comes_in_parts(home: Path) -> None:
    for number in range(5):
        write_run(home, f"run-{number}", [Had(last_step=3)])
    board = Board(home)
    found = [board.snapshot(NOW, 2) for _ in range(4)]
    assert [(len(one["runs"]), one["is_reading"]) for one in found] == [(2, True), (4, True), (5, False), (5, False)]
    assert found[3]["runs"] == Board(home).snapshot(NOW)["runs"]


def test_an_empty_home_and_a_run_without_events_are_shown(home: Path) -> None:
    assert snapshot(home, NOW)["runs"] == []
    store = write_run(home, "blank", [])
    (store.folder / "events.jsonl").unlink()
    (run,) = snapshot(home, NOW)["runs"]
    assert (run["state"], run["usd"]) == ("PENDING", 0.0)
    page = page_of(home, "blank")
    assert (page["events"], page["attempts"], page["samples"], page["bill"]["usd"]) == ([], [], [], 0.0)


def test_looking_writes_nothing(home: Path) -> None:
    write_run(home, "one", [Had()])
    before = sorted((path, path.stat().st_mtime_ns) for path in home.rglob("*"))
    board = Board(home)
    board.snapshot(NOW)
    board.run("one", NOW)
    board.curves("one")
    assert sorted((path, path.stat().st_mtime_ns) for path in home.rglob("*")) == before


def test_a_second_look_opens_no_file_of_a_run_that_has_not_changed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = [write_run(home, f"over-{number}", [Had()]) for number in range(3)]
    board = Board(home)
    before = board.snapshot(NOW)["runs"]
    opened: list[str] = []
    real = files.open_regular

    def noted(path: Path) -> Any:
        opened.append(str(path.relative_to(home / "runs")))
        return real(path)

    for module in ("orchestrator.runs.files", "orchestrator.runs.store", "orchestrator.dashboard.appended"):
        monkeypatch.setattr(f"{module}.open_regular", noted)
    assert board.snapshot(NOW + 1)["runs"] == before
    assert opened == []
    stores[1].append(StateChanged(at=BORN + 9000, state="FAILED", reason="x"))
    assert [run["state"] for run in board.snapshot(NOW + 9999)["runs"]].count("FAILED") == 1
    assert {one.split("/")[0] for one in opened} == {"over-1"}


def test_a_look_reads_what_was_appended_as_a_first_look_does(home: Path) -> None:
    """Whatever happens to the file of events, a board that has looked before shows what a new one shows."""
    store = write_run(home, "one", [Had(ended_by=None)])
    log, board = store.folder / "events.jsonl", Board(home)
    lines = log.read_bytes()

    def agrees(now: float) -> None:
        assert board.snapshot(now)["runs"] == Board(home).snapshot(now)["runs"]
        assert board.run("one", now)["bill"] == Board(home).run("one", now)["bill"]

    agrees(NOW)
    store.append(Progress(at=BORN + 95, attempt=1, step=200, images_per_s=5.0))
    agrees(NOW + 1)
    with log.open("ab") as file:
        file.write(b'{"kind": "progress", "at": 1')  # torn
    agrees(NOW + 2)
    store.append(Progress(at=BORN + 96, attempt=1, step=300))
    agrees(NOW + 3)
    log.write_bytes(b"x" * len(lines) * 9 + b"\n" + lines)  # written anew, and longer than before
    agrees(NOW + 4)
    log.write_bytes(lines[: len(lines) // 2])
    agrees(NOW + 5)
    log.write_bytes(lines.rstrip(b"\n"))  # the last line has no end, and is whole
    agrees(NOW + 6)
    log.unlink()
    agrees(NOW + 7)


def test_a_run_that_cannot_be_read_has_a_row_and_a_page_with_the_reason(home: Path) -> None:
    write_run(home, "good", [Had()])
    bad = write_run(home, "bad", [Had()])
    board = Board(home)
    assert {run["state"] for run in board.snapshot(NOW)["runs"]} == {"SUCCEEDED"}
    (bad.folder / "spec.json").unlink()
    rows = {run["run"]: run for run in board.snapshot(NOW + 1)["runs"]}
    assert (rows["bad"]["state"], rows["good"]["state"]) == ("UNREADABLE", "SUCCEEDED")
    assert rows["bad"]["reason"] == "cannot be read: spec.json is missing"
    assert rows["bad"].keys() - {"error"} == rows["good"].keys()
    assert board.run("bad", NOW)["run"]["reason"] == "cannot be read: spec.json is missing"
    assert board.curves("bad")["curves"] == {}


def test_the_set_up_of_a_program_that_tells_no_steps_ends_at_its_start(home: Path) -> None:
    write_run(home, "own", [Had(last_step=0, lines=[])], trainer=None, command=("./x",), workdir=str(home))
    write_run(home, "ours", [Had()])
    assert Board(home).run("own", NOW)["attempts"][0]["first_step_at"] == BORN + 70
    assert Board(home).run("ours", NOW)["attempts"][0]["first_step_at"] == BORN + 80


def test_the_page_tells_attempts_prices_bill_and_interruptions(home: Path) -> None:
    moves = [PriceChanged(at=BORN + 90, attempt=1, since=BORN + 1000, price_usd_h=0.3)]
    first = Had(last_step=40, ended_by="aws", extra=list(moves))
    second = Had(first_step=31, last_step=60, market="on-demand", price_usd_h=0.526)
    store = write_run(home, "one", [first, second], limits=Limits(budget_usd=Decimal(1)))
    page = Board(home).run("one", BORN + 10**4)
    one, two = page["attempts"]
    assert (one["is_interrupted"], one["is_free"], two["is_interrupted"]) == (True, True, False)
    assert one["prices"] == [[BORN + 10, 0.21], [BORN + 1000, 0.3]]
    assert two["prices"] == [[BORN + 1840, 0.526]]
    parts = [page["bill"][name] for name in ("instance_usd", "volume_usd", "address_usd", "data_out_usd")]
    assert sum(parts) == pytest.approx(page["bill"]["usd"]) == pytest.approx(one["usd"] + two["usd"])
    assert page["bill"]["usd"] == pytest.approx(float(total_usd(store.state().attempts, BORN + 10**4)))
    assert page["bill"]["budget_usd"] == 1.0
    assert page["bill"]["on_demand_usd"] > page["bill"]["usd"]
    assert page["marks"] == [
        {
            "step": 40,
            "words": "attempt 1: interrupted by AWS; attempt 2 goes on from step 30",
            "is_interrupted": True,
        }
    ]


def test_the_time_that_is_left_is_that_of_the_present_machine(home: Path) -> None:
    seen = [Progress(at=BORN + 100 + 10 * n, attempt=1, step=100 + 20 * n) for n in range(6)]
    write_run(home, "going", [Had(last_step=100, ended_by=None, lines=[], extra=list(seen))])
    page = page_of(home)
    assert page["run"]["step"] == 200
    assert page["eta_s"] == pytest.approx(800 / 100 * (BORN + 150 - (BORN + 80)), rel=0.01)


def test_texts_of_a_machine_hold_no_control_characters_and_have_an_end(home: Path) -> None:
    word = "\x1b[2J\u202e" + "A" * 50_000
    had = Had(zone=word, reason=word, lines=[json.dumps({"step": 1, word: 1.5})])
    write_run(home, "one", [had])
    board = Board(home)
    text = json.dumps([board.run("one", NOW), board.curves("one"), board.snapshot(NOW)], ensure_ascii=False)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "A" * 2001 not in text


def test_few_runs_are_held_open(home: Path) -> None:
    board = Board(home)
    for number in range(MOST_OPEN + 5):
        write_run(home, f"run-{number}", [Had(last_step=3)])
        board.run(f"run-{number}", NOW)
    assert len(board._opened) == MOST_OPEN


def test_the_runs_of_a_home_of_0_1_0_are_shown(tmp_path: Path) -> None:
    old = copied(tmp_path / "home")
    at = expected(old)["at"]
    board = Board(old)
    rows = {row["run"]: row for row in board.snapshot(at)["runs"]}
    assert {"finished", "interrupted", "killed"} <= rows.keys()
    for name, row in rows.items():
        page, curves = board.run(name, at), board.curves(name)["curves"]
        state = RunStore(old, name).state()
        assert (row["state"], row["attempts"]) == (state.state, len(state.attempts))
        assert row["usd"] == pytest.approx(float(total_usd(state.attempts, at)))
        assert page["run"] == row
        assert len(page["attempts"]) == row["attempts"]
        assert page["bill"]["usd"] == row["usd"]
        assert curves
