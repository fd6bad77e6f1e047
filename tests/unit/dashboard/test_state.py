"""What the dashboard shows is what the store holds."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from orchestrator.dashboard import snapshot
from orchestrator.market.billing import total_usd
from orchestrator.runs.spec import Limits
from tests.support.report_runs import BORN, PNG, Had, write_run

NOW = BORN + 3000.0


def test_it_shows_state_steps_speed_cost_and_newest_samples(home: Path) -> None:
    from orchestrator.runs.events import Progress

    seen = [Progress(at=BORN + 90, attempt=1, step=40, images_per_s=900.0)]
    had = Had(ended_by=None, extra=list(seen))
    store = write_run(home, "going", [had], limits=Limits(budget_usd=Decimal(2)))
    for step in (9, 100, 20):
        (store.folder / f"samples-{step}.png").write_bytes(PNG)
    (run,) = snapshot(home, NOW)["runs"]
    assert (run["step"], run["steps"], run["images_per_s"]) == (100, 1000, 900.0), "checkpoint-100.pt is downloaded"
    assert (run["samples"], run["budget_usd"], run["usd_is_estimate"]) == ("samples-100.png", 2.0, True)
    assert run["usd"] == pytest.approx(float(total_usd(store.state().attempts, NOW)))
    assert run["where"] == "g4dn.xlarge spot in us-east-1a"
    assert any("checkpoint-100.pt downloaded" in event["words"] for event in run["events"])
    assert not run["is_led"], "nobody holds its lock"


def test_its_step_is_the_newest_known_step_as_in_status(home: Path) -> None:
    from orchestrator.runs.events import Progress

    late = [Progress(at=BORN + 90, attempt=1, step=40)]
    store = write_run(home, "going", [Had(ended_by=None, extra=list(late))])
    with store.metrics_path(1).open("a") as file:
        file.write('{"step": 180, "split": "valid"}\n{"step": 18')
    assert snapshot(home, NOW)["runs"][0]["step"] == 180


def test_open_runs_come_first_and_old_runs_are_counted(home: Path) -> None:
    write_run(home, "going", [Had(ended_by=None)])
    for number in range(15):
        write_run(home, f"over-{number:02}", [Had(last_step=3)])
    seen = snapshot(home, NOW)
    assert seen["runs"][0]["run"] == "going"
    assert (len(seen["runs"]), seen["others"], seen["going"]) == (12, 4, 1)


def test_an_empty_home_and_a_run_without_events_are_shown(home: Path) -> None:
    assert snapshot(home, NOW)["runs"] == []
    store = write_run(home, "blank", [])
    (store.folder / "events.jsonl").unlink()
    (run,) = snapshot(home, NOW)["runs"]
    assert (run["state"], run["usd"], run["events"]) == ("PENDING", 0.0, [])


def test_a_snapshot_writes_nothing(home: Path) -> None:
    write_run(home, "one", [Had()])
    before = sorted((path, path.stat().st_mtime_ns) for path in home.rglob("*"))
    snapshot(home, NOW)
    assert sorted((path, path.stat().st_mtime_ns) for path in home.rglob("*")) == before
