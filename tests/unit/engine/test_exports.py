"""A run is written into trackers while it trains and at its end; one that does not answer changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine import exports
from orchestrator.engine.exports import Exporter, start_thread
from orchestrator.errors import TrainingError
from orchestrator.export.elsewhere import export_elsewhere
from orchestrator.export.trackers import Exported
from orchestrator.report.event_text import event_words
from orchestrator.runs.program_events import ExportFinished
from orchestrator.runs.store import RunStore
from tests.support.memory import Machine
from tests.support.report_runs import Had, write_run
from tests.support.story import Story


class Tracker:
    """Keeps the state in which it was given a run, and whether its machines were gone."""

    def __init__(self, problem: str = "") -> None:
        self.given: list[tuple[str, str, bool]] = []
        self.problem = problem

    def __call__(self, store: RunStore, tracker: str) -> Exported:
        state = store.state()
        self.given.append((tracker, state.state, not state.open_attempts()))
        return Exported(tracker, "" if self.problem else "http://h/run", self.problem)


def at_once(name: str, target: Callable[[], None]) -> threading.Thread:
    """Call the function before anything else happens; return the thread, which is over."""
    thread = start_thread(name, target)
    thread.join()
    return thread


def led(story: Story, tracker: Tracker, names: tuple[str, ...]) -> str:
    """Lead the run to its end with an exporter; return its last state."""
    engine = story.engine()
    exporter = Exporter(engine.journal, names, tracker, at_once)
    engine.journal.watchers = (*engine.journal.watchers, exporter)
    return engine.run().state


def told(story: Story) -> list[ExportFinished]:
    """Return what the watchers were told of exports."""
    return [event for event in story.recorder.events if isinstance(event, ExportFinished)]


def test_the_last_export_is_of_a_run_that_is_over_and_has_no_machine(home: Path) -> None:
    story, tracker = Story(home), Tracker()
    assert led(story, tracker, ("mlflow", "wandb")) == "SUCCEEDED"
    assert tracker.given[-2:] == [("mlflow", "SUCCEEDED", True), ("wandb", "SUCCEEDED", True)]
    assert [(event.tracker, event.place) for event in told(story)] == [
        ("mlflow", "http://h/run"),
        ("wandb", "http://h/run"),
    ]
    assert not any(isinstance(event, ExportFinished) for event in story.store.events()), "told, and not written"


def test_a_tracker_that_refuses_is_said_once_with_the_command_for_later(home: Path) -> None:
    story = Story(home)
    assert led(story, Tracker("it is down\x1b[2J"), ("mlflow",)) == "SUCCEEDED"
    (event,) = told(story)
    words = event_words(event, 0.0)
    assert "Not exported to mlflow (it is down\\x1b[2J); the run is as it is." in words
    assert words.endswith("pixel-orch export story --to mlflow")


@pytest.mark.parametrize(("every_s", "least", "most"), [(0.0, 2, 50), (1e9, 1, 1)])
def test_downloads_are_exported_now_and_then(
    home: Path, monkeypatch: pytest.MonkeyPatch, every_s: float, least: int, most: int
) -> None:
    monkeypatch.setattr(exports, "EVERY_S", every_s)
    story, tracker = Story(home), Tracker()
    led(story, tracker, ("mlflow",))
    before = [state for _, state, _ in tracker.given if state != "SUCCEEDED"]
    assert least <= len(before) <= most
    assert tracker.given[-1] == ("mlflow", "SUCCEEDED", True)


def test_a_failed_run_is_exported_too(home: Path) -> None:
    def fate(number: int, machine: Machine) -> None:
        machine.crashes_at_step = 50

    story, tracker = Story(home, fate=fate), Tracker()
    with pytest.raises(TrainingError):
        led(story, tracker, ("mlflow",))
    assert tracker.given[-1] == ("mlflow", "FAILED", True)


def test_ctrl_c_ends_the_waiting_and_the_run_is_as_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Any) -> None:
        if self.journal.state().is_final:
            raise KeyboardInterrupt

    monkeypatch.setattr(Exporter, "_wait", interrupted)
    story = Story(home)
    assert led(story, Tracker(), ("mlflow",)) == "SUCCEEDED"
    assert [event.problem for event in told(story)] == ["it was not waited for"]


@pytest.mark.slow
def test_a_process_of_its_own_exports_and_says_where(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIXEL_ORCH_TENSORBOARD", raising=False)
    store = write_run(home, "digits", [Had(last_step=5)])
    found = export_elsewhere(store, "tensorboard")
    assert found.problem == ""
    assert Path(found.place).parent == home / "tensorboard"
    assert "is no tracker" in export_elsewhere(store, "nothing").problem
    assert "no answer within 0 s" in export_elsewhere(store, "tensorboard", timeout_s=0.01).problem
