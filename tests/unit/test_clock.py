"""Time within a process cannot be set; between processes AWS's clock decides, and nothing goes back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator import clock
from orchestrator.clock import SteadyTime, SystemClock, boottime
from orchestrator.cloud.aws import server_date
from orchestrator.engine.lead import keep_time_order
from orchestrator.errors import BudgetError
from orchestrator.market.billing import total_usd
from orchestrator.runs.events import OwnerChanged, RunCreated
from orchestrator.runs.spec import Limits
from tests.support.memory import EPOCH
from tests.support.story import Story


@dataclass
class Laptop:
    """A machine whose wall clock can be set, and whose other clock cannot."""

    wall_s: float = EPOCH
    up_s: float = 1000.0

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.wall_s += seconds
        self.up_s += seconds

    def time(self) -> SteadyTime:
        """Return the time of a process that starts now."""
        return SteadyTime(wall=lambda: self.wall_s, steady=lambda: self.up_s)


@pytest.mark.parametrize("set_by_s", [-3600.0, 3600.0, -86400.0 * 400])
def test_setting_the_clock_changes_no_interval_within_a_process(set_by_s: float) -> None:
    laptop = Laptop()
    steady = laptop.time()
    laptop.pass_by(20)
    laptop.wall_s += set_by_s
    laptop.pass_by(10)
    assert steady.now() == EPOCH + 30


def test_the_time_in_suspend_counts() -> None:
    laptop = Laptop()
    steady = laptop.time()
    laptop.pass_by(3600)  # CLOCK_BOOTTIME goes on while the laptop sleeps
    assert steady.now() == EPOCH + 3600


@pytest.mark.parametrize("ahead_s", [3600.0, -3600.0, 6.0])
def test_the_first_answer_of_a_server_corrects_the_clock_and_no_later_one_does(ahead_s: float) -> None:
    laptop = Laptop(wall_s=EPOCH + ahead_s)
    steady = laptop.time()
    steady.confirm(EPOCH)
    assert (steady.now(), steady.ahead_s) == (EPOCH, ahead_s)
    steady.confirm(EPOCH - 500)
    assert steady.now() == EPOCH


def test_seconds_are_not_worth_a_correction() -> None:
    steady = Laptop(wall_s=EPOCH + 1.5).time()
    steady.confirm(EPOCH)
    assert (steady.now(), steady.ahead_s) == (EPOCH + 1.5, 0.0)


def test_the_date_header_of_aws_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    steady = Laptop(wall_s=1_795_922_400.0 + 7200).time()
    monkeypatch.setattr(server_date, "OF_THIS_PROCESS", steady)
    handlers = []
    events = SimpleNamespace(register=lambda name, handler: handlers.append(handler))
    server_date.confirm_clock(SimpleNamespace(meta=SimpleNamespace(events=events)))
    for headers in ({}, {"Date": "soon"}, {"Date": ""}, None, {"Date": "Sun, 29 Nov 2026 03:20:00 GMT"}):
        handlers[0](http_response=SimpleNamespace(headers=headers), parsed={}, model=None)
    assert steady.now() == 1_795_922_400.0


def test_the_clock_of_the_machine_follows_the_steady_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = SystemClock().now()
    monkeypatch.setattr(time, "time", lambda: before - 3600)
    assert SystemClock().now() >= before
    assert boottime() > 0
    assert isinstance(clock.OF_THIS_PROCESS, SteadyTime)


# -- between processes


def test_a_clock_that_was_set_back_goes_on_from_the_newest_event(home: Path) -> None:
    story = Story(home)
    laptop = Laptop()
    story.store.append(OwnerChanged(at=EPOCH + 50, pid=1, verb="launch"))
    laptop.wall_s = EPOCH - 3600
    steady = laptop.time()
    keep_time_order(story.store, steady)
    assert steady.now() == EPOCH + 50
    laptop.pass_by(5)
    assert steady.now() == EPOCH + 55


def test_an_event_from_the_far_future_is_not_waited_for(home: Path) -> None:
    """A process wrote it while this machine's clock was years ahead."""
    story = Story(home, limits=Limits(max_duration_s=40.0))
    story.store.append(OwnerChanged(at=EPOCH + 10 * 365 * 86400, pid=1, verb="launch"))
    steady = Laptop().time()
    keep_time_order(story.store, steady)
    assert steady.now() == EPOCH
    engine = story.engine()
    with pytest.raises(BudgetError):
        engine.run("attach")
    state = engine.state()
    assert story.clock.now() < EPOCH + 400
    assert state.attempts[0].ended_at is not None
    assert 0 < total_usd(state.attempts, story.clock.now()) < 1


def test_aws_decides_where_the_events_are_from_the_future(home: Path) -> None:
    story = Story(home)
    story.store.append(RunCreated(at=EPOCH + 3000, run="story", cloud="AWS"))
    steady = Laptop(wall_s=EPOCH).time()
    steady.confirm(EPOCH)
    keep_time_order(story.store, steady)
    assert steady.now() == EPOCH
