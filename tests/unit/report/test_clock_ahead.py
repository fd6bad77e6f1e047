"""Events from the future: a clock that was ahead is said; no time and no bill counts what is still to come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.clock import SystemClock
from orchestrator.dashboard.state import snapshot
from orchestrator.market.billing import total_usd
from orchestrator.report.as_of import seen_at
from orchestrator.report.records import record_of
from orchestrator.report.summary import summary_json, summary_text
from orchestrator.runs.events import InstanceEnded, Progress, RunCreated, StateChanged
from orchestrator.runs.store import RunStore
from tests.support.report_runs import BORN, Had, write_run

YEAR = 365 * 86400.0
NOW = BORN + 4000
SAID = "the clock of this machine was ahead (an event is dated "


def ended(at: float) -> InstanceEnded:
    """Return the end of the first attempt."""
    return InstanceEnded(at=at, attempt=1, instance_id="i-1", ended_at=at, ended_by="pixel-orch", reason="")


def test_an_end_in_the_far_future_is_billed_up_to_now_as_an_estimate_and_said(home: Path) -> None:
    store = write_run(home, "one", [Had(ended_by=None)])
    store.append(ended(BORN + 20 * YEAR))
    store.append(StateChanged(at=BORN + 20 * YEAR, state="SUCCEEDED"))
    row = record_of(store, NOW).row
    assert row.machine_s == NOW - (BORN + 10)
    assert row.duration_s == NOW - BORN
    assert 0 < row.cost_usd < 1
    assert row.is_estimate
    assert [problem for problem in row.problems if problem.startswith(SAID)]
    assert SAID in " ".join(summary_text(store, NOW).split())
    assert summary_json(store, NOW)["cost_is_estimate"]


def test_every_listing_says_it(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setattr(SystemClock, "now", lambda self: NOW)
    store = write_run(home, "one", [Had(ended_by=None)])
    store.append(ended(BORN + 20 * YEAR))
    for words in (["status"], ["status", "one"], ["report"]):
        assert main(words) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert SAID in shown
        assert "~" in shown
    assert main(["status", "-o", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["error"].startswith(SAID)
    assert 0 < row["cost_usd"] < 1
    (shown_row,) = snapshot(home, NOW)["runs"]
    assert SAID in shown_row["reason"]
    assert shown_row["usd_is_estimate"]
    assert shown_row["seconds"] == NOW - BORN


def test_a_run_that_is_all_in_the_future_keeps_its_length(home: Path) -> None:
    born = BORN + 3 * 86400
    store = write_run(home, "one", [Had(seconds=1800)], born=born)
    now_row, then_row = record_of(store, BORN).row, record_of(store, born + 10**4).row
    assert now_row.cost_usd == then_row.cost_usd
    assert (now_row.is_estimate, now_row.machine_s) == (True, 1800.0)
    assert not [problem for problem in then_row.problems if problem.startswith(SAID)]


def test_a_run_that_goes_on_and_began_in_the_future_has_no_negative_time(home: Path) -> None:
    store = write_run(home, "one", [Had(ended_by=None)], born=BORN + YEAR)
    row = record_of(store, BORN).row
    assert (row.duration_s, row.machine_s, row.is_estimate) == (0.0, 0.0, True)
    assert row.cost_usd == total_usd(store.state().attempts, BORN + YEAR + 10), "the least of 60 s"


def test_a_first_step_in_the_future_is_no_long_set_up(home: Path) -> None:
    store = write_run(home, "one", [Had(ended_by=None, last_step=0, lines=[])])
    store.append(Progress(at=BORN + YEAR, attempt=1, step=1))
    row = record_of(store, NOW).row
    assert row.attempts[0].to_first_step_s <= NOW - BORN
    assert row.to_first_step_usd <= row.cost_usd


def test_a_clock_that_is_off_by_seconds_is_not_worth_a_word(home: Path) -> None:
    store = write_run(home, "one", [Had(seconds=1800)])
    end = store.state().updated_at
    seen = seen_at(store.state(), end - 2)
    assert (seen.is_estimate, seen.remarks) == (False, ())
    assert seen_at(store.state(), end).state == store.state()


def test_an_event_before_the_others_makes_no_negative_time(home: Path) -> None:
    store = write_run(home, "one", [Had(seconds=1800)])
    (store.folder / "events.jsonl").write_text(
        "\n".join(
            json.dumps({**event.to_json(), "at": 5.0} if isinstance(event, RunCreated) else event.to_json())
            for event in store.events()
        )
    )
    assert record_of(RunStore(home, "one"), BORN).row.duration_s >= 0
