"""A few random stories in every run of the tests; `python -m tests.chaos --seeds 10000` tells many."""

from __future__ import annotations

import pytest

from orchestrator.reaper import Reaper
from orchestrator.store import RunStore
from tests import chaos


@pytest.mark.parametrize("seed", range(25))
def test_the_invariants_hold_whatever_happens(seed: int) -> None:
    assert chaos.failure_of(seed, chaos.faults_of(seed)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 2000, 100))
def test_the_invariants_hold_in_many_more_stories(first: int) -> None:
    for seed in range(first, first + 100):
        assert chaos.failure_of(seed, chaos.faults_of(seed)) == "", f"seed {seed}: {chaos.faults_of(seed)}"


def broken(seeds: int) -> int:
    """Return how many of the first seeds fail."""
    return sum(bool(chaos.failure_of(seed, chaos.faults_of(seed))) for seed in range(seeds))


def test_an_engine_that_ends_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reaper, "end_all", lambda self, *args, **kwargs: [])
    assert broken(5) == 5


@pytest.mark.slow
def test_an_engine_that_adopts_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reaper, "lost_requests", lambda self: [])
    assert broken(200) > 0


@pytest.mark.slow
def test_an_engine_that_compares_no_digests_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunStore, "is_whole", lambda self, pulled: True)
    assert broken(200) > 0
