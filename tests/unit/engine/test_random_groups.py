"""Random stories of groups in virtual time; `python -m tests.support.group_chaos` tells thousands."""

from __future__ import annotations

import pytest

from tests.support.chaos import failure_in
from tests.support.group_chaos import faults_of, setting_of


def broken(first: int, count: int) -> list[str]:
    """Return what broke in these seeds."""
    found = ((seed, failure_in(setting_of(seed), faults_of(seed))) for seed in range(first, first + count))
    return [f"seed {seed}: {problem}" for seed, problem in found if problem]


@pytest.mark.parametrize("first", [0, 20])
def test_no_invariant_is_broken(first: int) -> None:
    assert broken(first, 4) == []


@pytest.mark.slow
@pytest.mark.parametrize("first", [5000, 5100])
def test_no_invariant_is_broken_in_more_of_them(first: int) -> None:
    assert broken(first, 60) == []
