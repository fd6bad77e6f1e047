"""`--interrupt-after`: interrupts a run of the embedded cloud once, as EC2 would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infra.local import EmbeddedCloud


class InterruptOnce:
    """A `Watcher` of the embedded cloud: interrupts the first attempt as EC2 would, once.

    Args:
        embedded: whom to ask.
        after_s: seconds from the first step on.
        steps: all steps; at half of them it interrupts even if `after_s` is not over.
        now: the time.
    """

    def __init__(self, embedded: EmbeddedCloud, after_s: float, steps: int | None, now: Any) -> None:
        self.embedded = embedded
        self.after_s = after_s
        self.steps = steps
        self.now = now
        self.is_done = False

    def event(self, event: object) -> None:
        """Look at nothing."""

    def tick(self, attempt: Any, step: int, images_per_s: float | None) -> None:
        """Interrupt, if it is time."""
        if self.is_done or attempt.first_step_at is None or attempt.number != 1:
            return
        at_half = self.steps is not None and step >= self.steps / 2
        if at_half or self.now() - attempt.first_step_at >= self.after_s:
            self.is_done = True
            self.embedded.interrupt(attempt.instance_id)
