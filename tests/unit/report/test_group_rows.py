"""What the report and the summary say of a run on several machines at once."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from model.config import TrainConfig
from orchestrator.cli.live_panel import RunPanel
from orchestrator.report import build, run_row
from orchestrator.report.forms import as_json
from orchestrator.report.group_text import EventLines
from orchestrator.report.html.story_chart import parts_of, story_words
from orchestrator.report.records import row_of
from orchestrator.report.slow_nodes import slow_nodes, slow_of
from orchestrator.report.story import is_lost, story_of
from orchestrator.report.summary import summary_json, summary_text
from orchestrator.report.text import as_text
from orchestrator.runs.events import Event
from orchestrator.runs.state import fold
from tests.support.chaos import failure_in
from tests.support.group_chaos import faults_of, setting_of
from tests.support.groups import at_step, group_story, led, shrinking
from tests.support.memory import Machine
from tests.support.story import Story


def ends(entry: dict[str, Any]) -> list[str]:
    """Return who ended each member of an attempt."""
    return [one["ended_by"] for one in entry["members"]]


def summary(story: Story) -> dict[str, Any]:
    """Return the summary of a run; the shares of all machines add up to its cost."""
    found = summary_json(story.store, story.clock.now())
    shares = sum(one["billed_usd"] for attempt in found["attempts"] for one in attempt["members"])
    assert shares == pytest.approx(found["cost_usd"], rel=1e-12)
    for attempt in found["attempts"]:
        assert attempt["billed_usd"] == pytest.approx(sum(one["billed_usd"] for one in attempt["members"]), rel=1e-12)
    machines = {one["instance_id"] for attempt in found["attempts"] for one in attempt["members"]}
    assert machines == {machine.instance.instance_id for machine in story.cloud.machines}
    return found


def test_a_run_without_a_group_has_attempts_of_one_member(home: Path) -> None:
    found = summary(led(Story(home)))
    (attempt,) = found["attempts"]
    (member,) = attempt["members"]
    assert attempt["nodes"] == 1
    assert member["rank"] == 0
    shared = ("instance_id", "zone", "market", "price_usd_h", "instance_type", "started_at", "ended_at", "ended_by")
    assert {key: member[key] for key in shared} == {key: attempt[key] for key in shared}


def test_an_attempt_is_a_generation_of_the_group(home: Path) -> None:
    """A notice for node 1: the two others go on with a new one, and the run was interrupted once."""
    story = group_story(home)
    at_step(story, 40, lambda: story.cloud.interrupt(story.cloud.machines[1]))
    found = summary(led(story))
    first, second = found["attempts"]
    assert (first["nodes"], second["nodes"]) == (3, 3)
    assert ends(first) == ["kept", "aws", "kept"]
    assert ends(second) == ["pixel-orch"] * 3
    assert first["ended_by"] == "aws"
    assert first["members"][1]["lost_because"] == "interruption notice"
    assert second["first_step"] == first["last_step"] + 1
    assert found["interruptions"] == 1
    assert [one["rank"] for one in second["members"]] == [0, 1, 2]
    assert found["steps"] == 100


def test_the_shares_add_up_where_an_interruption_makes_earlier_seconds_free(home: Path) -> None:
    """Machine 3 goes on after the loss of 1 and is interrupted in its first hour: both its shares are free."""
    steps = TrainConfig(steps=1000, batch_size=24)
    story = group_story(home, trainer=steps, fate=lambda number, machine: setattr(machine, "steps", 1000))

    def first() -> None:
        story.cloud.interrupt(story.cloud.machines[0])
        story.later(400.0, lambda: story.cloud.interrupt(story.cloud.machines[2]))

    at_step(story, 100, first)
    found = summary(led(story))
    assert ends(found["attempts"][1]) == ["kept", "kept", "aws"]
    row = row_of(story.store, story.clock.now())
    lost = [one for attempt in row.attempts for one in attempt.members if one.instance_id.endswith("3")]
    assert [one.is_free for one in lost] == [True, True]


def test_a_machine_that_never_joins_is_in_the_bill(home: Path) -> None:
    """It is rented for the next generation, and lost before that is complete."""

    def fate(number: int, machine: Machine) -> None:
        if number == 4:
            machine.setup_s = 60.0
            story.later(20.0, lambda: story.cloud.interrupt(machine, notice_s=0.0))

    story = group_story(home, fate=fate)
    at_step(story, 40, lambda: story.cloud.interrupt(story.cloud.machines[1]))
    found = summary(led(story))
    assert sum(len(attempt["members"]) for attempt in found["attempts"]) >= 7


def test_steps_of_a_lost_generation_are_counted_once(home: Path) -> None:
    """Three machines train the same steps; those after the newest checkpoint are trained again."""
    story = group_story(home)
    at_step(story, 45, lambda: story.cloud.interrupt(story.cloud.machines[0], notice_s=0.0))
    row = row_of(led(story).store, story.clock.now())
    assert row.steps_lost == row.attempts[0].last_step - 40 > 0
    assert row.attempts[1].steps_lost == 0


def test_waiting_for_the_group_is_a_part_of_the_cost(home: Path) -> None:
    """The machines that are well are billed until the new one is set up."""
    story = group_story(home, fate=lambda number, machine: setattr(machine, "setup_s", 60.0 if number == 4 else 10.0))
    at_step(story, 40, lambda: story.cloud.interrupt(story.cloud.machines[1]))
    row = row_of(led(story).store, story.clock.now())
    kept = [one for one in row.attempts[1].members if one.rank != 1]
    assert all(one.group_wait_s >= 60.0 for one in kept)
    assert row.attempts[1].members[1].group_wait_s == pytest.approx(0.0, abs=1.0)
    shares = sum(one.group_wait_usd for attempt in row.attempts for one in attempt.members)
    assert row.group_wait_usd == pytest.approx(shares, abs=Decimal("1e-20"))
    assert Decimal(0) < row.group_wait_usd < row.cost_usd
    assert row.group_wait_usd + row.to_first_step_usd <= row.instance_usd
    text = summary_text(story.store, story.clock.now())
    assert "waiting for the group: $" in text
    assert "3 x g4dn.xlarge" in text
    assert "Waiting for the group: $" in as_text(build([row], story.clock.now()))


def test_what_a_step_costs_at_each_size(home: Path) -> None:
    story = shrinking(home)
    row = row_of(led(story).store, story.clock.now())
    two, three = row.by_nodes
    assert (two.nodes, two.attempts, three.nodes, three.attempts) == (2, 1, 3, 2)
    assert two.steps + three.steps == 4000
    assert two.cost_usd + three.cost_usd == row.cost_usd
    assert two.usd_per_step is not None
    assert three.usd_per_step is not None
    assert three.usd_per_step == pytest.approx(two.usd_per_step * 3 / 2), "the same speed at the price of one more"
    report = build([row], story.clock.now())
    (raw,) = as_json(report)["runs"]
    assert [one["nodes"] for one in raw["by_nodes"]] == [2, 3]
    text = as_text(report)
    assert "Groups, by their size" in text
    assert "3 x g4dn.xlarge" in text
    assert {one.label for one in report.types} == {"2 x g4dn.xlarge", "3 x g4dn.xlarge"}


def test_a_slow_node_is_named(tmp_path: Path) -> None:
    """The slowest GPU of a node counts; four GPUs on two nodes."""
    path = tmp_path / "metrics.jsonl"
    lines = ['{"event": "start", "world": 4}', '{"step": 1, "rank_s": [0.1, 0.1, 0.1]}', '{"step": 1, "rank_s": "x"}']
    path.write_text("\n".join([*lines, *['{"step": 2, "rank_s": [0.1, 0.1, 0.1, 0.3]}'] * 3]) + "\n")
    (found,) = slow_nodes(path, 2)
    assert found.rank == 1
    assert found.words == "node 1 is slow: 0.3 s of a step, the median is 0.2 s (+50 %)"
    assert slow_of([[0.1, 0.1, 0.119]]) == ()
    assert slow_nodes(tmp_path / "none", 2) == ()


def test_the_story_has_one_lane_for_each_generation(home: Path) -> None:
    """Members are told in words; a machine that is well is not a loss."""
    story = group_story(home)
    at_step(story, 45, lambda: story.cloud.interrupt(story.cloud.machines[2], notice_s=0.0))
    told = row_of(led(story).store, story.clock.now()).story
    assert told is not None
    first, second = told.chapters
    assert (first.nodes, first.lost_nodes, second.lost_nodes) == (3, (2,), ())
    assert first.ended_at == second.started_at
    assert first.steps_again == first.last_step - 40 > 0
    assert first.checkpoints[-1][1] == 40
    for one in told.chapters:
        assert sum(part.ended_at - part.began_at for part in parts_of(one)) == one.ended_at - one.started_at
    words = story_words(told)
    assert words.startswith("Run story lost 1 instance.")
    assert "3 x g4dn.xlarge in us-east-1b, spot, $0.9 per hour" in words
    assert "AWS interrupted node 2; 2 machines were well." in words
    assert f"{first.steps_again} steps had to be trained again" in words
    assert "It resumed from step 40." in words


@pytest.mark.slow
def test_the_page_has_each_machine_and_what_waiting_cost(home: Path) -> None:
    pytest.importorskip("matplotlib")
    from orchestrator.report.html.page import Exhibits, as_html

    story = shrinking(home)
    row = row_of(led(story).store, story.clock.now())
    page = as_html(build([row], story.clock.now()), Exhibits())
    assert 'id="table-members"' in page
    assert 'id="table-sizes"' in page
    assert page.count("i-00000000000000001") >= 3, "its share of each generation"
    assert "waiting for the group" in page
    assert "4 instances" in page
    assert "AWS interrupted node 1; 2 machines were well." in page


@pytest.mark.parametrize("seed", [7, 124, pytest.param(644, marks=pytest.mark.slow)])
def test_the_figures_of_random_groups_add_up(seed: int) -> None:
    """Also in the middle of a run: no machine is missing, none is counted twice, no second is called two things."""
    told: list[Event] = []
    assert failure_in(setting_of(seed), faults_of(seed), told=told) == ""
    for events in (told, told[: len(told) // 2], told[: len(told) // 3]):
        state, now = fold(events), events[-1].at + 1
        row = run_row(state, {}, now)
        members = [one for attempt in row.attempts for one in attempt.members]
        shares = sum((one.billed_usd for one in members), Decimal(0))
        assert shares == pytest.approx(row.cost_usd, abs=Decimal("1e-9"))
        assert {one.instance_id for one in members} == set(state.instance_ids)
        assert row.group_wait_usd + row.to_first_step_usd <= row.instance_usd + Decimal("1e-9")
        lines, panel = EventLines(), RunPanel("story", 100, None)
        for event in events:
            lines.words(event, event.at)
            panel.event(event)
        assert panel.rows(now)
        if is_lost(state):
            for one in story_of(state, events, {}, now).chapters:
                parts = sum(part.ended_at - part.began_at for part in parts_of(one))
                assert parts == pytest.approx(one.ended_at - one.started_at)
