"""Three random stories with real processes; `python -m tests.support.real_chaos --seeds 100` tells many."""

from __future__ import annotations

import pytest

from tests.support import real_chaos


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4, 16, 17])  # killed before the run is there; killed twice; ended in mid-command
def test_the_world_is_as_the_stories_in_virtual_time_believe(seed: int) -> None:
    assert real_chaos.failure_of(seed) == ""
