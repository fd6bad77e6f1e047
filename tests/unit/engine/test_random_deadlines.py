"""Some of the random runs with a deadline; `python -m tests.support.deadline_chaos` leads as many as one likes."""

from __future__ import annotations

import pytest

from orchestrator.engine.deadline import DeadlineKeeper
from orchestrator.policy import safety
from tests.support.deadline_chaos import Trouble, Wish, failure_of, wish_of


@pytest.mark.parametrize("seed", [0, 2, 3, 5])
def test_a_random_run_with_a_deadline_keeps_what_it_promises(seed: int) -> None:
    assert failure_of(wish_of(seed)) == ""


def wish(*troubles: Trouble, is_there: bool = True) -> Wish:
    """Return an hour of work with much slack."""
    return Wish(3600.0, 7200.0, "greedy", 20.0, 0.0, frozenset(), [(0.0, is_there)], list(troubles))


@pytest.mark.slow
def test_the_series_sees_a_run_that_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure_of(wish(is_there=False)) == ""
    monkeypatch.setattr(safety, "must_move", lambda slack_s, burnt_s, margin_s: slack_s < -900.0)
    monkeypatch.setattr(DeadlineKeeper, "_warn", lambda *_: None)
    assert "late by" in failure_of(wish(is_there=False))


def test_the_series_sees_a_kill_and_an_outage() -> None:
    assert failure_of(wish(Trouble("kill", 700.0), Trouble("no-on-demand", 0.0, 800.0))) == ""
