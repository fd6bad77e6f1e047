"""Runs on several machines at once, in virtual time: what tests of their reports begin with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.config import TrainConfig
from orchestrator.runs.spec import GroupSpec, ProgramSpec, RecoveryPolicy
from tests.support.memory import Machine
from tests.support.story import Story


def group_story(home: Path, nodes: str = "3", fate: Callable[[int, Machine], None] | None = None, **spec: Any) -> Story:
    """Return a story of a run on a group: `3` machines, or `2:3`."""
    low, _, high = nodes.partition(":")
    group = GroupSpec(min_nodes=int(low), max_nodes=int(high or low))
    asked: dict[str, Any] = {"trainer": TrainConfig(steps=100, batch_size=24), "program": ProgramSpec(group=group)}
    return Story(home, fate, **{**asked, **spec})


def at_step(story: Story, step: int, action: Callable[[], object]) -> None:
    """Let something happen once the engine has seen that step."""
    done: list[int] = []

    def tick(attempt: Any, seen: int) -> None:
        if seen >= step and not done:
            done.append(seen)
            action()

    story.recorder.on_tick = tick


def led(story: Story) -> Story:
    """Lead a story to its end, and return it."""
    story.engine().run()
    return story


def shrinking(home: Path) -> Story:
    """Return a story of a group of 3 that goes on with 2, and then with 3 again."""

    def fate(number: int, machine: Machine) -> None:
        machine.steps, machine.checkpoint_every = 4000, 400

    steps = TrainConfig(steps=4000, batch_size=24)
    story = group_story(home, "2:3", fate, trainer=steps, recovery=RecoveryPolicy(poll_s=20.0))

    def interrupt() -> None:
        machine = story.cloud.machines[1]
        story.cloud.interrupt(machine)
        story.cloud.room_in[machine.instance.zone] = 2
        story.later(2400.0, lambda: story.cloud.room_in.clear())

    at_step(story, 400, interrupt)
    return story
