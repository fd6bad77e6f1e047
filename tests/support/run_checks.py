"""What must hold after every run on the in-memory cloud."""

from __future__ import annotations

from orchestrator.runs.events import (
    FINAL_STATES,
    CheckpointPulled,
    CheckpointRefused,
    StateChanged,
)
from tests.support.story import Story


def check_invariants(story: Story) -> None:
    """After every story: no machine, no door, every acknowledged checkpoint whole, the last fact is a final state."""
    assert story.cloud.alive() == []
    assert story.cloud.security_groups == {}
    state = story.store.state()
    assert state.state in FINAL_STATES
    assert state.open_attempts() == []
    pulled = [e for e in story.store.events() if isinstance(e, CheckpointPulled)]
    refused = {e.name for e in story.store.events() if isinstance(e, CheckpointRefused)}
    assert all(story.store.is_whole(p) for p in state.checkpoints.values())
    assert {p.step for p in pulled if p.name not in refused} <= set(state.checkpoints)
    assert isinstance(story.store.events()[-1], StateChanged)
