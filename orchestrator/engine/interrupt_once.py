"""`--interrupt-after`: interrupts a run of the embedded cloud once, as EC2 would."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.cloud.connect import start_embedded
from orchestrator.plan.launch_preparation import PreparedLaunch
from orchestrator.runs.events import Event
from orchestrator.runs.state import Attempt

if TYPE_CHECKING:
    from infra.local import EmbeddedCloud


def interruption(launch: PreparedLaunch, now: Callable[[], float]) -> tuple[InterruptOnce, ...]:
    """Return the watcher that interrupts this launch, if it was asked for."""
    request = launch.request
    if request.interrupt_after_s is None:
        return ()
    return (InterruptOnce(start_embedded(launch.home), request.interrupt_after_s, request.spec.steps, now),)


class InterruptOnce:
    """A `Watcher` that interrupts the first attempt of a run on the embedded cloud.

    Args:
        embedded: the embedded cloud.
        after_s: seconds after the first step; where there are no steps, after the program's start.
        steps: of the run; it interrupts at half of them even if `after_s` is not over.
        now: the time.
    """

    def __init__(self, embedded: EmbeddedCloud, after_s: float, steps: int | None, now: Callable[[], float]) -> None:
        self.embedded = embedded
        self.after_s = after_s
        self.steps = steps
        self.now = now
        self.is_done = False

    def event(self, event: Event) -> None:
        """Ignore events."""

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Interrupt once the time or half of the steps is reached."""
        began_at = attempt.first_step_at
        if began_at is None and self.steps is None:  # a program of the user's own may tell no steps
            began_at = attempt.trainer_started_at
        if self.is_done or began_at is None or attempt.number != 1:
            return
        at_half = self.steps is not None and step >= self.steps / 2
        if at_half or self.now() - began_at >= self.after_s:
            self.is_done = True
            self.embedded.interrupt(attempt.instance_id)
