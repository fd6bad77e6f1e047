"""How much training a run has left, in seconds: by its steps and their measured speed, not by what was promised."""

from __future__ import annotations

from orchestrator.engine.journal import Journal
from orchestrator.runs.events import CheckpointPulled, Event, OwnerChanged, Progress
from orchestrator.runs.output_events import OutputsPulled
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.state import Attempt

LEAST_MEASURED_S = 30.0  # of training before its speed counts
LEAST_MEASURED_SHARE = 0.02  # or of the whole work, where that is short
UNKNOWN_S = 3600.0  # where nothing at all is known


class WorkLeft:
    """The work of one run, from its events.

    Args:
        spec: what was asked for.
        journal: has the events.
    """

    def __init__(self, spec: RunSpec, journal: Journal) -> None:
        self.spec, self.journal = spec, journal
        self._events: list[Event] = []  # the list that was read
        self._read = 0
        self._first: dict[int, Progress] = {}  # the first one of an attempt
        self._last: dict[int, Progress] = {}
        self._saved_step = 0
        self._saved_before = 0  # the step that was saved when the run was launched, or resumed
        self._saved_at: dict[int, float] = {}  # by attempt: when its newest save came home

    def whole_s(self) -> float:
        """Return how long the training takes without an interruption: all of it, or what was left at a resume."""
        self._catch_up()
        steps, rate = self._steps(), self._rate()
        if steps:
            left = max(0, steps - self._saved_before)
            return left / rate if rate else self._promised_s() * left / steps
        return max(0.0, self._promised_s() - self._trained_s(until_resume=True))

    def left_s(self, attempt: Attempt | None) -> float:
        """Return how long the rest takes.

        Args:
            attempt: that trains now; None: none does, and what was not saved is trained again.
        """
        self._catch_up()
        steps, rate = self._steps(), self._rate()
        at = None if attempt is None else self._last.get(attempt.number)  # lower than a save: it began anew
        done = self._saved_step if at is None else at.step
        if steps:
            left = max(0, steps - done)
            return left / rate if rate else self._promised_s() * left / steps
        return max(0.0, self._promised_s() - self._trained_s())

    def unsaved_s(self, attempt: Attempt) -> float:
        """Return the training of an attempt since its newest save that came home."""
        self._catch_up()
        first = attempt.trainer_started_at
        if first is None:
            return 0.0
        return max(0.0, self.journal.clock.now() - max(first, self._saved_at.get(attempt.number, first)))

    def is_measured(self, attempt: Attempt | None) -> bool:
        """Return whether the rest is known well enough to warn: its speed was measured, or it was promised."""
        self._catch_up()
        return self._rate() is not None or self._deadline_work_s() is not None

    # -- from the events

    def _catch_up(self) -> None:
        events = self.journal.events
        if events is not self._events or len(events) < self._read:
            self._events, self._read = events, 0
            self._first, self._last, self._saved_step, self._saved_before, self._saved_at = {}, {}, 0, 0, {}
        for event in events[self._read :]:
            if isinstance(event, Progress):
                self._first.setdefault(event.attempt, event)
                self._last[event.attempt] = event
            elif isinstance(event, OwnerChanged) and event.verb in ("launch", "resume"):
                self._saved_before = self._saved_step
            elif isinstance(event, CheckpointPulled):
                self._saved_step = max(self._saved_step, event.step)
                self._saved_at[event.attempt] = event.at
            elif isinstance(event, OutputsPulled) and self.spec.trainer is None:
                last = self._last.get(event.attempt)
                self._saved_step = last.step if last is not None else self._saved_step
                self._saved_at[event.attempt] = event.at
        self._read = len(events)

    def _steps(self) -> int | None:
        if self.spec.steps is not None:
            return self.spec.steps
        known = [last.total for last in self._last.values() if last.total]
        return known[-1] if known else None

    def _rate(self) -> float | None:
        """Return the steps a second of the newest attempt that has trained for long enough."""
        for number in sorted(self._last, reverse=True):
            first, last = self._first[number], self._last[number]
            seconds, steps = last.at - first.at, last.step - first.step
            least_s = min(LEAST_MEASURED_S, LEAST_MEASURED_SHARE * self._promised_s())
            if steps > 0 and seconds >= max(least_s, 1e-3):
                return steps / seconds
        return None

    def _deadline_work_s(self) -> float | None:
        return None if self.spec.deadline is None else self.spec.deadline.work_s

    def _promised_s(self) -> float:
        return self._deadline_work_s() or UNKNOWN_S

    def _trained_s(self, *, until_resume: bool = False) -> float:
        """Return the time of training of a program that does not say how much there is to do.

        It is that between its first and its last measurement; without any, that since its start. Of a machine that was
        lost it counts until the newest save that came home: the rest is trained again.

        Args:
            until_resume: leaves out what was trained since the run was launched, or resumed.
        """
        now, trained_s, state = self.journal.clock.now(), 0.0, self.journal.state()
        for attempt in state.attempts[: state.led_from] if until_resume else state.attempts:
            first, last = self._first.get(attempt.number), self._last.get(attempt.number)
            began_at = attempt.trainer_started_at if first is None else first.at
            if began_at is None:
                continue
            is_there = not (attempt.is_lost or attempt.is_over or attempt.trainer_exit is not None)
            until = now if is_there else self._saved_at.get(attempt.number, began_at)
            if last is not None and not is_there:
                until = min(until, last.at)
            trained_s += max(0.0, until - began_at)
        return trained_s
