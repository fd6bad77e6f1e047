"""What the dashboard shows of a run on several machines at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.status import StatusRow, _cells, _json
from orchestrator.dashboard.state import Board
from orchestrator.report.summary import summary_json
from orchestrator.runs import events as ev
from tests.support.groups import at_step, group_story, led, shrinking
from tests.support.story import Story


def noticed(home: Path) -> Story:
    """Return a run that was led to its end; node 2 of three had a notice."""
    story = group_story(home)
    at_step(story, 40, lambda: story.cloud.interrupt(story.cloud.machines[2]))
    return led(story)


def test_the_page_has_an_attempt_for_each_generation_with_its_machines(home: Path) -> None:
    story = noticed(home)
    now = story.clock.now()
    page = Board(home).run("story", now)
    first, second = page["attempts"]
    assert (first["number"], first["nodes"], second["number"], second["nodes"]) == (1, 3, 2, 3)
    assert [one["state"] for one in first["members"]] == ["went on", "went on", "interrupted"]
    assert first["why"] == "node 2: interruption notice"
    assert first["price_usd_h"] == pytest.approx(0.9)
    assert first["ended_at"] == second["started_at"]
    summary = summary_json(story.store, now)
    shares = sum(one["usd"] for attempt in page["attempts"] for one in attempt["members"])
    assert shares == pytest.approx(summary["cost_usd"])
    assert page["bill"]["usd"] == pytest.approx(summary["cost_usd"], abs=1e-7)
    assert 0 < page["bill"]["group_wait_usd"] < page["bill"]["usd"]
    assert page["marks"] == [
        {
            "step": first["last_step"],
            "words": "attempt 1: node 2 interrupted by AWS; attempt 2 goes on from step 40",
            "is_interrupted": True,
        }
    ]
    told = [event["words"] for event in page["events"]]
    assert "attempt 2: 3 machines g4dn.xlarge (spot) in us-east-1b; node 2 is new (i-00000000000000004)" in told
    assert len(told) == len(set(told)), "no line comes once for each machine"
    json.dumps(page)


def test_the_overview_counts_machines(home: Path) -> None:
    story = noticed(home)
    seen = Board(home).snapshot(story.clock.now())
    (row,) = seen["runs"]
    assert (row["attempts"], row["machines"], row["nodes"], row["interruptions"]) == (2, 4, 3, 1)
    assert row["where"] == "3 x g4dn.xlarge spot in us-east-1b"
    assert seen["machines"] == 0, "all are gone"


def test_a_notice_names_its_node_while_the_machines_run(home: Path) -> None:
    """The state at the notice: three machines are rented, and the row says which one AWS takes."""
    story = noticed(home)
    events = story.store.events()
    place = next(place for place, one in enumerate(events) if isinstance(one, ev.InterruptionNoticed))
    path = story.store.folder / "events.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[: place + 1]))
    at = events[place].at
    seen = Board(home).snapshot(at)
    (row,) = seen["runs"]
    assert row["notice_node"] == 2
    assert row["notice_ends_at"] is not None
    assert seen["machines"] == 3
    assert [one["state"] for one in Board(home).run("story", at)["attempts"][0]["members"]] == [
        "trains",
        "trains",
        "notice",
    ]


def test_the_curves_are_those_of_the_first_machine(home: Path) -> None:
    """The other machines have no metrics, and take no step of the first one back."""
    story = shrinking(home)
    led(story)
    board = Board(home)
    board.run("story", story.clock.now())
    steps, values = board.curves("story")["curves"]["images_per_s"]
    assert steps[-1] == 4000
    assert steps[0] < 100
    assert len(steps) == len(values) > 10


def test_the_list_of_runs_has_the_size_of_the_group(home: Path) -> None:
    story = noticed(home)
    row = StatusRow.of(story.store, story.clock.now())
    assert "3 x g4dn.xlarge" in _cells(row, story.clock.now())
    found = _json(row)
    assert (found["attempts"], found["nodes"], found["interruptions"]) == (2, 3, 1)


def test_a_run_on_one_machine_has_one_member(home: Path) -> None:
    story = led(Story(home))
    page = Board(home).run("story", story.clock.now())
    (attempt,) = page["attempts"]
    assert attempt["nodes"] == 1
    assert [one["rank"] for one in attempt["members"]] == [0]
    assert page["run"]["where"] == "g4dn.xlarge spot in us-east-1b"
    assert page["bill"]["group_wait_usd"] == 0
    assert page["log_names"] == {"1": "1"}
