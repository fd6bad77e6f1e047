"""What a poll tells of a program of the user's own: its values, its speed, the source of both, what a stop loses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine.interrupt_once import InterruptOnce
from orchestrator.engine.journal import Journal
from orchestrator.engine.measurements import Measurements, ProgramFacts
from orchestrator.engine.progress_lines import ProgressLines
from orchestrator.host import answers
from orchestrator.host.base import Cursor, HostStatus, Job
from orchestrator.report.event_text import event_words
from orchestrator.runs.events import Progress
from orchestrator.runs.program_events import MetricsFound, WorkUnsaved
from orchestrator.runs.state import Attempt
from tests.support.memory import VirtualClock
from tests.support.story import Story

OWN = Job(
    root="pixel-orch/a", command=("python", "t.py"), env={}, config_json=None, tree=Path(), files=(),
    owner_timeout_s=1.0, stop_timeout_s=1.0, metadata_poll_s=1.0,
)  # fmt: skip


def status(**changes: Any) -> HostStatus:
    return HostStatus(
        **{
            "trainer": "running", "exit_code": None, "asked": False, "notice_ends_at": None, "rebalance": False,
            "ending": "", "agent_alive": True, "metrics": b"", "log": b"", "cursor": Cursor(), "outputs": (),
            **changes,
        }
    )  # fmt: skip


# -- values and speed


def test_the_values_are_those_that_people_look_for_first() -> None:
    measured = Measurements()
    measured.read({"step": 1, "time": 1e9, "zeta": 1, "accuracy": 0.9, "loss": 0.5, "ok": True, "name": "x", "lr": 0.1})
    measured.read({"step": 1, "split": "valid", "loss": 0.7})
    assert list(measured.values) == ["valid/loss", "loss", "accuracy", "lr", "zeta"]


def test_the_speed_is_that_of_the_last_minute_by_the_machines_clock() -> None:
    measured = Measurements()
    for second in range(200):
        measured.read({"step": second * (1 if second < 100 else 2), "time": 1e9 + second})
    assert measured.steps_per_s == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(
    "lines",
    [
        [{"step": 5, "time": 1e9}],
        [{"step": 5, "time": 1e9}, {"step": 9, "time": 1e9}],
        [{"step": 5, "time": 1e9}, {"step": 9, "time": 0.5e9}],
        [{"step": 5, "time": 1e9}, {"step": 2, "time": 1e9 + 9}],
        [{"step": 5}, {"step": 9, "time": "x"}],
        [{"step": 5, "time": 1e9}, {"event": "source"}, {"step": 50, "time": 1e9 + 9}],
    ],
)
def test_a_speed_that_cannot_be_known_is_none(lines: list[dict[str, Any]]) -> None:
    measured = Measurements()
    for line in lines:
        measured.read(line)
    assert measured.steps_per_s is None


def test_many_names_fill_no_memory() -> None:
    measured = Measurements()
    for number in range(10_000):
        measured.read({"step": number, f"key{number}": 1.0})
    assert len(measured._values) <= 64


# -- what is written down


@pytest.fixture
def journal(home: Path) -> Journal:
    story = Story(home)
    return Journal(story.store, story.clock)


def test_what_there_is_to_do_is_kept_when_an_answer_does_not_tell_it(journal: Journal) -> None:
    facts = ProgramFacts(journal, OWN, 1)
    assert facts.total == 0
    facts.note(status(metrics_total=20), 0.0)
    facts.note(status(), 0.0)
    assert facts.total == 20


def test_the_source_is_written_down_once_and_is_in_the_state(journal: Journal) -> None:
    facts = ProgramFacts(journal, OWN, 1)
    for _ in range(3):
        facts.note(status(metrics_source="TensorBoard's event files (runs/x)"), 0.0)
    facts.note(status(metrics_source="metrics.jsonl\x1b[2J"), 0.0)
    found = [event for event in journal.events if isinstance(event, MetricsFound)]
    assert [event.source for event in found] == ["TensorBoard's event files (runs/x)", "metrics.jsonl\\x1b[2J"]
    assert event_words(found[0], 0.0) == "  metrics from TensorBoard's event files (runs/x)"
    again = ProgramFacts(Journal(journal.store, journal.clock), OWN, 1)
    again.note(status(metrics_source="metrics.jsonl\x1b[2J"), 0.0)
    assert len([event for event in journal.store.events() if isinstance(event, MetricsFound)]) == 2


def test_an_agent_that_names_a_new_source_at_each_poll_fills_no_disk(journal: Journal) -> None:
    facts = ProgramFacts(journal, OWN, 1)
    for number in range(1000):
        facts.note(status(metrics_source=f"source {number}"), 0.0)
    assert len(journal.events) < 50


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (
            {"saves": 4, "saves_every_s": 480.0},
            "an interruption loses 4m00s of its work on average, half of the 8m00s",
        ),
        ({"saves": 2, "saves_every_s": 480.0}, ""),
        ({"saves": 0, "notice_ends_at": 9e9}, "loses all of its work so far (20m00s); it has saved nothing yet"),
        ({"saves": 1, "notice_ends_at": 9e9}, "loses 10m00s of its work on average; it has saved once so far"),
        ({"saves": 9, "saves_every_s": 480.0, "catches_stop": True}, ""),
        ({"saves": 0}, ""),
        ({"saves": 9, "saves_every_s": 480.0, "catches_stop": None}, ""),
    ],
)
def test_what_a_program_without_a_handler_loses_is_said_once(
    journal: Journal, told: dict[str, Any], words: str
) -> None:
    facts, began_at = ProgramFacts(journal, OWN, 1), journal.clock.now() - 1200
    for _ in range(3):
        facts.note(status(**{"catches_stop": False, **told}), began_at)
    found = [event for event in journal.events if isinstance(event, WorkUnsaved)]
    assert len(found) == (words != "")
    if found:
        assert words in event_words(found[0], 0.0)
        assert event_words(found[0], 0.0).startswith("  The program does not handle SIGTERM: ")


def test_a_program_that_the_signal_has_ended_already_is_known_from_the_poll_before(journal: Journal) -> None:
    facts = ProgramFacts(journal, OWN, 1)
    facts.note(status(catches_stop=False), 0.0)
    facts.note(status(trainer="exited", catches_stop=None, notice_ends_at=9e9), 0.0)
    assert [event.saves for event in journal.events if isinstance(event, WorkUnsaved)] == [0]


def test_an_older_agent_tells_no_source_and_is_understood() -> None:
    raw = (
        b'{"now": 1, "agent_alive": true, "trainer": {"state": "running"}, "metrics": "", "metrics_offset": 0, '
        b'"log": "", "log_offset": 0, "outputs": []}'
    )
    found = answers.host_status(raw, Cursor(), where="i-1")
    assert (found.metrics_source, found.saves, found.catches_stop) == ("", 0, None)


# -- --interrupt-after


class Embedded:
    """Takes note of what is interrupted."""

    def __init__(self) -> None:
        self.interrupted: list[str] = []

    def interrupt(self, instance_id: str) -> None:
        self.interrupted.append(instance_id)


def attempt(**changes: Any) -> Attempt:
    fields = {
        "number": 1, "instance_id": "i-1", "instance_type": "p2.xlarge", "zone": "us-east-1b", "region": "us-east-1",
        "market": "spot", "price_usd_h": 0.3, "started_at": 0.0, **changes,
    }  # fmt: skip
    return Attempt(**fields)  # type: ignore[arg-type]  # of these names


@pytest.mark.parametrize(
    ("steps", "fields", "now", "is_due"),
    [
        (None, {"trainer_started_at": 100.0}, 104.0, False),
        (None, {"trainer_started_at": 100.0}, 105.0, True),
        (None, {"trainer_started_at": 100.0, "first_step_at": 103.0}, 105.0, False),
        (None, {"trainer_started_at": 100.0, "first_step_at": 103.0}, 108.0, True),
        (None, {}, 1000.0, False),
        (500, {"trainer_started_at": 100.0}, 1000.0, False),
        (500, {"trainer_started_at": 100.0, "first_step_at": 103.0}, 108.0, True),
    ],
)
def test_an_interruption_counts_from_the_first_step_or_from_the_programs_start(
    steps: int | None, fields: dict[str, float], now: float, is_due: bool
) -> None:
    embedded = Embedded()
    watcher = InterruptOnce(embedded, 5.0, steps, lambda: now)  # type: ignore[arg-type]  # it is asked for one thing
    for _ in range(2):
        watcher.tick(attempt(**fields), 0, None)
    assert embedded.interrupted == ["i-1"] * is_due


def test_the_live_line_has_the_values_of_now_and_not_those_that_were_written_down_last() -> None:
    said: list[str] = []
    lines = ProgressLines(said.append, None, VirtualClock())
    newest = Progress(at=1.0, attempt=1, step=20, unit="epoch", steps_per_s=0.5, values={"loss": 0.05})
    lines.tick(attempt(first_step_at=1.0, trainer_started_at=1.0, newest=newest), 20, None)
    assert said[0].endswith(" epoch 20  2 s/epoch  loss 0.05")


def test_a_program_without_steps_is_told_by_its_time() -> None:
    said: list[str] = []
    clock = VirtualClock()
    lines = ProgressLines(said.append, None, clock)
    lines.tick(attempt(trainer_started_at=clock.now() - 75), 0, None)
    assert said[0].endswith(" running for 1m15s")
    ProgressLines(said.append, 100, clock).tick(attempt(trainer_started_at=1.0), 0, None)
    assert len(said) == 1, "of the bundled trainer nothing is told before its first step"
