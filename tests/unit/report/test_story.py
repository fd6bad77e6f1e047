"""The story of an interruption: what is read from the events, what the picture and its words tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.report.forms import as_json
from orchestrator.report.html.story_chart import parts_of, story_picture, story_words
from orchestrator.report.records import Record, records_of
from orchestrator.report.story import Story, time_at
from orchestrator.runs.events import CheckpointPulled, Event, HostReady, Progress
from orchestrator.runs.store import RunStore
from tests.support.report_runs import BORN, Had, write_run

NOW = BORN + 10**5
BEGAN = BORN + 10  # of the first attempt; its trainer starts 60 s later


def saved(at: float, step: int) -> CheckpointPulled:
    return CheckpointPulled(at=at, attempt=1, step=step, name=f"checkpoint-{step}.pt", sha256="0", size_bytes=10)


def interrupted(home: Path) -> Record:
    """A run whose first machine is lost at step 100, 20 steps after its last checkpoint."""
    extra: list[Event] = [
        HostReady(at=BEGAN + 50, attempt=1, instance_id="i-1", python="python3", setup_s=20.0),
        Progress(at=BEGAN + 460, attempt=1, step=50), saved(BEGAN + 480, 40), saved(BEGAN + 800, 80),
        Progress(at=BEGAN + 860, attempt=1, step=100),
    ]  # fmt: skip
    first = Had("g4dn.xlarge", last_step=1, seconds=900, ended_by="aws", extra=extra, zone="us-east-1a")
    second = Had("g5.xlarge", first_step=81, last_step=150, seconds=700, zone="us-east-1c", price_usd_h=0.3)
    write_run(home, "spot", [first, second])
    return records_of(RunStore.all(home), NOW)[0]


def story_in(home: Path) -> Story:
    story = interrupted(home).row.story
    assert story is not None
    return story


def test_an_attempt_has_its_boot_its_set_up_its_training_and_what_was_lost(home: Path) -> None:
    first, second = story_in(home).chapters
    assert [(part.kind, part.began_at - BEGAN, part.ended_at - BEGAN) for part in parts_of(first)] == [
        ("boot", 0, 30), ("set-up", 30, 60), ("training", 60, 800), ("lost", 800, 900),
    ]  # fmt: skip
    assert first.steps_again == 20
    assert first.lost_at == BEGAN + 800, "there step 80 was done, from which the next one resumed"
    assert first.noticed_at == BEGAN + 100
    assert [step for _, step in first.checkpoints] == [1, 40, 80]
    assert first.is_lost
    assert not second.is_lost
    assert [part.kind for part in parts_of(second)] == ["boot", "training"], "nothing tells where its set-up began"
    assert second.resumed_from == 80


def test_the_parts_of_an_attempt_are_its_whole_time_whatever_is_missing(home: Path) -> None:
    first, _ = story_in(home).chapters
    missing: list[dict[str, float | None]] = [
        {"set_up_at": None}, {"trained_at": None}, {"lost_at": None}, {"lost_at": first.started_at},
        {"set_up_at": None, "trained_at": None, "lost_at": None},
    ]  # fmt: skip
    for changes in missing:
        parts = parts_of(replace(first, **changes))  # type: ignore[arg-type]
        assert sum(part.ended_at - part.began_at for part in parts) == 900


def test_the_words_tell_the_story_without_the_picture(home: Path) -> None:
    words = story_words(story_in(home))
    assert words.startswith("Run spot lost 1 instance.")
    assert "g4dn.xlarge in us-east-1a, spot, $0.21 per hour." in words
    assert "AWS interrupted it after 15m00s with a notice 13m20s before; 20 steps had to be trained again." in words
    assert (
        "Attempt 2 began 15m30s after the start, 30s after the end of the one before: g5.xlarge in us-east-1c" in words
    )
    assert "It resumed from step 80." in words


def test_a_run_without_a_loss_has_no_story_and_no_json_has_one(home: Path) -> None:
    write_run(home, "calm", [Had()])
    records = records_of(RunStore.all(home), NOW)
    assert records[0].row.story is None
    from orchestrator.cli.report import report_of

    interrupted(home)
    raw = as_json(report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start"))
    assert all("story" not in run and "prices" not in run["attempts"][0] for run in raw["runs"])
    assert all("on_demand_usd_h" not in row for row in [*raw["types"], *raw["predicted"]])


def test_an_instance_that_was_lost_before_its_first_step_has_a_story_too(home: Path) -> None:
    lost = Had(last_step=0, lines=[], seconds=300, ended_by="aws")
    write_run(home, "early", [lost, Had(seconds=900)])
    story = records_of(RunStore.all(home), NOW)[0].row.story
    assert story is not None
    assert "no step trained" in story_words(story)
    assert "no step had to be trained again" in story_words(story)


def test_between_two_moments_a_step_has_its_time() -> None:
    steps = [(10.0, 0.0), (20.0, 100.0), (40.0, 100.0), (50.0, 200.0)]
    assert time_at(steps, 0) == 10
    assert time_at(steps, 50) == 15
    assert time_at(steps, 100) == 20
    assert time_at(steps, 150) == 45
    assert time_at(steps, 201) is None
    assert time_at([], 1) is None


@pytest.mark.slow
@pytest.mark.parametrize("attempts", [2, 12])
def test_the_picture_is_drawn_for_two_attempts_and_for_twelve(home: Path, attempts: int) -> None:
    story = story_in(home)
    first, last = story.chapters
    many = [replace(first, number=n, started_at=first.started_at + 1000 * n, ended_at=first.ended_at + 1000 * n,
                    steps=(), checkpoints=(), losses=(), lost_at=None, set_up_at=None, trained_at=None)
            for n in range(1, attempts - 1)]  # fmt: skip
    chart = story_picture(replace(story, chapters=(first, *many, last)), "story")
    assert chart.is_full
    assert "20 steps trained again" in chart.caption
    assert ("The last 8 of 12 attempts." in chart.caption) is (attempts == 12)
    assert ("resumes at 80" in chart.svg) is True
    assert "attempt 2, training" in chart.svg
    assert "The dotted line leads from the checkpoint" in chart.caption
    alone = story_picture(replace(story, chapters=(first,)), "story")
    assert alone.title == "How spot ended", "nothing went on after it"
    assert "dotted line" not in alone.caption
